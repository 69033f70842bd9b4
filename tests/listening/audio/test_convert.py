"""AudioConverter: any rate, any channels, any chunking; levels, saturation and gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.listening.audio.convert import AudioConverter, level_dbfs
from idiolect.values import BLOCK, SAMPLE_RATE


def tone(rate: int, hertz: float, seconds: float, amplitude: float = 0.5) -> np.ndarray:
    t = np.arange(int(rate * seconds)) / rate
    return np.rint(32767 * amplitude * np.sin(2 * np.pi * hertz * t)).astype("<i2")


def convert(converter: AudioConverter, frames: np.ndarray, chunk: int, flush: bool = True) -> np.ndarray:
    blocks = []
    for start in range(0, len(frames), chunk):
        blocks += converter.feed(frames[start : start + chunk].tobytes())
    if flush:
        blocks += converter.flush()
    assert all(b.samples.shape == (BLOCK,) and b.samples.dtype == np.int16 and b.lost == 0 for b in blocks)
    return np.concatenate([b.samples for b in blocks]) if blocks else np.empty(0, np.int16)


def level_db(samples: np.ndarray) -> float:
    return 20 * np.log10(np.sqrt(np.mean(samples.astype(float) ** 2)))


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("hertz", [100, 1_000, 3_500])
def test_a_tone_keeps_frequency_level_and_length_at_any_rate(rate, hertz):
    source = tone(rate, hertz, 4.0)
    out = convert(AudioConverter(rate, 1), source, rate * BLOCK // SAMPLE_RATE)
    assert len(out) == 4 * SAMPLE_RATE // BLOCK * BLOCK
    middle = out[SAMPLE_RATE : 3 * SAMPLE_RATE]  # whole periods, away from the edges
    assert level_db(middle) == pytest.approx(level_db(source), abs=0.1)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) / 2.0 == pytest.approx(hertz, abs=0.5)


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_tones_above_8_khz_do_not_fold_into_speech(rate):
    out = convert(AudioConverter(rate, 1), tone(rate, 13_000, 2.0, amplitude=0.9), 999)
    assert np.abs(out[BLOCK:-BLOCK]).max() <= 1


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_a_block_comes_at_most_25_ms_after_its_last_sample(rate):
    converter = AudioConverter(rate, 1)
    frames = tone(rate, 440, 10.0)
    step = rate // 300  # 3.3 ms
    late, emitted = [], 0
    for end in range(step, len(frames), step):
        for block in converter.feed(frames[end - step : end].tobytes()):
            emitted += len(block.samples)
            late.append(end / rate - emitted / SAMPLE_RATE)
    assert len(late) > 100
    assert max(late) < 0.025 + step / rate


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([16_000, 44_100, 48_000]),
    channels=st.integers(1, 3),
    gain_db=st.sampled_from([0.0, 6.0]),
    chunks=st.lists(st.integers(1, 9_000), min_size=1, max_size=8),
)
def test_any_chunking_gives_the_same_samples(rate, channels, gain_db, chunks):
    frames = np.random.default_rng(1).integers(-30_000, 30_000, (rate // 2, channels)).astype("<i2")
    whole = convert(AudioConverter(rate, channels, gain_db=gain_db), frames, len(frames))
    converter = AudioConverter(rate, channels, gain_db=gain_db)
    blocks, start, turn = [], 0, 0
    while start < len(frames):
        end = start + chunks[turn % len(chunks)]
        blocks += converter.feed(frames[start:end].tobytes())
        start, turn = end, turn + 1
    blocks += converter.flush()
    assert np.array_equal(np.concatenate([b.samples for b in blocks]), whole)
    assert len(whole) == 8_000 // BLOCK * BLOCK


def test_native_audio_passes_through_without_a_copy():
    data = np.arange(2 * BLOCK, dtype="<i2").tobytes()
    first, second = AudioConverter(16_000, 1).feed(data)
    assert np.shares_memory(first.samples, np.frombuffer(data, "<i2"))
    assert np.array_equal(np.concatenate([first.samples, second.samples]), np.arange(2 * BLOCK))


def test_dc_is_left_alone():
    frames = np.full(16_000, 12_345, "<i2")
    assert np.all(convert(AudioConverter(16_000, 1), frames, 777) == 12_345)
    resampled = convert(AudioConverter(48_000, 1), np.full(96_000, 12_345, "<i2"), 777)
    assert np.all(np.abs(resampled[BLOCK:-BLOCK].astype(int) - 12_345) <= 1)


@pytest.mark.parametrize("extreme", [-32_768, 32_767])
def test_stereo_at_full_scale_is_mixed_without_overflow(extreme):
    frames = np.full((3 * BLOCK, 2), extreme, "<i2")
    assert np.all(convert(AudioConverter(16_000, 2), frames, 500) == extreme)


def test_mix_is_the_mean_and_an_index_is_that_channel():
    frames = np.stack([np.full(BLOCK, 1_000), np.full(BLOCK, -500), np.arange(BLOCK)], axis=1).astype("<i2")
    mixed = convert(AudioConverter(16_000, 3), frames, 100)
    assert np.array_equal(mixed, np.rint((500 + np.arange(BLOCK)) / 3.0))
    assert np.array_equal(convert(AudioConverter(16_000, 3, channel=2), frames, 100), np.arange(BLOCK))
    assert np.all(convert(AudioConverter(16_000, 3, channel=1), frames, BLOCK) == -500)


def test_gain_amplifies_and_saturates_instead_of_wrapping():
    quiet = convert(AudioConverter(16_000, 1, gain_db=20.0), np.full(BLOCK, 100, "<i2"), BLOCK)
    assert np.all(quiet == 1_000)
    loud = np.array([32_767, -32_768, 20_000, -20_000] * (BLOCK // 4), "<i2")
    assert set(convert(AudioConverter(16_000, 1, gain_db=6.0), loud, 300)) == {32_767, -32_768}


def test_resampling_a_full_scale_square_wave_saturates():
    """Band-limiting a square wave overshoots by 9 %: it must be clipped, not wrapped."""
    square = np.where(np.arange(48_000) // 120 % 2, 32_767, -32_768).astype("<i2")
    out = convert(AudioConverter(48_000, 1), square, 3_840).astype(int)
    expected_sign = square[1::3][: len(out)]  # the sample in the middle of each three
    steady = np.abs(np.convolve(np.sign(expected_sign), np.ones(9), "same")) == 9
    assert np.all(np.sign(out[steady]) == np.sign(expected_sign[steady]))
    assert out.max() == 32_767
    assert out.min() == -32_768


def test_a_gap_drops_the_unfinished_block_and_marks_the_next():
    converter = AudioConverter(16_000, 1)
    assert converter.feed(np.ones(1_000, "<i2").tobytes()) == []
    assert converter.gap(0.5) == 8_000 + 1_000
    (block,) = converter.feed(np.full(BLOCK, 2, "<i2").tobytes())
    assert block.lost == 9_000
    assert np.all(block.samples == 2)
    (after,) = converter.feed(np.full(BLOCK, 3, "<i2").tobytes())
    assert after.lost == 0


def test_a_gap_at_48_khz_accounts_for_every_sample():
    """What was delivered and what was lost add up to what was fed: nothing of it leaks over the gap."""
    converter = AudioConverter(48_000, 2)
    before = converter.feed(np.full((48_000, 2), 20_000, "<i2").tobytes())
    lost = converter.gap(0.0)
    assert len(before) * BLOCK + lost == 16_000
    after = converter.feed(np.zeros((48_000, 2), "<i2").tobytes())
    assert after[0].lost == lost
    assert [b.lost for b in after[1:]] == [0] * (len(after) - 1)
    assert not any(b.samples.any() for b in after)


def test_two_gaps_before_a_block_add_up_and_none_is_ever_zero():
    converter = AudioConverter(16_000, 1)
    assert converter.gap(0.0) == 1
    assert converter.gap(0.25) == 4_000
    (block,) = converter.feed(np.zeros(BLOCK, "<i2").tobytes())
    assert block.lost == 4_001


@pytest.mark.parametrize(
    ("rate", "channels", "channel"), [(7_999, 1, "mix"), (16_000, 0, "mix"), (16_000, 2, 2), (16_000, 2, -1)]
)
def test_what_cannot_be_converted_is_refused(rate, channels, channel):
    with pytest.raises(ValueError, match="cannot convert"):
        AudioConverter(rate, channels, channel=channel)


def test_level():
    assert level_dbfs(np.zeros(BLOCK, np.int16)) == -120.0
    assert level_dbfs(np.full(BLOCK, -32_768, np.int16)) == 0.0
    assert level_dbfs(tone(16_000, 1_000, 0.08, amplitude=0.1)) == pytest.approx(-23.0, abs=0.1)
