"""Writes for people: the daemon's JSON becomes lines, and durations that people write become seconds."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping

from idiolect.values import DEAF, counted

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_COLOURS = {"ok": "32", "warn": "33", "fail": "31"}


def parse_duration(text: str) -> float:
    """Return seconds from "90", "30s", "15m", "2h", "1d" or "1h30m". Raises ``ValueError`` for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text, re.ASCII):
        raise ValueError(text)
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", text))


def seconds(text: str) -> float:
    """Return a duration's seconds. Raises ``ArgumentTypeError``, as argparse wants it."""
    try:
        return parse_duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30s, 15m, 2h or 1d") from None


def duration(seconds: float) -> str:
    """Return the two largest units: "3 d 4 h", "1 h 5 min", "42 s"."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])


def plain(value: object) -> str:
    """Return a text from the daemon, harmless to a terminal: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def coloured(text: str, level: str) -> str:
    """Return the text in the colour of ``level`` (ok, warn, fail) on a terminal that wants colours, else as it is."""
    wanted = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return f"\x1b[{_COLOURS[level]}m{text}\x1b[0m" if wanted and level in _COLOURS else text


def event_line(data: Mapping[str, object]) -> str:
    """Return one event on one line: time, kind, phrase, how sure."""
    clock = _clock(_number(data, "time"), "%H:%M:%S")
    millis = f"{_number(data, 'time') % 1 * 1000:03.0f}"[:3]
    kind = plain(data.get("kind", ""))
    if kind == "state":
        return f"{clock}.{millis}  {kind:<8}  {_state(data)}"
    who = plain(data.get("profile", ""))
    scores = f"score {_number(data, 'score'):.2f}  margin {_number(data, 'margin'):.2f}"
    return f"{clock}.{millis}  {kind:<8}  {plain(data.get('phrase') or '-'):<16}  {scores}  {who}".rstrip()


def _state(data: Mapping[str, object]) -> str:
    parts = []
    for name in (key for key in data if key not in ("id", "time", "kind")):
        value = data[name]
        state = value.get("state", "") if isinstance(value, Mapping) else value
        if name == "listening":
            parts.append(listening_text(value if isinstance(value, Mapping) else {"state": value}))
        else:
            parts.append(f"{name} {state}")
    return plain(", ".join(parts))


def learning_text(said: object) -> str:
    """Return in one line what the daemon says about learning."""
    if not isinstance(said, dict):
        return _short(said)
    adapters, taught = said.get("adapters") or {}, said.get("taught", 0)
    if said.get("state") == "off":
        return f"off: {_short(said.get('detail', '?'))}"
    what = f"{counted(len(adapters), 'adapter')}, {counted(taught, 'taught phrase')}"
    who = f"{_short(said.get('profile', '?'))} speaks"
    return f"{_short(said.get('state', '?'))}: {what}, {who}{_voices(said)}{_earlier(said)}"


def voice_text(voice: Mapping[str, object], name: str) -> str:
    """Return for its owner what is still missing before a voice can be told from others."""
    name = shlex.quote(plain(name))
    if voice.get("state") == "ready":
        return "can tell this voice from others, though not always"
    if voice.get("state") == "learning":
        return f"knows enough of this voice, and tells it once a version with it is in use: idiolect history {name}"
    more = counted(round(_number(voice, "needed") - _number(voice, "examples")), "more correction")
    such = [f'"{plain(phrase)}"' for phrase in _list(voice, "such_as")]
    named = f" such as {', '.join(such[:-1])} or {such[-1]}" if such[1:] else f" such as {such[0]}" if such else ""
    how = f": idiolect enroll {name} {such[0]}" if such else ""
    return f"cannot tell this voice yet: needs {more} or takes of phrases that the model itself knows{named}{how}"


def _voices(said: Mapping[str, object]) -> str:
    """Return in numbers who agreed to be told by voice and cannot be yet."""
    people = [mine for mine in _part(said, "voices").values() if isinstance(mine, Mapping)]
    waiting = sum(mine.get("state") != "ready" for mine in people)
    if not waiting:
        return ""
    return f"; {counted(waiting, 'voice')} of {len(people)} cannot be told yet (idiolect consent show)"


def _earlier(said: Mapping[str, object]) -> str:
    """Return how many phrases still rest on an earlier encoder, or were lost with it."""
    people = [mine for mine in _part(said, "earlier_encoder").values() if isinstance(mine, Mapping)]
    earlier, again = (round(sum(_number(mine, name) for mine in people)) for name in ("earlier", "again"))
    words = ((earlier, "still on the earlier model"), (again, "not heard with the new encoder"))
    told = "".join(f"; {counted(count, 'taught phrase')} {text}" for count, text in words if count)
    return f"{told}: teach again (idiolect explain NAME)" if told else ""


def idle_text(said: object) -> str:
    """Return in one line what learning does in idle windows."""
    if not isinstance(said, Mapping):
        return _short(said)
    due = ", ".join(f"{count} {kind}" for kind, count in _part(said, "due").items())
    state = str(said.get("state", "?"))
    if state == "waiting":
        waiting = said.get("waiting_for")
        first = f", waits for {waiting[0]}" if isinstance(waiting, list) and waiting else ""
        more = f" and {len(waiting) - 1} more" if isinstance(waiting, list) and len(waiting) > 1 else ""
        return f"due: {due}{first}{more}"
    return f"running: {said.get('running')}" if state == "running" else state


