"""What of each package goes onto a device. Everything else of its wheel is left out.

How it is known: sys.modules and /proc/self/maps of a daemon that has run its model name nothing else, and
tests/package/test_package_runs.py imports every module of ours, runs the model, and has the tests of pipeline and
learning pass on what is left.
"""

from __future__ import annotations

import fnmatch

ONLY: dict[str, tuple[str, ...]] = {
    # The interpreter on the CPU, and no more: without the WebGPU delegate (19 MB), the vendors' compiler plugins, the
    # converter, the schema, and libLiteRt.so, LiteRT's newer API (CompiledModel), which __init__ loads if it is there
    # and `interpreter` never calls. With those go the packages that only they import: backports.strenum and protobuf
    # (compiled model, options), flatbuffers (schema), ml_dtypes and tqdm (converter).
    "ai-edge-litert": (
        "ai_edge_litert/__init__.py",
        "ai_edge_litert/interpreter.py",
        "ai_edge_litert/metrics_interface.py",
        "ai_edge_litert/metrics_portable.py",
        "ai_edge_litert/_pywrap_litert_interpreter_wrapper.so",
        "ai_edge_litert/libpywrap_litert_common.so",
    ),
    # What compiled bindings need at run time; the Python part, and pycparser with it, is for making them.
    "cffi": ("_cffi_backend*.so",),
}
NEVER = (
    "*.pyi",
    "*.c",
    "*.pyx",
    "*.h",
    "*/py.typed",
    "*/test/*",
    "*/tests/*",
    "jeepney/io/tests/*",
    # Other people's event loops: the daemon speaks to the bus with one blocking socket.
    "jeepney/io/trio.py",
    "jeepney/integrate/*",
    # FAPI (not compiled in; FAPI.py itself says so when it is imported), decoding of commands, TPMs on a bare SPI bus.
    "tpm2_pytss/fapi_info.py",
    "tpm2_pytss/command_parser.py",
    "tpm2_pytss/TCTISPIHelper.py",
    # Servers and bridges of theirs; we serve both ourselves.
    "prometheus_client/aiohttp/*",
    "prometheus_client/bridge/*",
    "prometheus_client/django/*",
    "prometheus_client/twisted/*",
    "prometheus_client/openmetrics/parser.py",
    "prometheus_client/parser.py",
    "wyoming/http/*",
    "wyoming/server.py",
    "wyoming/zeroconf.py",
)
METADATA = ("*.dist-info/METADATA",)
"""So that scanners for vulnerabilities find name and version. Licences go into the copyright file."""


def ships(package: str, path: str) -> bool:
    """Whether a file of a package's wheel goes into the tree."""
    if ".dist-info/" in path:
        return _any(path, METADATA)
    return _any(path, ONLY.get(package, ("*",))) and not _any(path, NEVER)


def _any(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
