"""Wyoming as clients use it: the protocol's own library at one end, the real server, pipeline and hub at the other."""

import asyncio
import time

import numpy as np
import pytest
import soxr

pytest.importorskip("wyoming", reason="pip install '.[wyoming]'")

from wyoming.asr import Transcribe, Transcript
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping
from wyoming.wake import Detect, Detection

from idiolect.control.wyoming.connection import Limits
from idiolect.events import EventStream, StateChange
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.household import Household
from idiolect.listening.recognizer import listening, with_taught
from idiolect.listening.streams import LEAD
from idiolect.values import BLOCK, WINDOW
from idiolect.values import Detection as Found
from idiolect.values import Event as Happening
from tests.support import speech
from tests.support.wyoming_talk import client, hung_up, recognizer, say, serving, spoken, story, streams, until, words


async def describe(it):
    await it.write_event(Describe().event())
    return Info.from_event((await until(it, "info"))[0])


async def transcript(it, samples, **how):
    await it.write_event(Transcribe().event())
    await say(it, samples, **how)
    return Transcript.from_event((await until(it, "transcript"))[0])


# -- what is offered --------------------------------------------------------------------------------------------------


@story
async def test_info_has_a_wake_model_for_each_wake_word_and_a_model_for_speech(folder):
    async with serving(folder, streams(always_on=["stop"])), client(folder) as it:
        info = await describe(it)
    (wake,), (asr,) = info.wake, info.asr
    assert [model.name for model in wake.models] == ["computer", "jarvis", "alexa", "stop"]
    bundle = recognizer().bundle
    for model in (*wake.models, *asr.models):
        assert model.installed
        assert (model.version, model.languages) == (str(bundle.version), ["en"])
        assert bundle.name in model.attribution.name
    assert [model.phrase for model in wake.models] == ["computer", "jarvis", "alexa", "stop"]


@story
async def test_what_was_just_taught_is_there_at_once_and_can_be_waited_for(folder):
    ears = streams()
    async with serving(folder, ears), client(folder) as it:
        assert "lights please" not in [m.name for m in (await describe(it)).wake[0].models]
        ears.listen_for(with_taught(ears.wish.listening, ["lights please"]), None, "guest", None)
        assert (await describe(it)).wake[0].models[-1].name == "lights please"
        await it.write_event(Detect(names=["lights please"]).event())
        assert await describe(it)  # which no error came before


@story
async def test_ping_is_answered_with_its_text(folder):
    async with serving(folder), client(folder) as it:
        await it.write_event(Ping("are you there").event())
        assert (await until(it, "pong"))[0].data == {"text": "are you there"}
        await it.write_event(Ping().event())
        assert (await until(it, "pong"))[0].data == {"text": None}


@story
async def test_what_a_later_version_may_know_is_let_pass_with_all_that_belongs_to_it(folder):
    async with serving(folder), client(folder) as it:
        await it.write_event(Event("run-pipeline", {"a": 1}, b"x" * 60_000))
        await it.write_event(Ping("well").event())
        event, before = await until(it, "pong")
        assert (event.data["text"], before) == ("well", [])


# -- wake words -------------------------------------------------------------------------------------------------------


@story
async def test_a_wake_word_in_a_clients_sound_is_a_detection_while_it_streams(folder):
    async with serving(folder), client(folder) as it:
        await it.write_event(Detect(names=["computer"]).event())
        said = spoken("computer")
        await say(it, said, stop=False)
        found = Detection.from_event((await until(it, "detection"))[0])
        assert (found.name, found.speaker, found.context) == ("computer", None, None)
        # the word ends with the last sound there is
        end = np.flatnonzero(np.abs(said.astype(int)) > 300)[-1] / 16
        assert abs(found.timestamp - end) < 250


@story
async def test_time_stamps_are_on_the_clients_clock(folder):
    async with serving(folder), client(folder) as it:
        await it.write_event(Detect().event())
        await say(it, spoken("computer"), stop=False)
        plain = Detection.from_event((await until(it, "detection"))[0]).timestamp
        await it.write_event(Event("audio-stop"))
        await it.write_event(Detect().event())
        await say(it, spoken("computer"), timestamp=5_000_000)
        later = Detection.from_event((await until(it, "detection"))[0]).timestamp
        assert abs(later - plain - 5_000_000) <= 1


