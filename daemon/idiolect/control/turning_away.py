"""Tells clients that woke a daemon which cannot start why that is, instead of breaking their connection off.

systemd starts the daemon for whoever connects to its socket. If the daemon ends without having taken that connection,
systemd starts it again, at once and for the same client, until it gives the socket up. So all who wait are answered
before the end: one client is one attempt to start, and the socket stays.
"""

from __future__ import annotations

import contextlib
import json
import socket

from idiolect.control.sockets import inherited

_MOST = 256
"""Connections that are answered at most: the kernel's queue is shorter."""
_REQUEST = 65_536
"""Bytes of a request that are read, so that the answer is not lost with what nobody read."""


def turn_away(reason: str) -> int:
    """Tell all who wait at systemd's socket that the daemon did not start, and return how many there were.

    Nothing in here waits.
    """
    listening = inherited()
    if listening is None:
        return 0
    count = 0
    with listening, contextlib.suppress(OSError):  # BlockingIOError: that was the last
        listening.setblocking(False)
        while count < _MOST:
            connection = listening.accept()[0]
            count += 1
            with connection, contextlib.suppress(OSError):
                _answer(connection, reason)
    return count


def _answer(connection: socket.socket, reason: str) -> None:
    """Send a 503, worded as `control.server` words it."""
    fix = "see 'journalctl -u idiolectd -n 50'; once that is mended: sudo systemctl restart idiolectd"
    message = f"idiolectd did not start: {reason}; {fix}"
    body = json.dumps({"error": {"field": "", "message": message}}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nServer: idiolectd\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):  # it has not asked yet, and is told all the same
        connection.recv(_REQUEST)
    connection.sendall(head.encode() + body)