def listening_text(listening: Mapping[str, object]) -> str:
    """Return "listening", "paused until 14:05 (1 h 3 min)", ..."""
    state = str(listening.get("state", "unknown"))
    if state != "paused":
        return {"idle": "waiting for a wake word", "listening": "listening for a phrase"}.get(state, state)
    until = listening.get("paused_until")
    if "paused_until" not in listening:
        return "paused"
    if not isinstance(until, int | float):
        return "paused until resumed (idiolect resume listening)"
    left = until - time.time()
    clock = _clock(until, "%H:%M" if left < 12 * 3_600 else "%Y-%m-%d %H:%M")
    return f"paused until {clock} ({duration(left)}; idiolect resume listening)"


def unheard(status: Mapping[str, object]) -> str:
    """Return why nobody can be heard, though nobody wanted that: the microphone's state, and the next step; "" else."""
    health = _part(status, "microphone")
    if health.get("state") not in DEAF:
        return ""
    return plain(f"nobody can be heard: the microphone is {_fault(health)}")


def unheard_by_wish(status: Mapping[str, object]) -> str:
    """Return why nobody can be heard where somebody paused listening; "" else."""
    listening = _part(status, "listening")
    return plain(f"nobody is heard: {listening_text(listening)}") if listening.get("state") == "paused" else ""


def _fault(health: Mapping[str, object]) -> str:
    """Return state, reason and fix of a microphone, as far as they are known."""
    return ": ".join(str(part) for part in (health.get("state"), health.get("reason"), health.get("fix")) if part)


def status_lines(status: Mapping[str, object]) -> list[str]:
    """Return the daemon's state for a person, a line per part; what this client does not know is left to --json."""
    bundle = _part(status, "bundle")
    signed = "signed" if bundle.get("signed") else "unsigned"
    rows = [
        ("idiolectd", f"{status.get('version', '?')}, up {duration(_number(status, 'uptime_s'))}"),
        *_configuration(_part(status, "configuration")),
        ("listening", _listening(status)),
        ("microphone", _microphone(_part(status, "microphone"))),
        ("bundle", f"{bundle.get('name', '?')} version {bundle.get('version', '?')}, {signed}"),
        ("encoder", f"{bundle.get('encoder', '?')} on {status.get('interpreter', '?')}"),
        ("keystore", str(status.get("keystore", "?"))),
        ("keys", str(_part(status, "keys").get("text", "?"))),
        ("personal", learning_text(status.get("personalization", "?"))),
        ("learning", idle_text(status.get("learning", "?"))),
        ("events", f"{status.get('events', '?')} since the start"),
    ]
    return [f"{name:<11} {plain(text)}" for name, text in rows]


def _configuration(now: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return a line about the configuration only where something is wrong with it."""
    return [("config", f"{now.get('text')}")] if now.get("text") else []


def _listening(status: Mapping[str, object]) -> str:
    """Return how it listens; nobody is said to wait for a word that cannot be heard."""
    microphone = _part(status, "microphone").get("state", "running")
    if _part(status, "listening").get("state") == "paused" or microphone not in DEAF:
        return listening_text(_part(status, "listening"))
    return f"nobody can be heard (microphone {microphone})"


def audit_line(entry: Mapping[str, object]) -> str:
    """Return one entry of the audit log on one line: number, time, kind, fields."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_number(entry, "time")))
    body = _part(entry, "body")
    fields = " ".join(f"{name} {body[name]}" for name in body)
    return plain(f"{entry.get('seq', '?'):>6}  {when}  {entry.get('kind', '?'):<20} {fields}".rstrip())


def _microphone(health: Mapping[str, object]) -> str:
    text = str(health.get("state", "?"))
    if health.get("device"):
        text += f", {health['device']}"
    if health.get("rate"):
        text += f", {health['rate']} Hz, {counted(health.get('channels'), 'channel')}"
        text += f", {_number(health, 'level_dbfs'):.0f} dBFS"
    counts = (
        ("overruns", "overrun"),
        ("dropped_blocks", "dropped block"),
        ("reopened", "reopened", "reopened"),
    )
    text += "".join(f", {counted(health[key], *words)}" for key, *words in counts if health.get(key))
    if health.get("reason"):
        text += f": {health['reason']}"
    return f"{text}: {health['fix']}" if health.get("fix") else text


def device_lines(devices: Iterable[Mapping[str, object]]) -> list[str]:
    """Return a line per device: the name to put into the configuration, then whatever else is known."""
    lines = []
    for device in devices:
        rest = [f"{key} {_short(device[key])}" for key in device if key not in ("name", "description")]
        words = [str(device.get("description", "")), *rest]
        lines.append(plain(f"{device.get('name', '?'):<24} {', '.join(word for word in words if word)}".rstrip()))
    return lines


def check_lines(checks: Iterable[Mapping[str, object]]) -> list[str]:
    """Return a line per check, its part's name before the first, and the next step below where something is wrong."""
    lines, before = [], ""
    for check in checks:
        level, part = str(check.get("level", "fail")), plain(check.get("part", ""))
        what = f"{plain(check.get('check', '?'))}: {plain(check.get('detail'))}"
        lines.append(f"{part if part != before else '':<7}  {coloured(f'{level:<4}', level)}  {what}")
        if level != "ok" and check.get("fix"):
            lines.append(f"{'':<15}-> {plain(check['fix'])}")
        before = part
    return lines


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(each)}" for key, each in value.items())
    if isinstance(value, list):
        return "/".join(str(each) for each in value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _part(data: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}


def _list(data: Mapping[str, object], name: str) -> list[object]:
    value = data.get(name)
    return value if isinstance(value, list) else []


def _number(data: Mapping[str, object], name: str) -> float:
    value = data.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _clock(when: float, form: str) -> str:
    return time.strftime(form, time.localtime(when))
