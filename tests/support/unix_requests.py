"""`requests` over a Unix socket: an adapter for `http://localhost` in a session."""

from __future__ import annotations

import http.client
import io
import socket
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter


class UnixAdapter(BaseAdapter):
    """Sends every request to the socket at ``path``, one connection each."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:
        """Whole answers only: no streams."""
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(self._path)
        parts = urlsplit(request.url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(request.method, target, request.body, dict(request.headers))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        response = requests.Response()
        response.status_code, response.reason, response.request, response.url = (
            answer.status, answer.reason, request, request.url,
        )  # fmt: skip
        response.headers = requests.structures.CaseInsensitiveDict(answer.getheaders())
        response.raw = urllib3.HTTPResponse(
            io.BytesIO(body),
            dict(answer.getheaders()),
            answer.status,
            version=11,
            reason=answer.reason,
            preload_content=False,
        )
        response.connection = self
        return response

    def close(self) -> None:
        """Nothing is kept open."""


def session(path: object) -> requests.Session:
    """A session whose every request goes to the socket."""
    made = requests.Session()
    made.trust_env = False
    made.mount("http://", UnixAdapter(str(path)))
    return made
