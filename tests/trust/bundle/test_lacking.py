"""What a bundle lacks is said by everything that handles it, and by a daemon on it with the true reason."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idiolect.client import UnreachableError
from idiolect.errors import RequestError
from idiolect.listening.recognizer import read_bundle
from idiolect.trust.bundle import canonical
from idiolect.trust.bundle.lacking import lacking
from tests.support.bundles import builtin, refit, write
from tests.support.whole import Whole, whole

ROOT = Path(__file__).parents[3]


def head(keep) -> bytes:
    """head.json with the arrays for which ``keep`` holds."""
    described = json.loads(builtin()["head.json"])
    described["arrays"] = [each for each in described["arrays"] if keep(each["name"])]
    return canonical.encode(described)


def phrases(keep) -> bytes:
    return json.dumps([each for each in json.loads(builtin()["phrases.json"]) if keep(each)]).encode()


def unguarded() -> dict[str, bytes]:
    nobody = {"classes": [], "format": 1, "labels": [], "scale": 1.0, "shape": [0, 16, 96], "strata": {}, "zero": 0}
    return refit(builtin(), guard__json=json.dumps(nobody).encode(), guard__bin=b"")


def bare_prototype() -> dict[str, bytes]:
    """Without what is known of "yes"."""
    described = json.loads(builtin()["head.json"])
    entry = next(each for each in described["arrays"] if each["name"] == "space_prototypes")
    size = 2 * entry["shape"][1]
    at = entry["offset"] + described["classes"].index("yes") * size
    numbers = bytearray(builtin()["head.bin"])
    numbers[at : at + size] = bytes(size)
    return refit(builtin(), head__bin=bytes(numbers))


def spaceless() -> dict[str, bytes]:
    return refit(builtin(), head__json=head(lambda name: not name.startswith("space_")))


def mute() -> dict[str, bytes]:
    return refit(builtin(), phrases__json=phrases(lambda each: each["name"] != "yes"))


LACKING = {
    "space": spaceless,
    "guard": unguarded,
    "prototypes": bare_prototype,
    "yes": mute,
    "wake": lambda: refit(builtin(), phrases__json=phrases(lambda each: each["kind"] != "wake")),
}


@pytest.mark.parametrize("part", LACKING)
def test_each_part_that_is_missing_is_named_with_the_next_step(part, tmp_path):
    (found,) = lacking(LACKING[part]())
    assert found.part == part
    assert found.fix
    assert read_bundle(write(LACKING[part](), tmp_path)).lacks == (found,)


def test_the_shipped_bundle_lacks_nothing_and_nonsense_is_left_to_who_refuses_it():
    assert lacking(builtin()) == ()
    assert lacking({**builtin(), "head.json": b"[]"}) == ()
    without_cohort = refit(builtin(), head__json=head(lambda name: name != "space_cohort"))
    assert "space_cohort" in str(lacking(without_cohort)[0])


def idiolect(*arguments: object, code: int = 0, socket: Path | None = None) -> str:
    environment = {"PATH": "/usr/bin:/bin", **({"IDIOLECT_SOCKET": str(socket)} if socket else {})}
    command = [sys.executable, "-m", "idiolect.cli.main", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_sign_and_verify_and_the_package_warn(tmp_path, capsys):
    from debbuild import models

    bundle = write(spaceless(), tmp_path / "bundle")
    idiolect("bundle", "keygen", tmp_path / "keys")
    keys = tmp_path / "keys"
    said = idiolect(
        "bundle", "sign", bundle, "--bundle-key", keys / "bundle.key", "--policy-key", keys / "policy.key",
        "--out", tmp_path / "signed",
    )  # fmt: skip
    assert "WARNING: it has no statistics to learn with" in said
    verified = idiolect("bundle", "verify", tmp_path / "signed", "--keys", keys)
    assert "WARNING: it has no statistics to learn with" in verified
    assert verified.splitlines()[-1].startswith("OK: ")
    answer = json.loads(idiolect("bundle", "verify", tmp_path / "signed", "--keys", keys, "--json"))
    assert [each["part"] for each in answer["lacks"]] == ["space"]
    models._say_lacks(tmp_path / "signed")
    assert "build_deb: WARNING: the model: it has no statistics to learn with" in capsys.readouterr().out


class Unable(Whole):
    """A service whose bundle cannot learn."""

    def _up(self) -> bool:
        if not self.socket.exists():
            return False
        status = self.client.status()
        return status["keys"]["state"] == "released" and status["microphone"]["state"] == "running"


@pytest.fixture
def unable(tmp_path):
    """Ann agreed under the shipped bundle; then one without statistics came, and the page for the network."""
    with whole(tmp_path) as before:
        before.agree("ann")
        before.teach("ann")
    bundle = write(spaceless(), tmp_path / "bundle")
    page = {"enabled": True, "socket": str(tmp_path / "page.sock"), "access": "lan"}
    home = Unable(tmp_path, bundle=str(bundle), page=page).start()
    yield home
    home.stop()


def wait(condition, seconds=60.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_everything_that_cannot_be_done_names_the_bundle_and_not_the_keys(unable):
    reason = "has no statistics to learn with"
    for command in (
        ("consent", "grant", "eve"), ("enroll", "ann", "good night"), ("report", "ann"), ("review", "ann"),
        ("history", "ann"), ("explain", "ann"), ("rollback", "ann"), ("profile", "ann"), ("learn", "--now"),
        ("forget", "ann", "--all"), ("export", "ann"), ("audit", "verify", "--adapter", "1", "--of", "ann"),
    ):  # fmt: skip
        said = idiolect(*command, code=69, socket=unable.socket)
        assert reason in said, said
        assert "build_bundle" in said, said
        assert "keys" not in said, said
    status = unable.client.status()
    assert status["personalization"] == {"state": "off", "detail": f"the bundle {reason}"}
    found = {each["check"]: each for each in unable.client.get("/v1/doctor")["checks"]}
    assert found["bundle parts"]["level"] == "warn"
    assert reason in found["bundle parts"]["detail"]


def test_pairing_the_page_and_erasing_need_no_bundle_that_learns(unable):
    wait((unable.folder / "page.sock").exists)
    assert unable.client.post("/v1/pair", {"profile": "ann"})["fingerprint"]
    assert [each["name"] for each in unable.client.people()["people"]] == ["ann"]
    assert unable.client.withdraw("ann", "adapt_corrections")["adapter"] == 0
    assert unable.client.erase("ann")["erased"] > 0
    assert unable.client.people()["people"] == []


def test_where_no_yes_can_be_heard_only_who_is_paired_is_asked(tmp_path):
    with whole(tmp_path, bundle=str(write(mute(), tmp_path / "bundle"))) as home:
        with pytest.raises(RequestError, match='has no phrase "yes"'):
            home.client.ask_consent("dora", ["enrol"])
        assert home.agree("ann")
        assert "yes" in str([c for c in home.client.get("/v1/doctor")["checks"] if c["check"] == "bundle parts"])


def test_what_cannot_be_opened_is_not_put_down_to_the_keys(tmp_path, monkeypatch):
    from idiolect.errors import LearningError
    from idiolect.people import adapters

    def broken(*_args: object, **_more: object) -> None:
        raise LearningError("an adapter's table is not what was written", "idiolect rollback")

    monkeypatch.setattr(adapters, "Learner", broken)
    home = Unable(tmp_path).start()
    try:
        wait(lambda: "not what was written" in str(home.client.status()["personalization"]))
        with pytest.raises(UnreachableError, match="not what was written"):
            home.client.ask_consent("ann", ["enrol"])
    finally:
        home.stop()
