"""A stranger cannot stop it: the whole daemon, another Unix user who does his worst, and root who wants to pause."""

from __future__ import annotations

import base64
import json
import signal
import struct
import threading
import time

import pytest

from idiolect.errors import IdiolectError, RequestError
from idiolect.trust.vault import sealed_copy
from tests.support.alsa import require_wavmic
from tests.support.sieges import SIEGES, besieged

MOST_MIB = 32.0
"""What a daemon may have resident beyond what it has at rest, whoever does what."""


@pytest.fixture(scope="module")
def daemon():
    require_wavmic()
    with besieged() as it:
        for target in ("/v1/doctor", "/v1/openapi.json"):  # what is loaded at its first use
            it.client.get(target)
        it.rest = it.at_rest()
        yield it


def paused(client, times, took):
    """Pause and resume, and remember how long each took."""
    for number in range(times):
        begin = time.monotonic()
        answer = client.post("/v1/listening", {"active": bool(number % 2)})
        took.append(time.monotonic() - begin)
        assert answer["listening"]["state"] == ("paused" if number % 2 == 0 else "idle") or number % 2
    client.post("/v1/listening", {"active": True})


@pytest.mark.parametrize("name", SIEGES)
def test_root_pauses_every_time_and_memory_stays_within_its_bound(daemon, name):
    before, took = daemon.rest, []
    daemon.at_rest()
    with daemon.siege(name, 600) as other:
        time.sleep(1)
        paused(daemon.client, 25, took)
        time.sleep(2)
        assert other.poll() is None, "nobody was at it"
    most = daemon.memory("VmHWM")
    print(f"{name}: pause {sorted(took)[-1] * 1000:.0f} ms at most; {most - before:.1f} MiB above {before:.0f}")
    assert most - before <= MOST_MIB
    assert daemon.process.poll() is None


def copy(count, copies=2):
    """A person's export of so many examples, of ``copies`` each."""
    rows = [
        {
            "phrase": f"phrase {n % 20}", "source": "enrolment", "day": 20_000, "session": f"{n:x}", "heard": "",
            "copies": copies, "encoder": "",
            "embeddings_float16": base64.b64encode(struct.pack("<e", n / 1000) * (copies * 18 * 96)).decode(),
        }
        for n in range(count)
    ]  # fmt: skip
    return {"schema": "idiolect/person/v1", "name": "ann", "examples": rows, "usage": [], "adapters": []}


@pytest.fixture(scope="module")
def ann(daemon):
    """She agreed to another purpose than her copies are of: they are read to the last example, and none is kept."""
    asked = daemon.client.post("/v1/consent", {"name": "ann", "purposes": ["adapt_corrections"]})
    daemon.client.post("/v1/consent/agree", {"token": asked["token"]})


@pytest.mark.usefixtures("ann")
def test_large_copies_of_her_own_stay_within_it_too(daemon):
    whole = copy(900)
    sealed = sealed_copy.seal(json.dumps(whole).encode(), "correct horse")
    before = daemon.rest
    daemon.at_rest()
    for document in (whole, sealed, whole, sealed):
        answer = daemon.client.post(
            "/v1/import", {"profile": "ann", "document": document, "passphrase": "correct horse"}
        )
        assert answer["left_out_without_consent"] == 900
    with pytest.raises(RequestError, match="damaged"):
        daemon.client.post(
            "/v1/import", {"profile": "ann", "document": {**sealed, "cost": 1 << 17}, "passphrase": "correct horse"}
        )
    most = daemon.memory("VmHWM")
    print(f"own copies: {most - before:.1f} MiB above {before:.0f}")
    assert most - before <= MOST_MIB


@pytest.mark.usefixtures("ann")
def test_copies_are_taken_one_at_a_time(daemon):
    document, before, outcomes = copy(900), daemon.rest, []
    daemon.at_rest()

    def bring():
        try:
            answer = daemon.client.post("/v1/import", {"profile": "ann", "document": document})
            outcomes.append(answer["left_out_without_consent"])
        except IdiolectError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=bring) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    most = daemon.memory("VmHWM")
    assert 900 in outcomes
    assert all(each == 900 or "another copy" in each or "does not answer" in each for each in outcomes)
    assert most - before <= MOST_MIB


def test_it_ends_at_once_while_everything_is_being_asked():
    """The clock of the last stretch: no thread that answers is waited for."""
    require_wavmic()
    with besieged() as it:
        with it.siege("questions", 600):
            time.sleep(3)
            begin = time.monotonic()
            it.process.send_signal(signal.SIGTERM)
            assert it.process.wait(30) == 0
            took = time.monotonic() - begin
        print(f"from SIGTERM to the end: {took:.2f} s")
        assert took < 4.0  # a second, on a machine that does nothing else
        assert "ERROR" not in it.log
