"""What synthetic people teach and say: everyday phrases, pairs that differ in a part only, and sentences."""

from __future__ import annotations

EVERYDAY: dict[str, tuple[str, ...]] = {
    "en": (
        "lights please", "good night", "what is the weather today", "play some music", "call my mother",
        "please try again", "open the window", "where is my phone", "one moment please", "set a timer",
        "water the plants", "tell me a story", "lock the front door", "feed the cat", "start the washing machine",
        "movie time", "close the curtains", "dinner is ready", "read the news", "sing a song", "find my keys",
        "clean the floor", "party mode", "silence please", "turn on the radio", "make some coffee",
        "i am going home", "bring me my shoes", "how late is it", "wake me at dawn",
    ),
    "de": (
        "gute nacht liebes haus", "licht im flur an", "wie wird das wetter", "spiel meine lieblingslieder",
        "mach die fenster auf", "ruf meine mutter an", "wo ist mein handy", "stell einen wecker",
        "rolladen bitte", "kaffee kochen",
    ),
    "es": (
        "apaga la luz", "buenas noches", "pon la mesa", "abre la ventana", "llama a mi madre", "qué tiempo hace hoy",
        "busca mi teléfono", "música por favor", "cierra la puerta", "despiértame temprano",
    ),
    "fr": (
        "allume la lumière", "bonne nuit la maison", "ferme les volets", "quel temps fait-il", "mets de la musique",
        "appelle ma mère", "où est mon téléphone", "prépare le café", "raconte une histoire", "nourris le chat",
    ),
}  # fmt: skip
"""By language. The first ones of a language are taught where few are; no two have a word in the same place."""

NEAR: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("lights on", "lights off"), ("volume up", "volume down"), ("next song", "last song"),
        ("start timer", "stop timer"), ("kitchen lights", "bedroom lights"), ("open the door", "close the door"),
        ("heating up", "heating down"), ("good morning", "good evening"),
    ),
    "de": (
        ("licht an", "licht aus"), ("heizung auf", "heizung zu"), ("nächstes lied", "letztes lied"),
        ("küche hell", "küche dunkel"), ("tür auf", "tür zu"),
    ),
    "es": (
        ("enciende la luz", "apaga la luz"), ("sube el volumen", "baja el volumen"),
        ("abre la puerta", "cierra la puerta"), ("luz del salón", "luz del baño"), ("más calor", "más frío"),
    ),
    "fr": (
        ("allume la lampe", "éteins la lampe"), ("monte le son", "baisse le son"),
        ("ouvre la porte", "ferme la porte"), ("lampe du salon", "lampe du bureau"), ("plus chaud", "plus froid"),
    ),
}  # fmt: skip
"""Phrases that do opposite things, and differ in one word."""

BASE = ("yes", "no", "on", "off")
"""Words of the bundle that somebody teaches her own way of saying."""

WAKE = "computer"


def halves(pair: tuple[str, str]) -> tuple[str, ...]:
    """What both of a pair have in common, and what is each one's own."""
    first, second = (phrase.split() for phrase in pair)
    common = [word for word in first if word in second]
    own = [[word for word in words if word not in common] for words in (first, second)]
    return tuple(" ".join(words) for words in (common, *own) if words)


def _spoken(language: str) -> frozenset[str]:
    near = [phrase for pair in NEAR[language] for phrase in (*pair, *halves(pair))]
    words = (*BASE, WAKE) if language == "en" else ()
    return frozenset((*EVERYDAY[language], *near, *words))


SPOKEN = {language: _spoken(language) for language in EVERYDAY}
"""All that is said in each language."""
