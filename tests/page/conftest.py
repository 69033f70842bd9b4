"""A browser before a whole daemon: Chromium without a screen, as Debian ships it, steered by Playwright."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import absent
from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.support.pages import PageHome
from tests.whole.test_people import PHRASE, take

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
VIEWS = ("now", "kept", "consent", "teach", "learnt", "copy")


@pytest.fixture(scope="module")
def chromium():
    """One browser for a module: Playwright's event loop lives in this thread, where other tests have their own."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("no Playwright: run scripts/setup")
    if not CHROMIUM.exists():
        absent("no /usr/bin/chromium: run scripts/setup")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """``open_page(home)``: a tab in a browser of its own; whatever goes wrong in it fails the test."""
    contexts, faults = [], []

    def make(home, **wishes):
        wishes = {"viewport": {"width": 900, "height": 900}, "locale": "en-GB", **wishes}
        context = chromium.new_context(ignore_https_errors=True, **wishes)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if _is_fault(said) else None)
        page.on("response", lambda answer: print(answer.status, answer.url) if answer.status >= 400 else None)
        page.on("requestfailed", lambda request: print("failed", request.url, request.failure))
        page.on("request", lambda request: faults.append(request.url) if _is_elsewhere(request, home) else None)
        return page

    yield make
    for context in contexts:
        context.close()
    assert faults == []


def _is_fault(said):
    """A refused request is not one: the page tells the person about it."""
    return said.type in ("error", "warning") and "Failed to load resource" not in said.text


def _is_elsewhere(request, home):
    return not request.url.startswith((f"{home.url}/", f"blob:{home.url}/"))


def enter(page, home, name="ann"):
    """Pair a tab; it shows the first view then."""
    page.goto(home.url)
    page.get_by_role("textbox").fill(home.pair(name))
    home.wait(lambda: _answered(page) != 429)  # one code a second, whoever tries
    page.wait_for_selector("#view-now")
    return page


def _answered(page):
    with page.expect_response("**/v1/session") as caught:
        page.keyboard.press("Enter")
    if caught.value.status == 429:
        page.wait_for_timeout(1000)
    return caught.value.status


def view(page, name):
    """Go to a view and wait until it is drawn."""
    page.click(f'nav a[href="#{name}"]')
    page.wait_for_selector(f"#view-{name}")
    return page.locator(f"#view-{name}")


def expect(locator):
    """Playwright's assertions, which wait."""
    from playwright.sync_api import expect as asserting

    return asserting(locator)


def said(page, text):
    """What the page told last, to everybody."""
    page.locator("#said").get_by_text(text).wait_for()


def picture(page, name):
    """Keep a screenshot where somebody wants to look at it."""
    if folder := os.environ.get("IDIOLECT_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def speak_when_asked(home, takes):
    """Say each take when an enrolment listens, until it is over; its last state."""
    spoken = 0
    ended = SimpleNamespace(state={})

    def step():
        ended.state = state = home.client.get("/v1/enrol")
        if state["state"] == "listening" and state["attempts"] > spoken and spoken < len(takes):
            return "speak"
        return state["state"] if state["state"] in ("done", "failed", "cancelled") else ""

    while True:
        home.wait(step, 40)
        if step() != "speak":
            return ended.state
        home.talker.say(takes[spoken], wait=False)
        spoken += 1


def good_takes():
    """Three of one phrase that nobody has taught."""
    return [take(0.92), take(1.0, 0.6), take(1.1)]


@pytest.fixture
def home(tmp_path, sounds):
    require_wavmic()
    with PageHome(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory):
    """A daemon that knows Ann: what she taught, what she said and what she corrected. For looking only."""
    if not speech.SOUNDS.is_dir():
        absent("no /usr/share/asterisk/sounds: run scripts/setup")
    require_wavmic()
    with PageHome(tmp_path_factory.mktemp("lived-in")) as made:
        made.agree("enrol", "adapt_corrections", "usage")
        made.client.post("/v1/enrol", {"profile": "ann", "phrase": PHRASE, "samples": 3})
        assert speak_when_asked(made, good_takes())["state"] == "done"
        for number in (4, 7, 2):
            made.talker.say(speech.digit(number))
        made.wait(lambda: len(made.events()) >= 3)
        made.client.post("/v1/correct", {"event": made.events()[0]["id"], "phrase": "five"})
        yield made
