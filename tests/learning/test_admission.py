"""Admission, check by check, where every phrase has an axis of its own and the limits can be stood on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from idiolect.learning.admission import (
    AGAINST,
    ALONE,
    FAINT,
    HEAD,
    REACH,
    REASONS,
    ROOM,
    SAME,
    SPEAKER_LEAST,
    SUSPECTS,
    Admission,
    admit,
)
from idiolect.learning.ledger import Example, Ledger
from tests.learning.test_formulas import OFF, ON, PLAIN, SIZE, axis
from tests.support.learners import model

KNOWN = replace(model(), space=PLAIN)
_NOTHING = np.zeros((1, 18, 96), np.float32)
YES, FREE, OTHER = KNOWN.classes.index("yes"), KNOWN.classes.index("go"), KNOWN.classes.index("stop")


def said(phrase="on", source="correction", heard="", origin=""):
    return Example(0, phrase, source, "s", 1, "00" * 32, _NOTHING, heard, origin)


def unsure(count):
    """A base head that hears nothing in so many examples."""
    return np.zeros((count, SIZE), np.float32)


def checks(*pairs, voice=False, logits=None):
    """The verdicts on (example, z), and what the base head hears in the last one."""
    examples = tuple(replace(e, sequence=i) for i, (e, _) in enumerate(pairs))
    heard = unsure(len(pairs))
    heard[-1] = 0.0 if logits is None else logits
    found = admit(KNOWN, Ledger("aa" * 8, examples, voice=voice), [z for _, z in pairs], heard)
    assert all(v.admitted == (v.check == 0) == bool(v.weight) for v in found)
    assert all(v.reason == REASONS[v.check] for v in found)
    return [v.check for v in found]


def between(a, b, cosine, size=SIZE):
    """A vector of length 1 at that cosine to axis ``a``, the rest along ``b``."""
    return axis((a, cosine), (b, math.sqrt(1.0 - cosine * cosine)), size=size)


def test_the_limits():
    assert (SAME, REACH, ALONE, AGAINST) == (0.995, 0.2, 0.12, 0.35)
    assert (HEAD, ROOM, FAINT) == (0.1, 1.5, 0.08)
    assert (SPEAKER_LEAST, SUSPECTS) == (0.05, 2)
    assert sorted(REASONS) == list(range(9))


def test_1_a_confirmation_needs_voice_match_and_a_correction_does_not():
    z = between(ON, FREE, 0.9)
    assert checks((said(source="confirmation"), z)) == [1]
    assert checks((said(source="confirmation"), z), voice=True) == [0]
    assert checks((said(), z)) == [0]


def test_2_a_session_that_has_used_its_weight_up_counts_no_more():
    pairs = [(said(), between(ON, i, 0.9)) for i in range(SIZE) if i != ON][:8]
    assert checks(*pairs) == [0] * 6 + [2, 2]


def test_2_half_of_the_wish_is_enough():
    """Five corrections and a confirmation leave a correction half of its weight, and another confirmation none."""
    rest = [i for i in range(SIZE) if i != ON]
    pairs = [(said(), between(ON, i, 0.9)) for i in rest[:5]]
    pairs += [(said(source="confirmation"), between(ON, rest[5], 0.9)), (said(), between(ON, rest[6], 0.9))]
    pairs += [(said(source="confirmation"), between(ON, rest[7], 0.9))]
    assert checks(*pairs, voice=True) == [0] * 7 + [2]


@pytest.mark.parametrize("source", ["enrolment", "correction"])
def test_3_the_same_again_is_refused_whatever_its_length_and_came_of_it(source):
    z, again = between(ON, FREE, 0.9), 3.0 * between(ON, FREE, 0.9)
    assert checks((said(source=source), z), (said(source=source), again)) == [0, 3]
    assert checks((said(source="confirmation"), z), (said(source=source), again)) == [1, 3]
    alike = between(FREE, OTHER, 0.996)
    assert checks((said(source="enrolment"), axis((FREE, 1.0))), (said(source="enrolment"), alike)) == [0, 3]
    other = between(FREE, OTHER, 0.994)
    assert checks((said(source="enrolment"), axis((FREE, 1.0))), (said(source="enrolment"), other)) == [0, 0]


def below(difference):
    """A vector of length 1 whose cosine to "on" is by so much below the one to "off"."""
    x = (-difference + math.sqrt(2.0 - difference * difference)) / 2.0
    return axis((ON, x), (OFF, x + difference))


def like_nothing(like):
    """A vector that is nearest to "on", yet far from that, too: cosine ``like``, about as to anything else."""
    rest = math.sqrt((1.0 - like * like) / (SIZE - 1))
    z = np.full(SIZE, rest, np.float32)
    z[ON] = like
    assert like >= rest
    return z


def test_4_where_nothing_was_heard_the_phrase_must_be_within_reach_of_the_best():
    for logits in (None, axis((OFF, 9.0))):
        assert checks((said(), below(REACH - 0.001)), logits=logits) == [0]
        assert checks((said(), below(REACH + 0.001)), logits=logits) == [4]
    assert checks((said("nobody's"), axis((ON, 1.0)))) == [4]
    # and nearer to it than to nothing: the same way short of the best, at cosines 0.2 and 0.1
    far = [axis((ON, x), (OFF, x + 0.15), *((i, 0.2) for i in range(SIZE) if i not in (ON, OFF))) for x in (0.2, 0.1)]
    assert all(abs(np.linalg.norm(z) - 1.0) < 0.05 for z in far)
    assert [checks((said(), z)) for z in far] == [[0], [4]]


@pytest.mark.parametrize("difference", [0.0, 0.1, 0.25])
def test_4_what_the_head_hears_clearly_was_not_said_to_be_another_phrase(difference):
    """As near to the one as to the other: it counts where the head was unsure, and not where it was sure."""
    example, z = said(heard="yes"), below(difference)
    most = (ROOM * (float(z[ON]) - FAINT) - difference) / HEAD
    assert checks((example, z), logits=axis((YES, most - 0.05))) == [0]
    assert checks((example, z), logits=axis((YES, most + 0.05))) == [4]
    assert checks((example, z), logits=axis((OFF, most + 0.05))) == [4]  # whichever phrase that is
    assert checks((example, z), logits=axis((YES, 19.0), (ON, 19.0 - most + 0.05))) == [0]  # odds are all that counts
    assert checks((example, z), logits=axis((ON, 9.0))) == [0]
    assert checks((said(heard="yes"), below(0.75)), logits=axis((ON, 9.0))) == [4]  # those for it are no licence


def test_4_that_it_is_none_of_the_phrases_is_nothing_against_one():
    """Who was taken for somebody who said something else may say what was meant."""
    nothing = [i for i, name in enumerate(KNOWN.classes) if name not in KNOWN.phrases]
    assert nothing
    for i in nothing:
        assert checks((said(heard="yes"), below(0.25)), logits=axis((i, 9.0))) == [0]


def test_4_a_voice_that_is_like_nothing_is_no_way_around_what_was_heard():
    """A made-up voice is far from every prototype, so that all are alike near: the head still knows what it said."""
    far, lie, most = like_nothing(0.25), said(heard="nobody's"), ROOM * (0.25 - FAINT) / HEAD
    assert checks((lie, far), logits=axis((YES, most - 0.05))) == [0]
    assert checks((lie, far), logits=axis((YES, most + 0.05))) == [4]
    assert checks((lie, between(ON, FREE, 0.8)), logits=axis((YES, most + 0.05))) == [0]


def test_4_the_head_has_no_say_of_a_phrase_that_it_does_not_know_nor_of_what_nobody_contradicts():
    takes = [(said("nobody's", "enrolment"), between(FREE, i, 0.9)) for i in (0, 1)]
    centre = np.mean([z for _, z in takes], axis=0)
    centre = centre / np.linalg.norm(centre)

    def own(gap):
        """By so much nearer to "off" than to those takes."""
        x = (-gap + math.sqrt(2.0 - gap * gap)) / 2.0
        return (x * centre + (x + gap) * axis((OFF, 1.0))).astype(np.float32)

    for logits in (None, axis((OFF, 9.0))):
        assert checks(*takes, (said("nobody's"), own(ALONE - 0.01)), logits=logits)[-1] == 0
        assert checks(*takes, (said("nobody's"), own(ALONE + 0.01)), logits=logits)[-1] == 4
        confirmed = said(source="confirmation")
        assert checks((confirmed, below(ALONE - 0.01)), voice=True, logits=logits) == [0]
        assert checks((confirmed, below(ALONE + 0.01)), voice=True, logits=logits) == [4]


def test_4_own_examples_are_what_it_may_sound_like_too():
    takes = [(said("nobody's", "enrolment"), between(FREE, i, 0.9)) for i in (0, 1, 2)]
    near, far = between(FREE, OTHER, 0.9), axis((OTHER, 1.0))
    assert checks(*takes, (said("nobody's"), near)) == [0, 0, 0, 0]
    assert checks(*takes, (said("nobody's"), far)) == [0, 0, 0, 4]
    # and a taught phrase that is nearer keeps it from being another
    x = axis((FREE, 0.9), (ON, math.sqrt(0.19)))
    assert checks((said("on"), x), (said("on"), axis((ON, 1.0)))) == [4, 0]
    assert checks(*takes, (said("on"), axis((ON, 0.75), (0, 0.35), (1, 0.35), (2, 0.35)))) == [0, 0, 0, 0]


def test_5_with_voice_match_it_must_sound_like_the_owner():
    """Enrolled examples differ from their phrases along one axis: the voice."""
    enrolled = [(said(p, "enrolment"), between(i, FREE, 0.8)) for p, i in (("on", ON), ("off", OFF), ("yes", YES))]
    mine, stranger = axis((ON, 0.9), (FREE, 0.3), (OTHER, 0.3)), axis((ON, 0.9), (FREE, -0.4))
    assert checks(*enrolled, (said(), mine), voice=True)[-1] == 0
    assert checks(*enrolled, (said(), stranger), voice=True)[-1] == 5
    assert checks(*enrolled, (said(), stranger))[-1] == 0  # nobody asked for it to be compared
    assert checks(*enrolled[:2], (said(), stranger), voice=True)[-1] == 0  # two are no voice yet


def test_6_it_must_not_point_to_what_was_heard():
    """From "on" towards "off": the cosine of the update with the way, just below and above AGAINST."""
    way = (axis((OFF, 1.0)) - axis((ON, 1.0))) / math.sqrt(2.0)
    across = axis((FREE, 1.0))

    def drawn(cosine):
        step = 0.3 * (cosine * way + math.sqrt(1.0 - cosine * cosine) * across)
        return _unit_at(ON, step)

    assert checks((said(heard="off"), drawn(0.34))) == [0]
    assert checks((said(heard="off"), drawn(0.36))) == [6]
    assert checks((said(heard="yes"), drawn(0.36))) == [0]
    assert checks((said(heard="on"), drawn(0.36))) == [0]
    assert checks((said(heard=""), drawn(0.36))) == [0]


def _unit_at(place, step):
    """A vector of length 1 whose residual from an axis points along ``step``, as far as length 1 allows."""
    mu = axis((place, 1.0))
    z = mu - 2.0 * float(mu @ step) / float(step @ step) * step
    assert abs(np.linalg.norm(z) - 1.0) < 1e-5
    return z.astype(np.float32)


def test_7_after_two_suspects_of_a_kind_the_third_waits_too():
    wrong = [(said("on", heard="off"), between(OFF, i, 0.9)) for i in (FREE, OTHER)]
    right = (said("on", heard="off"), axis((ON, 0.95), (0, 0.3)))
    assert checks(*wrong, right) == [4, 4, 7]
    assert checks(wrong[0], right) == [4, 0]
    assert checks(*wrong, (said("on", heard="yes"), right[1])) == [4, 4, 0]
    assert checks(*wrong, (said("on", "enrolment", heard="off"), right[1])) == [4, 4, 0]


def test_8_carried_over_enrolments_must_be_as_alike_as_takes_are():
    first = (said("nobody's", "enrolment", origin="ee"), axis((FREE, 1.0)))
    alike = (said("nobody's", "enrolment", origin="ee"), between(FREE, OTHER, 0.09))
    unlike = (said("nobody's", "enrolment", origin="ee"), between(FREE, OTHER, 0.07))
    assert checks(first, alike) == [0, 0]
    assert checks(first, unlike) == [8, 8]
    assert checks(first) == [0]
    spoken = [(replace(e, origin=""), z) for e, z in (first, unlike)]
    assert checks(*spoken) == [0, 0]  # what was spoken to this encoder passed `attempt` then


def test_the_first_so_many_can_be_asked_for():
    pairs = [(said("on", "enrolment"), between(ON, i, 0.9)) for i in (FREE, OTHER)]
    ledger = Ledger("aa" * 8, tuple(e for e, _ in pairs))
    assert len(Admission(KNOWN, ledger, np.stack([z for _, z in pairs]), unsure(2)).run(1)) == 1


def test_4_a_phrase_of_ones_own_that_is_nearer_keeps_it_from_being_another():
    """Its takes lie between the model's phrases, so that only they themselves say that something is there."""
    rest = [i for i in range(SIZE) if i not in (ON, OFF, FREE, OTHER, YES)][:9]
    middle = axis(*((i, 1.0 / math.sqrt(6.0)) for i in rest[:6]))
    takes = [(said("nobody's", "enrolment"), 0.9 * middle + axis((i, math.sqrt(0.19)))) for i in rest[6:]]
    near = 0.92 * middle + axis((ON, math.sqrt(1.0 - 0.92**2)))
    assert checks((said("on"), near)) == [0]
    assert checks(*takes, (said("on"), near)) == [0, 0, 0, 4]
    by_the_way = [(replace(e, source="correction"), z) for e, z in takes]
    assert checks(*by_the_way, (said("on"), near)) == [4, 4, 4, 0]  # nobody taught it: there is no such phrase


