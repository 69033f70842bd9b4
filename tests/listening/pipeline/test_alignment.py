"""Alignment: what goes along with a take from its begin to its end, at its own pace and with a pause inside."""

from __future__ import annotations

import numpy as np
import pytest

from idiolect.listening.pipeline.alignment import LATE, NEVER, Aligner, Standard, Takes, costs, take_of, unit
from idiolect.values import EMBEDDING

PLAIN = Standard(np.zeros(EMBEDDING, np.float32), np.ones(EMBEDDING, np.float32))


def frames(seed: int, count: int = 12) -> np.ndarray:
    """A made-up utterance: neighbours are alike, as embeddings are."""
    noise = np.random.default_rng(seed).standard_normal((count + 2, EMBEDDING))
    return unit(noise[:-2] + noise[1:-1] + noise[2:])


def stretched(take: np.ndarray, factor: float) -> np.ndarray:
    places = np.linspace(0, len(take) - 1, round(len(take) * factor))
    return unit(take[np.round(places).astype(int)])


def slow(take: np.ndarray, heard: np.ndarray) -> float:
    """The definition, cell by cell: what the vectorised one is held to."""
    local = 1.0 - take.astype(np.float64) @ heard.astype(np.float64).T
    best = np.full(local.shape, np.inf)
    for j in range(local.shape[1]):
        best[0, j] = local[0, j]
        for i in range(1, len(local)):
            ways = [best[i - 1, j - 1] + local[i, j]] if j else []
            ways += [best[i - 1, j - 2] + 0.02 + local[i, j]] if j > 1 else []
            ways += [best[i - 2, j - 1] + local[i - 1, j] + local[i, j] + 0.02] if j and i > 1 else []
            best[i, j] = min(ways, default=np.inf)
    return float(best[-1].min() / len(take))


@pytest.mark.parametrize("seed", range(8))
def test_it_is_what_its_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    take, heard = frames(seed, int(rng.integers(3, 17))), frames(seed + 100, int(rng.integers(20, 40)))
    heard[5 : 5 + len(take)] = unit(take + 0.05 * rng.standard_normal(take.shape))
    assert costs([[take]], heard)[0] == pytest.approx(min(slow(take, heard), 2.0), abs=1e-4)


@pytest.mark.parametrize("factor", [0.6, 0.8, 1.0, 1.25, 1.8])
def test_any_pace_up_to_twice_as_fast_or_slow_goes_along(factor: float) -> None:
    phrases = [[frames(n)] for n in range(5)]
    heard = np.concatenate([frames(50), stretched(phrases[3][0], factor), frames(51)])
    found = costs(phrases, heard)
    assert found.argmin() == 3
    assert found[3] < 0.15
    assert np.delete(found, 3).min() > 0.4


def test_half_of_a_phrase_and_another_order_do_not() -> None:
    take = frames(1, 14)
    around = frames(60), frames(61)
    whole, half, turned = (
        costs([[take]], np.concatenate([around[0], middle, around[1]]))[0]
        for middle in (take, take[:7], np.concatenate([take[7:], take[:7]]))
    )
    assert whole < 0.01
    assert half > 0.25
    assert turned > 0.25


def test_a_phrase_costs_the_mean_over_its_takes_and_each_stays_by_itself() -> None:
    a, b, c = frames(1, 5), frames(2, 16), frames(3, 9)
    heard = np.concatenate([frames(70), a, frames(71)])
    together = costs([[a, b], [c]], heard)
    alone = [Aligner(Takes([[each]])) for each in (a, b)]
    steps = np.array([[each.push(frame)[0] for each in alone] for frame in heard])
    assert together[0] == pytest.approx(np.minimum(steps, 2.0).mean(1).min(), abs=1e-5)
    assert together[1] == pytest.approx(costs([[c]], heard)[0], abs=1e-5)


def test_a_beginning_is_known_as_one_and_an_end_is_none() -> None:
    take = frames(4, 16)
    aligner = Aligner(Takes([[take], [frames(5, 16)]]))
    seen = []
    for frame in take:
        aligner.push(frame)
        seen.append(aligner.begun())
    costs_of = np.array(seen)
    assert (costs_of[:3] > 1.0).all()  # too little has been said
    assert (costs_of[6:11, 0] < 0.06).all()
    assert (costs_of[6:, 1] > 0.4).all()
    assert costs_of[-1, 0] > 0.05
    assert LATE >= 3
    aligner.reset()
    assert (aligner.begun() >= NEVER / 16).all()


def test_the_standard_is_the_same_wherever_it_is_measured() -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((300, 16, EMBEDDING)) * 3 + 1
    standard = Standard.of(rows)
    assert np.abs(standard.mean - 1).max() < 0.3
    assert (standard.mean == standard.mean.astype("<f2")).all()
    assert (standard.spread == standard.spread.astype("<f2")).all()
    assert np.allclose(np.linalg.norm(standard.frames(rows), axis=-1), 1.0, atol=1e-5)
    assert Standard.of(np.zeros((0, 16, EMBEDDING))).spread.min() == 1.0


@pytest.mark.parametrize(("length", "first", "count"), [(3, 15, 3), (8, 10, 8), (15, 3, 15), (16, 2, 16), (24, 1, 16)])
def test_a_take_begins_where_the_utterance_did(length: int, first: int, count: int) -> None:
    span = np.arange(18)[:, None] + np.zeros((1, EMBEDDING))
    take = take_of(span, length)
    assert (take[0, 0], len(take)) == (first, count)


def test_what_has_to_begin_with_the_utterance_begins_there_alone() -> None:
    take = frames(3)
    for early, begun, fits in ((True, 0, True), (True, 3, True), (True, 9, False), (False, 9, True)):
        aligner = Aligner(Takes([[take], [frames(4)]]), np.array([early, False]))
        heard = np.concatenate([frames(50, begun), take]) if begun else take
        costs = [aligner.push(each, fresh=step < 5)[0] for step, each in enumerate(heard)]
        assert (min(costs) < 0.15) == fits


@pytest.mark.parametrize("length", [25, 36, 50])
@pytest.mark.parametrize("pace", [0.7, 1.0, 1.3])
def test_what_lasted_longer_than_a_window_goes_along_slowly_too(length: int, pace: float) -> None:
    said = unit(np.repeat(frames(6, length // 4), 4, axis=0))  # an embedding reaches over several blocks
    window = np.linspace(0, len(said) - 1, 16).round().astype(int)
    take = unit(take_of(np.concatenate([said[:1], said[window], said[-1:]]), length))
    assert len(take) == max(16, 2 * length // 3)
    heard = np.concatenate([frames(62), stretched(said, pace), frames(63)])
    assert costs([[take]], heard)[0] < 0.1
    assert costs([[take]], np.concatenate([frames(62), frames(64, length), frames(63)]))[0] > 0.4
