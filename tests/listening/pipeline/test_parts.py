"""Whether each part of a phrase was said: on frames made up, and on noise and pace."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from idiolect.listening.pipeline import parts
from idiolect.listening.pipeline.alignment import costs, unit
from idiolect.values import EMBEDDING


def frames(seed: int, count: int = 14) -> NDArray[np.float32]:
    """Frames that change slowly, as speech does."""
    steps = np.random.default_rng(seed).standard_normal((count + 2, EMBEDDING))
    return unit(steps[:-2] + steps[1:-1] + steps[2:])


def again(take: NDArray[np.float32], seed: int, noise: float = 0.05) -> NDArray[np.float32]:
    """The same, said anew."""
    return unit(take + noise * np.random.default_rng(seed).standard_normal(take.shape))


def uneven(takes: list[NDArray[np.float32]], heard: NDArray[np.float32]) -> float:
    return parts.unevenness(takes, parts.of_takes(takes), heard)


def test_another_word_in_the_end_stands_out_and_noise_in_all_parts_does_not() -> None:
    up = frames(1)
    down = up.copy()
    down[9:] = frames(2)[9:]
    takes = [again(up, n) for n in (1, 2, 3)]
    around = frames(60), frames(61)
    same, other, noisy = (
        uneven(takes, np.concatenate([around[0], said, around[1]]))
        for said in (again(up, 7), again(down, 7), again(up, 7, 0.2))
    )
    assert same < 0.1
    assert noisy < 0.2
    assert other > 0.3


@pytest.mark.parametrize("seed", range(6))
def test_the_points_of_a_match_cost_what_the_match_does(seed: int) -> None:
    take = frames(seed, 12)  # as many frames as points
    heard = np.concatenate([frames(80 + seed), again(take, seed, 0.1), frames(90 + seed)])
    # The match itself pays a little for every frame that it skips.
    assert float(parts.profile(take, heard).mean()) == pytest.approx(float(costs([[take]], heard)[0]), abs=0.02)


def test_a_slow_phrase_is_found_along_its_whole_length() -> None:
    take = frames(5)
    slow = np.repeat(take, 2, axis=0)
    points = parts.profile(take, np.concatenate([frames(60), slow, frames(61)]))
    assert points.max() < 0.05


def test_what_varies_between_the_takes_counts_half() -> None:
    base = frames(3)
    takes = [base.copy() for _ in range(3)]
    for n, take in enumerate(takes):
        take[:5] = again(base, 20 + n, 0.15)[:5]
    said = base.copy()
    said[:5] = again(base, 30, 0.15)[:5]
    assert uneven(takes, said) < parts.unevenness(takes, np.zeros(parts.PARTS, np.float32), said)


def test_less_than_a_phrase_is_no_error() -> None:
    take = frames(4)
    assert parts.profile(take, take[:1]).shape == (parts.PARTS,)
    assert parts.of_takes([take]).max() == 0.0
