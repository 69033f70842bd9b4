"""What a load of the page costs and where it comes from: this device, less than 60 kB, in less than a second."""

import json
import re

import pytest

from tests.page.conftest import VIEWS, enter, view
from tests.page.test_words import PAGE, WORDS

MOST_BYTES = 60_000
MOST_MS = 1000


def loads(page, home):
    """Bytes of each file that the page takes, by path, as they lie in the body."""
    sizes = {}

    def count(response):
        path = response.url.removeprefix(home.url)
        if not path.startswith("/v1/"):
            sizes[path] = len(response.body())

    page.on("requestfinished", lambda request: count(request.response()))
    return sizes


@pytest.mark.parametrize("locale", ["en-GB", "de-DE"])
@pytest.mark.parametrize("first", ["pair", *VIEWS])
def test_a_load_is_small(lived_in, open_page, first, locale):
    page = open_page(lived_in, locale=locale)
    if first != "pair":
        enter(page, lived_in)
    page.goto("about:blank")
    sizes = loads(page, lived_in)
    page.goto(f"{lived_in.url}/#{first}")
    page.wait_for_selector(f"#view-{first}")
    page.wait_for_load_state("load")
    needed = {"/", "/page.css", "/js/main.js", f"/strings/{locale[:2]}.json", f"/js/{first}.js"}
    for _ in range(100):  # the last ones may be told of behind what they have drawn
        if needed <= set(sizes):
            break
        page.wait_for_timeout(100)
    assert needed <= set(sizes), sizes
    print(f"{first} {locale}: {sum(sizes.values())} bytes in {len(sizes)} files")
    assert sum(sizes.values()) < MOST_BYTES, sizes


@pytest.mark.parametrize("first", ["pair", "now"])
def test_it_is_usable_in_less_than_a_second(lived_in, open_page, first):
    """From the start of the navigation until the first view is drawn, in a browser that has nothing of it yet."""
    page = open_page(lived_in)
    if first == "now":
        enter(page, lived_in)
        page.context.new_cdp_session(page).send("Network.clearBrowserCache")
    page.add_init_script(
        """new MutationObserver((_, it) => {
            if (!document.querySelector("main h1")) return;
            it.disconnect();
            requestAnimationFrame(() => requestAnimationFrame(() => { window.drawn = performance.now(); }));
        }).observe(document, {childList: true, subtree: true});"""
    )
    page.goto(lived_in.url)
    page.wait_for_selector(f"#view-{first}")
    lived_in.wait(lambda: page.evaluate("() => window.drawn"))
    took = page.evaluate("() => window.drawn")
    print(f"{first}: drawn after {took:.0f} ms")
    assert took < MOST_MS


def test_nothing_is_kept_in_the_browser_but_the_language(lived_in, open_page):
    page = enter(open_page(lived_in), lived_in)
    for name in VIEWS:
        view(page, name)
    stored = """async () => [localStorage.length, sessionStorage.length,
        (await indexedDB.databases()).length, (await caches.keys()).length]"""
    assert page.evaluate(stored) == [0, 0, 0, 0]
    page.get_by_role("combobox", name="Language").select_option("de")
    page.get_by_role("heading", name="Mitnehmen oder löschen").wait_for()
    assert page.evaluate("() => Object.entries(localStorage)") == [["idiolect.language", "de"]]


def test_the_policy_holds_against_a_page_that_would_break_it(lived_in, chromium):
    """Else the tests that nothing is violated would prove nothing."""
    page = chromium.new_page()
    page.goto(lived_in.url)
    page.wait_for_selector("#view-pair")
    tried = page.evaluate(
        """() => {
            try { document.body.innerHTML = "<img src=x>"; } catch (error) { return error.name; }
        }"""
    )
    assert tried == "TypeError"
    sent = page.evaluate("() => fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
    assert sent == "refused"
    page.context.close()


LOOSE = """() => {
    const loose = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const { data, parentElement: where } = walk.currentNode;
        const other = where.closest("noscript, [translate=no], [lang]:not(html), time");
        if (!other && /\\p{L}/u.test(data) && !/[⟦⟧]/.test(data)) loose.push(data);
    }
    for (const it of document.querySelectorAll("[aria-label], [title], [placeholder], [aria-valuetext]"))
        for (const name of ["aria-label", "title", "placeholder", "aria-valuetext"])
            if (it.hasAttribute(name) && !/[⟦⟧]/.test(it.getAttribute(name))) loose.push(it.getAttribute(name));
    return loose;
}"""
"""Text that is not from the strings: what somebody said or is called is marked translate=no, the daemon's lang=en."""


def test_every_word_comes_from_the_strings(lived_in, open_page):
    page = open_page(lived_in)
    marked = {key: f"⟦{text}⟧" for key, text in WORDS["en"].items()}
    page.route("**/strings/en.json", lambda route: route.fulfill(json=marked))
    page.goto(lived_in.url)
    page.wait_for_selector("#view-pair")
    assert page.evaluate(LOOSE) == []
    enter(page, lived_in)
    for name in VIEWS:
        view(page, name)
        assert page.evaluate(LOOSE) == [], name
    page.evaluate("() => document.querySelector('h1').append('loose')")
    assert page.evaluate(LOOSE) == ["loose"]


def test_what_it_loads_is_what_lies_there(lived_in):
    browser = lived_in.browser()
    for path in sorted(PAGE.rglob("*.*")):
        asked = "/" if path.name == "index.html" else f"/{path.relative_to(PAGE).as_posix()}"
        status, found, headers = browser.ask("GET", asked)
        body = json.dumps(found) if isinstance(found, dict) else found.decode()
        assert status == 200, asked
        assert len(re.sub(r"\s", "", body)) > 50
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
