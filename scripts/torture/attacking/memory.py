"""Memory of a running daemon, and of a forced core: which keys lie where, and how long sound stays.

The attacker is root, or whoever gets hold of a core. What is promised:

1. every key that the daemon holds is found (they are in use: a search that finds none finds nothing), each on a page
   of its own that is left out of cores;
2. no further copy of a key lies where a core would have it;
3. a key that was withdrawn, erased or rotated away is nowhere any more;
4. sound is there for seconds, and goes when the microphone is released;
5. neither daemon nor worker leaves a core when a signal kills it, though its limits would allow one.

Each search is tried on a process of ours that holds the same bytes, and must find them there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idiolect.trust.device import tpm_keystore
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.device.provisioning import ADAPTER_KEY, KEYFILE, VAULT, read_record
from idiolect.trust.vault.keystore import Keystore, Released
from idiolect.trust.vault.roots import kek
from idiolect.trust.vault.vault import Vault
from tests.support import bundles
from torture.attacking import memory_search as search
from torture.attacking.installed import Installed, Lacking, become, children, interpreter
from torture.attacking.session import Session, attempt

KEPT_S = 10.0
"""Seconds of the stream beyond which no sound is to be found: 2 s of queue, 4 s of window, and what is being used."""
SETTLED_S = 4.0
"""After which what somebody just did is over."""
RELEASED_S = 9.0
"""After which nothing of the sound is left when the microphone was released; inference looks every five seconds."""
KEPT_ELSEWHERE = {"adapter key": "OpenSSL's own number, in use as long as the vault is open"}
"""Keys that do not lie on a page of ours."""
STRAYS = {"KEK": 1}
"""Copies that a library may leave where it worked (HKDF's): ``vault.secret`` says that these are out of reach."""
NOT_HELD = ("M",)
"""Read, used for the KEK, and wiped."""


# -- known plaintext ---------------------------------------------------------------------------------------------------


def open_copy(home: Installed) -> tuple[Keystore, Released]:
    """The keystore's secrets as they are now: from a copy of the file, or from the TPM as the good model gets them."""
    if home.tpm is None:
        return FileKeystore.open(home.state / KEYFILE)
    record, verified = read_record(home.state), bundles.signed()
    if record is None:
        raise Lacking("the device has no record")
    digest = bytes.fromhex(verified.digest)
    keystore, released, _ = tpm_keystore.TpmKeystore.open(home.tpm.tcti, record, digest, verified.approvals, 1)
    return keystore, released


def keys_of(home: Installed) -> dict[str, bytes]:
    """Every key of this moment by name, opened by the harness from a copy of the disk."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(home.state, Path(name) / "state"))
        keystore, released = open_copy(home)
        found = {"S": bytes(released.root.view)}
        for slot in filter(None, released.slots):
            found["M"] = bytes(slot.secret.view)
            found["KEK"] = bytes(kek(released.root, slot.secret, slot.generation).view)
        with Vault.open(copy / VAULT, released, keystore) as vault:
            found["vault key"] = bytes(vault._vault_key.view)
            for profile, shelf in vault._ledger.shelves.items():
                for purpose, key in shelf.keys.items():
                    found[f"data key {'device' if not profile else 'person'} {purpose}"] = bytes(key.secret.view)
            adapter = vault.get("", *ADAPTER_KEY)
        if adapter:
            found["adapter key"] = _scalar(adapter)
        return found


def _scalar(der: bytes) -> bytes:
    """The private number of a P-256 key, which is all of the secret."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_der_private_key(der, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Lacking("the adapter key is none")
    return key.private_numbers().private_value.to_bytes(32, "big")


# -- what is found -----------------------------------------------------------------------------------------------------


def table(keys: Mapping[str, bytes], regions: Iterable[search.Region]) -> dict[str, dict[str, Any]]:
    """Each key: copies out of every core's reach, of these never swapped, and copies elsewhere by spelling."""
    regions = list(regions)
    rows = {}
    for name, value in keys.items():
        places = search.find_secret(value, regions)
        rows[name] = {
            "guarded": places.guarded, "locked": places.locked, "loose": places.loose, "where": sorted(places.where)
        }  # fmt: skip
    return rows


def sound_of(home: Installed, regions: Iterable[search.Region], until: int | None = None) -> dict[str, float]:
    """Seconds of sound found, and the age of the oldest, in seconds of the stream; ``until`` is when that ended."""
    now = home.position() if until is None else until
    found = search.Sound(home.heard(), aligned=True).in_regions(regions)
    hits = [hit for hits in found.values() for hit in hits]
    oldest = max(((now - hit.sample) / 16_000 for hit in hits), default=0.0)
    seconds = sum({"s16": 12, "float32": 6, "float32/32768": 6}.get(hit.encoding, 9) for hit in hits) / 16_000
    return {"seconds": round(seconds, 2), "oldest_s": round(max(0.0, oldest), 2)}


@contextmanager
def holder(values: Iterable[bytes], uid: int | None = None, folder: str = "/") -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds these bytes and does nothing else: what the search must find. ``uid``: as that user."""
    code = "import sys, time; kept = sys.stdin.buffer.read(); print(len(kept), flush=True); time.sleep(600)"
    preexec = None if uid is None else (lambda: become(uid, uid))
    process = subprocess.Popen(
        [*interpreter(uid or 0), "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        preexec_fn=preexec,  # noqa: PLW1509 - no threads here
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise Lacking("a process without pipes")
        process.stdin.write(b"\0\0\0\0".join(values))
        process.stdin.close()
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


def controls(home: Installed, keys: Mapping[str, bytes]) -> list[str]:
    """The same searches on a process that holds keys and two seconds of sound: what they do not find there."""
    sound = home.heard()[-32_000:].tobytes()
    with holder([*keys.values(), sound]) as process:
        regions = search.snapshot(process.pid)
        missed = [name for name, row in table(keys, regions).items() if not row["loose"].get("raw")]
        found = sound_of(home, regions)
    if found["seconds"] < 1.5:
        missed.append("sound")
    return [f"control: the search does not find {name} in a process that holds it" for name in missed]


# -- the promises ------------------------------------------------------------------------------------------------------


def judge_keys(rows: Mapping[str, Mapping[str, Any]], protected: bool) -> list[str]:
    """Promises 1 and 2. A keystore in a file has its secrets as text besides, which its module says."""
    found = []
    for name, row in rows.items():
        loose = {k: v for k, v in row["loose"].items() if not (k == "hex" and not protected and name in ("S", "M"))}
        if name in KEPT_ELSEWHERE:
            found += [] if loose or row["guarded"] else [f"the {name} in use is not found: the search sees nothing"]
        elif sum(loose.values()) > STRAYS.get(name, 0):
            found.append(f"{name} lies outside of its page, where a core would have it: {loose}")
        elif name not in NOT_HELD and row["guarded"] != 1:
            found.append(f"{name} is on {row['guarded']} pages of its own, not on one")
    return found


def judge_gone(rows: Mapping[str, Mapping[str, Any]], still: Iterable[bytes], keys: Mapping[str, bytes]) -> list[str]:
    """Promise 3: what is no key any more is nowhere, in no spelling of its bytes."""
    kept = set(still)
    return [
        f"{name} was destroyed and is still in memory"
        for name, row in rows.items()
        if keys[name] not in kept and (row["guarded"] or set(row["loose"]) - {"hex"})
    ]


def examine(home: Installed) -> tuple[dict[str, Any], list[str]]:
    """A session, looked at as it goes."""
    session, found = Session(home), []
    protected = home.tpm is not None
    session.agree("enrol", "adapt_corrections", "usage")
    steps = (session.teach, lambda: session.speak(4, 2), session.correct, session.page, session.rights, session.handoff)
    skipped = [why for step in steps if (why := attempt(step))]
    time.sleep(SETTLED_S)
    regions, now = search.snapshot(home.pid), home.position()
    live = sound_of(home, regions, now)
    if live["oldest_s"] > KEPT_S:
        found.append(f"sound of {live['oldest_s']} s ago is in memory")
    if live["seconds"] < 0.5:
        found.append("no sound is found while it listens: the search sees nothing")
    tokens = {"token of a browser": session.told.cookies[0].encode()} if session.told.cookies else {}
    if protected:  # the TPM is the daemon's: the harness asks it when that has stopped
        figures: dict[str, Any] = {"sound": live, "skipped": skipped}
        os.kill(home.pid, signal.SIGSTOP)
        try:
            keys = keys_of(home)
        finally:
            os.kill(home.pid, signal.SIGCONT)
    else:
        keys = keys_of(home)
        figures = {"sound": live, "skipped": skipped}
    found += controls(home, keys)
    figures["keys"] = table(keys, regions)
    found += judge_keys(figures["keys"], protected)
    figures["browsers"] = table(tokens, regions)
    session.withdraw("usage")
    session.erase()
    after = keys_of(home)
    figures["destroyed"] = table({n: v for n, v in keys.items() if v not in after.values()}, search.snapshot(home.pid))
    found += judge_gone(figures["destroyed"], after.values(), keys)
    if not figures["destroyed"]:
        found.append("erasing destroyed no key")
    home.client.post("/v1/listening", {"active": False})
    ended = home.position()
    time.sleep(RELEASED_S)
    figures["released"] = sound_of(home, search.snapshot(home.pid), ended)
    if figures["released"]["seconds"]:
        found.append(f"{figures['released']['seconds']} s of sound are in memory after the microphone was released")
    return figures, found


# -- cores -------------------------------------------------------------------------------------------------------------


def cores(home: Installed, *, gdb: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Promise 5: killed as by a bug, with limits that allow a core; before it, a core that root takes with gdb."""
    found: list[str] = []
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    keys = keys_of(home)
    figures: dict[str, Any] = {"core_pattern": pattern, "control": _control_core(home, keys)}
    if not figures["control"]["found"]:
        reason = figures["control"]["why"]
        figures["skipped"] = f"this system writes no core where it can be looked at: {reason}"
    figures["gcore"] = _gcore(home, keys) if gdb else {}
    in_core = {n: row.get("raw", 0) for n, row in figures["gcore"].get("keys", {}).items() if n not in KEPT_ELSEWHERE}
    worst = {name for name, count in in_core.items() if count > STRAYS.get(name, 0)}
    if worst:
        found.append(f"a core taken by root has keys that are marked to be left out: {sorted(worst)}")
    figures["limits"] = {}
    for name, pid in (("daemon", home.pid), *(("worker", pid) for pid in children(home.pid))):
        hard = [
            line.split()[4:6] for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in line
        ]
        figures["limits"][name] = hard[0]
        if hard[0] != ["0", "0"]:
            found.append(f"the {name} may write a core: {hard[0]}")
    os.kill(home.pid, signal.SIGSEGV)
    if home.process is not None:
        home.process.wait(20)
    left = [path.name for path in home.work.iterdir() if path.name.startswith("core")]
    figures["daemon"] = {"killed_by": "SIGSEGV", "cores": left, "state": _cores_in(home.state)}
    if left or figures["daemon"]["state"]:
        found.append("the daemon left a core")
    return figures, found


def _cores_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("core*")]


