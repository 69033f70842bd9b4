"""The checks that `idiolect doctor` makes by itself, with or without a daemon."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from idiolect.cli import systemctl
from idiolect.cli.files import CommandError
from idiolect.config.files import MAIN, files_for
from idiolect.errors import ConfigError
from idiolect.values import counted

_SOUND = Path("/dev/snd")
_TPM = Path("/sys/class/tpm/tpm0")
_EFIVARS = Path("/sys/firmware/efi/efivars")
PARTS: Mapping[str, tuple[str, ...]] = {
    "audio": ("sound", "microphone", "audio lost", "level", "listening"),
    "model": ("bundle", "bundle parts", "taught phrases"),
    "tpm": ("tpm", "pcr", "keys", "keystore"),
    "vault": ("vault", "state directory", "swap", "names"),
    "power": ("power", "heat", "pressure", "resources", "sleep"),
    "service": ("config", "configuration", "unit", "daemon"),
    "sandbox": ("confinement", "sandbox"),
    "clock": ("time zone", "clock"),
}
"""The checks that stand together on the screen, in this order; one that is in none of them comes last."""


def local_checks(config: Path) -> list[dict[str, object]]:
    """Return checks of this machine: {"check", "ok", "level": ok | warn | fail, "detail", "fix"}."""
    return [_configuration(config), _sound(), *_tpm(), *_unit()]


def one_screen(checks: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return the checks in the order of the parts, each with its ``part``."""
    part_of = {check: part for part, names in PARTS.items() for check in names}
    order = [*PARTS, ""]
    named = [{"part": part_of.get(str(check.get("check")), ""), **check} for check in checks]
    return sorted(named, key=lambda check: order.index(str(check["part"])))


def _unit() -> list[dict[str, object]]:
    """Return how systemd sees the service; nothing where systemd is not, or does not know it."""
    wanted = ("ActiveState", "SubState", "UnitFileState", "Result", "NRestarts", "ExecMainStatus", "NeedDaemonReload")
    try:
        found = systemctl.state(systemctl.SERVICE, (*wanted, "StatusText"))
    except CommandError as error:
        return [_check("unit", "warn", str(error), "systemctl status idiolectd")]
    return [] if found is None else [_unit_check(found)]


def _unit_check(state: Mapping[str, str]) -> dict[str, object]:
    """Return the worst that can be said of the unit, and the command that mends it."""
    active, said = f"{state.get('ActiveState')} ({state.get('SubState')})", state.get("StatusText", "")
    restarts, code = state.get("NRestarts") or "0", state.get("ExecMainStatus", "?")
    troubles = (
        (state.get("LoadState") == "masked", "fail", "is masked", "sudo systemctl unmask --now idiolectd"),
        (
            state.get("ActiveState") == "failed",
            "fail",
            f"failed ({state.get('Result')}, exit status {code})" + (f": {said}" if said else ""),
            "mend that, then: sudo systemctl restart idiolectd",
        ),
        (state.get("ActiveState") != "active", "fail", active, "sudo systemctl enable --now idiolectd"),
        (
            state.get("NeedDaemonReload") == "yes",
            "warn",
            f"{active}, but its files were changed since",
            "sudo systemctl daemon-reload && sudo systemctl restart idiolectd",
        ),
        (
            not state.get("UnitFileState", "").startswith(("enabled", "static", "generated")),
            "warn",
            f"{active}, but not started at boot",
            "sudo systemctl enable idiolectd",
        ),
        (
            restarts != "0",
            "warn",
            f"{active}, restarted {counted(int(restarts), 'time')} after a failure",
            "see why: journalctl -u idiolectd -p warning",
        ),
    )
    for holds, level, detail, fix in troubles:
        if holds:
            return _check("unit", level, f"{systemctl.SERVICE} {detail}", fix)
    return _check("unit", "ok", f"{systemctl.SERVICE} {active}, started at boot")


def _tpm() -> list[dict[str, object]]:
    """Check that the PCR which approvals use by default is ours; return nothing where there is no TPM."""
    if not _TPM.exists():
        return []
    if any(_EFIVARS.glob("MokListRT-*")):
        detail = "this machine boots through shim, which measures its keys into PCR 14"
        fix = "sign bundles with --pcr-start VALUE (doctor says which where keys are refused), or with another --pcr"
        return [_check("pcr", "warn", detail, fix)]
    return [_check("pcr", "ok", "no boot loader is known to use PCR 14 here")]


def _configuration(path: Path) -> dict[str, object]:
    from idiolect.cli.check import examined, has_unit
    from idiolect.config.schema import load

    files: tuple[Path, ...] = (path,)
    try:
        files = files_for(path)
        if closed := [file for file in files or (path,) if not os.access(file, os.R_OK)]:
            fix = "without one the defaults hold; name another with --config, or try again with sudo"
            return _check("config", "warn", f"{closed[0]} is not there, or not readable for you", fix)
        config = load(files)
    except ConfigError as error:
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        see = f"see all with 'idiolect config check {' '.join(map(str, files))}'"
        return _check("config", "fail", f"{error.problems[0]}{more}", see)
    found = examined(config, as_unit=path == MAIN and has_unit(), files=files)
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        which = "" if path == MAIN else " " + " ".join(map(str, files))
        return _check("config", "fail", f"{found.problems[0]}{more}", f"see all with 'idiolect config check{which}'")
    if config.outdated:
        old = sorted({note.source for note in config.outdated})
        fix = f"idiolect config migrate {' '.join(old)}"
        return _check("config", "warn", "; ".join(str(note) for note in config.outdated), fix)
    return _check("config", "ok", f"{', '.join(map(str, files))} {'is' if len(files) == 1 else 'are'} valid")


def _sound() -> dict[str, object]:
    """Check if this user may capture. The daemon has a user and a group of its own, so this is never a failure."""
    devices = sorted(_SOUND.glob("pcm*c"))
    if not devices:
        return _check("sound", "warn", "no capture device", "plug a microphone in, or see 'arecord -l'")
    if all(os.access(device, os.R_OK | os.W_OK) for device in devices):
        return _check("sound", "ok", f"{counted(len(devices), 'capture device')}, open to you")
    return _check(
        "sound",
        "warn",
        "you are not allowed to capture; the service is, if its unit says SupplementaryGroups=audio",
        "to run idiolectd by hand: sudo usermod -aG audio $USER, then log in again",
    )


def _check(name: str, level: str, detail: str, fix: str = "") -> dict[str, object]:
    return {"check": name, "ok": level == "ok", "level": level, "detail": detail, "fix": fix}
