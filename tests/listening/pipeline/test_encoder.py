"""The streaming encoder against the windowed original, and what a damaged model gives."""

from pathlib import Path

import numpy as np
import pytest

from idiolect.errors import BundleError
from idiolect.listening.pipeline.encoder import WARM_UP, Encoder
from idiolect.listening.pipeline.frontend import Frontend
from idiolect.listening.recognizer import bundle_directory
from tests.support import speech

FLOAT = Path(__file__).parents[3] / "scripts" / "bundlebuild" / "encoder_float.tflite"
INT8 = bundle_directory("builtin") / "encoder.tflite"


def log_mels(samples):
    frontend = Frontend()
    return np.concatenate([frontend.frames(b) for b in samples[: len(samples) // 1280 * 1280].reshape(-1, 1280)])


def run(encoder, mels):
    return np.array([encoder.step(mels[i : i + 8]) for i in range(0, len(mels), 8)])


@pytest.fixture(scope="module")
def windowed():
    """Google's model as published: 76 frames in, one embedding out."""
    package = pytest.importorskip("pyopen_wakeword", reason="pip install .[test] brings the original graphs")
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="the original is run on LiteRT")

    graph = litert.Interpreter(str(Path(package.__file__).parent / "models" / "embedding_model.tflite"))
    graph.resize_tensor_input(0, (1, 76, 32, 1))
    graph.allocate_tensors()
    source, target = graph.get_input_details()[0]["index"], graph.get_output_details()[0]["index"]

    def embed(frames):
        graph.set_tensor(source, frames[None, :, :, None])
        graph.invoke()
        return graph.get_tensor(target).ravel().copy()

    return embed


@pytest.mark.parametrize("offset", [0, 1, 160, 777, 1279])
@pytest.mark.parametrize("seconds", [0.9, 2.37, 7.0])
def test_streaming_float_equals_windowed_float(windowed, offset, seconds):
    samples = speech.sentences(6)[offset : offset + round(seconds * 16_000)]
    mels = log_mels(samples)
    streamed = run(Encoder(FLOAT.read_bytes()), mels)
    padded = np.concatenate([np.zeros((68, 32), np.float32), mels])  # before the stream: digital silence
    assert len(streamed) == len(samples) // 1280
    for n in range(len(streamed)):
        assert np.abs(streamed[n] - windowed(padded[8 * n : 8 * n + 76])).max() < 1e-5


def test_int8_stays_close_to_float():
    mels = log_mels(speech.sentences(8))
    exact, small = run(Encoder(FLOAT.read_bytes()), mels), run(Encoder(INT8.read_bytes()), mels)
    exact, small = exact - exact.mean(0), small - exact.mean(0)
    cosine = (exact * small).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(small, axis=1)
    assert cosine.mean() > 0.975
    assert np.percentile(cosine, 5) > 0.94


def test_a_reset_stream_repeats_itself_to_the_bit():
    mels = log_mels(speech.sentences(2))
    encoder = Encoder(INT8.read_bytes())
    first = run(encoder, mels)
    encoder.reset()
    assert np.array_equal(run(encoder, mels), first)


def test_memory_ends_after_the_warm_up():
    mels = log_mels(speech.sentences(2))
    early, late = Encoder(INT8.read_bytes()), Encoder(INT8.read_bytes())
    whole, tail = run(early, mels), run(late, mels[80:])
    assert np.array_equal(whole[10 + WARM_UP :], tail[WARM_UP:])
    assert not np.array_equal(whole[10], tail[0])


@pytest.mark.parametrize("cut", [0, 3, 8, 1000, 200_000])
def test_a_truncated_model_is_refused_by_name(cut):
    if cut >= 8 and Encoder(INT8.read_bytes()).runtime == "tflite-runtime":
        pytest.skip("tflite-runtime 2.14 crashes on it: the manifest's digest is what protects the loader")
    with pytest.raises(BundleError, match=r"encoder\.tflite"):
        Encoder(INT8.read_bytes()[:cut])


def test_a_model_with_other_tensors_is_refused():
    package = pytest.importorskip("pyopen_wakeword", reason="pip install .[test] brings other models")
    other = (Path(package.__file__).parent / "models" / "okay_nabu.tflite").read_bytes()
    with pytest.raises(BundleError, match=r"encoder\.tflite: (input has shape|output has shape|cannot be loaded)"):
        Encoder(other)