@story
async def test_only_what_was_asked_for_is_told_and_without_names_any_wake_word(folder):
    async with serving(folder), client(folder) as it:
        await it.write_event(Detect(names=["jarvis"]).event())
        await say(it, spoken("computer"))
        assert await it.read_event() == Event("not-detected")
        await it.write_event(Detect().event())
        await say(it, np.concatenate([spoken("jarvis"), words(5), spoken("computer")]))
        names = []
        while len(names) < 2:
            names.append((await until(it, "detection"))[0].data["name"])
        assert names == ["jarvis", "computer"]


@story
async def test_without_detect_and_without_audio_start_it_is_wake_words_too(folder):
    async with serving(folder), client(folder) as it:
        await say(it, spoken("computer"), start=False)
        assert (await until(it, "detection"))[0].data["name"] == "computer"
        await say(it, words(7))
        assert await it.read_event() == Event("not-detected")


@story
async def test_a_phrase_that_is_always_on_can_be_waited_for_and_others_cannot(folder):
    async with serving(folder, streams(always_on=["seven"])):
        async with client(folder) as it:
            await it.write_event(Detect(names=["seven"]).event())
            await say(it, words(4, 7))
            assert (await until(it, "detection"))[0].data["name"] == "seven"
        async with client(folder) as it:
            await it.write_event(Detect(names=["computer", "six"]).event())
            (error,) = await hung_up(it)
            assert (error.type, error.data["code"]) == ("error", "unknown-name")
            assert "six" not in error.data["text"]


@story
async def test_the_wish_can_change_in_mid_stream(folder):
    async with serving(folder), client(folder) as it:
        await it.write_event(Detect(names=["jarvis"]).event())
        await say(it, spoken("computer"), stop=False)
        await it.write_event(Detect(names=["computer"]).event())
        await say(it, spoken("computer"), start=False, stop=False)
        event, before = await until(it, "detection")
        assert (event.data["name"], before) == ("computer", [])
        await it.write_event(Transcribe().event())
        await say(it, words(4), start=False)
        assert (await until(it, "transcript"))[0].data["text"] == "four"


# -- speech to text ---------------------------------------------------------------------------------------------------


@story
async def test_a_phrase_is_transcribed_from_the_first_sample_on(folder):
    async with serving(folder), client(folder) as it:
        for number in (7, 3, 9):
            said = speech.digit(number)
            begun = np.flatnonzero(np.abs(said.astype(int)) > 150)
            tight = said[begun[0] : begun[-1]]  # nothing before, nothing behind
            answer = await transcript(it, tight)
            assert (answer.text, answer.language) == (speech.DIGITS[number], "en")


@story
async def test_what_is_no_phrase_is_an_empty_transcript(folder):
    async with serving(folder), client(folder) as it:
        assert (await transcript(it, speech.silence(1.0))).text == ""
        assert (await transcript(it, np.zeros(0, np.int16))).text == ""
        assert (await transcript(it, spoken("computer"))).text == ""  # wake words are no orders


@story
async def test_who_streams_on_has_the_transcript_without_audio_stop_and_only_one(folder):
    async with serving(folder), client(folder) as it:
        await it.write_event(Transcribe().event())
        await say(it, words(4, 2), stop=False)
        event, _ = await until(it, "transcript")
        assert event.data["text"] == "four"
        await it.write_event(Event("audio-stop"))
        await it.write_event(Ping("next").event())
        assert (await until(it, "pong"))[1] == []


@story
async def test_a_language_is_the_bundles_or_refused(folder):
    async with serving(folder):
        async with client(folder) as it:
            for language in ("en", "en-GB", "EN_us"):
                await it.write_event(Transcribe(language=language).event())
                await say(it, words(6))
                assert (await until(it, "transcript"))[0].data["text"] == "six"
        async with client(folder) as it:
            await it.write_event(Transcribe(language="de").event())
            (error,) = await hung_up(it)
            assert error.data["code"] == "language"


# -- formats ----------------------------------------------------------------------------------------------------------


def in_format(samples, rate, width, channels):
    """The same sound as a client with other hardware has it."""
    y = soxr.resample(samples.astype(np.float32), 16_000, rate)
    y = np.clip(np.rint(y), -32768, 32767).astype("<i4").repeat(channels)
    if width == 1:
        return ((y >> 8) + 128).astype(np.uint8).tobytes()
    return (y << (8 * (width - 2))).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width].tobytes()


