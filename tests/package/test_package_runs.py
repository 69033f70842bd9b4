"""The Debian package runs, installed in a root of its release that holds what it depends on and no more."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from debbuild import roots
from idiolect import __version__
from tests.conftest import DATA
from tests.support import packages
from tests.support.packages import PREFIX, ROOT, Installed

pytestmark = packages.LONG
PYTHON = f"/{PREFIX}/bin/python3"


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    """Without keys of anybody's."""
    with packages.installed(packages.plain()) as it:
        yield it


def test_it_asks_for_no_more_and_no_less(installed: Installed) -> None:
    """dpkg alone configured it; what it recommends is not there, and no compiler, no pip, no systemd running."""
    assert installed.run("dpkg-query", "-W", "-f", "${db:Status-Status}", "idiolect") == "installed"
    assert installed.run("dpkg", "--audit") == ""
    there = installed.run("dpkg-query", "-W", "-f", "${Package} ").split()
    assert not {"gcc", "python3-pip", "alsa-utils", "libopenblas0-serial", "git"} & set(there)
    assert installed.run("id", "-nG", "idiolect").split() == ["idiolect", "audio", "tss"]


def test_the_command_runs_from_its_own_folder(installed: Installed) -> None:
    assert (installed.root / PREFIX / "bin/idiolect").read_text().startswith(f"#!{PYTHON} -I\n")
    assert installed.run("idiolect", "--version") == f"idiolect {__version__}"
    assert installed.run("idiolect", "config", "check") == "OK"
    assert "usage: idiolectd" in installed.run("idiolectd", "--help")
    path = json.loads(installed.run(PYTHON, "-I", "-c", "import json, sys; print(json.dumps(sys.path))"))
    assert path[-2:] == [installed.site, "/usr/lib/python3/dist-packages"]
    assert not [each for each in path if "local" in each]


def test_what_was_left_out_is_not_missed(installed: Installed) -> None:
    """Every module of ours, every library of theirs, and the model on the interpreter, from the package alone."""
    modules = json.loads(installed.run(PYTHON, "-I", "-c", _EVERYTHING).splitlines()[-1])
    assert modules["numpy"].startswith("/usr/lib/python3/")
    for name in ("ai_edge_litert", "cryptography", "soxr", "msgpack", "tpm2_pytss", "h11", "jeepney", "idiolect"):
        assert modules[name].startswith(installed.site), name
    for name in ("google", "flatbuffers", "tqdm", "ml_dtypes", "backports", "cffi", "pycparser"):
        assert name not in modules


_EVERYTHING = """
import json, pkgutil, sys
import idiolect
for each in pkgutil.walk_packages(idiolect.__path__, "idiolect."):
    if not each.name.endswith("__main__"):
        __import__(each.name)
import alsaaudio, jeepney.auth, numpy, soxr, systemd.daemon, systemd.journal, yaml
from idiolect.listening import recognizer as assembly
recognizer = assembly.Recognizer.from_bundle(assembly.read_bundle(assembly.bundle_directory("builtin")))
chain = recognizer.chain(assembly.listening(recognizer.bundle))
noise = numpy.random.default_rng(1).normal(0, 3000, 16000).astype(numpy.int16)
assert len(list(chain.steps(noise))) > 5
tops = {name: module for name, module in sys.modules.items() if "." not in name}
print(json.dumps({name: getattr(module, "__file__", None) or "" for name, module in tops.items()}))
"""


def test_an_older_one_comes_back_only_if_that_is_said(installed: Installed) -> None:
    again = "cd /root && dpkg-deb -R idiolect.deb older && sed -i 's/^Version:.*/Version: 0.0.1/' older/DEBIAN/control"
    installed.run("sh", "-ec", f"{again} && dpkg-deb -Zgzip -z1 -b older older.deb && rm -r older")
    apt = ("apt-get", "install", "-y", "-q")
    refused = roots.enter(installed.root, [*apt, "/root/older.deb"])
    assert refused.returncode
    assert "--allow-downgrades" in refused.stdout + refused.stderr
    installed.run(*apt, "--allow-downgrades", "/root/older.deb")
    assert installed.run("dpkg-query", "-W", "-f", "${Version}", "idiolect") == "0.0.1"
    installed.run(*apt, "/root/idiolect.deb")
    assert installed.run("idiolect", "config", "check") == "OK"


RUNNERS = "pytest _pytest py pluggy iniconfig packaging pygments pytest_timeout hypothesis sortedcontainers flatbuffers"
"""What the tests need of an environment, without its numpy and the rest."""
RECORDINGS = Path("/usr/share/asterisk")
"""People's speech, from a Debian package that the tests want and the product does not."""


@pytest.mark.slow
def test_pipeline_and_learning_pass_on_the_package(installed: Installed, sounds: Path) -> None:
    assert sounds.is_relative_to(RECORDINGS)
    checkout, tools = installed.root / "checkout", installed.root / "tools"
    tools.mkdir()
    site = _site(installed.package.site.parent.name)
    for name in (*RUNNERS.split(), "pyopen_wakeword", "_hypothesis_globals", "_hypothesis_ftz_detector"):
        if (site / name).is_dir():
            shutil.copytree(site / name, tools / name)
        elif (site / f"{name}.py").exists():
            shutil.copy(site / f"{name}.py", tools)
    checkout.mkdir()
    for name in ("tests", "scripts", "config"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    # Without its metadata, pytest does not find the plugin that the settings ask for.
    options = ("-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "--rootdir=/checkout", "-c/checkout/setup.cfg")
    where = [
        "/checkout/tests/listening/pipeline",
        "/checkout/tests/learning",
        "--ignore=/checkout/tests/learning/worker",
    ]
    env = ["env", "PYTHONPATH=/tools:/checkout", "PYTHONDONTWRITEBYTECODE=1", f"IDIOLECT_DATA={DATA}"]
    said = installed.run(*env, PYTHON, "-s", "-m", "pytest", *options, *where, binds=(DATA, RECORDINGS))
    assert re.search(r"\d{3} passed", said), said


def _site(minor: str) -> Path:
    """The test tools that fit the package's Python: here, or in the environment that scripts/setup makes for it."""
    if minor == "python{}.{}".format(*sys.version_info):
        return Path(os.fspath(pytest.__file__)).parents[1]
    other = ROOT / f".venv-{minor.removeprefix('python')}" / "lib" / minor / "site-packages"
    if not (other / "pytest").is_dir():
        pytest.skip(f"no test tools for {minor}: run scripts/setup --python {minor.removeprefix('python')}")
    return other
