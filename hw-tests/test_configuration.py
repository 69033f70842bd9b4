"""Settings on an installed device: what `config check` finds, a reload that is refused, a start that falls back."""

import json

import pytest
from product import UNIT

from idiolect.host.systemd import message_id

WRONG = "/etc/idiolect/conf.d/60-wrong.yaml"
BUILTIN = "$(dpkg -L idiolect | grep /bundles/default$)"


def entries(product, *, priority="7"):
    """The journal of the unit since the test began, as JSON."""
    lines = product.journal(arguments=f"-o json -p {priority}").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def told(product, template, priority):
    """Whether a message of a kind is in the journal with its priority, its ID and its part."""
    return any(
        entry.get("MESSAGE_ID") == message_id(template) and entry["PRIORITY"] == priority and entry["IDIOLECT_PART"]
        for entry in entries(product)
    )


def check_of(product, name):
    done = product.idiolect("doctor --json")
    return done.rc, next(each for each in json.loads(done.out)["checks"] if each["check"] == name)


@pytest.fixture
def without_procps(product):
    """A minimal image has no /bin/kill."""
    product.target.run("test -e /bin/kill && mv /bin/kill /bin/kill.away")
    yield
    product.target.run("test -e /bin/kill.away && mv /bin/kill.away /bin/kill")


@pytest.mark.quick
@pytest.mark.anywhere
@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("idle: {hours: @}\n", "yaml"),
        ("schema: 2\nlistening: {wake_words: [hal]}\n", "listening.wake_words[0]"),
        ("schema: 2\nbundle: /root/acme\n", "bundle"),
        ("schema: 2\npeople: 5\n", "people"),
    ],
)
def test_a_refused_reload_is_loud(product, without_procps, text, field):
    pid = product.pid
    product.configure(text, WRONG)
    assert product.systemctl(f"reload {UNIT}").rc != 0
    assert product.line.startswith("configuration refused, the old one holds:"), product.line
    assert f"60-wrong.yaml:{text.count(chr(10))}: {field}:" in product.line
    assert told(product, "reload: %s", "3")
    assert told(product, "reload refused: the configuration in force stays as it is", "3")
    rc, check = check_of(product, "configuration")
    assert (rc, check["level"]) == (1, "fail")
    assert "systemctl reload" in check["fix"]
    assert product.status()["configuration"]["state"] == "refused"
    product.understands(6)
    assert product.pid == pid

    product.mark()
    product.target.unlink(WRONG)
    product.target.check(f"systemctl reload {UNIT}")
    assert product.line.startswith("listening"), product.line
    assert told(product, "reloaded%s", "6")
    bare = [each["MESSAGE"] for each in entries(product) if each["_SYSTEMD_UNIT"] == UNIT and "MESSAGE_ID" not in each]
    assert bare == []


@pytest.mark.quick
@pytest.mark.anywhere
def test_a_start_that_cannot_use_listening_hears_as_it_did_before(product):
    product.target.wait(
        lambda: '"heard": true' in product.target.run("cat /var/lib/idiolect/last-good.json").out, 20, "it is kept"
    )
    product.configure("schema: 2\nlistening: {wake_words: [hal]}\nbundle: /nonexistent\n", WRONG)
    assert product.idiolect("config check").rc == 78
    product.restart()
    product.running()
    assert "fell back to what worked last" in product.line, product.line
    assert told(product, "%s fell back to what worked last: %s", "3")
    rc, check = check_of(product, "configuration")
    assert (rc, check["level"]) == (1, "fail")
    assert "fell back to what worked last" in product.idiolect("status").out
    assert product.status()["keys"]["state"] == "fallback"
    product.understands(4, 2)
    product.target.unlink(WRONG)
    product.restart()
    product.running()
    assert product.status()["configuration"]["state"] == "in-force"
    product.target.wait(lambda: product.status()["keys"]["state"] == "released", 20, "the keys are back")


@pytest.mark.anywhere
def test_other_sections_never_fall_back(product):
    product.configure("schema: 2\ncontrol: {roles: {user: audio}}\nlistening: {mode: loud}\n", WRONG)
    assert product.systemctl(f"restart {UNIT}").rc != 0
    assert product.show("ExecMainStatus") == "78"
    assert "control.roles.user" in product.journal()


@pytest.mark.quick
@pytest.mark.anywhere
def test_a_check_sees_what_the_unit_hides(product):
    product.target.check(f"rm -rf /root/acme /opt/acme; cp -r {BUILTIN} /root/acme; cp -r {BUILTIN} /opt/acme")
    product.configure("schema: 2\nbundle: /root/acme\nstate_dir: /srv/idiolect\n", WRONG)
    done = product.idiolect("config check")
    assert done.rc == 78
    assert f"{WRONG}:2: bundle: /root/acme is hidden from the unit" in done.out
    assert "ProtectHome=yes" in done.out
    assert f"{WRONG}:3: state_dir: /srv/idiolect cannot be written to by the unit" in done.out
    product.configure("schema: 2\nbundle: /opt/acme\n", WRONG)
    assert product.idiolect("config check").out == "OK\n"
    product.restart()
    product.running()
    assert product.status()["configuration"]["state"] == "in-force"
    product.target.check("chmod 0700 /opt/acme")
    done = product.idiolect("config check")
    assert done.rc == 78
    assert "/opt/acme cannot be read by user idiolect (it belongs to root, mode 0700)" in done.out
    product.target.check("chmod 0755 /opt/acme")
    product.drop_in("[Service]\nInaccessiblePaths=/opt\n")
    assert "is hidden from the unit (InaccessiblePaths=" in product.idiolect("config check").out


@pytest.mark.anywhere
def test_the_journal_says_when_the_microphone_goes_and_when_it_is_back(product):
    product.running()
    product.target.unplug()
    try:
        product.target.wait(lambda: product.microphone()["state"] == "absent", 20, "it is gone")
        assert told(product, "no sound from the microphone (%s): %s; %s%s", "4")
        assert product.idiolect("status").rc == 1
        assert "nobody can be heard" in product.idiolect("status").out
    finally:
        product.target.plug()
    product.running(30)
    assert told(product, "the microphone is back after %s%s", "6")
    assert product.idiolect("status").rc == 0
