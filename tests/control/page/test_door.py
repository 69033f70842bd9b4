"""The page's door, at a whole daemon: who comes in, for whom, and what keeps others out."""

import asyncio
import gzip
import hashlib
import json
import socket
import ssl
import threading

import pytest

from idiolect.control.api.daemon import Session
from idiolect.control.http import Request
from idiolect.control.limits import Rates, TooOften
from idiolect.control.page import routes
from idiolect.control.page.door import PageDoor
from idiolect.errors import RequestError
from tests.support.alsa import require_wavmic
from tests.support.pages import PageHome


@pytest.fixture
def home(tmp_path):
    require_wavmic()
    with PageHome(tmp_path) as made:
        yield made


def test_a_code_lets_one_browser_in_for_one_person(home):
    home.agree()
    page, other = home.browser(), home.browser()
    assert page.ask("GET", "/v1/status")[0] == 401
    code = home.pair()
    status, answer, headers = page.ask("POST", "/v1/session", {"code": code.lower().replace("-", " ")})
    assert (status, answer["person"]) == (200, "ann")
    assert answer["profile"]
    assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
    assert page.ok("GET", "/v1/session") == answer
    assert page.ok("GET", "/v1/status")["listening"]
    status, answer, _ = other.ask("POST", "/v1/session", {"code": code})
    assert (status, answer["error"]["field"]) == (401, "code"), "a code is good once"
    assert page.ok("DELETE", "/v1/session", {}) == {}
    assert page.ask("GET", "/v1/status")[0] == 401


def test_whoever_guesses_is_slowed_down(home):
    page = home.browser()
    tries = [page.ask("POST", "/v1/session", {"code": f"AAAA-AAA{n}"})[0] for n in range(8)]
    assert tries[:5] == [401] * 5
    assert 429 in tries[5:]


