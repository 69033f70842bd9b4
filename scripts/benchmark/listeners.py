"""Every library under the bench behind one call, each with one model of a wake word, ``alexa``, which all of them ship.

A listener is fed blocks of 1280 samples (80 ms, 16 kHz mono) through the library's own streaming API, in the
type that this API takes; turning the audio into that type happens outside the clock (``prepare``). Nothing
here imports a library before it is chosen: each runs in a process, and the peers in an environment, of its own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

WAKE_WORD = "alexa"


class Listener(Protocol):
    """One library, loaded and ready to listen."""

    version: str
    """Of the library, and of the interpreter where there is a choice."""

    def prepare(self, block: NDArray[np.int16]) -> Any:
        """The block in the type that ``feed`` takes."""

    def feed(self, block: Any) -> None:
        """Listen to 80 ms and drop the result."""


class Idiolect:
    """This project's chain on its default configuration: every wake word, and every phrase once one was said."""

    def __init__(self, bundle: str = "builtin") -> None:
        from idiolect import __version__
        from idiolect.config.schema import load
        from idiolect.listening.recognizer import Recognizer, bundle_directory, listening_for, read_bundle

        model = read_bundle(bundle_directory(bundle))
        self._chain = Recognizer.from_bundle(model).chain(listening_for(load([]), model))
        self.version = f"{__version__} on {self._chain.runtime}"

    def prepare(self, block: NDArray[np.int16]) -> NDArray[np.int16]:
        """The array itself."""
        return block

    def feed(self, block: NDArray[np.int16]) -> None:
        """See ``Listener``."""
        self._chain.process(block)


class IdiolectAtHome(Idiolect):
    """The same with the adapter of who speaks: see ``benchmark.learn``."""

    people, always = 1, False

    def __init__(self, bundle: str = "builtin") -> None:
        from benchmark.learn import household
        from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle, with_taught
        from idiolect.people.models import model_of

        super().__init__(bundle)
        content = read_bundle(bundle_directory(bundle))
        model = model_of(Recognizer.from_bundle(content))
        if model is None:
            raise SystemExit("the bundle has no personal space")
        everybody = household(model, self.people)
        wish = listening(content, always=self.always)
        self._chain.listen_for(with_taught(wish, everybody.taught), everybody)
        self._chain.address(next(iter(everybody.adapters)))


class IdiolectAtHomeAlways(IdiolectAtHome):
    """With four adapters, where any phrase is listened for at any time, so that no step goes without."""

    people, always = 4, True


class PyMicroWakeWord:
    """microWakeWord in Python: C front-end, small int8 graph, one phrase a model."""

    def __init__(self) -> None:
        from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

        self.version = version("pymicro-wakeword")
        self._model = MicroWakeWord.from_builtin(Model(WAKE_WORD))
        self._features = MicroWakeWordFeatures()

    def prepare(self, block: NDArray[np.int16]) -> bytes:
        """Bytes, as it takes them."""
        return block.tobytes()

    def feed(self, block: bytes) -> None:
        """See ``Listener``."""
        for features in self._features.process_streaming(block):
            self._model.process_streaming(features)


class PyOpenWakeWord:
    """openWakeWord's models behind the C API of TFLite."""

    def __init__(self) -> None:
        from pyopen_wakeword import Model, OpenWakeWord, OpenWakeWordFeatures

        self.version = version("pyopen-wakeword")
        self._model = OpenWakeWord.from_builtin(Model(WAKE_WORD))
        self._features = OpenWakeWordFeatures.from_builtin()

    def prepare(self, block: NDArray[np.int16]) -> bytes:
        """Bytes, as it takes them."""
        return block.tobytes()

    def feed(self, block: bytes) -> None:
        """See ``Listener``."""
        for embeddings in self._features.process_streaming(block):
            for _probability in self._model.process_streaming(embeddings):
                pass


class OpenWakeWord:
    """openWakeWord itself, on LiteRT.

    It imports ``tflite_runtime``, LiteRT's former name, and downloads its models at run time: the import gets
    an alias, and the models are the same ones from the pyopen-wakeword wheel.
    """

    def __init__(self) -> None:
        sys.modules["tflite_runtime"] = importlib.import_module("ai_edge_litert")
        sys.modules["tflite_runtime.interpreter"] = importlib.import_module("ai_edge_litert.interpreter")
        from openwakeword import Model

        models = Path(str(resources.files("pyopen_wakeword"))) / "models"
        self.version = f"{version('openwakeword')} on ai-edge-litert {version('ai-edge-litert')}"
        self._model = Model(
            wakeword_models=[str(models / f"{WAKE_WORD}.tflite")],
            inference_framework="tflite",
            melspec_model_path=str(models / "melspectrogram.tflite"),
            embedding_model_path=str(models / "embedding_model.tflite"),
        )

    def prepare(self, block: NDArray[np.int16]) -> NDArray[np.int16]:
        """The array itself."""
        return block

    def feed(self, block: NDArray[np.int16]) -> None:
        """See ``Listener``."""
        self._model.predict(block)


OURS: dict[str, Callable[..., Listener]] = {
    "idiolect": Idiolect,
    "at home": IdiolectAtHome,
    "at home, always": IdiolectAtHomeAlways,
}
"""With and without people's adapters; both take a bundle."""
PEERS: dict[str, Callable[[], Listener]] = {
    "openwakeword": OpenWakeWord,
    "pyopen-wakeword": PyOpenWakeWord,
    "pymicro-wakeword": PyMicroWakeWord,
}
