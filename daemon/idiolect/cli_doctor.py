"""What `idiolect doctor` can find out by itself, with or without a daemon."""

from __future__ import annotations

import os
from pathlib import Path

from idiolect.errors import ConfigError

_SOUND = Path("/dev/snd")
_TPM = Path("/sys/class/tpm/tpm0")
_EFIVARS = Path("/sys/firmware/efi/efivars")


def local_checks(config: Path) -> list[dict[str, object]]:
    """Checks of this machine: {"check", "ok", "level": ok | warn | fail, "detail", "fix"}."""
    return [_configuration(config), _sound(), *_tpm()]


def _tpm() -> list[dict[str, object]]:
    """Whether the PCR that approvals use by default is ours. Nothing is said where there is no TPM."""
    if not _TPM.exists():
        return []
    if any(_EFIVARS.glob("MokListRT-*")):
        detail = "this machine boots through shim, which measures its keys into PCR 14"
        fix = "sign bundles with --pcr-start VALUE (doctor says which where keys are refused), or with another --pcr"
        return [_check("pcr", "warn", detail, fix)]
    return [_check("pcr", "ok", "no boot loader is known to use PCR 14 here")]


def _configuration(path: Path) -> dict[str, object]:
    from idiolect.config import config_files, load

    if not os.access(path, os.R_OK):
        fix = "without one the defaults hold; name another with --config, or try again with sudo"
        return _check("config", "warn", f"{path} is not there, or not readable for you", fix)
    try:
        load(config_files(path))
    except ConfigError as error:
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        return _check("config", "fail", f"{error.problems[0]}{more}", f"see all with 'idiolect config check {path}'")
    return _check("config", "ok", f"{path} is valid")


def _sound() -> dict[str, object]:
    """May this user capture? The daemon has a user and a group of its own, so this is never a failure."""
    devices = sorted(_SOUND.glob("pcm*c"))
    if not devices:
        return _check("sound", "warn", "no capture device", "plug a microphone in, or see 'arecord -l'")
    if all(os.access(device, os.R_OK | os.W_OK) for device in devices):
        return _check("sound", "ok", f"{len(devices)} capture device(s), open to you")
    return _check(
        "sound",
        "warn",
        "you are not allowed to capture; the service is, if its unit says SupplementaryGroups=audio",
        "to run idiolectd by hand: sudo usermod -aG audio $USER, then log in again",
    )


def _check(name: str, level: str, detail: str, fix: str = "") -> dict[str, object]:
    return {"check": name, "ok": level == "ok", "level": level, "detail": detail, "fix": fix}
