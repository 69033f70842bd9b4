"""Slots: kill -9 at any write leaves whole bundles, the previous one is kept, the rest is swept."""

from __future__ import annotations

import json
import os
import signal

import pytest

from idiolect.errors import BundleError
from idiolect.host import files as files_
from idiolect.trust.bundle import slots as slots_
from idiolect.trust.bundle.slots import Slots, State

A, B, C = ({"manifest.json": each * 100, "head.bin": each * 5000} for each in (b"a", b"b", b"c"))
NA, NB, NC = "a" * 16, "b" * 16, "c" * 16


def content(slots, name):
    return {path.name: path.read_bytes() for path in slots.directory(name).iterdir()}


def holds(slots):
    """Both slots' content; every bundle that is named is whole."""
    state = slots.state()
    return tuple(content(slots, name) if name else None for name in (state.current, state.previous))


@pytest.fixture
def slots(tmp_path):
    return Slots(tmp_path / "bundles")


def test_nothing_is_installed_at_first(slots, tmp_path):
    assert slots.state() == State(None, None, 0)
    assert not (tmp_path / "bundles").exists()
    with pytest.raises(BundleError, match="no previous bundle"):
        slots.rollback()


def test_installing_keeps_the_previous_and_removes_the_one_before(slots, tmp_path):
    assert slots.install(A, NA) == State(NA, None, 0)
    assert slots.install(B, NB) == State(NB, NA, 0)
    assert holds(slots) == (B, A)
    assert slots.install(C, NC) == State(NC, NB, 0)
    assert holds(slots) == (C, B)
    assert {path.name for path in (tmp_path / "bundles").iterdir()} == {NB, NC, "slots.json", ".lock"}


def test_the_same_bundle_again_changes_nothing(slots, tmp_path):
    slots.install(A, NA)
    slots.install(B, NB)
    before = {path: path.stat().st_ino for path in (tmp_path / "bundles").rglob("*")}
    assert slots.install(B, NB) == State(NB, NA, 0)
    assert {path: path.stat().st_ino for path in (tmp_path / "bundles").rglob("*")} == before


def test_the_previous_bundle_again_swaps(slots):
    slots.install(A, NA)
    slots.install(B, NB)
    assert slots.install(A, NA) == State(NA, NB, 0)
    assert holds(slots) == (A, B)


def test_a_rollback_swaps_and_swaps_back(slots):
    slots.install(A, NA)
    slots.install(B, NB)
    assert slots.rollback() == State(NA, NB, 0)
    assert holds(slots) == (A, B)
    assert slots.rollback() == State(NB, NA, 0)


def test_a_damaged_bundle_is_written_again(slots):
    slots.install(A, NA)
    slots.install(B, NB)
    (slots.directory(NB) / "head.bin").write_bytes(b"x")
    (slots.directory(NB) / "extra").write_bytes(b"x")
    assert slots.install(B, NB) == State(NB, NA, 0)
    assert holds(slots) == (B, A)


def test_the_minimum_only_rises_and_survives_installations(slots):
    slots.install(A, NA)
    assert slots.note_minimum(3) == State(NA, None, 3)
    assert slots.note_minimum(2) == State(NA, None, 3)
    assert slots.install(B, NB) == State(NB, NA, 3)
    assert slots.rollback().minimum == 3


def test_a_minimum_may_come_before_a_bundle(slots):
    assert slots.note_minimum(3) == State(None, None, 3)
    assert slots.install(A, NA) == State(NA, None, 3)


@pytest.mark.parametrize("name", ["", "a", "../evil", "A" * 16, "a" * 17, "a" * 15 + "\n", "a" * 16 + "\n", None])
def test_names_are_16_hex_digits(slots, name):
    with pytest.raises(ValueError, match="16 lower-case hex"):
        slots.directory(name)
    with pytest.raises(ValueError, match="16 lower-case hex"):
        slots.install(A, name)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", ".."])
def test_a_file_with_a_path_is_not_written(slots, name):
    with pytest.raises(ValueError, match="plain names"):
        slots.install({name: b"x"}, NA)
    assert slots.state() == State()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 4000,
        b" " * 5000,
        json.dumps({"current": "../../etc", "previous": None, "minimum": 0}).encode(),
        json.dumps({"current": NA, "previous": NA, "minimum": 0}).encode(),
        json.dumps({"current": None, "previous": NA, "minimum": 0}).encode(),
        json.dumps({"current": NA, "previous": None, "minimum": -1}).encode(),
        json.dumps({"current": NA, "previous": None, "minimum": True}).encode(),
        json.dumps({"current": NA, "previous": None, "minimum": 2**63}).encode(),
        json.dumps({"current": [NA], "previous": None, "minimum": 0}).encode(),
        json.dumps({"current": NA, "previous": None, "minimum": 0, "more": 1}).encode(),
    ],
)
def test_a_damaged_state_is_said_and_left_alone(slots, value):
    slots.install(A, NA)
    path = slots.directory(NA).parent / "slots.json"
    path.write_bytes(value)
    with pytest.raises(BundleError, match=r"slots\.json: is damaged"):
        slots.state()
    with pytest.raises(BundleError):
        slots.install(B, NB)
    assert path.read_bytes() == value
    assert content(slots, NA) == A


