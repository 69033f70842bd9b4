"""What the base bundle knows, and what it must be told apart from: word lists only."""

from __future__ import annotations

WAKE = ("computer", "jarvis", "alexa")
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
ALWAYS_ON = ("stop",)
"""Commands that the default configuration hears without a wake word."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
UNKNOWN, BACKGROUND = "_unknown_", "_background_"
CLASSES = (*WAKE, *COMMANDS, *DIGITS, UNKNOWN, BACKGROUND)
"""Order of the head's outputs: phrases first, then everything else that is speech, then what is not."""

OTHER_WORDS = (
    "bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow", "backward", "forward",
    "follow", "learn", "visual",
)  # fmt: skip
"""The other words of Speech Commands: its "unknown" class."""

NEAR_MISSES = (
    "commuter", "compute", "composer", "commuting", "come to her", "compete", "competitor", "confuser", "the future",
    "peter", "tutor", "service", "jar", "jars", "garfish", "jervis", "charge it", "harvest", "nervous", "travis",
    "java", "charles", "jealous", "garbage", "jarring", "carcass", "alexis", "electra", "a lexus", "elixir",
    "election", "alex", "alaska", "i let her", "a texan", "the lexicon", "excellent", "a letter", "electric",
    "you", "yeah", "yet", "guess", "chess", "know", "now", "snow", "note", "nope", "cup", "pup", "upper", "app",
    "town", "dawn", "round", "brown", "lift", "laughed", "let", "lesson", "write it", "light", "ride", "bright",
    "in", "and", "own", "on it", "of", "often", "cough", "all", "awful", "shop", "top", "step", "stock", "cold",
    "ago", "gold", "girl", "hero", "zebra", "euro", "won", "when", "run", "want", "to do", "too late", "tooth",
    "free", "thread", "treat", "for", "ford", "fort", "fire", "fight", "file", "hive", "sick", "sixth", "fix",
    "sebastian", "heaven", "eleven", "savannah", "ate", "hate", "late", "mine", "night", "nice", "line",
)  # fmt: skip
"""Words and fragments that sound like a phrase without being one."""

SENTENCES = (
    "what is the weather like today", "please turn the lights down a little", "i would like a large cup of coffee",
    "play the next song in the living room", "set a timer for twenty minutes", "it is going to rain this afternoon",
    "she put the letter on the table", "the meeting starts at half past nine", "we could walk along the river",
    "my brother bought a new bicycle yesterday", "they have never been to alaska", "nobody knew where he went",
    "remind me to call my mother", "the train to the city leaves from platform two",
    "open the window and close the door",
    "a small espresso with some milk and sugar", "he was reading the news in the kitchen", "thank you very much indeed",
    "could you repeat that more slowly", "the children are playing outside", "i forgot where i parked the car",
    "there is nothing left in the fridge", "good morning everybody and welcome back", "that was a very good film",
)  # fmt: skip
"""Running speech for synthetic voices. Phrases inside a sentence are not commands."""
