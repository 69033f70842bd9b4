"""The decoder's table and its peaks, on posteriors written by hand."""

import numpy as np
import pytest

from idiolect.listening.pipeline.decoder import TURNS, UTTERANCE_GAP, Decoder, Listening, Signal, State, blocks

CLASSES = ("computer", "stop", "seven", "unknown", "background")
COMPUTER, STOP, SEVEN, UNKNOWN, BACKGROUND = range(5)


def listening(**changes):
    def mask(*names):
        return np.array([c in names for c in CLASSES])

    fields = {
        "classes": CLASSES,
        "wake": mask("computer"),
        "phrases": mask("stop", "seven"),
        "always_on": mask("stop"),
        "thresholds": np.full(5, 0.6, np.float32),
        "turn_thresholds": np.full(5, 0.5, np.float32),
        "timeout": 20,
        "refractory": 10,
    }
    return Listening(**{**fields, **changes})


class Script:
    """Feeds a decoder and keeps its events as "kind phrase"."""

    def __init__(self, decoder):
        self.decoder, self.position, self.events = decoder, 0, []

    def step(self, index=BACKGROUND, score=0.97, *, active=None):
        posteriors = np.full(5, (1 - score) / 4, np.float32)
        posteriors[index] = score
        self.position += 1280
        active = index != BACKGROUND if active is None else active
        if event := self.decoder.push(posteriors, active=active, position=self.position):
            self.events.append(f"{event.kind} {event.phrase}".strip())
        return self

    def say(self, index, steps=4):
        for score in np.interp(np.arange(steps), [0, steps / 2, steps], [0.5, 0.95, 0.7]):
            self.step(index, float(score))
        return self.quiet(3)

    def mumble(self, steps):
        for _ in range(steps):
            self.step(UNKNOWN)
        return self

    def quiet(self, steps):
        for _ in range(steps):
            self.step()
        return self


@pytest.fixture
def script():
    return Script(Decoder(listening()))


def test_a_wake_word_then_a_phrase(script):
    script.say(COMPUTER)
    assert script.decoder.state is State.TURN
    script.say(SEVEN)
    assert script.events == ["wake computer", "phrase seven"]
    assert script.decoder.state is State.IDLE


def test_a_phrase_without_a_wake_word_is_nothing(script):
    assert script.say(SEVEN).quiet(20).events == []


def test_an_always_on_phrase_needs_none(script):
    assert script.say(STOP).events == ["phrase stop"]


def test_in_always_mode_every_phrase_counts_and_nothing_is_rejected():
    script = Script(Decoder(listening(mode=State.OPEN)))
    script.say(SEVEN).quiet(12).mumble(10).quiet(12).say(STOP)
    assert script.events == ["phrase seven", "phrase stop"]


def test_a_turn_times_out(script):
    script.say(COMPUTER).quiet(25).say(SEVEN)
    assert script.events == ["wake computer"]


def test_nobody_is_cut_off_in_mid_word_by_the_time_out(script):
    script.say(COMPUTER).quiet(10).mumble(15).say(SEVEN)
    assert script.events == ["wake computer", "phrase seven"]


def test_unknown_speech_in_a_turn_is_rejected_once_and_may_be_tried_again():
    script = Script(Decoder(listening(timeout=80)))
    script.say(COMPUTER).quiet(10).mumble(6).quiet(UTTERANCE_GAP + 3).say(SEVEN).quiet(20)
    assert script.events == ["wake computer", "rejected", "phrase seven"]


def test_a_click_is_not_rejected(script):
    assert script.say(COMPUTER).quiet(9).mumble(1).quiet(20).events == ["wake computer"]


def test_the_tail_of_the_wake_word_is_not_rejected(script):
    script.say(COMPUTER)
    for _ in range(3):
        script.step(BACKGROUND, active=True)
    assert script.quiet(15).events == ["wake computer"]


def test_one_event_per_utterance_however_long_the_score_stays_up(script):
    for _ in range(30):
        script.step(COMPUTER)
    assert script.events == ["wake computer"]


def test_the_same_word_twice_is_two_events(script):
    script.say(STOP).quiet(8).say(STOP)
    assert script.events == ["phrase stop", "phrase stop"]


def test_two_words_at_talking_pace_are_two_events():
    script = Script(Decoder(listening(mode=State.OPEN)))
    script.say(SEVEN, 3).say(STOP, 3)
    assert script.events == ["phrase seven", "phrase stop"]


def test_a_lone_spike_is_smoothed_away(script):
    script.quiet(3).step(COMPUTER, 0.95).quiet(5)
    assert script.events == []


def test_the_better_of_two_rising_phrases_wins():
    low = np.full(5, 0.3, np.float32)
    script = Script(Decoder(listening(mode=State.OPEN, thresholds=low, turn_thresholds=low)))
    script.step(SEVEN, 0.5).step(SEVEN, 0.55).step(STOP, 0.95).step(STOP, 0.95).quiet(4)
    assert script.events == ["phrase stop"]


def test_an_event_is_due_two_steps_after_the_threshold_at_the_latest(script):
    for steps in range(1, 9):
        script.step(COMPUTER, min(0.7 + 0.03 * steps, 0.99))
        if script.events:
            break
    assert steps <= 4  # one of them is the smoothing


