"""What happens to a microphone, to its daemon and to whoever listens to it. Each fault begins and ends in step."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from torture.audio.daemon import Stream, wait_until
from torture.audio.session import PORTION, Session

FORMATS = ((16_000, 1), (48_000, 2), (44_100, 1), (8_000, 1), (32_000, 2), (16_000, 2))
"""Rates and channels that a device may come back with."""
LISTENING = (
    {"mode": "always"},
    {"mode": "always", "refractory_s": 0.4},
    {"mode": "always", "sensitivity": 0.7},
    {"mode": "always", "thresholds": {"computer": 0.5}},
    {"mode": "wake", "timeout_s": 12.0, "refractory_s": 1.5},
)


def xrun(s: Session) -> None:
    """The device overruns."""
    with s.restart("overruns"):
        s.mic.switch("xrun")


def held_up(s: Session) -> None:
    """The daemon stands still for longer than the device's buffer lasts."""
    with s.restart("overruns"):
        s.daemon.halt()
        s.say_sound(PORTION)
        s.say_sound(PORTION)
        s.daemon.signal(signal.SIGCONT)


def hiccup(s: Session) -> None:
    """The daemon stands still for a moment, and the buffer lasts: nothing is lost."""
    began = time.time()
    s.daemon.halt()
    s.say_sound(PORTION)
    time.sleep(0.02)
    s.daemon.signal(signal.SIGCONT)
    s.follow(began)


def gone(s: Session) -> None:
    """Unplugged, and plugged in again."""
    _away(s, "gone", "absent")


def broken(s: Session) -> None:
    """Reads fail with EIO for a while."""
    with s.restart("reopened"):
        s.mic.switch("eio")
        s.say_sound(2)
        _state(s, "failed")
        s.mic.switch("eio", False)


def busy(s: Session) -> None:
    """Unplugged, and held by another program when it comes back."""
    with s.restart("reopened"):
        s.mic.switch("busy")
        s.mic.switch("gone")
        _state(s, "absent")
        s.mic.switch("gone", False)
        _state(s, "busy")
        s.mic.switch("busy", False)


def suspended(s: Session) -> None:
    """Asleep (ESTRPIPE), as after the board was."""
    with s.restart("reopened"):
        s.mic.switch("suspend")


def stalled(s: Session) -> None:
    """Open, and silent for longer than a device may be."""
    with s.restart("reopened"):
        pass  # nothing is told meanwhile


def another(s: Session) -> None:
    """It comes back with another rate or other channels."""
    rate, channels = FORMATS[int(s.chance.integers(len(FORMATS)))]
    _away(s, "gone", "absent", lambda: s.mic.become(rate, channels))


def unusable(s: Session) -> None:
    """It comes back with samples that are not understood, and then as it was."""
    rate, channels = s.mic.rate, s.mic.channels
    with s.restart("reopened"):
        s.mic.switch("gone")
        _state(s, "absent")
        s.mic.become(rate, channels, "S32_LE")
        s.mic.switch("gone", False)
        _state(s, "format")
        s.mic.become(rate, channels)


def short(s: Session) -> None:
    """Reads give half of what was asked for."""
    s.mic.switch("short")
    s.feed(5 * PORTION)
    s.mic.switch("short", False)
    s.feed(PORTION)


def overflow(s: Session) -> None:
    """Recognition stands still while the queue runs over."""
    s.overflow(4 * PORTION)


def paused(s: Session) -> None:
    """Listening is paused, and resumed later."""
    with s.restart():
        s.daemon.client.pause()
        _state(s, "paused")
        s.pass_unheard(5 * PORTION)
        s.daemon.client.resume()


def reloaded(s: Session) -> None:
    """The configuration is read again, and nothing is another."""
    _reload(s)


def refused(s: Session) -> None:
    """The configuration is read again, and wrong: the old one holds."""
    s.daemon.configure(s.settings() | {"listening": {"mode": "sometimes"}})
    before = s.daemon.logged("reload refused")
    s.daemon.signal(signal.SIGHUP)
    wait_until("the reload is refused", lambda: s.daemon.logged("reload refused") > before)
    s.daemon.configure(s.settings())


def retuned(s: Session) -> None:
    """The configuration says to listen in another way."""
    s.wishes = dict(LISTENING[int(s.chance.integers(len(LISTENING)))])
    s.daemon.configure(s.settings())
    _reload(s)


def moved(s: Session) -> None:
    """The configuration names the other microphone."""
    s.mic = next(mic for mic in s.mics.values() if mic is not s.mic)
    with s.restart():
        s.daemon.configure(s.settings())
        _reload(s, at_once=False)


def slow_listener(s: Session) -> None:
    """A client that does not read, and one that hangs up in the middle."""
    slow, hasty = Stream(s.daemon.socket, buffer=1), Stream(s.daemon.socket)
    s.feed(20 * PORTION)
    hasty.close()
    s.feed(20 * PORTION)
    ids = [int(str(data["id"]).rpartition("-")[2]) for kind, data in slow.read() if "id" in data]
    if ids != sorted(set(ids)):
        s.say("a slow listener was told something twice, or in disorder")
    slow.close()


def comers_and_goers(s: Session) -> None:
    """Clients that look in and leave."""
    for _ in range(10):
        Stream(s.daemon.socket).close()
        s.feed(1)


FAULTS: dict[str, tuple[float, Callable[[Session], None]]] = {
    "overrun": (3, xrun),
    "overrun, daemon held up": (2, held_up),
    "hiccup": (2, hiccup),
    "gone and back": (2, gone),
    "busy when back": (1, busy),
    "input/output error": (2, broken),
    "suspended": (2, suspended),
    "stalled": (0.5, stalled),
    "another rate or channels": (3, another),
    "unusable format": (0.5, unusable),
    "short reads": (2, short),
    "queue overflow": (3, overflow),
    "paused": (2, paused),
    "reload": (1, reloaded),
    "reload refused": (1, refused),
    "reload, listening changed": (2, retuned),
    "reload, other device": (2, moved),
    "slow listener": (1, slow_listener),
    "listeners come and go": (1, comers_and_goers),
}
"""How often which, and what it does."""


def _state(s: Session, wanted: str) -> None:
    wait_until(f"the microphone is {wanted}", lambda: s.daemon.status()["microphone"]["state"] == wanted, every=0.01)


def _away(s: Session, fault: str, state: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Closed by a fault, and opened again when it is over."""
    with s.restart("reopened"):
        s.mic.switch(fault)
        _state(s, state)
        meanwhile()
        s.pass_unheard(PORTION)
        s.mic.switch(fault, False)


def _reload(s: Session, *, at_once: bool = True) -> None:
    before = s.daemon.logged("reloaded")
    s.daemon.signal(signal.SIGHUP)
    wait_until("the reload", lambda: s.daemon.logged("reloaded") > before)
    s.reference.relisten(s.wish(), at_once=at_once)
