"""Households, one person's or two people's: taught by the device's own path, then spoken to in turns.

Every function here is a task of its own, which depends on its arguments alone, and returns what it found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from bundlebuild.audio import Audio
from idiolect.learning.model import Model
from idiolect.listening.recognizer import Recognizer
from idiolect.values import GUEST

from .enrol import Learnt, Lessons, School, learn
from .listening import AMBIGUOUS, Device, Heard
from .people import TAUGHT, Person, rng_of
from .phrases import WAKE
from .sound import NOISES, turn
from .talk import Sentence

WAKE_TRIES = 4
"""Wake words said until the box wakes up, each another person's, before a turn counts as missed."""
ME, PARTNER = "aa" * 8, "bb" * 8


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance: under which figure it counts, whose it was, and what became of it.

    ``result``: "hit", "confused", "missed", "asked" (back) or "opposite" of a phrase; "taken" or "left" of what is
    none. ``longer``: whether something longer than this phrase was listened for.
    """

    figure: str
    person: str
    real: bool
    result: str
    late_ms: float = 0.0
    longer: bool = True
    woken: bool = True
    taught: bool = True
    """Whether the device let the phrase be taught."""
    apart: bool = True
    """Whether no word in it is one of the bundle's."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What the device says of a person's held-out takes."""

    person: str
    real: bool
    held_out: int
    wrong: int


@dataclass(slots=True)
class Found:
    """What a task brings."""

    rows: list[Row] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)


@dataclass(frozen=True)
class Scene:
    """What all households share: the bundle, wake words, sentences and noise. ``takes``: how often each is said."""

    recognizer: Recognizer
    model: Model
    wakes: Sequence[Audio]
    sentences: Sequence[Sentence]
    noises: Mapping[str, Audio]
    """By condition, what sounds all the while."""
    takes: int
    foreign: int
    """Sentences that each household hears."""


class Home:
    """One household on one device, and the rows that come of it."""

    def __init__(self, scene: Scene, person: Person, found: Found) -> None:
        self.scene, self.person, self.found = scene, person, found
        self.wakes = scene.wakes
        self.school = School(Device(scene.recognizer, scene.model).chain, scene.model)

    def taught(self, phrases: Sequence[str], profile: str = ME) -> Lessons:
        """Teach these, one after the other."""
        lessons = Lessons(self.person, profile)
        for phrase in phrases:
            self.school.teach(lessons, phrase)
        return lessons

    def device(self, learnt: Sequence[Learnt], *, few: bool = False, pause_ms: int = 0) -> Device:
        """A box on which these adapters are in use, and the first of them speaks."""
        device = Device(self.scene.recognizer, self.scene.model, few=few, pause_ms=pause_ms)
        device.live([each.adapter for each in learnt if each.adapter], learnt[0].lessons.profile)
        return device

    def hear(self, device: Device, clip: Audio, *seed: object, condition: str = "quiet", pause_s: float = 0.0) -> Heard:
        """What the box makes of a clip behind somebody's wake word."""
        heard = Heard(woken=False)
        order = rng_of(self.person.name, *seed, "wake").permutation(len(self.wakes))
        for number in order[:WAKE_TRIES]:
            wake = self.wakes[int(number)]
            told_apart, noise = (self.person.name, *seed, int(number)), self.scene.noises.get(condition)
            played = turn(wake, clip, told_apart, condition=condition, noise=noise, pause_s=pause_s)
            heard = device.hear(played)
            if heard.woken or heard.kind:
                break
        return heard

    def say(
        self, device: Device, figure: str, phrase: str, take: int, *, condition: str = "quiet", opposite: str = "",
        longer: bool = True, pause_s: float = 0.0, speaker: Person | None = None, taught: bool = True,
    ) -> None:  # fmt: skip
        """Say a phrase of the household, and note what became of it."""
        who = speaker or self.person
        heard = self.hear(device, who.say(phrase, take), phrase, take, condition=condition, pause_s=pause_s)
        result = judged(heard, phrase, opposite)
        self.found.rows.append(
            Row(figure, who.name, who.real, result, heard.late_ms, longer, heard.woken, taught, self.apart(phrase))
        )

    def apart(self, phrase: str) -> bool:
        """Whether no word of a phrase is one that the bundle has."""
        return not set(phrase.split()) & set(self.scene.model.phrases)

    def offer(self, device: Device, figure: str, clip: Audio, *seed: object, among: Sequence[str] = ()) -> None:
        """Say something that is no phrase, and note whether it was taken for one (of ``among``, where given)."""
        heard = self.hear(device, clip, *seed)
        taken = heard.kind == "phrase" and (not among or heard.phrase in among)
        self.note(figure, "taken" if taken else "left", woken=heard.woken)

    def note(self, figure: str, result: str, *, woken: bool = True) -> None:
        """One more row of this person's."""
        self.found.rows.append(Row(figure, self.person.name, self.person.real, result, woken=woken))


