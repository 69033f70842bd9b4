"""`idiolect bundle ...`: make keys, sign, verify and install bundles. Without the daemon, all but `mark-good`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.cli import output as show
from idiolect.cli import sign as cli_sign
from idiolect.cli.files import (
    DEFAULT_CONFIG,
    SHORT,
    Add,
    described,
    emit,
    files_explained,
    lack_lines,
    lacks,
    opened,
    read,
    read_config,
    whole,
)
from idiolect.client import Client
from idiolect.errors import BundleError
from idiolect.values import counted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    from idiolect.config.schema import Config
    from idiolect.trust.bundle.public_keys import TrustedKeys
    from idiolect.trust.bundle.slots import State
    from idiolect.trust.bundle.verify import Verified


def register(commands: Any, common: argparse.ArgumentParser, add: Add) -> None:
    """Add the commands to the parser."""
    bundle = commands.add_parser("bundle", help="sign, verify and install models, and the keys for that")
    parts = bundle.add_subparsers(metavar="COMMAND", required=True)
    about = "make the two key pairs that sign bundles; on your machine"
    cli_sign.keygen_options(add(parts, common, "keygen", about, cli_sign.keygen))
    cli_sign.sign_options(add(parts, common, "sign", "sign a bundle and approve its boot", cli_sign.sign))
    verify = add(parts, common, "verify", "check a bundle as a device would, one line a check", _verify)
    verify.add_argument("directory", metavar="DIR")
    verify.add_argument("--keys", metavar="DIR", required=True, help="public bundle keys (*.pem), and perhaps revoked")
    verify.add_argument("--minimum", type=whole, default=0, metavar="N", help="refuse versions below N")
    verify.add_argument("--policy-key", metavar="FILE", help="public policy key (PEM): also check who approves")
    install = add(parts, common, "install", "verify a bundle and put it into the current slot", _install)
    install.add_argument("directory", metavar="DIR")
    slots = add(parts, common, "list", "show both slots", _list)
    rollback = add(parts, common, "rollback", "make the previous bundle the current one", _rollback)
    for command in (install, slots, rollback):
        command.add_argument("--config", metavar="FILE", default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}")
    add(parts, common, "mark-good", "no older bundle gets the keys from now on; asks the daemon", _mark_good)


# -- checking -------------------------------------------------------------------------------------------------------


@files_explained
def _verify(options: argparse.Namespace) -> int:
    from idiolect.trust.bundle.directory import read_keys
    from idiolect.trust.bundle.verify import CHECKS, verify

    keys, policy = read_keys(Path(options.keys)), _policy(options.policy_key)
    results = dict.fromkeys(CHECKS, "not reached")
    answer: dict[str, Any] = {"ok": False, "message": ""}
    try:
        with opened(Path(options.directory)) as source:
            verified = verify(source, keys, minimum=options.minimum, passed=lambda n: results.update({n: "ok"}))
        answer |= {"ok": True, **described(verified), "lacks": lacks(verified)}
        if policy is not None:
            _check_approver(verified, policy)
    except BundleError as error:
        answer |= {"ok": False, "message": str(error)}
        if error.check:
            results[error.check] = "refused"
    answer["checks"] = [{"check": n, "about": CHECKS[n], "result": results[n]} for n in CHECKS]
    emit(options, answer, _check_lines(answer))
    return 0 if answer["ok"] else BundleError.exit_code


def _check_approver(verified: Verified, policy: EllipticCurvePublicKey) -> None:
    """Refuse a bundle with which a device provisioned with this policy key would get no keys, before its TPM does."""
    from idiolect.trust.bundle import approvals
    from idiolect.trust.bundle.public_keys import fingerprint

    mine = [each for each in verified.approvals if each.key == fingerprint(policy)]
    if not mine or not all(approvals.check(each, policy) for each in mine):
        what = "has no approval by that policy key" if not mine else "has an approval that this policy key did not sign"
        raise BundleError(approvals.FILE, f"{what}: a device would be without keys; sign the bundle with it")


def _check_lines(answer: dict[str, Any]) -> list[str]:
    levels = {"ok": "ok", "refused": "fail"}
    lines = []
    for each in answer["checks"]:
        result = each["result"]
        lines.append(f"{each['check']}  {show.coloured(f'{result:<11}', levels.get(result, ''))}  {each['about']}")
    if answer["message"]:
        return [*lines, show.plain(answer["message"])]
    whose = f"{answer['name']} version {answer['version']}, signed by {answer['signer'][:SHORT]}"
    lines += lack_lines(answer["lacks"])
    return [*lines, f"OK: {show.plain(whose)}, {counted(len(answer['approvals']), 'approval')}"]


# -- on the device --------------------------------------------------------------------------------------------------


@files_explained
def _install(options: argparse.Namespace) -> int:
    from idiolect.trust.bundle.choose import slots
    from idiolect.trust.bundle.directory import read_keys
    from idiolect.trust.bundle.verify import verify

    config = read_config(options)
    store = slots(config)
    keys, minimum = read_keys(config.trust.keys_dir), store.state().minimum
    with opened(Path(options.directory)) as source:
        verified = verify(source, keys, minimum=minimum)
    with _as_owner(config.state_dir):
        state = store.install(verified.files, verified.digest[:SHORT])
    label = f"{verified.manifest.name} version {verified.manifest.version}"
    lines = [show.plain(f"{label} is in the current slot ({state.current})"), *_next_steps(config)]
    lines += lack_lines(lacks(verified))
    return emit(options, {"installed": described(verified), "lacks": lacks(verified), **_state(state)}, lines)


def _next_steps(config: Config) -> list[str]:
    if config.bundle != "installed":
        return ["next: say 'bundle: installed' in the configuration, then restart (systemctl restart idiolectd)"]
    restart = "next: restart the daemon (systemctl restart idiolectd)"
    if config.keystore == "tpm":
        return [
            f"{restart}; it keeps the keys if the new bundle was signed with",
            "      --upgrade-from the running one, else they come back with a reboot",
        ]
    return [restart]


@files_explained
def _list(options: argparse.Namespace) -> int:
    from idiolect.trust.bundle.choose import slots, trusted_keys

    config = read_config(options)
    store, keys = slots(config), trusted_keys(config)
    state = store.state()
    rows = []
    for slot, name in (("current", state.current), ("previous", state.previous)):
        if name is not None:
            rows.append({"slot": slot, "directory": name, **_slot(store.directory(name), keys)})
    lines = [_slot_line(row) for row in rows] or ["no bundle is installed: idiolect bundle install DIR"]
    if rows and config.bundle != "installed":
        lines.append(f"not in use: the configuration says 'bundle: {config.bundle}'")
    return emit(options, {"slots": rows, **_state(state)}, lines)


def _slot(path: Path, keys: TrustedKeys | None) -> dict[str, Any]:
    from idiolect.trust.bundle.verify import verify

    try:
        with opened(path) as source:
            return {**described(verify(source, keys, allow_unsigned=keys is None)), "message": ""}
    except BundleError as error:
        return {"message": str(error)}


def _slot_line(row: dict[str, Any]) -> str:
    text = row["message"] or f"{row['name']} version {row['version']}, {_signer(row['signer'])}"
    return f"{row['slot']:<8}  {row['directory']}  {show.plain(text)}"


def _signer(fingerprint: str) -> str:
    return f"signed by {fingerprint[:SHORT]}" if fingerprint else "signature not checked: there is no trust.keys_dir"


@files_explained
def _rollback(options: argparse.Namespace) -> int:
    from idiolect.trust.bundle.choose import slots, trusted_keys
    from idiolect.trust.bundle.verify import verify

    config = read_config(options)
    store, keys = slots(config), trusted_keys(config)
    before = store.state()
    if before.previous is not None:  # a bundle that the daemon will refuse is no way back
        with opened(store.directory(before.previous)) as source:
            verify(source, keys, minimum=before.minimum, allow_unsigned=keys is None)
    with _as_owner(config.state_dir):
        state = store.rollback()
    steps = _next_steps(config)
    if config.keystore == "tpm" and config.bundle == "installed":
        steps = ["next: reboot (systemctl reboot): the keys come with the boot, not with a restart"]
    lines = [f"the current slot is {state.current} again, the previous one {state.previous}", *steps]
    return emit(options, _state(state), lines)


def _mark_good(options: argparse.Namespace) -> int:
    answer = Client(options.socket).mark_good()
    minimum = show.plain(answer.get("minimum", "?"))
    return emit(options, answer, [f"from now on no bundle below version {minimum} gets the keys"])


@contextmanager
def _as_owner(state_dir: Path) -> Iterator[None]:
    """Act as the owner of the state directory where root runs this.

    What is made belongs to the daemon then, and a link that a stranger put there leads root nowhere.
    """
    if os.geteuid() != 0 or not state_dir.exists():
        yield
        return
    owner, groups = state_dir.stat(), os.getgroups()
    os.setgroups([owner.st_gid])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(os.getgid())
        os.setgroups(groups)


def _policy(path: str | None) -> EllipticCurvePublicKey | None:
    from idiolect.trust.bundle.public_keys import FILE_CAP, load_public

    return load_public(Path(path).name, read(path, FILE_CAP)) if path else None


def _state(state: State) -> dict[str, Any]:
    return {"current": state.current, "previous": state.previous, "minimum": state.minimum}
