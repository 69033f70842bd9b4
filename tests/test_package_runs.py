"""The Debian package runs: its interpreter, from where it was unpacked, on nothing but itself and Debian's modules."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

from idiolect import __version__
from tests import packages
from tests.packages import PREFIX, ROOT, Package


@pytest.fixture(scope="module")
def package() -> Package:
    """Without keys of anybody's."""
    return packages.plain()


def test_the_command_runs_from_its_own_folder(package: Package) -> None:
    tool = package.root / PREFIX / "bin/idiolect"
    assert tool.read_text().startswith(f"#!/{PREFIX}/bin/python3 -I\n")
    assert package.python("-I", tool, "--version") == f"idiolect {__version__}"
    assert package.python("-I", tool, "config", "check", package.root / "etc/idiolect/idiolect.yaml") == "OK"
    path = json.loads(package.python("-I", "-c", "import json, sys; print(json.dumps(sys.path))"))
    assert path[-2:] == [str(package.site), "/usr/lib/python3/dist-packages"]
    assert not [each for each in path if "local" in each]


def test_what_was_left_out_is_not_missed(package: Package) -> None:
    """Every module of ours, every library of theirs, and the model on the interpreter, from the package alone."""
    said = package.python("-I", "-c", _EVERYTHING)
    modules = json.loads(said.splitlines()[-1])
    assert modules["numpy"].startswith("/usr/lib/python3/")
    for name in ("ai_edge_litert", "cryptography", "soxr", "msgpack", "tpm2_pytss", "h11", "jeepney", "idiolect"):
        assert modules[name].startswith(str(package.site)), name
    for name in ("google", "flatbuffers", "tqdm", "ml_dtypes", "backports", "cffi", "pycparser"):
        assert name not in modules


_EVERYTHING = """
import json, pkgutil, sys
import idiolect
for each in pkgutil.walk_packages(idiolect.__path__, "idiolect."):
    if not each.name.endswith("__main__"):
        __import__(each.name)
import alsaaudio, jeepney.auth, numpy, soxr, yaml
from idiolect import assembly
recognizer = assembly.Recognizer.from_bundle(assembly.read_bundle(assembly.bundle_directory("builtin")))
chain = recognizer.chain(assembly.listening(recognizer.bundle))
noise = numpy.random.default_rng(1).normal(0, 3000, 16000).astype(numpy.int16)
assert len(list(chain.steps(noise))) > 5
tops = {name: module for name, module in sys.modules.items() if "." not in name}
print(json.dumps({name: getattr(module, "__file__", None) or "" for name, module in tops.items()}))
"""
RUNNERS = "pytest _pytest py pluggy iniconfig packaging pygments pytest_timeout hypothesis sortedcontainers flatbuffers"
"""What the tests need of this environment, without its numpy and the rest."""


@pytest.mark.slow
def test_pipeline_and_learning_pass_on_the_package(package: Package, tmp_path: Path) -> None:
    minor = package.site.parent.name
    if minor != "python{}.{}".format(*sys.version_info):
        pytest.skip(f"the test tools here are for another Python than the package's {minor}")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in (*RUNNERS.split(), "pyopen_wakeword", "_hypothesis_globals", "_hypothesis_ftz_detector"):
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:
            origin = Path(spec.origin)
            source = origin.parent if origin.name == "__init__.py" else origin
            (tools / source.name).symlink_to(source)
    for name in ("tests", "scripts", "config", "setup.cfg", "pyproject.toml"):
        (tmp_path / "checkout").mkdir(exist_ok=True)
        (tmp_path / "checkout" / name).symlink_to(ROOT / name)
    data = os.environ.get("IDIOLECT_DATA", str(ROOT.parent / "shared" / "data"))
    checkout = tmp_path / "checkout"
    where = [checkout / "tests" / part for part in ("pipeline", "learning")]
    # Without its metadata, pytest does not find the plugin that the settings ask for.
    options = (
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "pytest_timeout",
        "--rootdir",
        checkout,
        "-c",
        checkout / "setup.cfg",
    )
    said = package.python("-s", "-m", "pytest", *options, *where, PYTHONPATH=f"{tools}:{checkout}", IDIOLECT_DATA=data)
    assert re.search(r"\d{3} passed", said), said
