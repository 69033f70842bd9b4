"""The texts that people are shown before they agree: one line for each purpose, in each language.

Goes in: purposes, a language and how many days each is kept. Comes out: the text, and its digest, which the receipt of
the consent names. Whoever changes a text must raise VERSION, so that a receipt tells which text was agreed to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

VERSION = 1
LANGUAGES = ("en", "de")

_START = {
    "en": "This device would like to remember the following about you, on the device only and encrypted:",
    "de": "Dieses Gerät möchte sich Folgendes über Sie merken, nur auf dem Gerät und verschlüsselt:",
}
_END = {
    "en": "No sound is stored, and nothing leaves the device. You can look at it, export it, delete single things or"
    " all of it, and withdraw at any time: idiolect review, forget, consent withdraw.",
    "de": "Es wird kein Ton gespeichert, und nichts verlässt das Gerät. Sie können alles ansehen, mitnehmen, einzeln"
    " oder ganz löschen und jederzeit widerrufen: idiolect review, forget, consent withdraw.",
}
_PURPOSES: Mapping[str, Mapping[str, str]] = {
    "en": {
        "enrol": "how you say phrases that you teach it, as numbers (kept {days} days)",
        "adapt_corrections": "utterances that you correct, as numbers (kept {days} days)",
        "adapt_confirmations": "utterances that you confirm or let pass, as numbers (kept {days} days)",
        "usage": "how often you say which phrase (kept {days} days)",
        "voice_match": "what tells your voice from others, to guess who speaks; a convenience, never a proof of who"
        " you are (kept {days} days)",
        "household_phrases": "which phrases that you taught everybody may say, guests too, and hears of: each only when"
        " you say so (kept {days} days)",
        "contribute": "examples set aside until you export them to give them to somebody (kept {days} days)",
    },
    "de": {
        "enrol": "wie Sie Sätze sagen, die Sie ihm beibringen, als Zahlen ({days} Tage lang)",
        "adapt_corrections": "Äußerungen, die Sie berichtigen, als Zahlen ({days} Tage lang)",
        "adapt_confirmations": "Äußerungen, die Sie bestätigen oder gelten lassen, als Zahlen ({days} Tage lang)",
        "usage": "wie oft Sie welchen Satz sagen ({days} Tage lang)",
        "voice_match": "was Ihre Stimme von anderen unterscheidet, um zu erraten, wer spricht; eine Bequemlichkeit,"
        " niemals ein Nachweis, wer Sie sind ({days} Tage lang)",
        "household_phrases": "welche Sätze, die Sie ihm beigebracht haben, alle sagen dürfen und erfahren, auch Gäste:"
        " jeden nur, wenn Sie es sagen ({days} Tage lang)",
        "contribute": "Beispiele, bis Sie sie exportieren, um sie jemandem zu geben ({days} Tage lang)",
    },
}


def notice(purposes: Sequence[str], language: str, retention: Mapping[str, int]) -> str:
    """Return the text that is shown before agreeing to these purposes.

    Args:
        language: one of LANGUAGES.
        retention: days that each purpose is kept.
    """
    lines = [f"- {_PURPOSES[language][p].format(days=retention[p])}" for p in purposes]
    return "\n".join([_START[language], *lines, _END[language]])


def digest(text: str) -> str:
    """Return the SHA-256 of a notice as hex; receipts name it."""
    return hashlib.sha256(text.encode()).hexdigest()
