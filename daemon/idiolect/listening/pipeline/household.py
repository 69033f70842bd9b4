"""Everybody's adapters at once: what was learnt about people, laid over the base head's scores.

Goes in: the base head's logits, the same window in the personal space, and who speaks. Comes out: the posterior of
every class, those of taught phrases among them. It remembers nothing from one step to the next.

Everything a household learnt is rows of one matrix over the personal space (``space``), so that each step costs one
projection and one product however many people live there. The meaning of a row:

* a *shift* of class c adds ``gain * ((z - mu_c) @ m_c - |m_c|^2 / 2)`` to the logit of c: how much better the person's
  own prototype mu_c + m_c explains z than everybody's, mu_c (Gaussian with unit covariance; mu_c and m_c are as
  ``learning.prototypes`` makes them);
* a *taught* phrase scores ``z @ w - RIVAL * rival(z)`` (``Space.rival``); a logistic curve brings that to 0..1 with its
  threshold at 0.5.

In a turn, taught phrases that have takes are decided on by these (``Aligned``); other people's by takes and rows.

Only the rows of the profile that speaks are used, and where a voice was guessed those of whom ``profile`` named besides
(``Household.of_both``); and everywhere those of phrases that somebody lets everybody say. For a guest the base head's
logits come out bit by bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.aligned import LENT, Aligned
from idiolect.listening.pipeline.space import RIVAL
from idiolect.values import GUEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.listening.pipeline.space import Space

SLOPE = 24.0
"""Log-odds of a taught phrase per unit of cosine above its threshold."""
TAUGHT_THRESHOLD = 0.5
"""In a turn, after a wake word."""
TAUGHT_OPEN = 0.8
"""At any time: 0.06 of cosine more, as there is more to be mistaken."""
PRIOR_SPAN = 0.5
"""Log-odds that a usage prior moves a class at most."""
SURE = 0.3
"""Margin of the acoustic scores below which the prior has no say."""


@dataclass(frozen=True, slots=True)
class _Lent:
    """The part of the matrix that others lend to a profile: rows, and the posterior that each raises."""

    rows: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Rows:
    """The place of one profile's rows in the household's matrix."""

    classes: NDArray[np.intp]
    """Base class of each shift row."""
    shifts: slice
    taught: slice
    targets: NDArray[np.intp]
    """Posterior that each taught row raises."""
    prior: NDArray[np.float32] | None
    raises: NDArray[np.float32] | None
    """(C,) log-odds taken from the posteriors: a threshold raised, said so that one threshold serves everybody."""


class Household:
    """Everybody's adapters as one matrix. ``base`` are the head's classes."""

    def __init__(
        self, space: Space, base: Sequence[str], adapters: Sequence[Adapter],
        shared: Mapping[str, Collection[str]] | None = None,
    ) -> None:  # fmt: skip
        """Lay all adapters out as one matrix. ``shared``: by profile, the phrases it taught that everybody may say."""
        self.space = space
        self._base = tuple(base)
        self.adapters = {adapter.profile: adapter for adapter in adapters}
        extra = (t.name for adapter in adapters for t in adapter.taught if t.name not in self._base)
        self.taught = tuple(dict.fromkeys(extra))
        """Phrases that somebody taught and the base head does not have."""
        self.classes = (*self._base, *self.taught)
        """Names of the posteriors' columns, whoever speaks."""
        self._background = np.flatnonzero([name == "_background_" for name in base])
        columns: list[NDArray[np.float32]] = []
        biases: list[float] = []
        self._rows: dict[str, _Rows] = {}
        for adapter in adapters:
            self._rows[adapter.profile] = self._lay(adapter, columns, biases)
        self._matrix = np.ascontiguousarray(np.array(columns, np.float32).reshape(-1, space.size).T)
        self._bias = np.array(biases, np.float32)
        of_taught = [np.arange(rows.taught.start, rows.taught.stop) for rows in self._rows.values()]
        self._of_taught = np.concatenate(of_taught) if of_taught else np.zeros(0, np.intp)
        names = [t.name for adapter in adapters for t in adapter.taught]
        self._rivals_of = np.array([self._base.index(n) if n in self._base else -1 for n in names], np.intp)
        """Column of ``Space.rival`` for each of these rows: a phrase is not its own rival."""
        self._lend(shared or {})

    def _lend(self, shared: Mapping[str, Collection[str]]) -> None:
        """Find the rows that everybody hears, and for each profile those of phrases that it has not taught itself."""
        every = [
            (taught, self._rows[profile].taught.start + place)
            for profile, adapter in self.adapters.items()
            for place, taught in enumerate(adapter.taught)
            if taught.name in shared.get(profile, ()) and taught.name not in self._base
        ]
        self._shared = [taught for taught, _ in every]
        lent = [(taught.name, row) for taught, row in every]
        self.shared = tuple(dict.fromkeys(name for name, _ in lent))
        """Phrases that everybody may say."""
        self._lent = {
            profile: _Lent(
                tuple(row for name, row in lent if not self.taught_by(profile, name)),
                tuple(self.classes.index(name) for name, _ in lent if not self.taught_by(profile, name)),
            )
            for profile in (GUEST, *self.adapters)
        }

    def _lay(self, adapter: Adapter, columns: list[NDArray[np.float32]], biases: list[float]) -> _Rows:
        first = len(columns)
        known = [name for name in adapter.shifts if name in self._base]
        for name in known:
            mu, shift = self.space.prototypes[self._base.index(name)], adapter.shifts[name].vector
            columns.append(adapter.gain * shift)
            biases.append(float(-adapter.gain * (mu @ shift + 0.5 * shift @ shift + adapter.shifts[name].floor)))
        middle = len(columns)
        for taught in adapter.taught:
            columns.append(SLOPE * taught.direction)
            biases.append(-SLOPE * taught.threshold)
        prior = np.array([adapter.prior.get(name, 0.0) for name in self._base], np.float32)
        raises = np.array([adapter.raises.get(name, 0.0) for name in self._base], np.float32)
        return _Rows(
            np.array([self._base.index(name) for name in known], np.intp),
            slice(first, middle),
            slice(middle, len(columns)),
            np.array([self.classes.index(t.name) for t in adapter.taught], np.intp),
            prior if prior.any() else None,
            raises if raises.any() else None,
        )

    def aligned(self, profile: str, also: str | None = None) -> Aligned | None:
        """Return what follows a stream along both profiles' takes and those everybody may say; None without takes."""
        heard = [self.adapters[each] for each in (profile, also) if each in self.adapters]
        own = [t for adapter in heard for t in adapter.taught if t.takes]
        mine = {t.name for adapter in heard for t in adapter.taught}
        lent = [t for t in self._shared if t.takes and t.name not in mine]
        standard = next((a.standard for a in (*heard, *self.adapters.values()) if a.standard is not None), None)
        if standard is None or not (own or lent):
            return None
        rows = [*own, *(replace(t, cost=t.cost + LENT) for t in lent)]
        return Aligned(rows, [self.classes.index(t.name) for t in rows], standard, lent=len(lent))

    @property
    def voices(self) -> bool:
        """Return whether anybody can be told by voice."""
        return any(adapter.voice is not None for adapter in self.adapters.values())

    def rows(self, z: NDArray[np.float32], rivals: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return every row of everybody for z (..., D): one product. ``rivals`` are ``Space.rival``'s, where known."""
        said: NDArray[np.float32] = z @ self._matrix
        said += self._bias
        if len(self._of_taught):
            rivals = self.space.rival(z) if rivals is None else rivals
            said[..., self._of_taught] -= (SLOPE * RIVAL) * rivals[..., self._rivals_of]
        return said

    def posteriors(self, profile: str, logits: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what ``profile`` hears: from base logits (..., C) and ``rows`` to (..., C + taught), each 0..1.

        A taught phrase stands beside the base classes, and counts as little as there is speech. A guest's are the base
        head's, bit by bit, and of what is taught the phrases that everybody may say.
        """
        mine = self._rows.get(profile)
        if mine is None:
            return self._with_lent(GUEST, self.as_guest(logits), rows)
        heard = np.zeros((*logits.shape[:-1], len(self.classes)), np.float32)
        adapted = logits.copy()
        adapted[..., mine.classes] += np.maximum(rows[..., mine.shifts], 0.0)
        base = softmax(adapted)
        if mine.prior is not None:
            base = _with_prior(base, mine.prior)
        heard[..., : base.shape[-1]] = base if mine.raises is None else _lowered(base, mine.raises)
        if len(mine.targets):
            speech = 1.0 - base[..., self._background].sum(-1, keepdims=True)
            scores = speech / (1.0 + np.exp(np.minimum(-rows[..., mine.taught], 30.0)))
            heard[..., mine.targets] = np.maximum(heard[..., mine.targets], scores)
        return self._with_lent(profile, heard, rows)

    def _with_lent(self, profile: str, heard: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add to what a profile hears the phrases that others let it say; change nothing else."""
        lent = self._lent[profile]
        if lent.rows:
            speech = 1.0 - heard[..., self._background].sum(-1)
            for row, target in zip(lent.rows, lent.targets, strict=True):
                score = speech / (1.0 + np.exp(np.minimum(-rows[..., row], 30.0)))
                heard[..., target] = np.maximum(heard[..., target], score)
        return heard

    def of_both(
        self, profile: str, other: str, logits: NDArray[np.float32], rows: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return what either of two profiles hears (``posteriors``), of each class the higher."""
        heard = self.posteriors(profile, logits, rows)
        np.maximum(heard, self.posteriors(other, logits, rows), out=heard)
        return heard

    def has_voice(self, profile: str) -> bool:
        """Return whether this person agreed to be told by voice, and enough is known for that."""
        adapter = self.adapters.get(profile)
        return adapter is not None and adapter.voice is not None

    def taught_by(self, profile: str, phrase: str) -> bool:
        """Return whether this person taught the phrase, or how they say it."""
        adapter = self.adapters.get(profile)
        return adapter is not None and any(taught.name == phrase for taught in adapter.taught)

    def lent(self, profile: str, phrase: str) -> bool:
        """Return whether ``profile`` is heard to say a phrase only because somebody else lets everybody say it."""
        return phrase in self.shared and not self.taught_by(profile, phrase)

    def as_guest(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the base head's posteriors, (..., C + taught), with 0 for what somebody taught."""
        base = logits.shape[-1]
        heard = np.empty((*logits.shape[:-1], len(self.classes)), np.float32)
        heard[..., base:] = 0.0
        heard[..., :base] = logits
        softmax(heard[..., :base])
        return heard

    def who(self, z: NDArray[np.float32], phrase: str) -> tuple[str, float]:
        """Return the profile whose voice said ``phrase``, and the similarity (cosine of residuals, -1..1).

        It is ``GUEST``, for nobody in particular, when no voice is near enough, or two are nearly as near: a
        convenience, not a proof.
        """
        voices = [a for a in self.adapters.values() if a.voice is not None]
        if not voices or phrase not in self._base:
            return GUEST, 0.0
        residual = z - self.space.prototypes[self._base.index(phrase)]
        residual = residual / (np.linalg.norm(residual) + 1e-9)
        alike = sorted(((float(residual @ a.voice), a.profile) for a in voices if a.voice is not None), reverse=True)
        best, profile = alike[0]
        second = alike[1][0] if len(alike) > 1 else -1.0
        near = best >= VOICE_LEAST and best - second >= VOICE_LEAD
        return (profile if near else GUEST), best


VOICE_LEAST = 0.2
VOICE_LEAD = 0.05


def _with_prior(base: NDArray[np.float32], prior: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return score + lambda * log prior, lambda rising from 0 for an unsure guess (no margin) to 1 at SURE."""
    top = np.partition(base, -2, axis=-1)[..., -2:]
    share = np.clip((top[..., 1] - top[..., 0]) / SURE, 0.0, 1.0)[..., None]
    weighted: NDArray[np.float32] = base * np.exp(share * prior).astype(np.float32)
    weighted /= weighted.sum(-1, keepdims=True)
    return weighted


def _lowered(base: NDArray[np.float32], raises: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return posteriors whose log-odds are less by ``raises``."""
    odds = base / np.maximum(1.0 - base, 1e-7) * np.exp(-raises)
    return np.where(raises > 0.0, odds / (1.0 + odds), base).astype(np.float32)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits into posteriors along the last axis, in place."""
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits
