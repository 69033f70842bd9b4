"""AlsaMicrophone through the real libasound: what it delivers, and each fault of a device."""

from __future__ import annotations

import contextlib
import itertools
import resource
import threading
import time

import numpy as np
import pytest

from idiolect.errors import MicrophoneAbsent, MicrophoneBusy, MicrophoneError, MicrophoneFormat, MicrophoneStalled
from idiolect.listening.audio import microphone as microphone_module
from idiolect.listening.audio.microphone import AlsaMicrophone, list_devices, open_source
from idiolect.values import BLOCK, SAMPLE_RATE, Captured
from tests.support.alsa import WavMic, require_wavmic
from tests.support.alsa.wavmic import build

RAMP = 30_000  # the pattern's length: long enough to tell where in the recording a sample comes from


@pytest.fixture
def make_mic(tmp_path, monkeypatch):
    """Make simulated microphones, known to this process for the length of the test."""
    require_wavmic()
    configs = []

    def make(frames: np.ndarray | None = None, **settings) -> WavMic:
        name = settings.pop("name", "wavmic")
        audio = tmp_path / f"{name}.pcm"
        frames = np.arange(10 * SAMPLE_RATE) % RAMP if frames is None else frames
        audio.write_bytes(frames.astype("<i2").tobytes())
        mic = WavMic(tmp_path, audio, name=name, **settings)
        configs.append(str(mic.config))
        monkeypatch.setenv("ALSA_CONFIG_PATH", ":".join(configs))
        return mic

    return make


@pytest.fixture
def opened():
    """Open microphones that are closed at the end of the test."""
    sources = []

    def open_mic(device: str, **settings) -> AlsaMicrophone:
        sources.append(AlsaMicrophone(device, **settings))
        return sources[-1]

    yield open_mic
    for source in sources:
        source.close()


def test_without_a_compiler_these_tests_are_skipped_but_never_in_ci(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.support.alsa.build", lambda: build(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="gcc"):
        require_wavmic()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="gcc"):
        require_wavmic()


def next_block(source: AlsaMicrophone, within: float = 60.0) -> Captured:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if (block := source.read()) is not None:
            return block
    raise AssertionError("no block came")


