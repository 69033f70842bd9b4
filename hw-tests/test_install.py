"""From a fresh Debian to a service that understands."""

import pytest
from product import DIGITS, SOCKET, UNIT, wake_words

FRESH_S = 120


@pytest.mark.arm64
@pytest.mark.quick
def test_from_a_fresh_debian_to_the_first_word(installed, measure, stopwatch):
    """Everything that happens between a Debian without Idiolect and a digit of Debian's recordings that is heard."""
    for step, seconds in installed.story.items():
        measure(f"install: {step}", seconds)
    events = installed.understands(7)
    assert events[0]["profile"] == "guest"
    if "apt install" in installed.story:
        whole = sum(installed.story.values()) + stopwatch()
        measure("fresh Debian to the first word understood", whole, "s", FRESH_S)


@pytest.mark.arm64
@pytest.mark.quick
def test_units_are_up_enabled_and_whole(product):
    assert product.target.check(f"systemctl is-active {UNIT} {SOCKET}").split() == ["active", "active"]
    assert product.target.check(f"systemctl is-enabled {UNIT} {SOCKET}").split() == ["enabled", "enabled"]
    assert product.target.run("systemctl --failed --no-legend --plain").out.strip() == ""
    assert product.show("NRestarts") == "0"


@pytest.mark.arm64
@pytest.mark.quick
def test_status_and_doctor_speak_from_the_shell(product):
    said = product.idiolect("status")
    assert said.rc == 0, said.said
    assert "bundle" in said.out
    assert "running" in said.out or product.device in said.out
    doctor = product.idiolect("doctor")
    failed = [line for line in doctor.out.splitlines() if " fail" in line]
    assert doctor.rc == 0, doctor.said
    assert not failed


@pytest.mark.anywhere
def test_somebody_in_no_group_is_told_which_one(product):
    product.target.check("id hw-nobody 2>/dev/null || useradd -r hw-nobody")
    done = product.target.run("setpriv --reuid hw-nobody --regid hw-nobody --clear-groups idiolect status")
    assert done.rc == 77, done.said
    assert "idiolect" in done.err
    product.target.check("id -nG hw-nobody | grep -qw idiolect || usermod -aG idiolect hw-nobody")
    done = product.target.run("setpriv --reuid hw-nobody --regid hw-nobody --init-groups idiolect status")
    assert done.rc == 0, done.said
    product.target.check("userdel hw-nobody")


@pytest.mark.anywhere
def test_a_recorded_wake_word_opens_a_turn_and_a_phrase_closes_it(product):
    recordings = wake_words("computer", 2)
    settings = product.baseline().replace("mode: always, wake_words: []", "mode: wake, wake_words: all")
    product.configure(settings)
    product.restart()
    product.running()
    heard = 0
    for recording in recordings:
        before = {event["id"] for event in product.events("wake")}
        product.target.room.say(recording)
        fresh = [event for event in product.events("wake") if event["id"] not in before]
        heard += len(fresh) == 1
        if fresh:
            with product.hears(DIGITS[3]):
                product.say(3)
    assert heard, f"none of {len(recordings)}"


@pytest.mark.anywhere
def test_the_package_keeps_to_its_places(product):
    """Everything below /usr, /etc and the directories that the units make; nothing that a user could write to."""
    listed = product.target.check("dpkg -L idiolect").splitlines()
    allowed = ("/usr/", "/etc/idiolect")
    strays = [path for path in listed if path not in ("/.", "/usr", "/etc") and not path.startswith(allowed)]
    assert strays == []
    writable = product.target.check(
        "dpkg -L idiolect | xargs -d '\\n' stat -c '%A %U %n' | grep -E '^.{8}w|^-.{7}w' | grep -v ^l; true"
    )
    assert writable == ""
    assert product.target.check("dpkg --verify idiolect") == ""
