"""The microphone: what it is asked for, loss, sharing, and everything that can happen to one."""

import time

import numpy as np
import pytest
from product import DIGITS, Unanswered, digit

AGAIN_S = 10.0


@pytest.mark.quick
def test_capture_devices_are_listed(product):
    said = product.idiolect("devices")
    assert said.rc == 0
    names = [line.split()[0] for line in said.out.splitlines() if line and not line[0].isspace()]
    assert names, said.out
    if product.device.startswith("plughw:"):
        assert any(name.startswith(("plughw:", "hw:", "default")) for name in names)


def test_ten_seconds_arrive_in_real_time_without_loss(product, measure):
    before = product.running()["microphone"]
    with product.hears(DIGITS[5], DIGITS[8]) as events:
        first = product.target.room.say(digit(5))
        time.sleep(8)
        second = product.target.room.say(digit(8))
    after = product.microphone()
    assert (after["overruns"], after["dropped_blocks"]) == (before["overruns"], before["dropped_blocks"])
    assert after["level_dbfs"] > -100
    counted = (events[1]["end"] - events[0]["end"]) / 16_000
    spoken = second.end - first.end
    measure("two words ten seconds apart: error by the samples' count", abs(counted - spoken), "s", 0.4, timing=False)


def test_a_pause_releases_it_and_resuming_takes_it_again(product):
    record = f"arecord -q -D {product.device} -f S16_LE -r 16000 -c 1 -d 1 -t raw /tmp/hw-taken"
    if product.target.run("test -e /hw/mic/room.conf").rc == 0:
        record = f"ALSA_CONFIG_PATH=/hw/mic/room.conf {record}"
    held = product.target.run(record)
    assert held.rc != 0, "the daemon holds it"
    product.idiolect("pause listening").checked()
    product.target.wait(lambda: product.microphone()["state"] == "paused", 5, "paused")
    free = product.target.run(record)
    assert free.rc == 0, free.said
    product.idiolect("resume listening").checked()
    product.running()
    product.understands(6)
    product.target.unlink("/tmp/hw-taken")


@pytest.mark.anywhere
def test_a_pause_survives_a_restart(product):
    product.idiolect("pause listening").checked()
    product.restart()
    assert product.status()["listening"]["state"] == "paused"
    product.idiolect("resume listening").checked()
    product.running()


@pytest.mark.arm64
@pytest.mark.quick
def test_unplugged_and_plugged_in_again_it_hears_again(product, measure, stopwatch):
    pid = product.pid
    product.target.unplug()
    try:
        product.target.wait(lambda: product.microphone()["state"] == "absent", 15, "absence is noticed")
        assert product.line.startswith("no sound (absent)"), product.line
        assert product.microphone()["fix"]
    finally:
        product.target.plug()
    began = stopwatch()
    product.target.wait(lambda: product.microphone()["state"] == "running", 25, "the microphone is back")
    measure("plugged in to hearing again", stopwatch() - began, "s", AGAIN_S)
    product.understands(2)
    assert product.pid == pid


def test_absent_at_the_start_it_is_up_and_hears_once_it_is_plugged_in(product):
    product.target.unplug()
    try:
        product.restart()
        assert product.show("ActiveState") == "active", "READY comes without a microphone, too"
        assert product.line.startswith("no sound (absent)"), product.line
        doctor = product.idiolect("doctor")
        assert doctor.rc == 1
        assert "microphone" in doctor.out
    finally:
        product.target.plug()
    product.running(25)
    product.understands(1)


def test_an_overrun_is_counted_and_followed_by_hearing(product):
    """The daemon stands still for longer than the sound card's buffer lasts."""

    def losses():
        health = product.microphone()
        return health["overruns"] + health["reopened"]

    before = losses()
    product.target.check(f"kill -STOP {product.pid}; sleep 3; kill -CONT {product.pid}", timeout=60)
    product.target.wait(lambda: losses() > before, 10, "the loss is counted")
    assert product.microphone()["state"] == "running"
    product.understands(7)


def test_held_by_somebody_else_it_says_so_and_waits(product):
    environment = (
        "ALSA_CONFIG_PATH=/hw/mic/room.conf" if product.target.run("test -e /hw/mic/room.conf").rc == 0 else "X=1"
    )
    record = f"arecord -q -D {product.device} -f S16_LE -r 16000 -c 1 -t raw /dev/null"
    product.stop(socket=True)
    product.target.check(f"systemd-run -q --unit=hw-holder --setenv={environment} {record}")
    try:
        time.sleep(1)
        product.start()
        product.target.wait(lambda: product.microphone()["state"] == "busy", 15, "busy is noticed")
        assert product.line.startswith("no sound (busy)"), product.line
    finally:
        product.target.run("systemctl stop hw-holder.service; systemctl reset-failed hw-holder.service")
    product.running(25)
    product.understands(9)