@pytest.mark.parametrize(
    ("rate", "width", "channels"), [(8_000, 2, 1), (44_100, 2, 2), (48_000, 4, 6), (16_000, 3, 1), (16_000, 1, 1)]
)
def test_other_formats_are_converted(tmp_path, sounds, rate, width, channels):
    async def scenario():
        async with serving(tmp_path), client(tmp_path) as it:
            sound = in_format(words(7), rate, width, channels)
            answer = await transcript(it, sound, rate=rate, width=width, channels=channels, size=512)
            assert answer.text == "seven"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "code", "named"),
    [
        ({"rate": 4_000, "width": 2, "channels": 1}, "audio-format", "rate"),
        ({"rate": 1 << 40, "width": 2, "channels": 1}, "audio-format", "rate"),
        ({"rate": 16_000, "width": 5, "channels": 1}, "audio-format", "width"),
        ({"rate": 16_000, "width": 2, "channels": 0}, "audio-format", "channels"),
        ({"rate": "16000", "width": 2, "channels": 1}, "audio-format", "rate"),
        ({"rate": 16_000, "width": True, "channels": 1}, "audio-format", "width"),
        ({"rate": 16_000, "width": 2}, "audio-format", "channels"),
    ],
)
def test_a_format_that_is_none_is_refused_by_name(tmp_path, data, code, named):
    async def scenario():
        async with serving(tmp_path), client(tmp_path) as it:
            await it.write_event(Event("audio-start", data))
            (error,) = await hung_up(it)
            assert error.data["code"] == code
            assert named in error.data["text"]

    asyncio.run(scenario())


@story
async def test_a_format_may_not_change_within_the_sound(folder):
    async with serving(folder):
        for chunk, code in (
            (Event("audio-chunk", {"rate": 8_000, "width": 2, "channels": 1}, b"xx"), "audio-format"),
            (Event("audio-chunk", {"rate": 16_000, "width": 2, "channels": 1}, b"xxx"), "payload_length"),
            (Event("audio-chunk", {"rate": 16_000, "width": 2, "channels": 1, "timestamp": -1}, b"xx"), "timestamp"),
        ):
            async with client(folder) as it:
                await say(it, speech.silence(0.1), stop=False)
                await it.write_event(chunk)
                assert (await hung_up(it))[-1].data["code"] == code


# -- several at once --------------------------------------------------------------------------------------------------


@story
async def test_many_clients_at_once_hear_what_each_would_alone(folder):
    async def one(number):
        async with client(folder) as it:
            return (await transcript(it, words(number % 10), size=700 + 31 * number)).text

    async with serving(folder):
        said = await asyncio.gather(*(one(number) for number in range(20)))
    assert said == [speech.DIGITS[number % 10] for number in range(20)]


@story
async def test_one_more_than_max_clients_is_told_so_and_the_others_stay(folder):
    async with serving(folder, max_clients=2), client(folder) as one, client(folder) as other:
        for busy in (one, other):
            await busy.write_event(Transcribe().event())
            await say(busy, words(5), stop=False)
            await until(busy, "transcript")
        async with client(folder) as third:
            (error,) = await hung_up(third)
            assert error.data["code"] == "too-many-clients"
            assert "wyoming.max_clients" in error.data["text"]
        await one.write_event(Event("audio-stop"))
        assert (await transcript(one, words(5), start=True)).text == "five"
        await other.disconnect()
        async with client(folder) as fourth:
            await asyncio.sleep(0.05)
            await describe(fourth)


# -- the daemon's own microphone --------------------------------------------------------------------------------------


def happening(number, kind, phrase="", profile="guest"):
    return Happening(f"x-{number}", time.time(), Found(kind, phrase, 0.9, 0.5, 0.5, 16_000, 32_000, profile))


def state(number, name):
    return StateChange(f"s-{number}", time.time(), {"listening": {"state": name}})


async def subscribed(hub, count=1):
    for _ in range(500):
        if hub.subscribers == count:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(hub.subscribers)


