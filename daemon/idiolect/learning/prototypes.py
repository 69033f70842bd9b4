"""Turns examples into an adapter's rows: bounded MAP shifts, taught phrases, voices. Closed forms, no iteration.

A shift is the maximum-a-posteriori mean of Gaussian residuals under a prior at zero (Gauvain and Lee 1994, eq. 30 with
tau = KAPPA), each residual clipped to length TAU:

    m_c = sum a_i clip(z_i - mu_c) / (KAPPA + sum a_i)

so that one example moves it by at most 2 a TAU / (KAPPA + sum a), and all of them together by at most TAU. What a
person does to every phrase alike is a shift of its own, by which phrases without examples profit:

    m = sum a_i (z_i - mu_c(i)) / (KAPPA_ALL + sum a_i),    m_c += m KAPPA / (KAPPA + sum a_i of c)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idiolect.listening.pipeline.adapter import Shift, Taught
from idiolect.listening.pipeline.space import RIVAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.model import Heard
    from idiolect.listening.pipeline.space import Space

KAPPA = 2.0
KAPPA_ALL = 10.0
TAU = 1.0
"""z has length 1, so that two residuals of the same phrase are rarely longer apart."""
NEIGHBOURS = 100
REPEL = 0.5
"""Share of the mean of the NEIGHBOURS nearest other windows that is taken from a taught phrase's direction."""


def clip(residuals: NDArray[np.float32], tau: float = TAU) -> NDArray[np.float32]:
    """Return rows (n, D), shortened to length ``tau`` at most."""
    length = np.sqrt((residuals * residuals).sum(-1, keepdims=True))
    shortened: NDArray[np.float32] = residuals * np.minimum(1.0, tau / np.maximum(length, 1e-9)).astype(np.float32)
    return shortened


def shifts(
    space: Space,
    classes: Sequence[str],
    z: NDArray[np.float32],
    phrases: Sequence[str],
    weights: NDArray[np.floating],
) -> dict[str, Shift]:
    """Return m_c of every class that has a prototype.

    Args:
        z: of the examples, (n, D).
        phrases: the one that each example says.
        weights: of each example.
    """
    known = {name: i for i, name in enumerate(classes) if np.any(space.prototypes[i])}
    rows = [i for i, phrase in enumerate(phrases) if phrase in known and weights[i] > 0.0]
    if not rows:
        return {}
    where = np.array([known[phrases[i]] for i in rows])
    a = np.asarray(weights, np.float32)[rows]
    residuals = clip(z[rows] - space.prototypes[where]) * a[:, None]
    everywhere = residuals.sum(0) / (KAPPA_ALL + a.sum())
    found = {}
    for name, index in known.items():
        mine = where == index
        evidence = float(a[mine].sum())
        own = residuals[mine].sum(0) / (KAPPA + evidence)
        vector = clip((own + everywhere * (KAPPA / (KAPPA + evidence)))[None])[0]
        found[name] = Shift(vector.astype(np.float32), evidence)
    return found


def floors(  # noqa: PLR0917 - what, and against what
    space: Space,
    classes: Sequence[str],
    found: Mapping[str, Shift],
    z: NDArray[np.float32],
    labels: Sequence[str],
    share: float,
) -> dict[str, Shift]:
    """Return the shifts with their floors: a ``share`` of other people's other words stays below the floor of each.

    Args:
        z: of other people's windows, (m, D).
        labels: the phrase that each of these says.
        share: 0..1.
    """
    raised = {}
    for name, shift in found.items():
        mu = space.prototypes[classes.index(name)]
        rows = z[[label != name for label in labels]] @ shift.vector - mu @ shift.vector
        rows -= 0.5 * shift.vector @ shift.vector
        floor = float(np.quantile(rows, share)) if len(rows) else 0.0
        raised[name] = Shift(shift.vector, shift.evidence, max(0.0, floor))
    return raised


