"""Everybody can use the page: axe finds nothing, the keyboard is enough, and it fits a small or magnified screen."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.page.conftest import VIEWS, enter, good_takes, picture, said, speak_when_asked, view
from tests.whole.test_people import PHRASE

RULES = {"target-size": {"enabled": True}, "label-content-name-mismatch": {"enabled": True}}
"""Beside all that axe tests anyway: large enough to be hit, and called what they look like."""


@pytest.fixture(scope="module")
def axe():
    """The source of axe-core, which the wheel axe-playwright-python brings."""
    spec = find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        absent("no axe-core: run scripts/setup")
    return Path(spec.origin).with_name("axe.min.js").read_text()


def check(page, axe, what):
    """No violation of any rule in what the tab shows now."""
    if not page.evaluate("() => Boolean(window.axe)"):
        page.evaluate(axe)
    page.wait_for_timeout(250)  # a switch that still slides has a colour in between
    result = page.evaluate("(rules) => axe.run(document, {rules, resultTypes: ['violations']})", RULES)
    found = [(v["id"], [node["html"][:160] for node in v["nodes"][:3]]) for v in result["violations"]]
    assert found == [], what
    assert len(result["passes"]) > 10, "axe looked at something"


def unfold(page):
    for summary in page.locator("summary").all():
        summary.click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "de-DE"])
def test_axe_finds_nothing_in_any_view(lived_in, open_page, axe, scheme, locale):
    page = open_page(lived_in, color_scheme=scheme, locale=locale)
    page.goto(lived_in.url)
    page.wait_for_selector("#view-pair")
    check(page, axe, "pair")
    picture(page, f"pair-{scheme}-{locale}")
    page.get_by_role("textbox").fill("AAAAAAAA")
    page.keyboard.press("Enter")
    page.wait_for_selector("[aria-invalid]")
    check(page, axe, "a wrong code")
    enter(page, lived_in)
    assert page.locator("html").get_attribute("lang") == locale[:2]
    for name in VIEWS:
        view(page, name)
        unfold(page)
        check(page, axe, name)
        picture(page, f"{name}-{scheme}-{locale}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_what_comes_and_goes(lived_in, open_page, axe, scheme):
    page = enter(open_page(lived_in, color_scheme=scheme), lived_in)
    page.get_by_role("button", name="I meant").first.click()
    page.get_by_role("combobox", name="I meant").wait_for()
    check(page, axe, "correcting")
    view(page, "consent")
    page.get_by_role("switch", name="Telling voices apart").click()
    page.get_by_role("dialog").wait_for()
    check(page, axe, "asking for consent")
    picture(page, f"consent-{scheme}")
    page.keyboard.press("Escape")
    view(page, "copy")
    page.get_by_role("button", name="Erase everything …").click()
    page.get_by_role("dialog").get_by_role("button", name="Erase", exact=True).click()
    check(page, axe, "erasing")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Bring back").click()
    said(page, "Choose a file first.")
    check(page, axe, "a refusal")
    view(page, "teach")
    page.get_by_role("textbox", name="Phrase").fill("something else")
    page.keyboard.press("Enter")
    page.get_by_text("Say it now").wait_for()
    check(page, axe, "teaching")
    picture(page, f"teaching-{scheme}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for()
    check(page, axe, "cancelled")


def test_axe_finds_nothing_where_nothing_is_kept_or_all_is_paused(lived_in, open_page, axe):
    lived_in.client.post("/v1/listening", {"active": False})
    lived_in.client.post("/v1/learning", {"active": False})
    try:
        page = enter(open_page(lived_in), lived_in, "somebody new")
        for name in VIEWS:
            view(page, name)
            check(page, axe, name)
    finally:
        lived_in.client.post("/v1/listening", {"active": True})
        lived_in.client.post("/v1/learning", {"active": True})


def test_axe_would_find_something(lived_in, open_page, axe):
    page = enter(open_page(lived_in), lived_in)
    page.evaluate("() => document.querySelector('#do-listen').setAttribute('aria-label', '')")
    page.evaluate("() => { document.querySelector('h1').style.color = '#e0e0e0'; }")
    with pytest.raises(AssertionError, match="color-contrast"):
        check(page, axe, "broken on purpose")


# Sizes in CSS pixels. A browser at 200 % on a screen of 1280 has 640; text alone at 200 % is harder, and tested so.
@pytest.mark.parametrize(("width", "text"), [(320, 100), (640, 200), (320, 200)])
@pytest.mark.parametrize("locale", ["en-GB", "de-DE"])
def test_nothing_sticks_out_of_a_small_or_magnified_screen(lived_in, open_page, width, text, locale):
    page = open_page(lived_in, viewport={"width": width, "height": 640}, locale=locale)
    enter(page, lived_in)
    for name in VIEWS:
        view(page, name)
        unfold(page)
        page.evaluate("(text) => { document.documentElement.style.fontSize = `${text}%`; }", text)
        wide = page.evaluate(
            """() => [...document.querySelectorAll("body *")]
            .filter((it) => !it.closest(".scroll, .hidden, svg") && it.checkVisibility())
            .filter((it) => it.getBoundingClientRect().right > innerWidth + 1).map((it) => it.outerHTML.slice(0, 99))"""
        )
        assert wide == [], name
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, name
        picture(page, f"{name}-{width}-{text}-{locale}")


def press_until(page, wanted, key="Tab", most=60):
    """Walk with a key until something that matches has the focus, which can be seen on the way."""
    for _ in range(most):
        page.keyboard.press(key)
        if page.evaluate("(wanted) => document.activeElement.matches(wanted)", wanted):
            break
    else:
        raise AssertionError(f"no way to {wanted}")
    style = """() => { const it = getComputedStyle(document.activeElement);
        return it.outlineStyle === "none" ? 0 : parseFloat(it.outlineWidth); }"""
    assert page.evaluate(style) >= 2, "the focus is seen"


def focused(page):
    return page.evaluate("() => document.activeElement.textContent.trim()")


def test_the_whole_way_with_nothing_but_the_keyboard(home, open_page):
    page = open_page(home)
    page.goto(home.url)
    page.wait_for_selector("#view-pair")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to content"
    press_until(page, "input.code")
    page.keyboard.type(home.pair().replace("-", "").lower())
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-now")
    assert focused(page) == "Now", "a new view begins at its heading"

    press_until(page, 'a[href="#consent"]', "Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-consent")
    assert focused(page) == "What you agree to"
    for purpose in ("enrol", "adapt_corrections"):
        press_until(page, f"#p-{purpose}-s")
        page.keyboard.press("Space")
        page.get_by_role("dialog").wait_for()
        assert focused(page) == "Yes, I agree"
        page.keyboard.press("Shift+Tab")
        assert focused(page) == "No"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        said(page, "Agreed")
        page.locator(f"#p-{purpose}-s[aria-checked=true]").wait_for()
        assert page.evaluate("() => document.activeElement.id") == f"p-{purpose}-s", "back where it was"

    press_until(page, 'a[href="#teach"]', "Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-teach")
    press_until(page, "input[name=phrase]")
    page.keyboard.type(PHRASE)
    page.keyboard.press("Enter")
    page.get_by_text("Say it now").wait_for()
    assert speak_when_asked(home, good_takes())["state"] == "done"
    page.get_by_text("Learnt.").wait_for()
    assert "Learnt." in focused(page)
    press_until(page, "button")
    assert focused(page) == "Teach another"

    press_until(page, 'a[href="#kept"]', "Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-kept")
    press_until(page, "summary")
    page.keyboard.press("Enter")
    press_until(page, "details .danger")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    assert focused(page) == "Cancel", "what cannot be undone is not one press away"
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")  # a frame after it has closed
    assert focused(page) == "Forget this phrase", "and a dialog gives the focus back"
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    press_until(page, "dialog .danger")
    page.keyboard.press("Space")
    said(page, "3 examples are forgotten.")
    home.wait(lambda: focused(page) == "Examples")

    press_until(page, 'a[href="#copy"]', "Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-copy")
    press_until(page, "section > .row .danger")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.type("ann")
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-pair")
    assert home.client.get("/v1/consent")["people"] == []


def test_screen_readers_hear_what_happens(lived_in, open_page):
    page = enter(open_page(lived_in), lived_in)
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.locator("#said").get_attribute("role") == "status"
    assert page.locator('nav [aria-current="page"]').inner_text() == "Now"
    assert page.title() == "Now – Idiolect"
    view(page, "teach")
    assert page.title() == "Teach a phrase – Idiolect"
    page.get_by_role("textbox", name="Phrase").fill("something else")
    page.keyboard.press("Enter")
    live = page.locator(".say[role=status]")
    live.get_by_text("Say it now").wait_for()
    assert page.get_by_role("meter").get_attribute("aria-valuetext").endswith("decibels")
    assert live.locator("[role=meter]").count() == 0, "or it would chatter"
    page.get_by_role("button", name="Cancel").click()


def test_nothing_moves_for_who_wants_it_still(lived_in, open_page):
    page = enter(open_page(lived_in, reduced_motion="reduce"), lived_in)
    view(page, "consent")
    moving = "() => getComputedStyle(document.querySelector('.switch'), '::before').transitionDuration"
    assert page.evaluate(moving) == "0s"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moving) != "0s"


def test_the_language_is_the_browsers_until_somebody_chooses(lived_in, open_page):
    page = open_page(lived_in, locale="de-AT")
    enter(page, lived_in)
    assert page.title() == "Jetzt – Idiolect"
    page.get_by_role("combobox", name="Sprache").select_option("en")
    page.get_by_role("heading", name="Now", level=1).wait_for()
    assert page.locator("html").get_attribute("lang") == "en"
    page.reload()
    page.get_by_role("heading", name="Now", level=1).wait_for()
    assert page.get_by_role("combobox", name="Language").input_value() == "en"
    french = open_page(lived_in, locale="fr-FR")
    french.goto(lived_in.url)
    french.get_by_role("heading", name="Pair this browser").wait_for()