def read_for(source: AlsaMicrophone, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        source.read()


def drain(source: AlsaMicrophone) -> tuple[np.ndarray, list[int]]:
    """Everything until the device is unplugged, and what each block says of losses."""
    blocks = []
    with contextlib.suppress(MicrophoneAbsent):
        while True:
            if (block := source.read()) is not None:
                blocks.append(block)
    return np.concatenate([b.samples for b in blocks]), [b.lost for b in blocks]


@pytest.mark.parametrize("speed", [0, 40])
def test_every_sample_arrives_once_and_unchanged(make_mic, opened, speed):
    mic = make_mic(speed=speed, eof="gone")
    source = opened(mic.device)
    samples, lost = drain(source)
    assert len(samples) == 10 * SAMPLE_RATE // BLOCK * BLOCK
    assert np.array_equal(samples, np.arange(len(samples)) % RAMP)
    assert not any(lost)
    assert source.overruns == 0
    assert (source.description.rate, source.description.channels) == (16_000, 1)


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
def test_one_wake_up_per_period_at_any_rate(make_mic, opened, rate, channels):
    mic = make_mic(rate=rate, channels=channels, eof="loop")
    source = opened(mic.device)
    next_block(source)
    counts = []

    def listen() -> None:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        blocks = [source.read() for _ in range(12)]
        counts.extend([resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before, blocks.count(None)])

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    wakes, empty = counts
    assert empty == 0
    assert wakes <= 12 + 6  # 26.7 ms periods, the answer to a naive request at 48 kHz, would be 36


def test_a_thread_held_up_for_a_second_loses_nothing(make_mic, opened):
    source = opened(make_mic().device)
    first = next_block(source)
    time.sleep(1.0)
    blocks = [first, *(next_block(source) for _ in range(13))]
    assert np.array_equal(np.concatenate([b.samples for b in blocks]), np.arange(14 * BLOCK))
    assert source.overruns == 0


def test_an_overrun_is_counted_and_the_loss_estimated(make_mic, opened):
    source = opened(make_mic().device)
    before = next_block(source)
    time.sleep(1.6)  # the buffer holds 1.28 s
    after = next_block(source)
    assert source.overruns == 1
    missing = (int(after.samples[0]) - int(before.samples[-1]) - 1) % RAMP
    assert missing > 10_000
    assert after.lost == pytest.approx(missing, abs=0.05 * SAMPLE_RATE)
    following = next_block(source)
    assert following.lost == 0
    assert following.samples[0] == (after.samples[-1] + 1) % RAMP


@pytest.mark.pace
def test_left_alone_it_has_the_blocks_when_it_said_without_loss_or_drift(make_mic, opened):
    source = opened(make_mic().device)
    blocks, started = [next_block(source)], time.monotonic()
    for _ in range(8):
        seconds = source.ready_in(3)
        assert 0.2 < seconds < 0.26
        time.sleep(seconds)
        asked = time.monotonic()
        blocks.append(next_block(source))
        assert time.monotonic() - asked < 0.04
        assert source.ready == 2
        blocks += [next_block(source) for _ in range(2)]
        assert source.ready == 0
    assert time.monotonic() - started == pytest.approx(8 * 0.24, abs=0.05)
    assert np.array_equal(np.concatenate([b.samples for b in blocks]), np.arange(25 * BLOCK) % RAMP)
    asked = time.monotonic()
    next_block(source)  # and block by block again, each as soon as it is there
    assert time.monotonic() - started == pytest.approx(25 * 0.08, abs=0.03)
    assert time.monotonic() - asked > 0.05


@pytest.mark.parametrize(("periods", "seconds"), [(4, 0.0), (8, 0.16), (16, 0.24)])
def test_a_small_buffer_is_left_alone_for_a_third_of_it_or_not_at_all(make_mic, opened, monkeypatch, periods, seconds):
    monkeypatch.setattr(microphone_module, "PERIODS", periods)
    source = opened(make_mic().device)
    next_block(source)
    assert source.ready_in(3) == pytest.approx(seconds, abs=0.03)


def test_it_wants_to_be_read_when_it_stands_still_or_is_late(make_mic, opened):
    mic = make_mic()
    source = opened(mic.device)
    assert source.ready_in(3) == 0  # not started yet
    next_block(source)
    mic.stall()
    time.sleep(0.4)
    assert source.ready_in(3) == 0
    mic.stall(False)
    next_block(source)
    mic.xrun()
    while source.overruns == 0:
        source.read()
    next_block(source)
    assert source.ready_in(3) > 0.1


def test_a_recording_played_faster_than_life_is_left_alone_as_much_shorter(make_mic, opened):
    source = opened(make_mic(speed=4).device)
    for _ in range(20):
        next_block(source)
    assert 0 < source.ready_in(3) < 0.1


def test_blocks_read_before_the_device_went_are_delivered(make_mic, opened):
    source = opened(make_mic(np.arange(4 * BLOCK), eof="gone").device)
    blocks = [next_block(source)]
    time.sleep(0.5)
    samples, lost = drain(source)
    assert np.array_equal(np.concatenate([blocks[0].samples, samples]), np.arange(4 * BLOCK))
    assert not any(lost)


def test_a_forced_overrun_never_joins_samples_across_the_gap(make_mic, opened):
    mic = make_mic(speed=4)
    source = opened(mic.device)
    blocks = [next_block(source) for _ in range(5)]
    mic.xrun()
    blocks += [next_block(source) for _ in range(5)]
    assert source.overruns == 1
    assert sum(b.lost > 0 for b in blocks) == 1
    for previous, block in itertools.pairwise(blocks):
        assert np.all(np.diff(block.samples) == 1)
        contiguous = block.samples[0] == previous.samples[-1] + 1
        assert contiguous or block.lost > 0


@pytest.mark.pace
def test_a_short_stall_is_waited_for(make_mic, opened):
    mic = make_mic()
    source = opened(mic.device)
    mic.stall()
    threading.Timer(0.7, mic.stall, [False]).start()
    delivered = 0
    while source.read() is not None:  # what was spoken before the stall
        delivered += 1
    assert delivered <= 2
    started = time.monotonic()
    assert source.read() is None
    assert 0.2 < time.monotonic() - started < 0.35  # a read never blocks for long
    block = next_block(source)
    assert (block.lost, block.samples[0]) == (0, delivered * BLOCK)


@pytest.mark.pace
def test_a_long_stall_is_a_fault_and_the_device_can_be_closed_at_once(make_mic, opened):
    mic = make_mic()
    source = opened(mic.device)
    next_block(source)
    mic.stall()
    started = time.monotonic()
    with pytest.raises(MicrophoneStalled, match="no sound for 2 s"):
        read_for(source, 5.0)
    assert 1.9 < time.monotonic() - started < 2.6
    started = time.monotonic()
    source.close()
    assert time.monotonic() - started < 0.1
    mic.stall(False)
    assert next_block(opened(mic.device)).samples[0] == 0


def test_unplugged_and_back(make_mic, opened):
    mic = make_mic(speed=4)
    source = opened(mic.device)
    next_block(source)
    mic.gone()
    with pytest.raises(MicrophoneAbsent):
        read_for(source, 1.0)
    source.close()
    with pytest.raises(MicrophoneAbsent):
        opened(mic.device)
    mic.gone(False)
    assert next_block(opened(mic.device)).lost == 0


def test_busy_and_free_again(make_mic, opened):
    mic = make_mic(speed=4)
    holder = opened(mic.device)
    with pytest.raises(MicrophoneBusy) as fault:
        opened(mic.device)
    assert "dsnoop" in fault.value.fix
    holder.close()
    assert next_block(opened(mic.device)).samples.shape == (BLOCK,)


@pytest.mark.pace
def test_a_running_device_closes_at_once_and_twice(make_mic, opened):
    source = opened(make_mic().device)
    next_block(source)
    started = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - started < 0.1


def stereo_tones(seconds: int = 2) -> np.ndarray:
    t = np.arange(48_000 * seconds) / 48_000
    return np.stack([12_000 * np.sin(2 * np.pi * 500 * t), 12_000 * np.sin(2 * np.pi * 1_500 * t)], axis=1)


@pytest.mark.parametrize(("channel", "levels"), [("mix", {500: 6_000, 1_500: 6_000}), (1, {500: 0, 1_500: 12_000})])
def test_48_khz_stereo_hardware_is_resampled_and_mixed(make_mic, opened, channel, levels):
    mic = make_mic(stereo_tones(), rate=48_000, channels=2, speed=0, eof="gone")
    source = opened(mic.device, channel=channel)
    assert (source.description.rate, source.description.channels) == (48_000, 2)
    samples, lost = drain(source)
    assert not any(lost)
    assert 0 <= 2 * SAMPLE_RATE - len(samples) < BLOCK + 0.025 * SAMPLE_RATE
    middle = samples[4_000:20_000].astype(float)  # one second: whole periods of both tones
    spectrum = np.abs(np.fft.rfft(middle)) / 8_000
    for hertz, amplitude in levels.items():
        assert spectrum[hertz] == pytest.approx(amplitude, rel=0.01, abs=2)


def test_one_channel_of_two_at_16_khz_is_taken_as_it_is(make_mic, opened):
    frames = np.stack([np.zeros(4 * BLOCK), np.arange(4 * BLOCK)], axis=1)
    mic = make_mic(frames, channels=2, speed=0, eof="gone")
    samples, _ = drain(opened(mic.device, channel=1))
    assert np.array_equal(samples, np.arange(4 * BLOCK))


def test_one_channel_is_not_mixed_with_the_others_by_alsa(make_mic, opened):
    """Asked for mono, ALSA's converter would give the mean of both channels."""
    frames = np.stack([np.full(4 * BLOCK, 4_000), np.arange(4 * BLOCK)], axis=1)
    mic = make_mic(frames, channels=2, speed=0, eof="loop")
    block = next_block(opened(f"plug:{mic.device}", channel=0))
    assert np.all(block.samples == 4_000)


def test_another_sample_format_is_refused_and_the_named_fix_works(make_mic, opened):
    mic = make_mic(sample_format="S32_LE", speed=0, eof="silence")
    with pytest.raises(MicrophoneFormat, match="S32_LE") as fault:
        opened(mic.device)
    fixed = fault.value.fix.rpartition(" ")[2]
    assert np.array_equal(next_block(opened(fixed)).samples, np.arange(BLOCK))


def test_the_format_fix_for_hardware_is_plughw(make_mic, tmp_path, monkeypatch):
    """``hw:`` names are redirected to a simulated 32-bit microphone."""
    mic = make_mic(sample_format="S32_LE")
    hw = tmp_path / "hw.conf"
    hw.write_text(f'pcm.hw {{ @args [ CARD ] @args.CARD {{ type string }} type copy slave.pcm "{mic.device}" }}\n')
    monkeypatch.setenv("ALSA_CONFIG_PATH", f"{mic.config}:{hw}")
    with pytest.raises(MicrophoneFormat) as fault:
        AlsaMicrophone("hw:Mic")
    assert fault.value.fix.endswith(" plughw:Mic")


def test_telephone_rate_is_the_lowest_that_is_heard(make_mic, opened):
    tone = 8_000 * np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 8_000)
    narrow = opened(make_mic(tone, name="narrow", rate=8_000, speed=0, eof="gone").device)
    samples, _ = drain(narrow)
    assert np.argmax(np.abs(np.fft.rfft(samples[:16_000]))) == 1_000
    with pytest.raises(MicrophoneFormat, match="4000 Hz"):
        opened(make_mic(name="dull", rate=4_000).device)