def judged(heard: Heard, phrase: str, opposite: str = "") -> str:
    """What became of a phrase; ``opposite`` is its partner, where it has one."""
    if heard.kind == AMBIGUOUS:
        return "asked"
    if heard.kind != "phrase":
        return "missed"
    if heard.phrase == phrase:
        return "hit"
    return "opposite" if opposite and heard.phrase == opposite else "confused"


def everyday(
    scene: Scene, person: Person, count: int, conditions: Sequence[str], *, guest: Person | None = None,
    called: str = "", takes: int = 0,
) -> Found:  # fmt: skip
    """Somebody who teaches everyday phrases and says them, in these conditions, with default and few base phrases.

    ``called``: how the figures begin, instead of with ``count``; ``takes``: how often each is said, instead of as the
    scene has it in a quiet room, and once elsewhere.
    """
    home = Home(scene, person, Found())
    phrases = person.everyday(count)
    lessons = home.taught(phrases)
    learnt = learn(scene.model, lessons)
    name = called or str(count)
    _report(home, learnt, name)
    device = home.device([learnt])
    longest = max(phrases, key=lambda phrase: len(person.say(phrase, 0)))
    for phrase in phrases:
        for take in range(TAUGHT, TAUGHT + (takes or scene.takes)):
            known = phrase in lessons.first
            home.say(device, f"{name}-quiet", phrase, take, longer=phrase != longest, taught=known)
    for condition in conditions:
        said = [(phrase, take) for phrase in phrases for take in range(TAUGHT, TAUGHT + (takes or 1))]
        _in_condition(home, learnt, said, condition, name)
    if name == "10":
        _strange(home, device, lessons, guest)
    return home.found


PAUSES = {"block600": 1000, "block1000": 1500}
"""``listening.pause_ms`` of people who speak with breaks."""


def _in_condition(home: Home, learnt: Learnt, said: Sequence[tuple[str, int]], condition: str, name: str) -> None:
    """Say these takes of phrases in this condition; "few" is a condition of the configuration."""
    if condition in NOISES and condition not in home.scene.noises:
        return
    pause_ms = PAUSES.get(condition, 0)
    device = home.device([learnt], few=condition == "few", pause_ms=pause_ms)
    for phrase, take in said:
        home.say(device, f"{name}-{condition}", phrase, take, condition=condition, pause_s=pause_ms / 1000.0)


def _report(home: Home, learnt: Learnt, name: str) -> None:
    numbers, lessons = learnt.numbers, learnt.lessons
    held, wrong = (int(numbers.get(key, 0)) for key in ("own_held_out", "own_wrong"))
    home.found.reported.append(Reported(f"{name} {home.person.name}", home.person.real, held, wrong))
    for number in range(lessons.good):
        home.note("good_take", "refused" if number < lessons.refused else "accepted")


def _strange(home: Home, device: Device, lessons: Lessons, guest: Person | None) -> None:
    """What is none of her phrases: sentences, wrong takes, and what a guest says."""
    for number, sentence in enumerate(_foreign(home, device)):
        home.offer(device, "foreign", sentence.clip(), "sentence", number)
    _wrong_takes(home, lessons)
    if guest is None:
        return
    device.address(GUEST)
    for word in [word for word in guest.base() if word in home.scene.model.phrases][:6]:
        home.say(device, "guest", word, TAUGHT, longer=False, speaker=guest)
    for phrase in [phrase for phrase in lessons.phrases if guest.can(phrase) and home.apart(phrase)]:
        home.offer(device, "guest_taken", guest.say(phrase, TAUGHT), "guest", phrase)
    device.address(lessons.profile)


def _foreign(home: Home, device: Device) -> list[Sentence]:
    """As many of other people's sentences as a household hears; none holds what this box listens for."""
    sentences, listened = home.scene.sentences, device.phrases
    order = rng_of(home.person.name, "sentences").permutation(len(sentences))
    fitting = (s for s in (sentences[int(i)] for i in order) if not s.holds(listened))
    return list(islice(fitting, home.scene.foreign))


