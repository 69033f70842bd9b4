"""`idiolect config check` and `migrate`, and what `doctor` says of old files: real files, real links, real crashes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from idiolect.cli import config, doctor, main
from idiolect.config import rewrite
from idiolect.config.files import installed_files
from idiolect.config.schema import Person, load
from idiolect.host import files
from tests.config.test_load import as_nobody

OLD = "# mine\nschema: 1\ncontrol:\n  people:\n    ann: [anna]  # a\n  max_clients: 3\n"
NEW = "# mine\nschema: 2\ncontrol:\n  max_clients: 3\npeople:\n  ann:\n    users: [anna]  # a\n"
WARNING = "2: written for schema 1; `idiolect config migrate"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "idiolect.yaml"
    path.write_text(OLD)
    return path


def idiolect(*arguments: object) -> int:
    return main.main([str(each) for each in arguments])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---- check and doctor


def test_check_warns_and_is_content(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert idiolect("config", "check", old) == 0
    assert capsys.readouterr().out == f"warning: {old}:{WARNING} {old}` rewrites it\nOK\n"
    assert idiolect("config", "check", old, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["problems"] == []
    (warning,) = answer["warnings"]
    assert (warning["file"], warning["line"]) == (str(old), 2)
    assert "written for schema 1" in warning["message"]


def test_check_of_a_newer_file_says_one_thing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.yaml"
    path.write_text("schema: 3\nwonders: {a: 1}\n")
    assert idiolect("config", "check", path) == 78
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}:1: schema: is 3, and this idiolect knows schemas up to 2")


def test_check_without_a_file_reads_what_the_daemon_reads(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = tmp_path / "vendor.yaml"
    vendor.write_text("adio: 1\n")
    monkeypatch.setattr(config, "installed_files", partial(installed_files, old, vendor))
    assert idiolect("config", "check") == 78
    assert f"{vendor}:1: adio" in capsys.readouterr().out
    vendor.unlink()
    assert idiolect("config", "check") == 0


def test_doctor_warns_and_names_the_command(old: Path) -> None:
    check = doctor.local_checks(old)[0]
    assert (check["level"], check["fix"]) == ("warn", f"idiolect config migrate {old}")
    assert f"{old}:{WARNING}" in str(check["detail"])
    assert idiolect("config", "migrate", old) == 0
    assert doctor.local_checks(old)[0]["level"] == "ok"


def test_doctor_looks_at_every_layer(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor, extra = tmp_path / "vendor.yaml", tmp_path / "conf.d" / "1.yaml"
    monkeypatch.setattr(doctor, "files_for", lambda path: installed_files(path, vendor))
    vendor.write_text("schema: 2\n")
    old.write_text("schema: 2\n")
    assert doctor.local_checks(old)[0]["detail"] == f"{vendor}, {old} are valid"
    extra.parent.mkdir()
    extra.write_text("adio: 1\n")
    check = doctor.local_checks(old)[0]
    assert check["level"] == "fail"
    assert f"{extra}:1: adio" in str(check["detail"])
    assert check["fix"] == f"see all with 'idiolect config check {vendor} {old} {extra}'"
    for path in (vendor, old, extra):
        path.unlink()
    assert "is not there" in str(doctor.local_checks(old)[0]["detail"])


# ---- migrate


def test_migrate_rewrites_and_keeps_the_original(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(old, 1234, 2345)
    before = old.stat()
    assert idiolect("config", "migrate", old) == 0
    kept = old.with_name("idiolect.yaml.schema-1")
    assert capsys.readouterr().out == f"{old}: rewritten for schema 2; the original is kept as {kept}\n"
    assert (old.read_text(), kept.read_text()) == (NEW, OLD)
    for path in (old, kept):
        after = path.stat()
        assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o640)
    assert names(old.parent) == {old.name, kept.name}


def test_a_current_file_is_not_touched(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old.write_text(NEW)
    before = old.stat()
    assert idiolect("config", "migrate", old) == 0
    assert capsys.readouterr().out == f"{old}: is current (schema 2)\n"
    now = old.stat()  # but for when it was last read
    assert (now.st_ino, now.st_size, now.st_mtime_ns, now.st_mode) == (
        before.st_ino, before.st_size, before.st_mtime_ns, before.st_mode,
    )  # fmt: skip
    assert names(old.parent) == {old.name}


def test_a_dry_run_prints_a_diff_that_patch_understands(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert idiolect("config", "migrate", "--dry-run", old) == 0
    diff = capsys.readouterr().out
    assert diff.startswith(f"--- {old}\n+++ {old} (schema 2)\n@@ ")
    assert "-schema: 1\n+schema: 2\n" in diff
    assert (old.read_text(), names(old.parent)) == (OLD, {old.name})
    assert idiolect("config", "migrate", "--dry-run", "--json", old) == 0
    (entry,) = json.loads(capsys.readouterr().out)["files"]
    assert entry == {"file": str(old), "state": "outdated", "schema": 2, "from": 1, "diff": diff.rstrip("\n")}


def test_the_answer_for_programs(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("audio: {gain_db: 1}\n")
    assert idiolect("config", "migrate", "--json", old, other) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [
        {"file": str(old), "state": "migrated", "schema": 2, "from": 1, "kept": f"{old}.schema-1"},
        {"file": str(other), "state": "current", "schema": 2},
    ]


def test_no_copy_is_ever_overwritten(old: Path) -> None:
    for number in range(3):
        old.write_text(f"{OLD}# {number}\n")
        assert idiolect("config", "migrate", old) == 0
    copies = [old.with_name(f"{old.name}.schema-1{end}") for end in ("", ".2", ".3")]
    assert [copy.read_text()[-2] for copy in copies] == ["0", "1", "2"]


def test_a_link_stays_a_link_and_the_copy_lies_beside_the_file(old: Path, tmp_path: Path) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    link = folder / "10-x.yaml"
    link.symlink_to(Path("..") / old.name)
    assert idiolect("config", "migrate", link, old) == 0
    assert link.readlink() == Path("..") / old.name
    assert old.read_text() == NEW
    assert names(folder) == {link.name}
    assert names(tmp_path) == {"conf.d", old.name, f"{old.name}.schema-1"}


def test_without_a_file_all_that_may_be_edited_is_migrated(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    extra, vendor = tmp_path / "conf.d" / "1.yaml", tmp_path / "vendor.yaml"
    extra.parent.mkdir()
    extra.write_text("control: {people: {bob: [bob]}}\n")
    vendor.write_text("schema: 1\n")
    monkeypatch.setattr(config, "installed_files", lambda vendor: installed_files(old, vendor))
    assert idiolect("config", "migrate") == 0
    assert load([old, extra]).outdated == ()
    assert dict(load([old, extra]).people) == {"ann": Person(("anna",)), "bob": Person(("bob",))}
    assert vendor.read_text() == "schema: 1\n"
    for path in (old, extra):
        path.unlink()
    capsys.readouterr()
    assert idiolect("config", "migrate") == 0
    assert capsys.readouterr().out.startswith("there is nothing to migrate")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("schema: 3\nwonders: 1\n", "1: schema: is 3, and this idiolect knows"),
        ("schema: 1\nadio: 1\n", "2: adio: unknown key"),
        ("schema: 1\nbundle: 'x\n", "2: yaml: "),
        ("control:\n  # why\n  people:\n    ann: [a]\npeople: {}\n", "3: file: cannot be rewritten safely: write"),
        (None, "1: file: there is no such file"),
    ],
)
def test_one_refusal_and_nothing_is_written(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    other = tmp_path / "zother.yaml"
    if content is not None:
        other.write_text(content)
    before = names(tmp_path)
    assert idiolect("config", "migrate", old, other) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"idiolect: {other}:{said}")
    assert "wonders" not in err
    assert names(tmp_path) == before
    assert old.read_text() == OLD
    assert content is None or other.read_text() == content


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that everybody may read and nobody but root may write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "idiolect.yaml").write_text(OLD)
        (folder / "idiolect.yaml").chmod(0o644)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_a_folder_that_may_not_be_written(closed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite.migrate(b"", "f")  # loaded before the rights are gone
    with as_nobody():
        assert idiolect("config", "migrate", closed / "idiolect.yaml") == 77
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"idiolect: {closed}/idiolect.yaml.schema-1: Permission denied: try again with sudo\n"
    assert names(closed) == {"idiolect.yaml"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("options", ["ro", "size=4k"])
def test_a_disk_that_takes_no_more(tmp_path: Path, options: str) -> None:
    """In a mount namespace of its own: a file system that is read-only, or full once the copy is on it."""
    script = f"""
        mount -t tmpfs -o size=64k none {tmp_path} || exit 99
        printf %s "$OLD" > {tmp_path}/a.yaml
        [ {options} = ro ] || head -c 100000 /dev/zero > {tmp_path}/filler 2>/dev/null
        [ {options} = ro ] && mount -o remount,ro {tmp_path}
        {sys.executable} -m idiolect.cli.main config migrate {tmp_path}/a.yaml; code=$?
        [ "$(cat {tmp_path}/a.yaml; echo x)" = "$OLD"x ] || exit 98
        [ -z "$(find {tmp_path} -name '*schema*' -o -name '*.new')" ] || exit 97
        exit $code
    """
    env = os.environ | {"OLD": OLD, "PYTHONPATH": str(Path(main.__file__).parents[2])}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("no mount namespace to be had here")
    assert done.returncode == 74, done.stderr
    assert "check the path and the disk" in done.stderr
    assert f"{tmp_path}/a.yaml.schema-1: " in done.stderr


# ---- crashes


def _killed_at(number: int, path: Path) -> bool:
    """Whether a process that migrates the file was killed before its ``number``-th line of what touches the disk."""
    child = os.fork()
    if child == 0:
        left = number

        def trace(frame, event, _):
            nonlocal left
            if frame.f_code.co_name not in ("_rewrite", "write_beside", "write_durably", "_fill", "sync_directory"):
                return None
            left -= event == "line"
            if left < 0:
                os._exit(9)
            return trace

        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for the rest of its short life
        sys.settrace(trace)
        os._exit(idiolect("config", "migrate", path))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return status != 0


def test_killed_anywhere_the_original_or_the_new_file_is_there(old: Path) -> None:
    rewrite.migrate(OLD.encode(), "f")
    seen = []
    for number in range(1000):
        ended = not _killed_at(number, old)
        content = old.read_text()
        assert content in (OLD, NEW)
        if content == NEW:
            assert old.with_name(f"{old.name}.schema-1").read_text() == OLD
        seen.append(content)
        if ended:
            break
        assert idiolect("config", "migrate", old) == 0  # whatever was left behind is in nobody's way
        assert old.read_text() == NEW
        for path in old.parent.iterdir():
            path.unlink()
        old.write_text(OLD)
    assert seen[-1] == NEW
    assert {OLD, NEW} == set(seen[:-1])


def test_the_copy_is_on_the_disk_before_the_file_changes(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        sync(descriptor)
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")

    def noted_replace(path: Path, target: Path) -> Path:
        done.append(f"replace {target.name}")
        return replace(path, target)

    monkeypatch.setattr(files.os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    assert idiolect("config", "migrate", old) == 0
    folder = f"sync {old.parent.name}"
    new, copy = f"sync .{old.name}.new", f"sync {old.name}.schema-1"
    assert done == [copy, folder, new, f"replace {old.name}", folder]