def test_a_channel_that_the_device_lacks_is_refused_and_nothing_stays_open(make_mic, opened):
    mic = make_mic(channels=2)
    with pytest.raises(MicrophoneFormat, match="2 channels"):
        opened(mic.device, channel=2)
    opened(mic.device, channel=1)  # else busy


def test_two_microphones_in_one_process_keep_their_own_time(make_mic, opened):
    one, two = make_mic(name="one"), make_mic(name="two", speed=4)
    slow, fast = opened(one.device), opened(two.device)
    blocks = [next_block(fast) for _ in range(8)]
    blocks_slow = [next_block(slow), next_block(slow)]
    two.xrun()
    assert [int(b.samples[0]) for b in blocks] == [BLOCK * k for k in range(8)]
    assert [int(b.samples[0]) for b in blocks_slow] == [0, BLOCK]
    next_block(fast)
    assert (slow.overruns, fast.overruns) == (0, 1)


def test_an_unknown_name_is_absent_without_noise_on_stderr(make_mic, capfd):
    make_mic()
    with pytest.raises(MicrophoneAbsent, match="nowhere") as fault:
        open_source("nowhere", channel="mix", gain_db=0.0)
    assert "idiolect devices" in fault.value.fix
    assert capfd.readouterr().err == ""


def test_a_recording_is_opened_by_its_scheme(tmp_path):
    path = tmp_path / "ramp.raw"
    path.write_bytes(np.arange(BLOCK, dtype="<i2").tobytes())
    source = open_source(f"file:{path},speed=0", channel="mix", gain_db=0.0)
    assert not source.description.live
    assert np.array_equal(source.read().samples, np.arange(BLOCK))
    for speed in ("fast", "-1", "inf", "nan"):
        with pytest.raises(MicrophoneFormat, match="speed"):
            open_source(f"file:{path},speed={speed}", channel="mix", gain_db=0.0)
    with pytest.raises(MicrophoneAbsent):
        open_source(f"fifo:{path}.missing", channel="mix", gain_db=0.0)