def _wrong_takes(home: Home, lessons: Lessons) -> None:
    """Say, as the second take of each phrase, another one that was not taught and has no word in common with it."""
    others = [phrase for phrase in home.person.everyday(3 * len(lessons.phrases)) if phrase not in lessons.first]
    for number, phrase in enumerate(lessons.phrases):
        turned = [*others[number:], *others[:number]]
        wrong = next((other for other in turned if not set(other.split()) & set(phrase.split())), None)
        if wrong is not None:
            accepted = home.school.accepts_wrong(lessons, phrase, home.person.say(wrong, TAUGHT))
            home.note("wrong_take", "accepted" if accepted else "refused")


def pairs(scene: Scene, person: Person, count: int) -> Found:
    """Somebody who teaches pairs of phrases that differ in a part; and who taught one of each, and says the other."""
    home = Home(scene, person, Found())
    near = person.near(count)
    if not near:
        return home.found
    partner = {phrase: other for pair in near for phrase, other in (pair, pair[::-1])}
    phrases = list(dict.fromkeys(phrase for pair in near for phrase in pair))
    learnt = learn(scene.model, home.taught(phrases))
    _report(home, learnt, "pairs")
    device = home.device([learnt])
    for phrase in phrases:
        for take in range(TAUGHT, TAUGHT + scene.takes):
            home.say(device, "pairs", phrase, take, opposite=partner[phrase])
    few = home.device([learnt], few=True)
    for phrase in phrases:
        home.say(few, "pairs-few", phrase, TAUGHT, opposite=partner[phrase])
    for half in dict.fromkeys(half for pair in near for half in person.halves(pair)):
        home.offer(device, "half", person.say(half, TAUGHT), half, among=phrases)
    first = [pair[number % 2] for number, pair in enumerate(near)]
    alone = home.device([learn(scene.model, home.taught(first))])
    for phrase in first:
        for take in range(TAUGHT, TAUGHT + scene.takes):
            home.offer(alone, "untaught_near", person.say(partner[phrase], take), phrase, take, among=first)
    return home.found


def by_voice(scene: Scene, person: Person, other: Person, count: int) -> Found:
    """Two people of whom both, one, or none agreed to be told by voice; whom `profile` names speaks.

    Each has taught base words too, without which there is no voice to know. The wake word is said by somebody else, and
    then by herself where she can.
    """
    home = Home(scene, person, Found())
    words = [word for word in person.base() if word in scene.model.phrases][:2]
    phrases = [*person.everyday(count), *words]
    mine = home.taught(phrases)
    theirs = Home(scene, other, home.found).taught([*other.everyday(count)[:3], *other.base()[:2]], PARTNER)
    says = person.everyday(count)
    own_wakes = _own_wakes(scene, person)
    for figure, own, whose in (("_off", False, False), ("", True, True), ("_other", False, True)):
        both = [
            learn(scene.model, mine, [theirs], voice=own),
            learn(scene.model, theirs, [mine], voice=whose),
        ]
        device = home.device(both)
        for wakes in filter(None, (scene.wakes, own_wakes)):
            home.wakes = wakes
            for phrase in says:
                home.say(device, f"{count}-voice_match{figure}", phrase, TAUGHT)
    return home.found


def shared(scene: Scene, person: Person, guests: Sequence[Person], count: int) -> Found:
    """Somebody who lets everybody say what she taught, and guests who say it; what else they say is none of it."""
    home = Home(scene, person, Found())
    phrases = person.everyday(count)
    learnt = learn(scene.model, home.taught(phrases))
    device = home.device([learnt])
    if learnt.adapter:
        device.live([learnt.adapter], GUEST, {learnt.adapter.profile: frozenset(phrases)})
    for guest in guests:
        for phrase in filter(guest.can, phrases):
            for condition in ("quiet", "10db"):
                if condition == "quiet" or condition in scene.noises:
                    home.say(device, f"shared-{condition}", phrase, TAUGHT, condition=condition, speaker=guest)
        for word in [word for word in guest.base() if word in scene.model.phrases][:6]:
            home.say(device, "shared-base", word, TAUGHT, longer=False, speaker=guest)
    for number, sentence in enumerate(_foreign(home, device)):
        home.offer(device, "shared_taken", sentence.clip(), "sentence", number)
    return home.found


def _own_wakes(scene: Scene, person: Person) -> list[Audio]:
    """The wake word as she says it herself, where she can and the box hears it."""
    if not person.can(WAKE) or WAKE not in scene.recognizer.bundle.wake_words:
        return []
    return Device(scene.recognizer, scene.model).woken_by([person.say(WAKE, take) for take in range(WAKE_TRIES)])
