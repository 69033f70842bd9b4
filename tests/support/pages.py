"""A whole daemon with the page, a microphone that can speak, and a TCP port in front: what a browser meets."""

from __future__ import annotations

import getpass
import http.client
import json
import ssl

from tests.support import speech
from tests.support.proxies import Proxy
from tests.support.talk import Talker
from tests.whole.test_service import Daemon

PHRASES = "[zero, one, two, three, four, five, six, seven, eight, nine, stop, yes, 'no', up]"
SPEED = 3.0


class PageHome(Daemon):
    """``with PageHome(folder) as home``: ``home.url``, ``home.pair("ann")``. "ann" is paired with the tests' user."""

    def __init__(self, folder, access="loopback", people=("ann",)):
        super().__init__(folder, speech.silence(0.1), speed=SPEED, phrases=PHRASES)
        self.access = access
        self.socket = folder / "page.sock"
        self.talker = Talker(folder / "audio.raw", SPEED)
        paired = ", ".join(f"{name}: {{users: [{getpass.getuser()}]}}" for name in people)
        page = f"page: {{enabled: true, access: {access}, socket: {self.socket}}}\n"
        self.config.write_text(self.config.read_text() + page + f"people: {{{paired}}}\nkeystore: file\n")
        self.proxy = Proxy(self.socket)

    def __enter__(self):
        try:
            self.start().ready()
            self.wait(lambda: self.status()["personalization"]["state"] == "on")
            self.wait(self.socket.exists)
        except BaseException:
            self.stop()
            raise
        self.talker.follow(self.client)
        self.proxy.__enter__()
        return self

    def __exit__(self, *_):
        self.proxy.__exit__()
        self.stop()

    @property
    def url(self):
        scheme = "https" if self.access == "lan" else "http"
        return f"{scheme}://localhost:{self.proxy.port}"

    def pair(self, name="ann"):
        """A code for the page."""
        return self.client.post("/v1/pair", {"profile": name})["code"]

    def agree(self, *purposes, name="ann"):
        """Consent over the control socket; the profile."""
        asked = self.client.post("/v1/consent", {"name": name, "purposes": list(purposes or ("enrol",))})
        self.client.post("/v1/consent/agree", {"token": asked["token"]})
        return asked["profile"]

    def browser(self):
        return Browser(self)


class Browser:
    """As much of one as a test of the server needs: it keeps its cookie, and says where it comes from."""

    def __init__(self, home):
        self.home, self.cookie, self.certificate = home, "", b""

    def ask(self, method, path, body=None, **headers):
        """(status, JSON or bytes, headers); ``headers`` with _ for -, None to leave one out."""
        connection = self._connection()
        host = f"localhost:{self.home.proxy.port}"
        given = {"Host": host, "Origin": self.home.url if method != "GET" else None, "Cookie": self.cookie or None}
        given |= {"Content-Type": "application/json"} if body is not None else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = json.dumps(body).encode() if body is not None else None
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in given.items():
            if value is not None:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(data or b"")))
        connection.endheaders(data)
        answer = connection.getresponse()
        found = answer.read()
        if cookie := answer.headers.get("Set-Cookie"):
            self.cookie = cookie.partition(";")[0]
        connection.close()
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        is_json = is_json and "Content-Encoding" not in answer.headers
        return answer.status, json.loads(found) if is_json else found, answer.headers

    def ok(self, method, path, body=None):
        status, answer, _ = self.ask(method, path, body)
        assert status == 200, answer
        return answer

    def enter(self, name="ann"):
        self.ok("POST", "/v1/session", {"code": self.home.pair(name)})
        return self

    def _connection(self):
        if self.home.access != "lan":
            return http.client.HTTPConnection("127.0.0.1", self.home.proxy.port, timeout=60)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.home.proxy.port, timeout=20, context=context)
        connection.connect()
        self.certificate = connection.sock.getpeercert(binary_form=True)
        self.protocol = connection.sock.version()
        return connection