def test_less_certainty_is_asked_for_in_a_turn(script):
    for _ in range(4):
        script.step(STOP, 0.55)
    assert script.quiet(6).events == []
    script.say(COMPUTER).quiet(4)
    for _ in range(4):
        script.step(STOP, 0.55)
    assert script.quiet(2).events == ["wake computer", "phrase stop"]


def test_reset_ends_the_turn(script):
    script.say(COMPUTER)
    script.decoder.reset()
    assert script.decoder.state is State.IDLE
    assert script.quiet(4).say(SEVEN).events == ["wake computer"]


def test_after_a_loss_the_end_of_a_word_is_no_event_and_the_next_word_is():
    script = Script(Decoder(listening(mode=State.OPEN)))
    script.decoder.reset(640_000, cut=25)
    script.position = 640_000
    script.say(SEVEN).say(STOP)  # in the same breath, too
    assert script.events == []
    assert script.quiet(UTTERANCE_GAP).say(SEVEN).events == ["phrase seven"]


def test_after_a_loss_a_score_that_stays_up_is_no_event_later():
    script = Script(Decoder(listening(mode=State.OPEN)))
    script.decoder.reset(cut=3)
    for _ in range(20):
        script.step(SEVEN)
    assert script.events == []
    assert script.quiet(3).say(SEVEN).events == ["phrase seven"]


def test_in_noise_that_never_ends_words_count_again_after_so_many_blocks():
    script = Script(Decoder(listening(mode=State.OPEN)))
    script.decoder.reset(cut=25)
    for _ in range(25):
        script.step(BACKGROUND, active=True)
    assert script.say(SEVEN).events == ["phrase seven"]


def test_without_a_loss_the_first_word_counts():
    script = Script(Decoder(listening(mode=State.OPEN)))
    script.decoder.reset(640_000)
    assert script.say(SEVEN).events == ["phrase seven"]


def test_a_word_too_quiet_for_the_gate_lies_behind_what_was_lost():
    decoder = Decoder(listening(mode=State.OPEN))
    decoder.reset(640_000)
    high = np.full(5, 0.01, np.float32)
    high[SEVEN] = 0.96
    found = [decoder.push(high, active=False, position=641_280 + 1280 * step) for step in range(3)]
    (event,) = [each for each in found if each]
    assert event.start == event.end == 640_000


def test_positions_lie_around_the_word():
    decoder = Decoder(listening())
    script = Script(decoder)
    script.quiet(10)
    begin = script.position
    event = None
    for _ in range(8):
        posteriors = np.array([0.9, 0.02, 0.02, 0.03, 0.03], np.float32)
        script.position += 1280
        event = event or decoder.push(posteriors, active=True, position=script.position)
    assert event.start == begin
    assert begin < event.end <= script.position


def test_whole_utterances_count_in_a_turn_only_and_never_wake():
    posteriors = np.array([0.05, 0.05, 0.85, 0.03, 0.02], np.float32)
    idle = Script(Decoder(listening()))
    idle.mumble(20).quiet(5)
    assert idle.decoder.hear_whole(posteriors) is None
    turn = Script(Decoder(listening(timeout=90)))
    turn.say(COMPUTER).quiet(8).mumble(20).quiet(5)
    assert turn.decoder.hear_whole(posteriors[[2, 1, 0, 3, 4]]) is None
    event = turn.decoder.hear_whole(posteriors)
    assert (event.kind, event.phrase) == ("phrase", "seven")
    assert turn.decoder.state is State.IDLE
    assert turn.quiet(10).events == ["wake computer"]


def test_the_table_leads_nowhere_unknown():
    for (state, signal), (target, kind) in TURNS.items():
        assert isinstance(state, State)
        assert isinstance(signal, Signal)
        assert isinstance(target, State)
        assert kind in ("wake", "phrase", "rejected", None)
    reachable = {State.IDLE, State.OPEN} | {target for target, _ in TURNS.values()}
    assert reachable == set(State)


def test_blocks_of_time():
    assert [blocks(0.01), blocks(0.08), blocks(0.8), blocks(6)] == [1, 1, 10, 75]


def test_who_takes_over_tells_nothing_twice_and_hears_the_next(script):
    script.step(COMPUTER).step(COMPUTER)
    assert script.events == ["wake computer"]
    order = (SEVEN, COMPUTER, BACKGROUND)
    fewer = Listening(
        classes=tuple(CLASSES[i] for i in order),
        wake=np.array([False, True, False]), phrases=np.array([True, False, False]),
        always_on=np.array([True, False, False]), thresholds=np.full(3, 0.6, np.float32),
        turn_thresholds=np.full(3, 0.5, np.float32), timeout=20, refractory=10,
    )  # fmt: skip
    after = Decoder(fewer)
    after.take_over(script.decoder, script.position)
    found = []
    for posteriors in ([0.01, 0.97, 0.02],) * 14 + ([0.01, 0.01, 0.98],) * 3 + ([0.01, 0.97, 0.02],) * 2:
        script.position += 1280
        found.append(after.push(np.array(posteriors, np.float32), active=True, position=script.position))
    assert [event.phrase for event in found if event] == ["computer"]
    assert not any(found[:17])
