"""Another encoder at the whole daemon: taught under one bundle, heard under the next, and again under the first."""

import json

import pytest

from idiolect.trust.bundle import last_good
from tests.support import encoders, speech
from tests.support.alsa import require_wavmic
from tests.support.bundles import write
from tests.support.talk import Talker
from tests.whole.test_people import PHRASE, SPEED, Home, take

pytestmark = pytest.mark.pace
"""Enrolment gives people so many seconds to speak, and here they pass three times as fast."""


class Moving(Home):
    """A daemon that is started under one bundle after the other."""

    def under(self, bundle):
        """Stop, exchange the bundle, start, in a room in which nothing was said yet."""
        self.exchange(bundle)
        self.talker = Talker(self.folder / "audio.raw", SPEED)
        return self.begin()

    def exchange(self, bundle):
        """Stop, and name another bundle."""
        self.stop()
        text = self.config.read_text()
        (line,) = [line for line in text.splitlines() if line.startswith("bundle:")]
        self.config.write_text(text.replace(line, f"bundle: {bundle}"))

    def taught(self):
        state, seen = self.teach([take(0.92), take(1.0, 0.6), take(1.1)])
        assert state["state"] == "done", seen
        return state["result"]

    def heard(self, samples):
        return [(e["phrase"], e["adapter"]) for e in self.say(samples)]

    def explained(self):
        return self.idiolect("explain", "ann")

    @property
    def personal(self):
        return self.status()["personalization"]


@pytest.fixture
def home(tmp_path, sounds):
    require_wavmic()
    one = Moving(tmp_path).begin()
    one.agree("enrol", "adapt_corrections", "usage")
    one.taught()
    assert one.heard(take(1.05, 0.8)) == [(PHRASE, 1)]
    yield one
    one.stop()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Folders of bundles with the new encoder, by what they bring."""
    folder = tmp_path_factory.mktemp("bundles")
    kinds = {"map": (encoders.exact(), False), "model": (None, True), "neither": (None, False)}
    made = {kind: encoders.successor(affine=a, previous=p) for kind, (a, p) in kinds.items()}
    return {kind: write(files, folder / kind) for kind, files in made.items()}


def quiet_log(home):
    """No name and no phrase in the journal."""
    assert not [secret for secret in (PHRASE, "disturb", "ann") if secret in home.log]


def test_with_a_map_it_is_heard_on_and_after_going_back_as_before(home, bundles):
    home.under(bundles["map"])
    assert home.heard(take(1.04, 0.8)) == [(PHRASE, 2)]
    assert home.heard(speech.digit(7)) == [("seven", 2)]
    assert "by the model's map: 3 of them" in home.explained()
    assert f"1 phrase of ann taught under an earlier encoder is kept: “{PHRASE}”" in home.explained()
    assert home.idiolect("audit", "verify", "--adapter", "2", "--of", "ann").count("ok") == 5
    assert "OK" in home.idiolect("audit", "verify")
    assert "encoder-changed" in home.idiolect("audit", "show")
    assert home.idiolect("review", "ann").count("mapped from encoder") == 3

    home.under("builtin")
    assert home.heard(take(1.06, 0.8)) == [(PHRASE, 1)]
    assert home.idiolect("audit", "verify", "--adapter", "1", "--of", "ann").count("ok") == 5
    home.under(bundles["map"])
    assert home.heard(take(1.05, 0.8)) == [(PHRASE, 2)]
    quiet_log(home)


def test_with_the_earlier_model_it_is_heard_beside_until_it_is_taught_anew(home, bundles):
    home.under(bundles["model"])
    home.wait(lambda: home.personal["taught"] == 1)
    assert list(home.personal["earlier_encoder"].values()) == [{"earlier": 1}]
    assert home.heard(take(1.04, 0.8)) == [(PHRASE, 1)]
    assert home.heard(speech.digit(7)) == [("seven", 0)]
    assert f"1 phrase of ann still uses the earlier model: teach it again: “{PHRASE}”" in home.explained()
    assert "1 taught phrase still on the earlier model: teach again" in home.idiolect("status")
    (event,) = home.say(take(1.07, 0.8))  # of the earlier model: learnt as any correction, and nobody's version suffers
    answer = home.client.post("/v1/correct", {"event": event["id"], "phrase": "seven"})
    assert (answer["adapter"], answer["rolled_back"]) == (0, False)
    doctor = home.client.get("/v1/doctor")
    assert [c["level"] for c in doctor["checks"] if "earlier model" in c["detail"]] == ["warn"]

    made = home.taught()
    assert made["adapter"] == 2
    assert home.personal["earlier_encoder"] == {}
    assert "taught under another encoder: 1 phrase on the earlier model" in home.log
    assert home.heard(take(1.05, 0.8)) == [(PHRASE, 2)]
    assert "earlier model" not in home.explained()
    quiet_log(home)


def test_forgotten_while_it_is_heard_beside_it_is_gone_there_and_back(home, bundles):
    home.under(bundles["model"])
    assert home.heard(take(1.04, 0.8)) == [(PHRASE, 1)]
    home.idiolect("forget", "ann", "--phrase", PHRASE)
    assert home.personal["taught"] == 0
    assert (PHRASE, 1) not in home.heard(take(1.05, 0.8))
    assert json.loads(home.idiolect("review", "ann", "--json"))["adapters"] == []
    home.under("builtin")
    assert (PHRASE, 1) not in home.heard(take(1.05, 0.8))
    assert "OK" in home.idiolect("audit", "verify")


def test_with_neither_it_says_what_to_do_and_waits(home, bundles):
    home.under(bundles["neither"])
    assert home.heard(take(1.04, 0.8)) in ([], [("", 0)])
    assert home.heard(speech.digit(7)) == [("seven", 0)]
    assert "teach again" in home.explained()
    assert "1 taught phrase not heard with the new encoder: teach again" in home.idiolect("status")
    home.under("builtin")
    assert home.heard(take(1.06, 0.8)) == [(PHRASE, 1)]


def test_a_map_or_a_carried_model_that_was_tampered_with_is_not_used(home, tmp_path):
    """The bundle before serves, without keys, where that is known to work; else there is no start."""
    files = encoders.successor(affine=encoders.exact(), previous=True)
    good = home.status()["bundle"]["digest"]
    for name in ("maps.bin", "previous-head.bin"):
        raw = bytearray(files[name])
        raw[100] ^= 1
        home.exchange(write({**files, name: bytes(raw)}, tmp_path / name))
        home.start().ready()
        home.wait(lambda: home.status()["keys"]["state"] == "fallback")
        assert home.status()["bundle"]["digest"] == good
        assert f"bundle file {name}: refused (6): is not what the manifest says" in home.log
        assert "bundle fell back to what worked last" in home.log
    home.stop()
    (tmp_path / "state" / last_good.FILE).unlink()
    home.start()
    assert home.process.wait(60) == 78
