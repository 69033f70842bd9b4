"""The front-end against the graph that the encoder was trained behind."""

import numpy as np
import pytest

from idiolect.listening.pipeline.frontend import CONTEXT, FFT_LENGTH, FRAME_LENGTH, Frontend, mel_filters
from tests.support import speech


def stream(samples):
    frontend = Frontend()
    whole = samples[: len(samples) // 1280 * 1280].reshape(-1, 1280)
    return np.concatenate([frontend.frames(block) for block in whole])


@pytest.fixture(scope="module")
def original():
    """openWakeWord's mel graph on a whole signal, scaled as its users do."""
    models = pytest.importorskip("pyopen_wakeword", reason="pip install .[test] brings the original graphs")
    from pathlib import Path

    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="the original is run on LiteRT")

    path = Path(models.__file__).parent / "models" / "melspectrogram.tflite"

    def run(samples):
        graph = litert.Interpreter(str(path))
        graph.resize_tensor_input(0, (1, len(samples)))
        graph.allocate_tensors()
        graph.set_tensor(graph.get_input_details()[0]["index"], samples[None].astype(np.float32))
        graph.invoke()
        return graph.get_tensor(graph.get_output_details()[0]["index"])[0, 0] / 10.0 + 2.0

    return run


def test_equals_the_original_graph_on_speech(original):
    samples = speech.sentences(4)
    samples = samples[: len(samples) // 1280 * 1280]
    ours = stream(samples)
    # The original centres the 400-sample window in 512 and starts without a past.
    late = (FFT_LENGTH - FRAME_LENGTH) // 2
    theirs = original(np.concatenate([np.zeros(CONTEXT + late, np.int16), samples]))
    count = min(len(ours), len(theirs))
    # Its clipping at 80 dB under the loudest frame is the one thing that is not copied: apply it to ours as well.
    clipped = np.maximum(ours, theirs.max() - 8.0)
    assert count > 500
    assert np.abs(clipped[:count] - theirs[:count]).max() < 1e-3


def test_filters_have_unit_area_and_end_at_3800_hz():
    filters = mel_filters()
    width = 8000 / (FFT_LENGTH // 2)
    assert filters.shape == (257, 32)
    assert filters.sum(axis=0) * width == pytest.approx(np.ones(32), rel=0.08)  # sampled triangles
    assert not filters[int(3800 / width) + 1 :].any()


def test_digital_silence_is_the_floor_and_full_scale_is_finite():
    assert np.abs(stream(np.zeros(1280 * 3, np.int16))).max() < 1e-6
    square = np.tile(np.array([32767] * 8 + [-32768] * 8, np.int16), 240)
    loud = stream(square)
    assert np.isfinite(loud).all()
    assert loud.max() < 14.0


def test_reset_forgets_the_past():
    frontend = Frontend()
    block = speech.digit(7)[1280:2560]
    first = frontend.frames(block).copy()
    assert not np.array_equal(frontend.frames(block), first)
    frontend.reset()
    assert np.array_equal(frontend.frames(block), first)
