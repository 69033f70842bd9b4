"""The adversary's own senses: what it must find is found, and what leaks is noticed; a short look at a whole daemon."""

import base64
import ctypes
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from idiolect.events import EventStream
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.inference import EventIds, Inference
from idiolect.listening.pipeline.chain import MEMORY
from idiolect.listening.recognizer import listening
from idiolect.values import BLOCK, Captured
from tests.support import speech
from tests.support.wyoming_talk import recognizer
from torture import harness
from torture.attacking import attacks, installed, memory, memory_search, stranger, timings, watching
from torture.attacking.report import written

NOISE = np.rint(np.random.default_rng(5).standard_normal(48_000) * 30).astype(np.int16)


def whole_daemon():
    if why := installed.needs():
        pytest.skip(why)


# -- searching ---------------------------------------------------------------------------------------------------------


def test_keys_and_sound_are_found_in_a_process_that_holds_them_and_in_no_other():
    key, part = bytes(range(100, 132)), NOISE[10_000:20_000]
    sound = memory_search.Sound(NOISE, aligned=True)
    held = [key, key.hex().encode(), part.tobytes(), (part / np.float32(32768)).astype("<f4").tobytes()]
    with memory.holder(held) as process:
        regions = memory_search.snapshot(process.pid)
    places = memory_search.find_secret(key, regions)
    assert {"raw", "hex"} <= set(places.loose)
    hits = sound.in_regions(regions)["loose"]
    assert {hit.encoding for hit in hits} == {"s16", "float32/32768"}
    assert {hit.sample // 10_000 for hit in hits} == {1}
    with memory.holder([b"nothing"]) as process:
        regions = memory_search.snapshot(process.pid)
    assert memory_search.find_secret(key, regions).total == 0
    assert sound.in_regions(regions) == {"guarded": [], "loose": []}


@pytest.mark.parametrize("skip", range(3))
def test_sixteen_samples_are_found_at_any_byte_and_as_base64(skip):
    sound = memory_search.Sound(NOISE)
    run = NOISE[777 : 777 + 16 + 12].tobytes()
    for shift in range(24):
        assert {hit.encoding for hit in sound.search(bytes(shift) + b"x" * skip + run + bytes(50))} == {"s16"}
    text = base64.b64encode(b"z" * skip + NOISE[500:600].tobytes())
    assert {hit.encoding.partition("+")[0] for hit in sound.search(text)} == {"base64"}
    assert not sound.search(np.random.default_rng(9).bytes(1 << 20))
    assert not sound.search(bytes(1 << 16))


# -- timing ------------------------------------------------------------------------------------------------------------


def test_a_leaky_comparison_is_found_out_and_ours_are_not():
    figures, found = timings.run(500, random.Random(3))
    assert figures["control: a comparison that stops early"]["differs"]
    assert len(figures) >= 9
    assert not found


# -- watching ----------------------------------------------------------------------------------------------------------


def test_what_a_trace_shows_is_judged(tmp_path):
    root = tmp_path / "home"

    def shown(text):
        return "".join(f"\\x{byte:02x}" for byte in text.encode())

    lines = [
        f'7 openat(AT_FDCWD<{shown("/")}>, "{shown(str(root / "state/vault.db"))}", O_RDWR|O_CREAT, 0600) = 4',
        f'7 openat(AT_FDCWD<{shown("/")}>, "{shown("/srv/x")}", O_WRONLY|O_CREAT, 0600) = 5',
        f'7 write(2<{shown(str(tmp_path / "log"))}>, "{shown("heard: Wilhelmine")}", 17) = 17',
        "7 socket(AF_INET6, SOCK_DGRAM, 0) = 6",
        "7 socket(AF_INET, SOCK_DGRAM, 0) = -1 EPERM (Operation not permitted)",
    ]  # fmt: skip
    trace = tmp_path / "trace"
    trace.write_text("\n".join(lines))
    seen = watching.judge(watching.calls(trace), root, memory_search.Sound(NOISE), watching.words(()))
    assert len(seen.found) == 3
    for word in ("/srv/x", "a name in the clear", "AF_INET6"):
        assert any(word in what for what in seen.found), word


@pytest.mark.slow
def test_a_daemon_that_writes_down_what_it_hears_is_noticed():
    whole_daemon()
    try:
        _, missed = watching.controls(["base64"])
    except installed.Lacking as why:
        pytest.skip(str(why))
    assert not missed


# -- a whole daemon ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stranger_gets_nothing_and_a_killed_daemon_leaves_no_core():
    whole_daemon()
    with installed.Installed() as home:
        figures, found = stranger.run(home, {"nobody": (65_534, 65_534)})
        assert not found, figures
        assert figures["strangers"]["nobody"]["wide"]["attempts"] > 40
        home.state.chmod(0o755)  # what the installation must not do
        (home.state / "vault.db").chmod(0o644)
        _, found = stranger.run(home, {"nobody": (65_534, 65_534)})
        assert any("read: state/vault.db" in what for what in found)
        keys, regions = memory.keys_of(home), memory_search.snapshot(home.pid)
        assert not memory.judge_keys(memory.table(keys, regions), protected=False)
        assert not memory.controls(home, keys)
        figures, found = memory.cores(home, gdb=False)
        assert not found, figures


def test_keys_outside_of_their_pages_are_told():
    row = {"guarded": 1, "locked": 1, "loose": {}, "where": []}
    assert not memory.judge_keys({"S": row, "vault key": row}, protected=True)
    for wrong in ({"guarded": 0}, {"guarded": 2}, {"loose": {"raw": 1}}):
        assert memory.judge_keys({"vault key": row | wrong}, protected=True), wrong
    assert memory.judge_gone({"S": row}, [], {"S": b"s"})
    assert not memory.judge_gone({"S": row}, [b"s"], {"S": b"s"})


# -- the report --------------------------------------------------------------------------------------------------------


def test_every_attacker_of_the_threat_model_has_tests():
    every = attacks.sections(attacks.MODEL.read_text())
    assert len(every) >= 10
    paths = {test for section in every.values() for test in section.tests}
    assert not [path for path in paths if not (harness.ROOT / path).exists()]
    junit = '<r><testcase classname="tests.test_a.TestB"/><testcase classname="tests.test_a"><failure/></testcase></r>'
    assert attacks.by_file(junit) == {"tests/test_a.py": {"passed": 1, "failed": 1, "skipped": 0}}


def test_what_was_not_seen_has_a_bound():
    assert attacks.upper_bound(0, 320) == pytest.approx(1 - 0.05 ** (1 / 320), abs=1e-9)
    assert attacks.upper_bound(0, 320) < 3 / 320
    assert attacks.upper_bound(5, 100) == pytest.approx(0.1023, abs=1e-3)
    assert attacks.upper_bound(0, 0) == 1.0
    assert "Left out: no gdb" in written({"memory": {"skipped": "no gdb"}}, [], 1)


# -- what it found in the product --------------------------------------------------------------------------------------


def test_what_a_process_gives_back_is_overwritten():
    code = """if True:
        import ctypes, sys
        from idiolect.host import process
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        if "wipe" in sys.argv:
            process.wipe_freed()
        places = [libc.malloc(4000) for _ in range(8)]
        for place in places[::2]:
            ctypes.memset(place, 65, 4000)
            libc.free(place)
        print(max(ctypes.string_at(place + 64, 3000).count(b"A") for place in places[::2]))
    """
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this libc has no mallopt")
    left = [
        int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, check=True).stdout)
        for how in ("wipe", "leave")
    ]
    assert left[0] == 0
    assert left[1] == 3000, "without it the bytes stay: the test sees what it looks for"


