"""The page's words: both languages whole, everything that the daemon may say has words, and none lie elsewhere."""

import configparser
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from idiolect.learning import admission, gate, rollout
from idiolect.listening.attempt import Reason
from idiolect.listening.pipeline.decoder import State
from idiolect.people import notices, review
from idiolect.people.receipt import HOW
from idiolect.values import RETENTION

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "daemon" / "idiolect"
PAGE = PACKAGE / "control" / "page" / "static"
SCRIPTS = {path.name: path.read_text() for path in sorted((PAGE / "js").glob("*.js"))}
WORDS = {path.stem: json.loads(path.read_text()) for path in sorted((PAGE / "strings").glob("*.json"))}
COMMENT = re.compile(r"(?m)(?<![:\"'`])//.*$")
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`')
PLURAL = ("one", "other")
# Rows of the daemon's tables whose names become keys.
GIVEN = {
    "purpose.{}": RETENTION, "purpose.{}.what": RETENTION, "purpose.{}.example": RETENTION, "consent.how.{}": HOW,
    "state.{}": [*rollout.State, "set-aside"], "state.{}.what": [*rollout.State, "set-aside"],
    "now.{}": [state.value for state in State], "gate.{}": gate.CHECKS,
}  # fmt: skip


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", re.split("[:;]", text)[0].lower())


def literals(source):
    """Every text in a script, without comments; of templates what stands between the expressions."""
    for match in LITERAL.finditer(COMMENT.sub("", source)):
        plain, template = match.groups()
        yield from [plain] if plain is not None else re.split(r"\$\{[^}]*\}", template)


def has(key):
    return key in WORDS["en"] or all(f"{key}.{form}" in WORDS["en"] for form in PLURAL)


def test_the_languages_are_those_of_the_notices_and_of_the_page():
    assert set(WORDS) == set(notices.LANGUAGES)
    offered = re.search(r"LANGUAGES = \{(.*?)\}", SCRIPTS["text.js"])[1]
    assert set(re.findall(r"(\w+):", offered)) == set(WORDS)


def test_every_language_says_everything_with_the_same_places():
    keys = list(WORDS["en"])
    for words in WORDS.values():
        assert list(words) == keys
        for key, text in words.items():
            assert text.strip() == text
            assert text
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", WORDS["en"][key])), key
    same = {key for key in keys if WORDS["de"][key] == WORDS["en"][key]}
    assert same <= {"pair.code"}, "not translated"


@pytest.mark.parametrize("pattern", GIVEN)
def test_what_the_daemon_names_has_words(pattern):
    assert [name for name in GIVEN[pattern] if not has(pattern.format(name))] == []


def test_why_something_was_refused_has_words():
    said = [*Reason, *(text for check, text in admission.REASONS.items() if check), review.FOREIGN]
    said += review.RETIRED.values()
    assert [text for text in said if f"why.{slug(text)}" not in WORDS["en"]] == []


def test_what_learning_waits_for_has_words():
    source = (PACKAGE / "service" / "idle" / "conditions.py").read_text()
    names = set(re.findall(r'Obstacle\("(\w+)"', source))
    assert {"speech", "power", "heat"} <= names
    assert [name for name in names if f"waits.{name}" not in WORDS["en"]] == []


def test_how_long_things_are_kept_is_what_the_receipts_say():
    given = re.search(r"const DAYS = \{(.*?)\}", SCRIPTS["consent.js"])[1]
    assert {name: int(days) for name, days in re.findall(r"(\w+): (\d+)", given)} == RETENTION


def test_no_key_is_missing_and_none_is_left_over():
    html = (PAGE / "index.html").read_text()
    used = {*re.findall(r'data-t="([^"]+)"', html)}
    patterns = []
    for source in SCRIPTS.values():
        plain = COMMENT.sub("", source)
        for text in re.findall(r'"([a-z][\w.-]*)"', plain):
            if has(text):
                used.add(text)
        assert [key for key in re.findall(r'\bt\("([^"]+)"', plain) if not has(key)] == []
        patterns += re.findall(r"`([a-z]+\.[^`]*\$\{[^`]*)`", plain)
        patterns += re.findall(r"`(\$\{\w+\}\.\w+)`", plain)
    rules = [re.compile(re.sub(r"\\\$\\\{.*?\\\}", r"[\\w.-]+", re.escape(p)) + "$") for p in patterns]
    left = [
        key for key in WORDS["en"]
        if re.sub(r"\.(one|other)$", "", key) not in used and key not in used
        and not any(rule.match(re.sub(r"\.(one|other)$", "", key)) for rule in rules)
    ]  # fmt: skip
    assert left == []


class Text(HTMLParser):
    """The visible text of a document, but that of the title, which is a name, and for browsers without scripts."""

    def __init__(self):
        super().__init__()
        self.inside, self.found = [], []

    def handle_starttag(self, tag, attrs):
        self.inside.append("own" if dict(attrs).get("translate") == "no" else tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            if not self.inside or tag == "p":
                break

    def handle_data(self, data):
        if data.strip() and not {"title", "noscript", "own"} & set(self.inside):
            self.found.append(data)


def test_no_words_are_in_the_document():
    reader = Text()
    reader.feed((PAGE / "index.html").read_text())
    assert reader.found == []
    probe = Text()
    probe.feed("<p>Words</p>")
    assert probe.found == ["Words"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_words_are_in_the_scripts(name):
    """Two words in a row, or one with a capital, is prose; what is written for machines has neither."""
    allowed = {
        "Content-Type", "Enter", "GET", "POST", "DELETE", "English", "Deutsch", "Idiolect", "idiolect pair NAME",
        "T00:00Z",
    }  # fmt: skip
    prose = [
        text for text in literals(SCRIPTS[name])
        if text.strip() and text not in allowed and not text.startswith(("#", "[", "http"))
        and re.search(r"[A-Za-z]{2,}[ ,]+[A-Za-z]{2,}|(^|\s)[A-Z][a-z]{2,}", text)
        and not re.fullmatch(r"[\w.-]+(, [\w.-]+)*", text)
    ]  # fmt: skip
    assert prose == []


def test_that_test_would_see_words():
    assert re.search(r"[A-Za-z]{2,}[ ,]+[A-Za-z]{2,}", next(literals('say("it is done"); // and "more here"')))
    assert list(literals("t(`a.${b}.c`)")) == ["a.", ".c"]


def test_nothing_in_the_files_needs_another_host_or_a_weaker_policy():
    for path in PAGE.rglob("*"):
        if not path.is_file():
            continue
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|url\(|@import", text), path.name
        for unsafe in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "style=",
        ):
            assert unsafe not in text, (path.name, unsafe)
        assert "style=" not in text, path.name
        assert not re.search(r"<[a-z][^>]* on\w+=", text), path.name


def test_every_file_of_the_page_is_packaged():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = settings["options.package_data"]["idiolect"].split()
    files = [path.relative_to(PACKAGE) for path in PAGE.rglob("*") if path.is_file()]
    assert len(files) > 15
    assert [str(path) for path in files if not any(path.match(each) for each in patterns)] == []