def test_devices_are_listed_by_the_name_that_opens_them(make_mic, opened):
    make_mic(speed=0)
    devices = {device.name: device.description for device in list_devices()}
    assert "wavmic" in devices
    assert "null" not in devices
    assert devices["wavmic"]
    next_block(opened("wavmic"))


def test_errors_name_the_device_and_the_fix(make_mic, opened):
    mic = make_mic()
    mic.busy()
    with pytest.raises(MicrophoneError) as fault:
        opened(mic.device)
    assert str(fault.value) == "wavmic: held by another program"
    assert fault.value.state == "busy"
    assert fault.value.fix


def test_cards_that_are_shut_are_told_from_cards_that_are_not_there(tmp_path, monkeypatch):
    assert not microphone_module._shut_out(tmp_path)
    (tmp_path / "controlC0").touch()
    assert not microphone_module._shut_out(tmp_path)
    monkeypatch.setattr(microphone_module.os, "access", lambda *_: False)  # root may open anything
    assert microphone_module._shut_out(tmp_path)
    monkeypatch.setattr(microphone_module, "_shut_out", lambda: True)
    error = microphone_module._as_fault(
        "hw:0", microphone_module.alsaaudio.ALSAAudioError("No such file or directory [hw:0]")
    )
    assert "none that may be opened" in str(error)
    assert "SupplementaryGroups=audio" in error.fix


@pytest.mark.parametrize("fault", ["suspend", "eio"])
def test_a_stream_that_fails_is_a_fault_and_opens_again(make_mic, opened, fault):
    mic = make_mic()
    source = opened(mic.device)
    next_block(source)
    switch = mic.switches / fault
    switch.touch()
    with pytest.raises(MicrophoneError, match="wavmic"):
        read_for(source, 3.0)
    source.close()
    switch.unlink(missing_ok=True)
    assert len(next_block(opened(mic.device)).samples) == BLOCK


def test_reads_that_give_half_lose_nothing_and_double_nothing(make_mic, opened):
    mic = make_mic(speed=0, eof="gone")
    (mic.switches / "short").touch()
    samples, lost = drain(opened(mic.device))
    assert np.array_equal(samples, np.arange(len(samples)) % RAMP)
    assert len(samples) >= 9 * SAMPLE_RATE
    assert not any(lost)