@story
async def test_a_client_without_sound_is_told_what_the_microphone_hears(folder):
    hub = EventStream()
    async with serving(folder, hub=hub, microphone=True, limits=Limits(idle_s=0.3)), client(folder) as it:
        await it.write_event(Detect().event())
        await subscribed(hub)
        await asyncio.sleep(0.5)  # waiting is not idling
        hub.publish(happening(1, "phrase", "stop"))
        hub.publish(happening(2, "wake", "computer"))
        event, before = await until(it, "detection")
        assert (event.data["name"], event.data["timestamp"], before) == ("computer", 2000, [])
        hub.publish(state(3, "listening"))
        await it.write_event(Transcribe().event())
        await it.write_event(Ping().event())
        await until(it, "pong")
        hub.publish(happening(4, "rejected"))  # one may try again
        hub.publish(happening(5, "phrase", "seven"))
        hub.publish(state(6, "idle"))
        event, before = await until(it, "transcript")
        assert (event.data["text"], before) == ("seven", [])
        hub.publish(happening(7, "wake", "alexa"))
        hub.publish(state(8, "listening"))
        assert (await until(it, "detection"))[0].data["name"] == "alexa"
        await it.write_event(Transcribe().event())
        await it.write_event(Ping().event())
        await until(it, "pong")
        hub.publish(state(9, "idle"))  # time was up
        assert (await until(it, "transcript"))[0].data["text"] == ""


@story
async def test_whoever_sends_sound_is_told_of_that_only(folder):
    hub = EventStream()
    async with serving(folder, hub=hub, microphone=True), client(folder) as it:
        await it.write_event(Detect().event())
        await subscribed(hub)
        await say(it, speech.silence(0.1), stop=False)
        await it.write_event(Ping().event())
        await until(it, "pong")
        await subscribed(hub, 0)
        hub.publish(happening(1, "wake", "jarvis"))
        await say(it, spoken("computer"), start=False)
        event, before = await until(it, "detection")
        assert (event.data["name"], before) == ("computer", [])


@story
async def test_the_microphone_is_nobodys_business_unless_configured(folder):
    hub = EventStream()
    async with serving(folder, hub=hub, limits=Limits(idle_s=0.3)), client(folder) as it:
        await it.write_event(Detect().event())
        assert await hung_up(it) == []
        assert hub.subscribers == 0


# -- people -----------------------------------------------------------------------------------------------------------


def household(voice):
    """Ann, who has an adapter, and perhaps a voice."""
    ann = Adapter("a1", 1, voice=voice)
    return Household(recognizer().space, recognizer().bundle.classes, [ann])


def voice_of(samples):
    """The voice that says "computer" in there."""
    chain, space = recognizer().chain(listening(recognizer().bundle)), recognizer().space
    samples = np.concatenate([LEAD, samples])  # as a client's stream begins
    for first in range(0, len(samples), BLOCK):
        if any(d.phrase == "computer" for d in chain.process(samples[first : first + BLOCK])):
            z = space.features(chain.recent(WINDOW))
            residual = z - space.prototypes[recognizer().bundle.classes.index("computer")]
            return (residual / np.linalg.norm(residual)).ravel()
    raise AssertionError("nobody says it")


async def first_detection(folder, ears):
    async with serving(folder, ears), client(folder) as it:
        await it.write_event(Detect().event())
        await say(it, spoken("computer"))
        return Detection.from_event((await until(it, "detection"))[0])


@story
async def test_who_speaks_is_told_for_whom_agreed_to_be_known_by_voice_and_for_nobody_else(folder):
    ears = streams()
    wish = ears.wish.listening
    ears.listen_for(wish, household(voice_of(spoken("computer"))), "guest", None)
    found = await first_detection(folder, ears)
    assert (found.speaker, found.context) == ("a1", {"profile": "a1"})
    ears.listen_for(wish, household(None), "a1", None)  # addressed, and not known by voice
    found = await first_detection(folder, ears)
    assert (found.name, found.speaker, found.context) == ("computer", None, None)


@story
async def test_a_stream_follows_a_change_of_what_is_listened_for_in_mid_sound(folder):
    ears = streams()
    only_six = listening(recognizer().bundle, phrases=["six"])
    async with serving(folder, ears), client(folder) as it:
        await it.write_event(Transcribe().event())
        await say(it, speech.silence(0.5), stop=False)
        ears.listen_for(only_six, None, "guest", None)
        await say(it, words(7, 6), start=False)
        assert (await until(it, "transcript"))[0].data["text"] == "six"