# -- kill -9 --------------------------------------------------------------------------------------------------------

STEPS = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "close")


def dies_at(step, run):
    """Run in a child that kills itself before its ``step``-th call that reaches the disk; False when it survived."""
    child = os.fork()
    if child == 0:
        left = [step]

        def deadly(call):
            def counted(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return counted

        for name in STEPS:
            setattr(os, name, deadly(getattr(os, name)))
        try:
            run()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def every_step(tmp_path, prepare, run, allowed, afterwards):
    step = 0
    seen = set()
    while True:
        step += 1
        slots = Slots(tmp_path / f"{step}" / "bundles")
        prepare(slots)
        died = dies_at(step, lambda slots=slots: run(slots))
        now = holds(slots)
        assert now in allowed, f"step {step}"
        seen.add(allowed.index(now))
        run(slots)  # the next try finishes the job, whatever was left lying about
        assert holds(slots) == afterwards
        assert len(list((tmp_path / f"{step}" / "bundles").iterdir())) == 2 + sum(
            each is not None for each in afterwards
        )
        if not died:
            break
    assert seen == set(range(len(allowed)))
    return step


def test_kill_9_at_every_step_of_an_installation(tmp_path):
    def prepare(slots):
        slots.install(A, NA)
        slots.install(B, NB)

    steps = every_step(tmp_path, prepare, lambda slots: slots.install(C, NC), [(B, A), (C, B)], (C, B))
    assert steps > 20  # the counting counts: directory, two files, their directory, rename, slots.json, removal


def test_kill_9_at_every_step_of_the_first_installation(tmp_path):
    every_step(tmp_path, lambda _: None, lambda slots: slots.install(A, NA), [(None, None), (A, None)], (A, None))


def test_kill_9_at_every_step_of_installing_the_same_model_signed_anew(tmp_path):
    """Other approvals under the same manifest: the same name, and the current slot is never empty."""
    anew = {**B, "approvals.json": b"more"}

    def prepare(slots):
        slots.install(A, NA)
        slots.install(B, NB)

    every_step(tmp_path, prepare, lambda slots: slots.install(anew, NB), [(B, A), (anew, A)], (anew, A))


def test_a_file_system_that_cannot_exchange(slots, monkeypatch):
    slots.install(A, NA)
    monkeypatch.setattr(slots_, "_RENAME_EXCHANGE", 1 << 30)  # refused with EINVAL, as by such a file system
    assert slots.install({**A, "model.sig": b"x"}, NA) == State(NA, None, 0)
    assert holds(slots) == ({**A, "model.sig": b"x"}, None)


def test_kill_9_at_every_step_of_a_rollback(tmp_path):
    def prepare(slots):
        slots.install(A, NA)
        slots.install(B, NB)

    def back(slots):
        if slots.state().current == NB:
            slots.rollback()

    every_step(tmp_path, prepare, back, [(B, A), (A, B)], (A, B))


def test_two_installations_at_once_do_not_mix(tmp_path):
    slots = Slots(tmp_path / "bundles")
    slots.install(A, NA)
    children = []
    for bundle, name in ((B, NB), (C, NC)):
        child = os.fork()
        if child == 0:
            try:
                Slots(tmp_path / "bundles").install(bundle, name)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert holds(slots) in ((C, B), (B, C))


def test_the_bundle_is_on_the_disk_before_the_slots_name_it(slots, tmp_path, monkeypatch):
    """kill -9 does not show this, as the kernel lives on; a power failure would."""
    order = []
    monkeypatch.setattr(slots_, "sync_directory", lambda path: order.append(("sync", path.name)))
    write = files_.write_durably

    def written(path, *rest):
        order.append(("write", path.name))
        write(path, *rest)

    monkeypatch.setattr(slots_, "write_durably", written)
    slots.install(A, NA)
    assert order == [("write", "manifest.json"), ("write", "head.bin"), ("sync", "bundles"), ("write", "slots.json")]