@pytest.mark.anywhere
def test_a_microphone_that_stalls_is_opened_again(product):
    if not hasattr(product.target.room, "fault") or not product.target.facts.lacks.get("kernel sound"):
        pytest.skip("only the simulated microphone stalls when asked to")
    product.target.room.fault("stall")
    try:
        product.target.wait(lambda: product.microphone()["state"] != "running", 20, "the stall is noticed")
    finally:
        product.target.room.fault("stall", on=False)
    product.running(25)
    product.understands(5)


@pytest.mark.parametrize(
    ("rate", "channels", "form"),
    [(48_000, 2, "S16_LE"), (44_100, 1, "S16_LE"), (48_000, 8, "S32_LE"), (16_000, 6, "S16_LE"), (96_000, 2, "S32_LE")],
)
@pytest.mark.anywhere
def test_other_hardware_is_negotiated_and_understood(product, rate, channels, form):
    """Microphones that give nothing else: through ALSA's conversion where they give no S16, by the daemon else."""
    name = room_with(product, rate, channels, form, (3, 8))
    device = name if form == "S16_LE" else f"plug:{name}"
    product.configure(product.baseline().replace(product.device, device))
    product.restart()
    status = product.running()
    if form == "S16_LE":
        assert (status["microphone"]["rate"], status["microphone"]["channels"]) == (rate, channels)
    product.target.wait(lambda: len(product.events()) >= 2, 15, "two words")
    assert {event["phrase"] for event in product.events()} == {"three", "eight"}


@pytest.mark.anywhere
def test_hardware_that_gives_too_little_is_refused_with_the_reason(product):
    name = room_with(product, 4_000, 1, "S16_LE", (3,))
    product.configure(product.baseline().replace(product.device, name))
    product.restart()
    product.target.wait(lambda: product.microphone()["state"] == "format", 10, "the format is refused")
    assert "4000" in product.line, product.line


def room_with(product, rate, channels, form, numbers):
    """Another simulated microphone, that says some digits again and again."""
    from targets.local import Local

    if not isinstance(product.target, Local):
        pytest.skip("the sound card is what it is; the container has simulated ones")
    quiet = np.zeros(12_000, np.int16)
    said = np.concatenate([part for number in numbers for part in (quiet, digit(number), quiet)])
    return product.target.room.hardware(said, rate, channels, form)


def test_the_sound_card_by_its_bare_name(product):
    """hw: without ALSA's conversion, at the card's own rate and channels."""
    product.target.need("kernel sound")
    product.configure(product.baseline().replace("plughw:", "hw:"))
    product.restart()
    status = product.running(25)
    assert status["microphone"]["rate"] >= 16_000
    product.understands(4)


DSNOOP = """\
pcm.mic_shared {
    type dsnoop
    ipc_key 641001
    ipc_perm 0660
    ipc_gid audio
    slave { pcm "hw:CARD=%s,DEV=0" format S16_LE rate 16000 channels 2 period_size 1280 periods 16 }
}
pcm.mic { type plug slave.pcm "mic_shared" }
"""


def test_two_programs_share_the_sound_card_through_dsnoop(product):
    """As docs/integrator.md describes it: the daemon and a recorder, both at once, both with audio."""
    product.target.need("kernel sound")
    card = product.device.partition("CARD=")[2].partition(",")[0]
    product.configure(DSNOOP % card, "/etc/asound.conf")
    product.drop_in("[Service]\nRemoveIPC=no\n")
    product.configure(product.baseline().replace(product.device, "mic"))
    product.restart()
    product.running(25)
    product.target.check("id hw-assistant 2>/dev/null || useradd -r -G audio hw-assistant")
    record = "arecord -q -D mic -f S16_LE -r 16000 -c 1 -d 8 -t raw /tmp/hw-shared.raw"
    product.target.check(f"systemd-run -q --unit=hw-assistant -p User=hw-assistant {record}")
    product.understands(3, 8)
    product.target.wait(lambda: product.show("ActiveState", "hw-assistant") != "active", 20, "the recorder ends")
    told = product.target.run("journalctl -q -o cat -u hw-assistant | tail -5").out
    samples = np.frombuffer(product.target.get("/tmp/hw-shared.raw"), "<i2").astype(float)
    assert len(samples) == pytest.approx(8 * 16_000, rel=0.05), told
    assert np.abs(samples).max() > 2000, "the recorder got the words, too"
    product.target.run("userdel hw-assistant; rm -f /tmp/hw-shared.raw; systemctl reset-failed hw-assistant")


@pytest.mark.anywhere
def test_nothing_that_was_heard_is_on_the_disk(product):
    """Phrases nor samples, in state, journal or anywhere that the daemon may write."""
    from household import PEOPLE

    product.configure(product.baseline(people=PEOPLE))
    product.restart()
    product.running()
    try:
        product.understands(7, 7)
    except Unanswered:
        pytest.fail("it went away")
    found = product.target.run("grep -rlaE 'seven' /var/lib/idiolect /run/idiolect; true").out.split()
    assert found == []
    size = int(product.target.check("du -sk /var/lib/idiolect | cut -f1"))
    assert size < 400
