"""The bench's own arithmetic: what it feeds, where a phrase ends, and how figures are compared."""

from __future__ import annotations

import subprocess
import wave

import numpy as np
import pytest

from benchmark import day, latency, machine, report, rounds, speech, train, worker


def burst(seconds, level=8000.0, seed=1):
    return np.rint(np.random.default_rng(seed).standard_normal(int(seconds * 16_000)) * level).clip(-32768, 32767)


def clip(*parts):
    """Bursts of noise (positive seconds) and digital silence (negative)."""
    return np.concatenate([burst(s) if s > 0 else np.zeros(int(-s * 16_000)) for s in parts]).astype(np.int16)


def longest_pause(samples):
    quiet = np.flatnonzero(np.diff(np.concatenate([[1], speech.loud(samples), [1]])))
    return max(quiet[1::2] - quiet[::2], default=0) / 100


def test_no_pause_outlasts_a_tenth_of_a_second():
    spoken = speech.without_pauses(clip(-1, 0.5, -0.7, 0.3, -0.05, 0.2, -2))
    assert longest_pause(spoken) == pytest.approx(0.1, abs=0.01)
    assert len(spoken) / 16_000 == pytest.approx(0.1 + 0.5 + 0.1 + 0.3 + 0.05 + 0.2 + 0.1, abs=0.03)


def test_debian_prompts_become_whole_blocks_of_continuous_speech(sounds):
    spoken, origin = speech.continuous_speech(10)
    assert spoken.dtype == np.int16
    assert len(spoken) == 10 * 16_000
    assert "asterisk" in origin
    assert np.sqrt(np.mean(spoken.astype(float) ** 2)) > 500


def test_a_given_recording_is_resampled_and_repeated(tmp_path):
    path = tmp_path / "talk.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 48_000, 0, "NONE", ""))
        file.writeframes(np.repeat(burst(3.0), 2).astype("<i2").tobytes())  # 1 s of stereo
    spoken, _ = speech.continuous_speech(5, path)
    assert len(spoken) == 5 * 16_000 // 1280 * 1280
    assert np.array_equal(spoken[:1280], spoken[16_000 : 16_000 + 1280])


def test_a_silent_recording_is_refused(tmp_path):
    speech.write_wav(tmp_path / "nothing.wav", np.zeros(16_000, np.int16))
    with pytest.raises(speech.NoSpeechError, match="no speech"):
        speech.continuous_speech(5, tmp_path / "nothing.wav")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"nothing like audio" * 9])
def test_what_is_no_recording_is_refused_by_name(tmp_path, content):
    (tmp_path / "talk.wav").write_bytes(content)
    with pytest.raises(speech.NoSpeechError, match=r"talk\.wav"):
        speech.read_wav(tmp_path / "talk.wav")


def test_hiss_has_its_level():
    level = np.sqrt(np.mean(speech.hiss(10, -70).astype(float) ** 2))
    assert 20 * np.log10(level / 32768) == pytest.approx(-70, abs=0.2)
    assert not speech.hiss(1, -200).any()


def test_the_phrase_ends_where_its_sound_ends():
    utterance = latency._place("six", clip(-0.3, 0.4, -0.5), np.random.default_rng(3))
    after = utterance.samples[utterance.end + 1 :].astype(float)
    before = utterance.samples[utterance.end - 1599 : utterance.end + 1].astype(float)
    assert np.sqrt(np.mean(after**2)) < 20
    assert np.sqrt(np.mean(before**2)) > 5000


def test_ratios_compare_within_rounds():
    ours, theirs = rounds.Figures("1", [1.0, 4.0, 2.0]), rounds.Figures("1", [2.0, 8.0, 4.0])
    assert rounds.ratio(ours, theirs) == 0.5
    assert ours.median == 2.0
    assert ours.spread == 1.5


class Counter:
    """A listener that remembers what it was fed."""

    version = "1"

    def __init__(self):
        self.blocks = []

    def prepare(self, block):
        return block.tobytes()

    def feed(self, block):
        self.blocks.append(block)


def test_the_worker_feeds_all_and_counts_all_but_the_warm_up(tmp_path):
    samples = np.arange(300 * 1280 + 77, dtype=np.int64).astype(np.int16)
    speech.write_wav(tmp_path / "ramp.wav", samples)
    listener = Counter()
    took = worker.measure(listener, str(tmp_path / "ramp.wav"), warm_blocks=10)
    assert b"".join(listener.blocks) == samples[: 300 * 1280].tobytes()
    assert took["audio_s"] == pytest.approx(290 * 0.08)
    assert took["rss_mib"] > 5


def test_budgets_are_judged():
    figures = {
        "ratios": {"pymicro-wakeword": 0.81, "silence": 0.02},
        "idiolect": {"rss_mib": 79.0, "latency_ms_p95": None, "start_ms": 400.0},
    }
    met = {name: entry["met"] for name, entry in report.budgets(figures).items()}
    assert met == {
        "ratios.pymicro-wakeword": False,
        "ratios.silence": True,
        "idiolect.rss_mib": True,
        "idiolect.latency_ms_p95": False,
        "idiolect.start_ms": True,
    }


def test_a_day_writes_little(tmp_path):
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True
    ).stdout.strip()
    if kind in ("tmpfs", "ramfs", "overlayfs"):
        pytest.skip(f"{kind} counts no bytes towards a disk: set TMPDIR to a folder on one")
    lived = day.measure("builtin", tmp_path)
    assert lived.interactions == 50
    assert lived.jobs["rebuild"] >= 1
    assert lived.jobs["checkpoint"] == 1
    assert 0 < lived.bytes_per_day <= 4 << 20


def test_lives_of_workers_are_told_apart():
    watch = train._Watch()
    watch._lives = [(1.0, 2.0), (5.0, 6.0)]
    assert watch.life(2.03) == (1.0, 2.0)  # gone when its end was told
    assert watch.life(5.5) == (5.0, 6.0)
    assert watch.life(4.0) is None
    assert watch.life(0.5) is None


def test_a_ratio_of_nothing_is_no_missed_budget():
    figures = {"train": {"listen_latency_ratio": None, "listen_latency_added_ms": 1.0, "preempt_ms": None}}
    met = {name: entry["met"] for name, entry in report.budgets(figures).items()}
    assert met == {"train.listen_latency_added_ms": True, "train.preempt_ms": False}


def test_noise_is_reported():
    assert machine.warnings(0.1, {"a": 0.05}) == []
    assert len(machine.warnings(1.5, {"a": 0.05, "b": 0.5})) == 2
