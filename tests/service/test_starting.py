"""What falls back to what worked last, and what never does: real configurations, with a real bundle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from idiolect.config.schema import Trust, load
from idiolect.errors import BundleError, ConfigError
from idiolect.service.starting import begin
from idiolect.trust.bundle import choose, last_good
from idiolect.trust.bundle.last_good import LastGood
from idiolect.trust.bundle.public_keys import public_pem
from idiolect.trust.bundle.slots import Slots
from tests.support import bundles, speech
from tests.support.alsa import require_wavmic
from tests.whole.test_service import Daemon

GOOD = {
    "audio": {"device": "null", "gain_db": 3.0},
    "listening": {"mode": "always", "phrases": ["yes", "no"], "thresholds": {"stop": 0.7}, "always_on": []},
    "people": {"ann": {"users": ["ann"]}},
}


class Home:
    """A configuration and a state directory; ``change`` writes what a person would."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "idiolect.yaml"
        self.state = folder / "state"
        self.settings: dict[str, object] = {**GOOD, "state_dir": str(self.state)}
        self.settings["trust"] = {"keys_dir": str(folder / "keys.d")}

    def change(self, **sections: object) -> None:
        self.file.write_text(yaml.safe_dump(self.settings | sections))

    def append(self, text: str) -> None:
        self.file.write_text(yaml.safe_dump(self.settings) + text)

    def begin(self):
        return begin(lambda without: load((self.file,), without))

    def works(self, *, heard: bool = True) -> None:
        """As a daemon notes it that runs with what is configured now."""
        start = self.begin()
        assert not start.fallen
        last_good.write(self.state, LastGood(start.config, start.ears.model.digest, heard))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.change()
    made.works()
    return made


def listening(**keys: object) -> dict[str, object]:
    return {"listening": {**GOOD["listening"], **keys}}


# -- what falls back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sections"),
    [
        ({"audio": {"device": "null", "gain_db": "loud"}}, {"audio"}),
        ({"audio": {"device": 7}}, {"audio"}),
        ({"audio": 5}, {"audio"}),
        (listening(timeout_s=0), {"listening"}),
        (listening(wake_words=["hal"]), {"listening"}),
        (listening(thresholds={"view glas": 0.5}), {"listening"}),
        (listening(thresholds={"stop": 7}), {"listening"}),
        (listening(sensitivty=0.7), {"listening"}),
        (listening(phrases=["yes", "yes"]), {"listening"}),
        ({"bundle": "/nonexistent"}, {"bundle"}),
        ({"bundle": "relative/path"}, {"bundle"}),
        ({"bundle": "installed"}, {"bundle"}),
        ({"audio": {"channel": -1}, **listening(mode="loud"), "bundle": 3}, {"audio", "listening", "bundle"}),
        ({"bundle": "/nonexistent", **listening(phrases=["hey acme"])}, {"bundle", "listening"}),
    ],
)
def test_these_fall_back_and_the_rest_is_as_configured(home, change, sections):
    home.change(**change, people={"bob": {"users": ["bob"]}}, idle={"quiet_minutes": 3})
    start = home.begin()
    assert set(start.fallen) == sections
    assert all(start.fallen.values())
    config = start.config
    assert config.audio.gain_db == GOOD["audio"]["gain_db"]
    assert config.listening.thresholds == {"stop": 0.7}
    assert (config.listening.phrases, config.listening.mode) == (("yes", "no"), "always")
    assert config.bundle == "builtin"
    assert list(config.people) == ["bob"], "somebody who was removed came back"
    assert config.idle.quiet_minutes == 3
    assert bool(start.ears.model.fallback) == ("bundle" in sections), "a bundle in another's place gets no keys"


def test_the_reason_has_file_line_and_field(home):
    home.change(**listening(wake_words=["computer", "hal"]))
    (why,) = home.begin().fallen.values()
    assert why.startswith(f"{home.file}:")
    assert "listening.wake_words[1]: the bundle does not offer 'hal'" in why


