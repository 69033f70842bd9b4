"""Encoders that many streams share: the same embeddings to the bit, whoever had them in between."""

import numpy as np
import pytest

from idiolect.errors import BundleError
from idiolect.listening.pipeline.chain import Chain
from idiolect.listening.pipeline.encoder import Encoder
from idiolect.listening.pipeline.encoder_pool import REPLAYED, EncoderPool
from idiolect.listening.pipeline.frontend import Frontend
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from idiolect.values import BLOCK
from tests.support import speech

INT8 = (bundle_directory("builtin") / "encoder.tflite").read_bytes()


def features(samples):
    frontend = Frontend()
    return [frontend.frames(block) for block in samples[: len(samples) // BLOCK * BLOCK].reshape(-1, BLOCK)]


def alone(frames):
    encoder = Encoder(INT8)
    return [encoder.step(each) for each in frames]


@pytest.fixture(scope="module")
def talk(sounds):
    """Twenty people's features: the same prompts, each begun elsewhere."""
    everything = speech.sentences(25)
    return [features(everything[n * 16_000 : n * 16_000 + 4 * 16_000]) for n in range(20)]


def test_twenty_streams_in_any_order_get_what_an_encoder_of_their_own_would_give(talk):
    pool, order = EncoderPool(INT8, 4), np.random.default_rng(1)
    streams, said = [pool.stream() for _ in talk], [[] for _ in talk]
    left = [n for n, frames in enumerate(talk) for _ in frames]
    for n in order.permutation(left):
        said[n].append(streams[n].step(talk[n][len(said[n])]))
    assert pool.made == 4
    assert pool.switches > 500  # they did take them from each other
    for frames, embeddings in zip(talk, said, strict=True):
        assert np.array_equal(embeddings, alone(frames))


def test_fewer_steps_than_the_encoder_remembers_would_not_do(talk, monkeypatch):
    """What the test above can see: an encoder that was brought back one block short gives something else."""
    monkeypatch.setattr("idiolect.listening.pipeline.encoder_pool.REPLAYED", REPLAYED - 1)
    pool = EncoderPool(INT8, 1)
    one, other = pool.stream(), pool.stream()
    said = []
    for mine, theirs in zip(talk[0], talk[1], strict=True):
        said.append(one.step(mine))
        other.step(theirs)
    assert not np.array_equal(said, alone(talk[0]))


def test_whoever_is_alone_keeps_the_encoder_and_nothing_is_made_before_it_is_needed(talk):
    pool = EncoderPool(INT8, 4)
    assert pool.made == 0
    one, other = pool.stream(), pool.stream()
    assert pool.made == 1
    for frames in talk[0]:
        one.step(frames)
    assert (pool.made, pool.switches) == (1, 1)
    other.step(talk[1][0])
    assert (pool.made, pool.switches) == (2, 2)


def test_a_reset_stream_is_a_new_one_and_a_closed_one_leaves_its_encoder(talk):
    pool = EncoderPool(INT8, 1)
    one, other = pool.stream(), pool.stream()
    for frames in talk[0]:
        one.step(frames)
    one.reset()
    assert np.array_equal([one.step(frames) for frames in talk[1]], alone(talk[1]))
    one.close()
    one.close()
    assert np.array_equal([other.step(frames) for frames in talk[2]], alone(talk[2]))
    assert pool.made == 1


def test_a_chain_on_it_makes_the_same_detections(sounds):
    recognizer = Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))
    wish = listening(recognizer.bundle, always=True, phrases=speech.DIGITS)
    pool = EncoderPool(recognizer.bundle.encoder, 2)
    chains = [Chain(pool.stream(), recognizer.head, wish) for _ in range(5)]
    heard = [[] for _ in chains]
    rooms = [np.concatenate([speech.silence(0.5 + n / 7), speech.digit(n), speech.silence(4.0)]) for n in range(5)]
    for first in range(0, len(rooms[0]), 1000):
        for n, chain in enumerate(chains):
            heard[n] += chain.process(rooms[n][first : first + 1000])
    own = [recognizer.chain(wish).process(room[: len(rooms[0])]) for room in rooms]
    assert heard == own
    assert [[d.phrase for d in each] for each in heard] == [[speech.DIGITS[n]] for n in range(5)]


def test_a_damaged_model_is_said_so():
    with pytest.raises(BundleError, match="previous"):
        EncoderPool(INT8[100:], name="previous-encoder.tflite").stream()
