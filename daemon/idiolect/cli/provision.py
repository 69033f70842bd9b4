"""`idiolect provision | factory-reset | audit | attest`: keys and proofs at the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.cli import output as show
from idiolect.cli import systemctl
from idiolect.cli.files import DEFAULT_CONFIG, Add, CommandError, emit, files_explained, read, read_config
from idiolect.client import Client, UnreachableError
from idiolect.errors import KeystoreError
from idiolect.values import counted

if TYPE_CHECKING:
    from idiolect.config.schema import Config
    from idiolect.trust.device.identity import Device
    from idiolect.trust.device.provisioning import Step

POLICY_KEY = Path("/usr/share/idiolect/policy.pem")
"""The file in which a package that its vendor signed has the public key of who approves models."""
_KEY_CAP = 8 << 10
_EXPORT_CAP = 8 << 20
_NONCE = "8 to 64 fresh bytes from who checks it"


def register(commands: Any, common: argparse.ArgumentParser, add: Add) -> None:
    """Add the commands to the parser."""
    provision = add(commands, common, "provision", "give this device its keys, once; explains every step", _provision)
    _config_option(provision)
    about = f"public key (PEM) of who approves models (default: {POLICY_KEY}, where a signed package put it)"
    provision.add_argument("--policy-key", metavar="FILE", help=about)
    provision.add_argument("--replace-policy-key", action="store_true", help="move a provisioned device to that key")
    provision.add_argument("--yes", action="store_true", help="do not ask before each step")
    _auth_options(provision)
    reset = add(commands, common, "factory-reset", "destroy the keys and all that they protect; works without", _reset)
    _config_option(reset)
    reset.add_argument("--yes", action="store_true", help="do not ask")
    _auth_options(reset)
    audit = commands.add_parser("audit", help="show, check or export the log of every change")
    parts = audit.add_subparsers(metavar="COMMAND", required=True)
    entries = add(parts, common, "show", "print the newest entries", _audit_show)
    entries.add_argument("--limit", type=int, default=50, metavar="N", help="how many, 1 to 1000 (default: 50)")
    verify = add(parts, common, "verify", "check this device's log, or an export of it elsewhere", _audit_verify)
    verify.add_argument("file", nargs="?", metavar="FILE", help="an export; without one the daemon checks its own log")
    verify.add_argument("--ak", metavar="FILE", help="the device's attestation key from the fleet's records (PEM)")
    verify.add_argument("--adapter", type=int, metavar="N", help="prove a version of what was learnt instead")
    verify.add_argument("--of", metavar="NAME", help="whose, with --adapter")
    verify.add_argument("--nonce", type=_hex, metavar="HEX", help="what the export was asked with")
    export = add(parts, common, "export", "print the log with a TPM's quote over it, for somebody else", _audit_export)
    export.add_argument(
        "--nonce", type=_hex, required=True, metavar="HEX", help="8 to 64 fresh bytes from who checks it"
    )
    attest = add(commands, common, "attest", "print the TPM's quote over what this boot measured", _attest)
    attest.add_argument(
        "--nonce", type=_hex, required=True, metavar="HEX", help="8 to 64 fresh bytes from who checks it"
    )


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}")


def _auth_options(parser: argparse.ArgumentParser) -> None:
    for name in ("owner", "endorsement"):
        about = f"file with the TPM's {name} auth value, where one is set; used and never kept"
        parser.add_argument(f"--{name}-auth-file", metavar="FILE", help=about)


# -- provision and reset ----------------------------------------------------------------------------------------


@files_explained
def _provision(options: argparse.Namespace) -> int:
    from idiolect.trust.device.provisioning import fleet_record

    config = read_config(options)
    with _daemon_stopped(config):
        record = fleet_record(_provisioned(config, options))
    if options.json:
        print(json.dumps(record, indent=2))
        return 0
    print("\nFor the fleet's records (all of it public):")
    print(json.dumps(record, indent=2))
    return 0


def _provisioned(config: Config, options: argparse.Namespace) -> Device:
    from idiolect.trust.device.provisioning import Provisioning

    policy_key = options.policy_key or (str(POLICY_KEY) if config.keystore == "tpm" and POLICY_KEY.exists() else None)
    key = read(policy_key, _KEY_CAP) if policy_key else b""
    if options.replace_policy_key:
        job: Any = _replacement(config, key, options)
    else:
        job = Provisioning(
            config,
            policy_key=key,
            owner=_auth(options.owner_auth_file),
            endorsement=_auth(options.endorsement_auth_file),
        )
    _run(job.steps(), options)
    device: Device = job.device
    return device


def _replacement(config: Config, key: bytes, options: argparse.Namespace) -> Any:
    from idiolect.trust.bundle.choose import chosen_model
    from idiolect.trust.device.policy_key import PolicyKeyReplacement
    from idiolect.trust.device.provisioning import read_record

    device = read_record(Path(config.state_dir))
    if not key:
        raise CommandError("--replace-policy-key needs --policy-key FILE")
    if config.keystore != "tpm" or device is None or not device.complete:
        raise KeystoreError("there is no policy key to replace: this device has no keys in a TPM", "idiolect provision")
    return PolicyKeyReplacement(config, device, chosen_model(config), key, owner=_auth(options.owner_auth_file))


def _run(steps: Iterator[Step], options: argparse.Namespace) -> None:
    """Say what a step is for, ask where a person is there to answer, do it, and say what was done."""
    ask = not options.yes and not options.json and sys.stdin.isatty()
    for number, step in enumerate(steps, 1):
        _tell(options, f"{number}. {step.title}: {step.why}")
        if ask and input("   go on? [Y/n] ").strip().lower() not in ("", "y", "yes"):
            raise KeyboardInterrupt
        _tell(options, f"   {show.plain(step.run())}")


@files_explained
def _reset(options: argparse.Namespace) -> int:
    from idiolect.trust.device.provisioning import factory_reset

    config = read_config(options)
    if not options.yes:
        warning = "this destroys the keys, and with them all that was learnt from anybody, consent and the audit log"
        if options.json or not sys.stdin.isatty():
            raise CommandError(f"{warning}: say --yes if that is wanted")
        if input(f"{warning}.\nType RESET to go on: ").strip() != "RESET":
            raise KeyboardInterrupt
    with _daemon_stopped(config):
        removed = factory_reset(config, owner=_auth(options.owner_auth_file))
    lines = [f"removed {show.plain(each)}" for each in removed]
    return emit(options, {"removed": removed}, lines or ["there was nothing to remove"])


@contextmanager
def _daemon_stopped(config: Config) -> Iterator[None]:
    """Stop systemd's daemon meanwhile, and refuse where one was started by hand: two programs must not share one vault.

    Nobody is asked through a socket of systemd's: that alone would start the daemon.
    """
    from idiolect.config.schema import Control

    if config.control.socket == Control().socket:
        with systemctl.stopped() as by_systemd:
            if not by_systemd:
                _not_running(config)
            yield
    else:
        _not_running(config)
        yield


def _not_running(config: Config) -> None:
    try:
        Client(str(config.control.socket), timeout=2).status()
    except UnreachableError:
        return
    raise KeystoreError("idiolectd is running", "stop the one that was started by hand first", "busy")


# -- proofs -----------------------------------------------------------------------------------------------------


def _audit_show(options: argparse.Namespace) -> int:
    answer = Client(options.socket).audit(options.limit)
    return emit(options, answer, [show.audit_line(entry) for entry in answer["entries"]] or ["no entries"])


def _adapter_verify(options: argparse.Namespace) -> int:
    """Run the checks of an adapter; exit status 65 when any fails: what is in use is not what it says it is."""
    from idiolect.cli.review import verify_adapter

    if not options.of:
        raise CommandError("--adapter N needs --of NAME: versions are counted per person")
    answer, lines = verify_adapter(Client(options.socket, timeout=60.0), options.of, options.adapter)
    print(json.dumps(answer, indent=2) if options.json else "\n".join(lines))
    return 0 if answer["ok"] else 65


@files_explained
def _audit_verify(options: argparse.Namespace) -> int:
    if options.adapter is not None:
        return _adapter_verify(options)
    if options.file is None:
        answer = Client(options.socket).verify_audit()
        return emit(options, answer, [f"OK: {counted(answer['count'], 'entry', 'entries')}, head {answer['head']}"])
    from idiolect.trust.device.documents import verify_audit

    if options.ak and not options.nonce:
        raise CommandError("--ak needs the --nonce that the export was asked with: without it an old one would pass")
    summary = verify_audit(
        read(options.file, _EXPORT_CAP), read(options.ak, _KEY_CAP) if options.ak else b"", options.nonce
    )
    return emit(options, summary, _verdict(summary))


def _verdict(summary: dict[str, Any]) -> list[str]:
    quoted = "quoted by the device's TPM" if summary["quoted"] else "NOT checked against a TPM: give --ak and --nonce"
    return [f"OK: entries {summary['first']} to {summary['count']}, head {summary['head']}", quoted]


def _audit_export(options: argparse.Namespace) -> int:
    print(json.dumps(Client(options.socket).export_audit(options.nonce), indent=1))
    return 0


def _attest(options: argparse.Namespace) -> int:
    print(json.dumps(Client(options.socket).attest(options.nonce), indent=1))
    return 0


# -- small things -----------------------------------------------------------------------------------------------


def _auth(path: str | None) -> bytes:
    return read(path, _KEY_CAP).removesuffix(b"\n") if path else b""


def _hex(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if not 8 <= len(value) <= 64:
        raise argparse.ArgumentTypeError("a nonce is 8 to 64 bytes in hex, such as of: openssl rand -hex 32")
    return value


def _tell(options: argparse.Namespace, line: str) -> None:
    print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