# -- what never does --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"control": {"max_clients": 0}},
        {"control": {"roles": {"admin": "sudo"}}},
        {"people": {"ann": {"users": "ann"}}},
        {"people": 5},
        {"keystore": "fiel"},
        {"page": {"access": "wan"}},
        {"handoff": {"usr": "ann"}},
        {"wyoming": {"enabled": "maybe"}},
        {"trust": {"keys_dir": "relative"}},
        {"state_dir": "relative"},
        {"peple": {"ann": {}}},
        {"schema": 9},
        {"control": {"max_clients": 0}, **listening(timeout_s=0)},
        listening(timeout_s=0, people={"ann": {"users": ["ann"]}}),
        listening(timeout_s=0, keystore="tpm"),
        listening(timeout_s=0, keystor="tpm"),
        listening(ann={"users": ["ann"]}),
        listening(thresholds={"stop": 0.7, "keystore": "tpm"}),
        listening(phrases=["yes", {"control": {"max_clients": 3}}]),
        {"audio": {"device": "x" * 1100 + "\ncontrol: {max_clients: 3}"}},
        {"audio": {"device": "null", "gain_db": {"control": {}}}},
    ],
)
def test_these_never_fall_back(home, change):
    home.change(**change)
    with pytest.raises(ConfigError):
        home.begin()


@pytest.mark.parametrize(
    "text", ["audio: [\n", "listening:\n  mode: always\n", "\tx: 1\n", "audio: {device: &a null}\n", "? [a]\n: b\n"]
)
def test_what_cannot_be_read_does_not(home, text):
    home.append(text)
    with pytest.raises(ConfigError):
        home.begin()


def test_a_file_that_is_gone_does_not(home):
    home.file.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        home.begin()


def test_a_key_that_cannot_be_used_does_not(home, tmp_path):
    (tmp_path / "keys.d").mkdir()
    (tmp_path / "keys.d" / "a.pem").write_text("no key")
    home.change(bundle="/nonexistent")
    with pytest.raises(BundleError, match="key file"):
        home.begin()


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_only_three_sections_are_kept_and_only_what_was_set(home):
    kept = json.loads((home.state / last_good.FILE).read_bytes())
    assert kept["settings"] == {"schema": 2, "audio": GOOD["audio"], "listening": GOOD["listening"]}
    assert "ann" not in (home.state / last_good.FILE).read_text()
    assert (home.state / last_good.FILE).stat().st_mode & 0o777 == 0o600
    assert last_good.read(home.state).config.listening == load((home.file,)).listening


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: None,
        lambda kept: {**kept, "version": 2},
        lambda kept: {**kept, "settings": {**kept["settings"], "people": {"eve": {"users": ["eve"]}}}},
        lambda kept: {**kept, "settings": {**kept["settings"], "listening": {"timeout_s": 900}}},
        lambda kept: {**kept, "settings": []},
        lambda kept: [kept],
        lambda kept: {**kept, "settings": {**kept["settings"], "audio": {"device": "x" * 300_000}}},
    ],
)
def test_a_kept_file_that_is_wrong_counts_for_nothing(home, damage):
    path = home.state / last_good.FILE
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    home.change(**listening(timeout_s=0))
    assert last_good.read(home.state) is None
    with pytest.raises(ConfigError, match="timeout_s"):
        home.begin()


def test_names_in_any_script_survive_being_kept(home):
    config = load((home.file,))
    for name in ("straße", "日本語", "O'Brien", "no", "1", "1e3", "null"):
        home.change(**listening(phrases=[name]))
        config = load((home.file,))
        last_good.write(home.state, LastGood(config, "00", heard=True))
        assert last_good.read(home.state).config.listening == config.listening


def test_without_anything_kept_there_is_no_start(home):
    (home.state / last_good.FILE).unlink()
    home.change(bundle="/nonexistent")
    with pytest.raises(BundleError, match="/nonexistent"):
        home.begin()
    home.change(audio={"gain_db": "loud"})
    with pytest.raises(ConfigError):
        home.begin()


def test_a_microphone_that_was_never_heard_is_no_way_back(home):
    home.works(heard=False)
    home.change(audio={"gain_db": "loud"})
    with pytest.raises(ConfigError, match="gain_db"):
        home.begin()
    home.change(**listening(timeout_s=0))
    assert set(home.begin().fallen) == {"listening"}


def test_what_no_longer_starts_itself_is_no_way_back_and_the_new_fault_is_told(home, tmp_path, caplog):
    copy = tmp_path / "bundle"
    bundles.write(bundles.builtin(), copy)
    home.change(bundle=str(copy))
    home.works()
    (copy / "head.bin").unlink()
    home.change(bundle="/nonexistent")
    with pytest.raises(BundleError, match="/nonexistent"):
        home.begin()
    assert "what worked last cannot be used either: bundle file head.bin" in caplog.text


# -- bundles ----------------------------------------------------------------------------------------------------------


def install(home: Home, files, *, digest: str) -> None:
    Slots(home.state / "bundles").install(files, digest[:16])


