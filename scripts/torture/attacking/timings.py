"""Timing of refusals: does the time that a "no" takes tell a secret?

Two kinds of wrong attempts, one nearer to the secret than the other (right but for the last character, or for a name
that exists), are made in turns, in an order drawn by chance. The means are compared by Welch's t-test, after the
slowest tenth was cut off (what else the machine does is no answer), in two halves of the measurements: where both have
|t| > 4.5 with the same sign there is a difference (Goodwill, Jun, Jaffe, Rohatgi, "A testing methodology for
side-channel resistance validation", 2011). Mann-Whitney's z over all of it is given besides, and the effect in
nanoseconds. A comparison that stops at the first wrong character must be found out by the same measurement, and two
kinds that are the same must not be.
"""

from __future__ import annotations

import contextlib
import hmac
import math
import os
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idiolect.control.page.browsers import ALPHABET, CODE_LENGTH, TRIES, Pairing
from idiolect.errors import IdiolectError
from idiolect.people.consent import Consents
from idiolect.trust.vault import envelope, sealed_copy
from idiolect.trust.vault.secret import Secret
from tests.support import bundles
from tests.support.learners import Household
from tests.support.vaults import House
from torture.attacking.installed import PERSON, Installed, uid_of
from torture.attacking.session import Session, ask

LIMIT = 4.5
SLOWEST = 0.1
"""Part of the measurements that is cut off."""
WARM = 50


@dataclass(frozen=True, slots=True)
class Refusal:
    """One question: ``near`` and ``far`` make an attempt each, which must be refused."""

    name: str
    near: Callable[[], object]
    far: Callable[[], object]
    secret: bool = True
    """Whether a difference would tell something that is not known to who asks anyway."""
    why: str = ""
    share: float = 1.0
    """Of the usual number of measurements: where one takes long."""
    pause_s: float = 0.0
    """Before each: where who asks too often would get another refusal."""


# -- the test ----------------------------------------------------------------------------------------------------------


def measure(refusal: Refusal, count: int, chance: random.Random) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nanoseconds of ``count`` attempts of each kind, in an order drawn by chance."""
    order = [0, 1] * count
    chance.shuffle(order)
    tries, times = (refusal.near, refusal.far), ([], [])
    for which in order[:WARM]:
        tries[which]()
    for which in order:
        if refusal.pause_s:
            time.sleep(refusal.pause_s)
        began = time.perf_counter_ns()
        tries[which]()
        times[which].append(time.perf_counter_ns() - began)
    return np.array(times[0]), np.array(times[1])


def welch(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """t of two samples, without what lies above the common quantile."""
    top = np.quantile(np.concatenate([a, b]), 1 - SLOWEST)
    x, y = a[a <= top].astype(float), b[b <= top].astype(float)
    spread = math.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))
    return float(x.mean() - y.mean()) / spread if spread else 0.0


def mann_whitney(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """z of the rank sum, ties shared."""
    values = np.concatenate([a, b])
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]
    n, m = len(a), len(b)
    ties = float((counts.astype(float) ** 3 - counts).sum()) / ((n + m) * (n + m - 1))
    spread = math.sqrt(n * m / 12 * (n + m + 1 - ties))
    return float(ranks[:n].sum() - n * (n + m + 1) / 2) / spread if spread else 0.0


def verdict(near: NDArray[np.int64], far: NDArray[np.int64]) -> dict[str, Any]:
    """Both halves, both tests, and the effect."""
    half = len(near) // 2
    first, second = welch(near[:half], far[:half]), welch(near[half:], far[half:])
    differs = min(abs(first), abs(second)) > LIMIT and (first > 0) == (second > 0)
    return {
        "measurements": len(near) + len(far), "t": [round(first, 1), round(second, 1)],
        "z": round(mann_whitney(near, far), 1), "effect_ns": round(float(np.median(near) - np.median(far))),
        "median_ns": round(float(np.median(far))), "differs": differs,
    }  # fmt: skip


def is_refusal(answer: object) -> bool:
    """Whether it is the refusal that is meant: "too often" is another one."""
    status = answer[0] if isinstance(answer, tuple) else getattr(answer, "status", 0)
    return status in (401, 403) if status else answer in (None, False) or isinstance(answer, Exception)


# -- what is asked -----------------------------------------------------------------------------------------------------


class Direct:
    """``Adapters``, as far as pairing needs it: the vault's work is done at once."""

    keyed = True

    def __init__(self, consents: Consents) -> None:
        self._consents = consents

    async def keep(self, work: Callable[[Consents], Any]) -> Any:
        """See ``Adapters.keep``."""
        return work(self._consents)


