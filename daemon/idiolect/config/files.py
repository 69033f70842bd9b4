"""Lists the configuration files that are read, in their order: later ones win.

1. `/usr/lib/idiolect/idiolect.yaml`: what the package sets, never edited;
2. `/etc/idiolect/idiolect.yaml`: what this device sets;
3. `/etc/idiolect/conf.d/*.yaml`, by name.

Any of them may be missing. This file reads none of them and imports no YAML: the command line starts faster.
"""

from __future__ import annotations

from pathlib import Path

from idiolect.errors import ConfigError, Problem

VENDOR = Path("/usr/lib/idiolect/idiolect.yaml")
MAIN = Path("/etc/idiolect/idiolect.yaml")


def config_files(main: Path) -> tuple[Path, ...]:
    """Return ``main``, then the ``conf.d/*.yaml`` beside it, sorted. Raises ConfigError where conf.d is unreadable."""
    extra = main.parent / "conf.d"
    try:
        found = sorted(path for path in extra.iterdir() if path.suffix == ".yaml" and not path.name.startswith("."))
    except FileNotFoundError:
        found = []
    except OSError as error:
        raise ConfigError((Problem(str(extra), 1, "file", f"cannot be listed: {error.strerror}"),)) from None
    return (main, *found)


def installed_files(main: Path = MAIN, vendor: Path | None = VENDOR) -> tuple[Path, ...]:
    """Return the layers of this machine that are there; without ``vendor`` only what its owner may edit."""
    layers = config_files(main)
    return tuple(path for path in ((vendor, *layers) if vendor else layers) if _there(path))


def files_for(main: Path) -> tuple[Path, ...]:
    """Return the files for a command's ``--config``.

    By default these are the layers of this machine, else a file, which must be there, and its conf.d.
    """
    return installed_files() if main == MAIN else config_files(main)


def _there(path: Path) -> bool:
    """Return True if something has that name; a dangling link counts, as reading it then says what is wrong."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