def test_whoever_guesses_keeps_nobodys_right_code_out(home):
    """Without end, in four threads, while codes are used: each is taken."""
    ending = threading.Event()

    def guess():
        page = home.browser()
        while not ending.is_set():
            assert page.ask("POST", "/v1/session", {"code": "AAAA-AAAAAA"})[0] in (401, 429)

    threads = [threading.Thread(target=guess) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert home.browser().ask("POST", "/v1/session", {"code": home.pair()})[0] == 200
    finally:
        ending.set()
        for thread in threads:
            thread.join()


class Vouching:
    """A ``Pairing`` that knows one token."""

    asked = 0

    async def session(self, token):
        self.asked += 1
        return Session("i", "ann", "", "root", 0, 0, 1) if token == "a" * 43 else None


def test_a_paired_browser_loads_the_page_on_its_own_account_and_strangers_on_theirs():
    pairing, rates = Vouching(), Rates(clock=lambda: 0.0)
    door = PageDoor(pairing, tls=False)

    def load(token):
        headers = {"host": "localhost", "cookie": f"idiolect={token}"}
        caller, _ = asyncio.run(door.admit(None, Request("GET", "/page.css", {}, headers)))
        rates.check(caller, "/page.css")
        return caller.person

    assert load("a" * 43) == "ann"
    strangers = (load(f"{number:043}") for number in range(1000))
    with pytest.raises(TooOften):
        assert not any(strangers)
    assert load("a" * 43) == "ann"
    assert pairing.asked < 50, "the vault was asked for every stranger"


def test_a_session_asks_about_its_person_and_nobody_else(home):
    home.agree()
    page = home.browser().enter()
    ben = home.client.post("/v1/pair", {"profile": "ben"})["code"]
    bens = home.browser()
    assert bens.ok("POST", "/v1/session", {"code": ben})["profile"] == "", "who has agreed to nothing has no profile"
    anns = page.ok("GET", "/v1/session")["profile"]
    assert page.ok("GET", f"/v1/review?profile={anns}")
    for path in ("/v1/review?profile=ann", f"/v1/history?profile={anns}"):
        status, answer, _ = bens.ask("GET", path)
        assert (status, answer["error"]["field"]) == (403, "profile")
    for path, body in (
        ("/v1/forget", {"profile": "ann", "all": True}),
        ("/v1/erase", {"profile": anns}),
        ("/v1/export", {"profile": "Ann", "passphrase": "x" * 12}),
        ("/v1/consent", {"name": "ann", "purposes": ["usage"]}),
    ):
        status, answer, _ = bens.ask("POST", path, body)
        assert status == 403, (path, answer)
    assert bens.ok("GET", "/v1/consent")["people"] == []
    assert [row["name"] for row in page.ok("GET", "/v1/consent")["people"]] == ["ann"]
    for path in ("/v1/config", "/v1/audit", "/v1/attest", "/v1/pair", "/metrics"):
        assert page.ask("GET", path)[0] == 404, "the page has no use for it"


def test_other_sites_and_other_names_are_refused(home):
    page = home.browser().enter()
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": None}):
        status, answer, _ = page.ask("POST", "/v1/listening", {"active": False}, **headers)
        assert (status, answer["error"]["field"]) == (403, "origin"), headers
    assert page.ask("GET", "/v1/status", Sec_Fetch_Site="cross-site")[0] == 403
    assert page.ask("GET", "/", Sec_Fetch_Site="cross-site")[0] in (200, 404), "a link to the page is welcome"
    for host in ("evil.example", "192.168.1.5:8080", ""):
        status, answer, _ = page.ask("GET", "/v1/status", Host=host)
        assert (status, answer["error"]["field"]) == (421, "host")
    assert page.ask("POST", "/v1/listening", {"active": True}, Content_Type="text/plain")[0] == 415
    assert home.status()["listening"]["state"] != "paused"


def test_every_answer_carries_the_policy(home):
    page = home.browser()
    for path in ("/", "/v1/status", "/nothing"):
        headers = page.ask("GET", path)[2]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_sessions_survive_a_restart_and_end_with_their_person(home, tmp_path):
    home.agree()
    page = home.browser().enter()
    home.stop()
    home.start().ready()
    home.wait(lambda: home.status()["personalization"]["state"] == "on")
    assert page.ok("GET", "/v1/session")["person"] == "ann"
    assert [each["person"] for each in home.client.get("/v1/pair")["browsers"]] == ["ann"]
    secret = page.cookie.partition("=")[2].encode()
    assert all(secret not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    home.client.post("/v1/erase", {"profile": "ann"})
    assert page.ask("GET", "/v1/session")[0] == 401
    assert home.client.get("/v1/pair")["browsers"] == []


def test_browsers_are_shut_out_at_the_device(home):
    home.agree()
    first, second = home.browser().enter(), home.browser().enter("ben")
    shown = {each["person"]: each["id"] for each in home.client.get("/v1/pair")["browsers"]}
    assert set(shown) == {"ann", "ben"}
    assert home.client.post("/v1/pair/forget", {"id": shown["ben"]}) == {"forgotten": 1}
    assert second.ask("GET", "/v1/session")[0] == 401
    assert home.client.post("/v1/pair/forget", {"all": True}) == {"forgotten": 1}
    assert first.ask("GET", "/v1/session")[0] == 401


def test_in_the_network_it_speaks_tls_13_with_the_certificate_that_was_shown(tmp_path):
    require_wavmic()
    with PageHome(tmp_path, access="lan") as home:
        home.agree()
        shown = home.client.post("/v1/pair", {"profile": "ann"})
        page = home.browser()
        assert page.ok("POST", "/v1/session", {"code": shown["code"]})["person"] == "ann"
        assert page.cookie.startswith("__Host-idiolect=")
        assert page.protocol == "TLSv1.3"
        assert hashlib.sha256(page.certificate).hexdigest().upper() == shown["fingerprint"].replace(":", "")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
        with socket.create_connection(("127.0.0.1", home.proxy.port)) as plain, pytest.raises(ssl.SSLError):
            old.wrap_socket(plain)
        first = page.certificate
        home.stop()
        home.start().ready()
        home.wait(home.socket.exists)
        home.wait(lambda: page.ask("GET", "/v1/session")[0] == 200)
        assert page.certificate == first
        assert all(b"PRIVATE KEY" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_without_a_page_there_is_nothing_to_pair_with(tmp_path):
    require_wavmic()
    home = PageHome(tmp_path)
    home.config.write_text(home.config.read_text().replace("page: {enabled: true", "page: {enabled: false"))
    home.start().ready()
    home.wait(lambda: home.status()["personalization"]["state"] == "on")
    with pytest.raises(RequestError) as refused:
        home.client.post("/v1/pair", {"profile": "ann"})
    assert (refused.value.status, refused.value.field) == (409, "page")
    home.stop()


def test_all_of_the_page_together_is_small_on_its_way(home):
    page, sent, whole = home.browser(), 0, 0
    for path in routes.routes():
        if path.startswith("/v1/"):
            continue
        status, packed, headers = page.ask("GET", path, Accept_Encoding="br, gzip;q=0.9")
        assert (status, headers["Content-Encoding"]) == (200, "gzip")
        plain = page.ask("GET", path)[1]
        unpacked = gzip.decompress(packed)
        assert (unpacked if isinstance(plain, bytes) else json.loads(unpacked)) == plain
        sent, whole = sent + len(packed), whole + len(unpacked)
    assert sent < 60_000 < whole