def finish(work: Any) -> object:
    """The result of a coroutine that waits for nobody; its refusal, where it refuses."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    except IdiolectError as error:
        return error
    raise AssertionError("it waits for somebody")


def refused(call: Callable[[], object]) -> Callable[[], object]:
    """The same, with its refusal as the answer."""

    def attempt() -> object:
        try:
            return call()
        except (IdiolectError, envelope.Unopened) as error:
            return error

    return attempt


def other(character: str) -> str:
    """Another letter of the alphabet."""
    return ALPHABET[(ALPHABET.index(character) + 1) % len(ALPHABET)] if character in ALPHABET else "A"


@contextlib.contextmanager
def in_process() -> Iterator[list[Refusal]]:
    """The refusals of the daemon's own code, without sockets."""
    with tempfile.TemporaryDirectory() as name, (house := House(Path(name))).create() as vault:
        home = Household(vault, house.clock)
        home.agree(PERSON)
        yield [*_pairing(home), *_sealed(), *_consents(home), *_signatures()]


def _pairing(home: Household) -> Iterator[Refusal]:
    """The page's codes and sessions."""
    personal: Any = Direct(home.learner.consents)
    pairing = Pairing(personal, "loopback", wall=lambda: home.clock.wall, monotonic=lambda: 0.0)
    code = str(finish(pairing.begin(PERSON, "", 0))["code"]).replace("-", "")  # type: ignore[index]
    near, far = code[:-1] + other(code[-1]), "".join(map(other, code))

    def redeem(text: str) -> Callable[[], object]:
        def attempt() -> object:
            pairing._wrong._left = 5.0  # the bucket is another refusal
            for each in pairing._open:
                each.tries = TRIES  # and so is a code that was tried too often
            return finish(pairing.redeem(text))

        return attempt

    yield Refusal("code of the page: all letters but one right, none right", redeem(near), redeem(far))
    other_code = str(finish(pairing.begin("somebody new", "", 0))["code"])  # type: ignore[index]
    token, _ = finish(pairing.redeem(other_code))  # type: ignore[misc]
    second = str(finish(pairing.begin(PERSON, "", 0))["code"])  # type: ignore[index]
    kept, _ = finish(pairing.redeem(second))  # type: ignore[misc]
    for whose, known in (("somebody without a profile", token), ("a person", kept)):
        wrong = known[:-2] + ("AA" if known[-2:] != "AA" else "BB")
        strange = secrets.token_urlsafe(32)
        yield Refusal(
            f"session of {whose}: all but two characters right, none right",
            lambda wrong=wrong: finish(pairing.session(wrong)),
            lambda strange=strange: finish(pairing.session(strange)),
        )  # fmt: skip


def _sealed() -> Iterator[Refusal]:
    """Boxes and passphrases."""
    key = Secret.random()
    box = envelope.seal(key, b"a record" * 40, b"place")
    first, last = bytearray(box), bytearray(box)
    first[-16] ^= 1
    last[-1] ^= 1
    yield Refusal(
        "record of the vault: tag wrong in its last byte, in its first",
        refused(lambda: envelope.open_(key, bytes(last), b"place")),
        refused(lambda: envelope.open_(key, bytes(first), b"place")),
    )  # fmt: skip
    mac = os.urandom(32)
    yield Refusal(
        "root of the vault: MAC wrong in its last byte, in its first",
        lambda wrong=mac[:-1] + bytes([mac[-1] ^ 1]): envelope.same(mac, wrong),
        lambda wrong=bytes([mac[0] ^ 1]) + mac[1:]: envelope.same(mac, wrong),
    )
    cost, sealed_copy.COST = sealed_copy.COST, 2  # the cost of scrypt is the same for all: it would only take longer
    try:
        document = sealed_copy.seal(b"a copy", "correct horse battery")
    finally:
        sealed_copy.COST = cost
    yield Refusal(
        "passphrase of a copy: all but the last letter right, none right",
        refused(lambda: sealed_copy.open_(document, "correct horse batterx")),
        refused(lambda: sealed_copy.open_(document, "dpssfdu!ipstf!cbuufsz")),
    )


