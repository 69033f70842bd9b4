"""Run in Home Assistant's own environment: its Wyoming integration against a port of this machine. Exit 0: all well.

python in_homeassistant.py PORT WAKE_WORD.raw PHRASE.raw TEXT     (16 kHz, 16 bits, mono)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

from homeassistant.components import stt
from homeassistant.components.wyoming.data import WyomingService
from homeassistant.components.wyoming.stt import WyomingSttProvider
from homeassistant.components.wyoming.wake_word import WyomingWakeWordProvider
from homeassistant.const import __version__

CHUNK = 2_048
"""Bytes: what its satellites send at once."""


def check(holds: object, otherwise: str = "it is not as it should be") -> None:
    """End here, unless it holds."""
    if not holds:
        raise SystemExit(otherwise)


async def sound(data: bytes, tail_s: float = 1.5) -> AsyncIterator[bytes]:
    """Chunks as an audio pipeline of Home Assistant has them, at the pace of life, and a quiet room behind."""
    data += bytes(round(tail_s * 32_000))
    for first in range(0, len(data), CHUNK):
        yield data[first : first + CHUNK]
        await asyncio.sleep(CHUNK / 32_000)


async def stamped(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, int]]:
    """The same with the time of each in ms."""
    now = 0
    async for chunk in chunks:
        yield chunk, now
        now += len(chunk) // 32


async def main(port: int, wake: bytes, phrase: bytes, text: str) -> None:
    """All that Home Assistant does with a wake and a speech-to-text service."""
    service = await WyomingService.create("127.0.0.1", port)
    check(service is not None, "it could not be asked what it is")
    check(service.has_services())
    print(f"Home Assistant {__version__} found {service.get_name()!r}, for: {', '.join(map(str, service.platforms))}")
    entry = SimpleNamespace(entry_id="check")

    words = WyomingWakeWordProvider(None, entry, service)
    known = await words.get_supported_wake_words()
    print("wake words:", *(word.id for word in known))
    check("computer" in [word.id for word in known])
    for asked in ("computer", None):
        found = await words._async_process_audio_stream(stamped(sound(wake)), asked)
        check(found is not None, "the wake word was not heard")
        check(found.wake_word_id == "computer")
        print(f"heard {found.wake_word_id!r} (asked for {asked}), at {found.timestamp} ms of the sound")
    other = await words._async_process_audio_stream(stamped(sound(wake)), "jarvis")
    check(other is None, "another word than that which was asked for")
    print("and not 'jarvis', where only that was asked for")

    speech = WyomingSttProvider(entry, service)
    print("languages:", *speech.supported_languages)
    told = stt.SpeechMetadata(
        language=speech.supported_languages[0], format=stt.AudioFormats.WAV, codec=stt.AudioCodecs.PCM,
        bit_rate=stt.AudioBitRates.BITRATE_16, sample_rate=stt.AudioSampleRates.SAMPLERATE_16000,
        channel=stt.AudioChannels.CHANNEL_MONO,
    )  # fmt: skip
    check(speech.check_metadata(told), "Home Assistant would not send it this sound")
    for said, expected in ((phrase, text), (b"", "")):
        result = await speech.async_process_audio_stream(told, sound(said))
        check(result.result is stt.SpeechResultState.SUCCESS)
        check(result.text == expected, result.text)
        print(f"transcript: {result.text!r}")
    print("all of it as it should be")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), Path(sys.argv[3]).read_bytes(), sys.argv[4]))
