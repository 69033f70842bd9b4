"""Answers `describe` with all that can be asked of this device. Made anew each time: what was just taught is there.

A model's name is the phrase's own, the version is the bundle's: both stay what they are over restarts.
"""

from __future__ import annotations

from wyoming.info import AsrModel, AsrProgram, Attribution, Info, WakeModel, WakeProgram

from idiolect.listening.sound import Hearing

PROGRAM = "idiolect"
_DEVICE = "wake words and phrases, heard on this device"


def info(hearing: Hearing) -> Info:
    """Return a wake service with a model for each phrase that can be waited for, and a speech-to-text service."""
    made_by = Attribution(name=f"Idiolect, bundle {hearing.bundle}", url="")
    wake = [
        WakeModel(
            name=known.name, attribution=made_by, installed=True, description=known.text, version=hearing.version,
            languages=[hearing.language], phrase=known.text,
        )
        for known in hearing.wakers()
    ]  # fmt: skip
    phrases = AsrModel(
        name=hearing.bundle, attribution=made_by, installed=True, description="the phrases that this device knows",
        version=hearing.version, languages=[hearing.language],
    )  # fmt: skip
    return Info(
        wake=[WakeProgram(PROGRAM, made_by, True, _DEVICE, hearing.version, models=wake)],
        asr=[AsrProgram(PROGRAM, made_by, True, _DEVICE, hearing.version, models=[phrases])],
    )


def speaks(hearing: Hearing, language: str) -> bool:
    """Return True if phrases are in that language, whatever its region is."""
    first, own = (tag.replace("_", "-").partition("-")[0].lower() for tag in (language, hearing.language))
    return first == own