def test_6_it_may_point_there_if_the_persons_own_takes_lie_there():
    """Who says "on" nearly like "off" has said so on purpose; what was corrected by the way is no such evidence."""
    way = (axis((OFF, 1.0)) - axis((ON, 1.0))) / math.sqrt(2.0)

    def drawn(across):
        return _unit_at(ON, 0.3 * (0.6 * way + 0.8 * across))

    again, like_it = (said(heard="off"), drawn(axis((FREE, 1.0)))), drawn(between(FREE, OTHER, 0.8))
    assert checks(again) == [6]
    assert checks((said(source="enrolment"), like_it), again) == [0, 0]
    assert checks((said("yes", "enrolment"), like_it), again) == [0, 6]
    assert checks((said(), like_it), again) == [0, 6]
    assert checks((said(source="enrolment"), axis((0, 1.0))), again) == [0, 6]  # takes that lie elsewhere


def test_6_a_phrase_of_ones_own_is_drawn_nowhere():
    """It has no prototype to be drawn away from."""
    takes = [(said("nobody's", "enrolment"), between(FREE, i, 0.9)) for i in (0, 1, 2)]
    assert checks(*takes, (said("nobody's", heard="on"), between(FREE, OTHER, 0.9))) == [0, 0, 0, 0]


def test_5_the_limit_is_one_of_direction_alone():
    """However long the ways from the phrases' prototypes are."""
    enrolled = [(said(p, "enrolment"), between(i, FREE, 0.8)) for p, i in (("on", ON), ("off", OFF), ("yes", YES))]
    voice = np.mean([z - axis((i, 1.0)) for (_, z), i in zip(enrolled, (ON, OFF, YES), strict=True)], axis=0)
    seen = set()
    for toward in np.linspace(-0.05, 0.05, 41):
        rest = math.sqrt(1.0 - 0.95**2 - toward**2)
        z = axis((ON, 0.95), (FREE, toward), (OTHER, rest))
        mine = z - axis((ON, 1.0))
        cosine = float(mine @ voice) / float(np.linalg.norm(mine) * np.linalg.norm(voice))
        if abs(cosine - SPEAKER_LEAST) > 1e-3:
            assert checks(*enrolled, (said(), z), voice=True)[-1] == (0 if cosine > SPEAKER_LEAST else 5), cosine
            seen.add(cosine > SPEAKER_LEAST)
    assert seen == {True, False}


def test_7_what_would_be_drawn_elsewhere_is_a_suspect_too():
    way = (axis((OFF, 1.0)) - axis((ON, 1.0))) / math.sqrt(2.0)
    wrong = [_unit_at(ON, 0.3 * (0.56 * way + math.sqrt(1.0 - 0.56**2) * axis((i, 1.0)))) for i in (FREE, OTHER)]
    right = (said("on", heard="off"), axis((ON, 0.95), (0, 0.3)))
    assert checks(*((said("on", heard="off"), z) for z in wrong), right) == [6, 6, 7]
