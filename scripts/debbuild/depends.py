"""What the package asks of the distribution: computed from what its compiled parts are linked with."""

from __future__ import annotations

import re
from pathlib import Path

from debbuild.machine import owner_of, run
from debbuild.targets import Target
from debbuild.tree import compiled

# Loaded by name at run time, so that no linker knows: the TSS's way to /dev/tpmrm0, and the training worker's filter.
LOADED = ("libtss2-tcti-device.so.0", "libseccomp.so.2")
_NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[([^]]+)]")


def depends(target: Target, root: Path) -> list[str]:
    """Depends:, one relation each, in order."""
    low = "{}.{}".format(*target.release.python)
    high = f"{target.release.python[0]}.{target.release.python[1] + 1}"
    packages = {owner_of(target, soname) for soname in sonames(target, root)}
    packages |= {"python3-numpy", "python3-yaml", "python3-systemd", "systemd", "udev"}
    # The two sources are compiled against this glibc; the wheels ask for an older one.
    versioned = {"libc6": f"libc6 (>= 2.{target.release.glibc})"}
    relations = sorted(versioned.get(package, package) for package in packages)
    return [f"python3 (>= {low})", f"python3 (<< {high})", *relations]


def sonames(target: Target, root: Path) -> list[str]:
    """The shared libraries that are linked or loaded and not in the package itself."""
    libraries = compiled(root)
    listed = run([f"{target.tool_prefix}readelf", "--dynamic", "--wide", *libraries])
    own = {path.name for path in libraries}
    # The loader is libc6's, under a name that differs by architecture.
    needed = {name for name in _NEEDED.findall(listed) if not name.startswith("ld-linux")}
    return sorted((needed | set(LOADED)) - own)