def directions(space: Space, centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return w of phrases from the means of their examples, (n, D), each turned away from the windows nearest to it.

    Against cosine alone this finds 4 points more of short words at 1 % false accepts (`scripts/evaluate`, taught.*).
    """
    alike = centres @ space.cohort.T
    count = min(NEIGHBOURS, len(space.cohort))
    near = np.argsort(-alike, axis=1, kind="stable")[:, :count]
    w = centres - REPEL * space.cohort[near].mean(1)
    w /= np.linalg.norm(w, axis=1, keepdims=True) + np.float32(1e-9)
    return np.asarray(w, np.float32)


def threshold(
    own: NDArray[np.floating], others: NDArray[np.floating], guard: NDArray[np.floating] | None = None
) -> float:
    """Return the cosine at which a taught phrase counts as said in a turn.

    It comes from held-out scores of the phrase and those of other windows: DEVIATIONS standard deviations above the
    mean of the others (a constant rate of false alarms, whatever the phrase), and from there SHARE of the way to the
    mean of the phrase's own examples, where they stand out more than that. At most one in a hundred whole words and
    phrases of others (``gate``) may lie above.
    """
    low = float(np.mean(others) + DEVIATIONS * np.std(others))
    between = SHARE * (float(np.mean(own)) - low) if len(own) > 1 else ALONE
    limit = low + max(0.0, between)
    if guard is not None and len(guard):
        limit = max(limit, float(np.quantile(guard, 1.0 - ACCEPTED)) + 1e-6)
    return float(np.clip(limit, LEAST, MOST))


DEVIATIONS = 3.0
SHARE = 0.3
ALONE = 0.05
"""Added for a phrase with one example: what it scores is not known."""
LEAST, MOST = -0.3, 0.8
ACCEPTED = 0.01
"""Share of the guard set's windows that a taught phrase may be heard in, in a turn."""


@dataclass(frozen=True, slots=True)
class Others:
    """The speech that a taught phrase is told from: z (n, D) of other people's whole words, and their ``Space.rival``.

    ``cohort`` (N, C + 1) holds the rivals of the space's own windows.
    """

    z: NDArray[np.float32]
    rivals: NDArray[np.float32]
    cohort: NDArray[np.float32]


def taught(  # noqa: PLR0917 - what, from what, and against what
    space: Space, name: str, heard: Heard, weights: NDArray[np.floating], others: Others, own_class: int = -1
) -> Taught:
    """Return a phrase from its examples (n, 3, ...); ``own_class`` is its class where the base model has it."""
    z = heard.z
    a = np.asarray(weights, np.float32)[:, None]
    means = z.mean(1)
    total = (a * means).sum(0)
    held_out = (total - a * means) / (a.sum() - a) if len(z) > 1 else means  # each is scored by the others
    found = directions(space, np.concatenate([(total / a.sum())[None], held_out]).astype(np.float32))
    w = found[0]
    own = (np.einsum("nod,nd->no", z, found[1:]) - RIVAL * heard.rivals[..., own_class]).max(1)
    low = space.cohort @ w - RIVAL * others.cohort[:, own_class]
    whole = others.z @ w - RIVAL * others.rivals[:, own_class]
    limit = threshold(own, low, whole)
    if own_class >= 0:
        limit += max(0.0, OWN_SHARE * (float(own.mean()) - limit))
        limit = max(limit, float(whole.max(initial=-1.0)) + OWN_CLEAR)
    return Taught(name, w, limit, float(np.sum(weights)))


OWN_SHARE = 0.3
"""For a base phrase, this share of the rest of the way too: the base model hears it as well, and is only helped out."""
OWN_CLEAR = 0.06
"""And above every window of the guard set: 0.06 of score are 1.4 log-odds, as a base phrase's threshold may be 0.2."""


def voice(
    space: Space, classes: Sequence[str], z: NDArray[np.float32], phrases: Sequence[str]
) -> NDArray[np.float32] | None:
    """Return the direction in which a person differs from everybody, (D,) of length 1.

    None with fewer than VOICE_EXAMPLES.
    """
    rows = of_base(space, classes, phrases)
    if len(rows) < VOICE_EXAMPLES:
        return None
    residuals = z[rows] - space.prototypes[[classes.index(phrases[i]) for i in rows]]
    mean = residuals.mean(0)
    return np.asarray(mean / (np.linalg.norm(mean) + 1e-9), np.float32)


VOICE_EXAMPLES = 3


def of_base(space: Space, classes: Sequence[str], phrases: Sequence[str]) -> list[int]:
    """Return the places in ``phrases`` of those with a prototype: only there is known how everybody else says them."""
    known = {name for i, name in enumerate(classes) if np.any(space.prototypes[i])}
    return [i for i, phrase in enumerate(phrases) if phrase in known]


def prior(counts: Mapping[str, float], phrases: Sequence[str], span: float) -> dict[str, float]:
    """Return the log prior by phrase, against an even one; within 0..``span``.

    It comes from decayed usage counts, additively smoothed. What is said often gains, and what is seldom said loses
    nothing: one had better be understood then, too.
    """
    if not span:
        return {}
    values = np.array([counts.get(name, 0.0) + SMOOTHING for name in phrases])
    logs = np.log(values / values.mean())
    return {name: float(min(v, span)) for name, v in zip(phrases, logs, strict=True) if v > 0.0}


SMOOTHING = 2.0