def _control_core(home: Installed, keys: Mapping[str, bytes]) -> dict[str, Any]:
    """A process of the daemon's user that dumps: whether the search finds the keys in its core."""
    folder = home.root / "control"
    folder.mkdir(exist_ok=True)
    os.chown(folder, home.uid, home.gid)
    with holder(keys.values(), home.uid, str(folder)) as process:
        process.send_signal(signal.SIGABRT)
        process.wait(20)
    dumps = [path for path in folder.iterdir() if path.name.startswith("core")]
    if not dumps:
        return {"found": 0, "why": "core_pattern leads elsewhere"}
    data = b"".join(path.read_bytes() for path in dumps)
    return {"found": sum(value in data for value in keys.values()), "of": len(keys), "why": ""}


def _gcore(home: Installed, keys: Mapping[str, bytes]) -> dict[str, Any]:
    """A core by gdb, as root: what the kernel's mark (DONTDUMP) keeps out of it. Sound is in it, as in any memory."""
    if not shutil.which("gcore"):
        return {"skipped": "no gdb"}
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["gcore", "-o", f"{name}/core", str(home.pid)], capture_output=True, check=False, timeout=120)
        taken = home.position()
        dumps = list(Path(name).glob("core*"))
        if not dumps:
            return {"skipped": "gcore made none"}
        data = dumps[0].read_bytes()
        region = search.Region(0, "core", frozenset(), data)
        rows = {key: row["loose"] for key, row in table(keys, [region]).items()}
        return {"bytes": len(data), "keys": rows, "sound": sound_of(home, [region], taken)}


def run(*, tpm: bool) -> tuple[dict[str, Any], list[str]]:
    """Everything above, on a daemon of its own."""
    with Installed(tpm=tpm) as home:
        figures, found = examine(home)
        home.client.post("/v1/listening", {"active": True})
        time.sleep(1.0)
        figures["core"], more = cores(home)
        return figures, [*found, *more]