def test_a_chain_that_is_reset_holds_no_sound():
    chain = recognizer().chain(listening(recognizer().bundle))
    chain.process(NOISE)
    held, rest = list(chain._held), chain._rest
    assert any(block.any() for block in held)
    chain.reset()
    assert not any(block.any() for block in (*held, rest))
    assert not chain._frontend._audio.any()
    assert not chain._frontend._padded.any()
    assert not chain._gate._samples.any()


def test_while_the_gate_is_shut_no_sound_but_the_held_blocks_is_kept():
    chain = recognizer().chain(listening(recognizer().bundle))
    heard = np.concatenate([speech.silence(3.0), NOISE[:16_000], speech.silence(0.08 * (MEMORY + 60))])
    chain.process(heard)
    assert not chain.awake
    newest = heard[: len(heard) // BLOCK * BLOCK][-MEMORY * BLOCK :]
    assert np.array_equal(np.concatenate(chain._held), newest)
    assert not chain._frontend._audio.any()


def test_sound_is_forgotten_when_the_microphone_is_released(monkeypatch):
    monkeypatch.setattr("idiolect.listening.inference._WAIT_S", 0.05)
    queue = BlockQueue(64)
    chain = recognizer().chain(listening(recognizer().bundle))
    inference = Inference(chain, queue, EventStream(), EventIds(), lambda: None)
    thread = threading.Thread(target=inference.run)
    thread.start()
    try:
        queue.put(*(Captured(NOISE[at : at + BLOCK]) for at in range(0, 20 * BLOCK, BLOCK)))
        time.sleep(0.6)
        assert len(chain._held) == 20, "a microphone that only pauses for breath is waited for"
        inference.released = True
        time.sleep(0.3)
        assert not chain._held
    finally:
        queue.close()
        thread.join(60)