def without(name: str):
    """The default bundle as a later version that does not know ``name`` any more."""
    files = bundles.builtin()
    phrases = [each for each in json.loads(files["phrases.json"]) if each["name"] != name]
    return bundles.unsigned(bundles.refit(files, **{"phrases.json": json.dumps(phrases).encode()}))


def test_a_model_that_lost_a_phrase_does_not_silence_a_fleet(home):
    first = bundles.unsigned(bundles.builtin())
    install(home, first.files, digest=first.digest)
    home.change(bundle="installed")
    home.works()
    later = without("stop")
    install(home, later.files, digest=later.digest)
    start = home.begin()
    assert set(start.fallen) == {"bundle"}
    assert "listening.thresholds.stop: the bundle does not offer 'stop'" in start.fallen["bundle"]
    assert start.ears.model.digest == first.digest
    assert start.ears.model.fallback
    assert choose.obstacles(load((home.file,))), "and a check says so beforehand"


def test_an_unsigned_bundle_is_no_way_back_where_signed_ones_are_asked_for(home, tmp_path):
    keys = tmp_path / "keys.d"
    keys.mkdir()
    (keys / "bundle.pem").write_bytes(public_pem(bundles.key("bundle").public_key()))
    home.change(bundle="/nonexistent", keystore="tpm")
    with pytest.raises(BundleError, match="/nonexistent"):
        home.begin()


def test_a_reload_looks_at_the_keys_that_the_next_start_will_be_handed(home, tmp_path, monkeypatch):
    """systemd copied the keys when the daemon started; one that was added since counts from the next start on."""
    keys, handed = tmp_path / "keys.d", tmp_path / "credentials"
    keys.mkdir()
    handed.mkdir()
    (keys / "bundle.pem").write_bytes(public_pem(bundles.key("bundle").public_key()))
    monkeypatch.setattr(choose, "Trust", lambda: Trust(keys_dir=keys))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    bundles.write(bundles.signed(1).files, tmp_path / "acme")
    home.change(bundle=str(tmp_path / "acme"), keystore="tpm", listening={})
    config = load((home.file,))
    with pytest.raises(BundleError, match="no key to check it with"):
        choose.chosen_model(config)
    assert choose.obstacles(config) == ()


# -- the daemon -------------------------------------------------------------------------------------------------------


