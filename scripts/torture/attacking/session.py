"""A session with an installed daemon, as a household has one: consent, teaching, mistakes, callers, forgetting."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundlebuild.augment import stretch
from tests.support import speech
from torture.attacking.installed import HANDOFF, PERSON, PHRASE, Installed, Lacking, uid_of

TAKES = (0.92, 1.0, 1.1, 0.96, 1.06)
PASSPHRASE = "a long and silly passphrase"  # noqa: S105 - nobody's


def take(pace: float) -> NDArray[np.int16]:
    """The phrase at another pace: another take, as far as an encoder can tell."""
    audio = speech.recording(speech.SOUNDS / "do-not-disturb.wav").astype(np.float32)
    return np.clip(stretch(audio, pace), -32768, 32767).astype(np.int16)


@dataclass(slots=True)
class Told:
    """What a session came to know that nobody else must."""

    profile: str = ""
    codes: list[str] = field(default_factory=list)
    cookies: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    """Steps that were gone through."""
    sent: list[NDArray[np.int16]] = field(default_factory=list)
    """Sound that clients sent."""
    handed: int = 0
    """Bytes of sound that the program of the hand-off got."""


class Session:
    """Each step by its name; ``told`` grows with them."""

    def __init__(self, home: Installed) -> None:
        self.home, self.client, self.told = home, home.client, Told()

    def agree(self, *purposes: str) -> None:
        """Consent, as the paired user."""
        asked = self.client.post("/v1/consent", {"name": PERSON, "purposes": list(purposes)})
        self.client.post("/v1/consent/agree", {"token": asked["token"]})
        self.told.profile = str(asked["profile"])
        self.told.done.append("consent")

    def teach(self, samples: int = 2) -> None:
        """Enrol through the microphone. ``Lacking`` when it is not understood."""
        self.client.post("/v1/enrol", {"profile": PERSON, "phrase": PHRASE, "samples": samples})
        spoken, ends = 0, time.monotonic() + 90
        while time.monotonic() < ends:
            state = self.client.get("/v1/enrol")
            if state["state"] == "listening" and state["attempts"] > spoken:
                time.sleep(0.1)
                self.home.talker.say(take(TAKES[spoken % len(TAKES)]), wait=False)
                spoken += 1
            if state["state"] == "done":
                self.told.done.append("enrol")
                return
            if state["state"] in ("failed", "cancelled"):
                raise Lacking(f"the phrase could not be taught: {state['reason']}")
            time.sleep(0.01)
        raise Lacking("the phrase could not be taught in time")

    def speak(self, *digits: int) -> None:
        """Say digits; wait until each is understood or a while has passed."""
        self.client.post("/v1/profile", {"profile": PERSON})
        for digit in digits:
            self.home.talker.say(speech.digit(digit))
            time.sleep(0.3)
        self.told.done.append("phrases")

    def correct(self) -> None:
        """Say of the last event that something else was meant."""
        events = [e for e in self.client.get("/v1/events/recent")["events"] if e.get("profile") == self.told.profile]
        for event in events[-1:]:
            self.client.post("/v1/correct", {"event": event["id"], "phrase": "seven"})
            self.told.done.append("correct")

    def page(self) -> None:
        """A browser: a code, a session, a look, and the session is left behind."""
        code = str(self.client.post("/v1/pair", {"profile": PERSON})["code"])
        status, _, headers = self.ask("page", "POST", "/v1/session", {"code": code})
        if status != 200:
            raise Lacking(f"the page did not take its code: {status}")
        cookie = headers["Set-Cookie"].partition(";")[0]
        self.ask("page", "GET", f"/v1/review?profile={PERSON}", cookie=cookie)
        self.told.codes.append(code)
        self.told.cookies.append(cookie.partition("=")[2])
        self.told.done.append("page")

    def metrics(self) -> None:
        """A scrape."""
        if self.ask("metrics", "GET", "/metrics")[0] == 200:
            self.told.done.append("metrics")

    def rights(self) -> None:
        """Look, explain, export, prove."""
        for path in ("review", "history", "report", "explain"):
            self.client.get(f"/v1/{path}?profile={PERSON}")
        self.client.post("/v1/export", {"profile": PERSON, "passphrase": PASSPHRASE})
        self.client.get("/v1/audit/verify")
        self.told.done.append("export")

    def wyoming(self) -> None:
        """A client that sends sound to be understood."""
        from wyoming.asr import Transcribe
        from wyoming.info import Describe

        from tests.support.wyoming_talk import client, say, until

        said = np.concatenate([speech.silence(0.4, 30.0, 11), speech.digit(3), speech.silence(0.8, 30.0, 12)])

        async def talk() -> None:
            async with client(self.home.run) as it:
                await it.write_event(Describe().event())
                await until(it, "info")
                await it.write_event(Transcribe().event())
                await say(it, said)
                await until(it, "transcript")

        asyncio.run(asyncio.wait_for(talk(), 60))
        self.told.sent.append(said)
        self.told.done.append("wyoming")

    def handoff(self) -> None:
        """The program that goes on where the wake word ends; it runs as root, who may."""
        from tests.support.wyoming_talk import spoken

        with socket.socket(socket.AF_UNIX) as program:
            program.connect(str(self.home.run / "handoff.sock"))
            program.settimeout(3.0)
            self.home.wait(lambda: bool(self.client.get("/v1/status")["handoff"]["connected"]))
            self.home.talker.say(np.concatenate([spoken("computer"), speech.digit(7)]))
            with contextlib.suppress(TimeoutError):
                while data := program.recv(65_536):
                    self.told.handed += len(data)
        self.told.done.append("handoff")

    def pause(self, seconds: float) -> None:
        """Release the microphone for a while."""
        self.client.post("/v1/listening", {"active": False})
        time.sleep(seconds)
        self.client.post("/v1/listening", {"active": True})
        self.told.done.append("pause")

    def learn(self) -> None:
        """A round at once, in the worker."""
        self.client.post("/v1/learn", {})
        self.told.done.append("learn")

    def withdraw(self, purpose: str) -> None:
        """Take a consent back."""
        self.client.post("/v1/consent/withdraw", {"profile": PERSON, "purpose": purpose})
        self.told.done.append("withdraw")

    def erase(self) -> None:
        """Everything of the person."""
        self.client.post("/v1/erase", {"profile": PERSON})
        self.told.done.append("erase")

    def ask(
        self, name: str, method: str, path: str, body: Mapping[str, object] | None = None, *, cookie: str = ""
    ) -> tuple[int, Any, Mapping[str, str]]:
        """One request on one of the sockets: status, JSON or bytes, headers."""
        return ask(str(self.home.run / f"{name}.sock"), method, path, body, cookie=cookie)


def ask(
    path_of_socket: str, method: str, path: str, body: Mapping[str, object] | None = None, *, cookie: str = ""
) -> tuple[int, Any, Mapping[str, str]]:
    """See ``Session.ask``."""
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    try:
        connection.sock.connect(path_of_socket)
        headers = {"Host": "localhost", "Origin": "http://localhost", "Content-Type": "application/json"}
        headers |= {"Cookie": cookie} if cookie else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        data = answer.read()
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        return answer.status, json.loads(data) if is_json else data, dict(answer.headers)
    finally:
        connection.close()


def handoff_uid() -> int:
    """Who may have the sound of turns."""
    return uid_of(HANDOFF)


def attempt(step: Callable[[], None]) -> str:
    """Run a step that may not be possible here; why it was not, or ""."""
    try:
        step()
    except Exception as error:  # whatever it is: said, and the session goes on
        return f"{step.__name__}: {type(error).__name__}: {error}"[:200]
    return ""