def _consents(home: Household) -> Iterator[Refusal]:
    """Tokens of questions, and names."""
    pending = home.consents.begin("somebody else", ("enrol",))
    near = pending.token[:-1] + ("0" if pending.token[-1] != "0" else "1")
    strange = secrets.token_hex(len(pending.token) // 2) if len(pending.token) % 2 == 0 else "x" * len(pending.token)
    yield Refusal(
        "token of a consent: all but the last character right, none right",
        lambda: home.consents.waiting(near), lambda: home.consents.waiting(strange),
    )  # fmt: skip


def _signatures() -> Iterator[Refusal]:
    """Bundles: both halves of what decides are public, so that a difference tells nothing."""
    from idiolect.trust.bundle.source import Memory
    from idiolect.trust.bundle.verify import verify

    files, trusted = bundles.signed().files, bundles.trusted()
    spoiled = {**files, "model.sig": bundles.sign(bundles.builtin(), by="stranger").files["model.sig"]}
    tampered = {**files, "manifest.json": files["manifest.json"].replace(b'"version":1', b'"version":3')}
    yield Refusal(
        "bundle: a known key's signature over something else, an unknown key's",
        refused(lambda: verify(Memory(tampered), trusted)), refused(lambda: verify(Memory(spoiled), trusted)),
        secret=False, why="which keys are trusted is public", share=0.05,
    )  # fmt: skip


def controls(chance: random.Random) -> list[Refusal]:
    """A comparison that stops at the first wrong character; and one that has nothing to tell."""
    secret = "".join(chance.choices(ALPHABET, k=CODE_LENGTH * 4))
    near, far = secret[:-1] + other(secret[-1]), other(secret[0]) + secret[1:]

    def leaky(text: str) -> bool:
        return all(a == b for a, b in zip(secret, text, strict=True))

    def constant() -> bool:
        return hmac.compare_digest(secret, near)

    return [
        Refusal("control: a comparison that stops early", lambda: leaky(near), lambda: leaky(far)),
        Refusal("control: the same twice", constant, constant),
    ]


# -- by the socket -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def end_to_end(home: Installed) -> Iterator[list[Refusal]]:
    """What a browser and another user meet: whole requests, as they would time them."""
    session = Session(home)
    session.agree("enrol")
    session.page()
    page, control = str(home.run / "page.sock"), str(home.run / "control.sock")
    token = session.told.cookies[0]
    near = "idiolect=" + token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    far = "idiolect=" + secrets.token_urlsafe(32)
    code = str(home.client.post("/v1/pair", {"profile": "Nobody known"})["code"])
    guest, cookie = ask(page, "POST", "/v1/session", {"code": code}), ""
    cookie = guest[2].get("Set-Cookie", "").partition(";")[0]
    Path(control).chmod(0o666)  # as a drop-in might have it: else the kernel refuses him
    where = f"/v1/review?profile={PERSON}", "/v1/review?profile=Theodorich"
    yield [
        Refusal("page: a session token near a real one, and any", *(
            (lambda c=c: ask(page, "GET", "/v1/status", cookie=c)) for c in (near, far)
        )),
        Refusal("page: another's browser asks for a person who exists, and for nobody", *(
            (lambda w=w: ask(page, "GET", w, cookie=cookie)) for w in where
        ), share=0.3, pause_s=0.021),
        Refusal("control: a stranger asks for a person who exists, and for nobody", *(
            (lambda w=w: _as_stranger(control, w)) for w in where
        ), share=0.3),
    ]  # fmt: skip


def _as_stranger(control: str, path: str) -> object:
    """As the user whom this thread is for the kernel: SO_PEERCRED takes the effective one of who connects."""
    os.setegid(uid_of("nobody"))
    os.seteuid(uid_of("nobody"))
    try:
        return ask(control, "GET", path)
    finally:
        os.seteuid(0)
        os.setegid(0)


# -- all of it ---------------------------------------------------------------------------------------------------------


def judge(refusals: list[Refusal], count: int, chance: random.Random) -> tuple[dict[str, Any], list[str]]:
    """Each refusal's figures; what tells a secret. One that seems to is measured again, twice as often."""
    figures, found = {}, []
    for refusal in refusals:
        number = max(100, round(count * refusal.share))
        if not all(is_refusal(attempt()) for attempt in (refusal.near, refusal.far)):
            found.append(f"control: what should be refused is not: {refusal.name}")
        row = verdict(*measure(refusal, number, chance))
        if row["differs"] and not refusal.name.startswith("control:"):
            row = {**verdict(*measure(refusal, 2 * number, chance)), "repeated": True}
        figures[refusal.name] = row | ({"known_anyway": refusal.why} if not refusal.secret else {})
        if row["differs"] and refusal.secret and not refusal.name.startswith("control: a comparison"):
            found.append(f"time tells: {refusal.name}: t {row['t']}, {row['effect_ns']} ns")
    return figures, found


def run(count: int, chance: random.Random, home: Installed | None = None) -> tuple[dict[str, Any], list[str]]:
    """In the process, the controls, and with ``home`` by its sockets."""
    figures, found = judge(controls(chance), count, chance)
    if not figures["control: a comparison that stops early"]["differs"]:
        found.append("control: a comparison that stops early is not found out")
    with in_process() as refusals:
        more, told = judge(refusals, count, chance)
        figures |= more
        found += told
    if home is not None:
        with end_to_end(home) as refusals:
            more, told = judge(refusals, max(100, count // 10), chance)
            figures |= more
            found += told
    return figures, found