class Running(Daemon):
    """A daemon that has heard its microphone; its configuration is written whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, speech.silence(0.2), speed=1.0)

    def settings(self, more: str = "", listening: str = "{mode: always, wake_words: all, always_on: []}") -> None:
        folder = self.folder
        self.config.write_text(
            f"audio: {{device: {self.mic.device}}}\nstate_dir: {folder}/state\n"
            f"control: {{socket: {folder}/control.sock}}\nlistening: {listening}\n{more}"
        )

    def kept(self) -> bool:
        good = last_good.read(self.folder / "state")
        return good is not None and good.heard

    def checks(self):
        return {check["check"]: check for check in self.client.get("/v1/doctor")["checks"]}

    def cli(self, *arguments: object):
        command = [sys.executable, "-m", "idiolect.cli.main", "--socket", str(self.folder / "control.sock")]
        environment = os.environ | {"MAINPID": ""}
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment
        )


@pytest.fixture
def daemon(tmp_path):
    require_wavmic()
    made = Running(tmp_path)
    made.settings()
    yield made
    made.stop()


def test_a_daemon_keeps_what_works_falls_back_and_says_so_until_it_is_mended(daemon):
    daemon.start().ready()
    daemon.wait(daemon.kept)
    assert daemon.status()["configuration"] == {"state": "in-force", "fallen_back": [], "text": ""}
    assert daemon.checks()["configuration"]["level"] == "ok"
    daemon.stop()

    daemon.settings("bundle: /nonexistent\n", "{mode: always, wake_words: [computer, hal]}")
    daemon.start().ready()
    now = daemon.status()["configuration"]
    assert (now["state"], now["fallen_back"]) == ("fallback", ["bundle", "listening"])
    assert "/nonexistent cannot be read" in now["text"]
    assert daemon.checks()["configuration"]["level"] == "fail"
    assert "restart idiolectd" in daemon.checks()["configuration"]["fix"]
    assert "fell back to what worked last" in daemon.log
    said = daemon.cli("status")
    assert "fell back to what worked last" in said.stdout
    daemon.wait(lambda: daemon.status()["keys"]["state"] == "fallback")
    daemon.wait(lambda: daemon.microphone["state"] == "running")

    daemon.settings()
    done = daemon.cli("config", "reload")
    assert (done.returncode, done.stdout) == (0, "reloaded; takes effect at the next start: bundle\n")
    assert daemon.status()["configuration"]["fallen_back"] == ["bundle"], "the bundle needs a restart"
    daemon.stop()
    daemon.start().ready()
    assert daemon.status()["configuration"]["state"] == "in-force"


def test_a_refused_reload_is_told_everywhere_and_changes_nothing(daemon):
    daemon.start().ready()
    daemon.wait(daemon.kept)
    kept = (daemon.folder / "state" / last_good.FILE).read_bytes()
    for wrong, field in (
        ("idle: {hours: @}\n", "yaml"),
        ("bundle: /nonexistent\n", "bundle"),
        ("people: 5\n", "people"),
    ):
        daemon.settings(wrong)
        done = daemon.cli("config", "reload")
        assert done.returncode == 78
        assert f": {field}: " in done.stdout
        assert done.stdout.endswith("refused: the configuration in force stays as it is\n")
        now = daemon.status()["configuration"]
        assert now["state"] == "refused"
        assert f": {field}: " in now["text"]
        assert daemon.checks()["configuration"]["level"] == "fail"
        assert f"reload: {daemon.config}:" in daemon.log
    assert daemon.cli("config", "reload", "--quiet").stdout == ""
    assert (daemon.folder / "state" / last_good.FILE).read_bytes() == kept
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait(lambda: daemon.log.count("reload refused") == 5)
    daemon.settings("log_level: info\n")
    assert daemon.cli("config", "reload", "--quiet").returncode == 0
    assert daemon.status()["configuration"]["state"] == "in-force"


def test_a_microphone_that_a_reload_opens_is_kept_once_it_is_heard(daemon):
    daemon.start().ready()
    daemon.wait(daemon.kept)
    mine = daemon.config.read_text().splitlines()[0]

    def reload(audio: str) -> None:
        daemon.settings()
        daemon.config.write_text(daemon.config.read_text().replace(mine, audio))
        assert daemon.cli("config", "reload").returncode == 0

    def kept() -> float:
        return last_good.read(daemon.folder / "state").config.audio.gain_db

    reload(mine.replace("}", ", gain_db: 4}"))
    daemon.wait(lambda: kept() == 4.0)
    reload("audio: {device: file:/nonexistent, gain_db: 5}")
    daemon.wait(lambda: daemon.microphone["state"] == "absent")
    assert kept() == 4.0


def test_names_of_the_next_bundle_wait_for_it(daemon, tmp_path):
    """Both are changed at once, as in an update: a reload must not refuse it, and cannot take the names over yet."""
    daemon.start().ready()
    copy = tmp_path / "acme"
    files = bundles.builtin()
    phrases = json.loads(files["phrases.json"])
    head = json.loads(files["head.json"])
    text = json.dumps(phrases).replace('"jarvis"', '"acme"').encode()
    head = json.dumps(head).replace('"jarvis"', '"acme"').encode()
    bundles.write(bundles.refit(files, **{"phrases.json": text, "head.json": head}), copy)
    daemon.settings(f"bundle: {copy}\n", "{mode: wake, wake_words: [acme], always_on: []}")
    done = daemon.cli("config", "reload")
    assert (done.returncode, done.stdout) == (0, "reloaded; takes effect at the next start: bundle, listening\n")
    assert daemon.client.get("/v1/config")["listening"]["mode"] == "always"
    daemon.stop()
    daemon.start().ready()
    assert daemon.client.get("/v1/config")["listening"]["wake_words"] == ["acme"]
    assert daemon.status()["configuration"]["state"] == "in-force"


def test_a_daemon_that_does_not_answer_is_told_by_a_signal(tmp_path):
    program = "import signal, time\nsignal.signal(1, lambda *_: exit(7))\nprint('up', flush=True)\ntime.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        command = [sys.executable, "-m", "idiolect.cli.main", "--socket", str(tmp_path / "none"), "config", "reload"]
        alone = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"MAINPID": ""})
        assert alone.returncode == 69
        environment = os.environ | {"MAINPID": str(process.pid)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0
        assert process.wait(60) == 7


def test_a_start_that_may_not_fall_back_ends_with_78(daemon):
    daemon.start().ready()
    daemon.wait(daemon.kept)
    daemon.stop()
    daemon.settings("people: {ann: {users: ann}}\n", "{mode: loud}")
    daemon.start()
    assert daemon.process.wait(60) == 78
    assert "people.ann.users" in daemon.log
    assert "listening.mode" in daemon.log
