"""`idiolect` about people: consent, enroll, correct, review, forget, and what was learnt. All of it asks the daemon."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from idiolect.cli.output import voice_text
from idiolect.client import Client
from idiolect.client.answers import Proof, Question, Report, Teaching, TeachingState
from idiolect.errors import RequestError
from idiolect.host import structure
from idiolect.values import RETENTION, counted, name_key

Add = Callable[..., argparse.ArgumentParser]
_COPY_BYTES, _COPY_PARTS = 20 << 20, 1 << 16
"""Caps on a person's copy, written with more spaces than it is sent with."""
METER_FROM, METER_TO = -60.0, 0.0
_POLL_S = 0.1
_TTY_WIDTH = 30


def _client(options: argparse.Namespace) -> Client:
    return Client(options.socket, timeout=60.0)


def _say(options: argparse.Namespace, answer: Mapping[str, Any], lines: list[str]) -> int:
    print(json.dumps(answer, indent=2, ensure_ascii=False) if options.json else "\n".join(lines))
    return 0


# -- consent -------------------------------------------------------------------------------------------------------


def _grant(options: argparse.Namespace) -> int:
    client = _client(options)
    purposes = list(RETENTION) if options.all else options.purpose or ["enrol"]
    asked = client.ask_consent(options.name, purposes, options.language)
    print(asked["notice"], file=sys.stderr)
    if asked["how"] == "paired":
        print('\nType "yes" to agree: ', end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("yes", "ja"):
            print("Nothing was agreed to, and nothing is kept.", file=sys.stderr)
            return 1
        answer = client.agree(asked["token"])
        said = [f"{options.name} agreed to: {', '.join(answer['granted'])}", *_voice(client, asked["profile"], answer)]
        return _say(options, answer, said)
    print(f'\nSay "yes" to the device within {asked["expires_s"]} seconds to agree.', file=sys.stderr)
    return _wait_for_yes(options, client, asked)


def _wait_for_yes(options: argparse.Namespace, client: Client, asked: Question) -> int:
    ends = time.monotonic() + float(asked["expires_s"])
    while time.monotonic() < ends:
        if client.consent_state(asked["token"])["state"] == "closed":
            break
        if sys.stderr.isatty():
            print(f"\r{ends - time.monotonic():4.0f} s ", end="", file=sys.stderr, flush=True)
        time.sleep(0.3)
    mine = next((p for p in client.people()["people"] if p["profile"] == asked["profile"]), None)
    granted = [p for p in asked["purposes"] if mine and p in mine["purposes"]]
    if len(granted) < len(asked["purposes"]):
        print('\nNo "yes" was heard: nothing was agreed to, and nothing is kept.', file=sys.stderr)
        return 1
    answer = {"granted": granted, "profile": asked["profile"]}
    return _say(options, answer, [f"agreed to: {', '.join(granted)}", *_voice(client, asked["profile"], answer)])


def _voice(client: Client, profile: str, answer: Mapping[str, Any]) -> list[str]:
    """Return, for somebody who has just agreed to be told by voice, what that lacks."""
    if "voice_match" not in answer["granted"]:
        return []
    people = [p for p in client.people()["people"] if p["profile"] == profile and "voice" in p]
    return [f"the device {voice_text(p['voice'], p['name'])}" for p in people]


def _show(options: argparse.Namespace) -> int:
    answer = _client(options).people()
    people = [
        p
        for p in answer["people"]
        if not options.name or options.name == p["profile"] or name_key(p["name"]) == name_key(options.name)
    ]
    lines = []
    for person in people:
        mark = " (speaks now)" if person["profile"] == answer["active"] else ""
        lines.append(f"{person['name']}{mark}  {person['profile']}")
        for purpose, said in person["purposes"].items():
            when = time.strftime("%Y-%m-%d", time.gmtime(said["since"]))
            lines.append(f"  {purpose:20} since {when}, {said['how']}, receipt {said['receipt'][:12]}")
            if purpose == "voice_match" and "voice" in person:
                lines.append(f"  {'':20} {voice_text(person['voice'], person['name'])}")
    lines = lines or [_nobody(options.name)]
    if answer["household"]:
        lines.append("everybody may say, guests too: " + ", ".join(f'"{phrase}"' for phrase in answer["household"]))
    return _say(options, {**answer, "people": people}, lines)


def _nobody(name: str) -> str:
    return f"{name} has not agreed to anything" if name else "nobody has agreed to anything"


def _withdraw(options: argparse.Namespace) -> int:
    answer = _client(options).withdraw(options.name, options.purpose)
    done = f"withdrawn; {counted(answer['deleted'], 'record')} deleted; in use now: {_version(answer)}"
    return _say(options, answer, [done])


def _version(answer: Mapping[str, Any]) -> str:
    return f"version {answer['adapter']} ({answer['state']})" if answer.get("adapter") else "the base model"


def _erase(options: argparse.Namespace) -> int:
    if not options.yes:
        print(
            f"Everything about {options.name} will be gone for good. Type {options.name} to go on: ", end="", flush=True
        )
        if name_key(sys.stdin.readline()) != name_key(options.name):
            print("Nothing was erased.")
            return 1
    answer = _client(options).erase(options.name)
    return _say(options, answer, [f"erased: {counted(answer['erased'], 'record')} and every key over them"])


def _profile(options: argparse.Namespace) -> int:
    answer = _client(options).address(options.name)
    return _say(options, answer, [f"{options.name} is taken to be the one who speaks"])


# -- teaching ------------------------------------------------------------------------------------------------------


def meter(level: float, width: int = _TTY_WIDTH) -> str:
    """Return a bar for a level in dBFS."""
    share = (min(max(level, METER_FROM), METER_TO) - METER_FROM) / (METER_TO - METER_FROM)
    return "#" * round(width * share) + "." * (width - round(width * share))


def _enroll(options: argparse.Namespace) -> int:
    client = _client(options)
    if options.cancel:
        return _say(options, client.cancel_teaching(), ["cancelled; nothing is kept of it"])
    if options.take_back is not None:
        left = client.take_back(options.take_back)
        return _say(options, left, [f"take {options.take_back} counts no more; it is asked for anew"])
    if options.keep:
        kept = client.keep_take()
        return _say(options, kept, [kept["costs"]])
    if not options.name or not options.phrase:
        raise RequestError(422, "phrase", 'say who and what: idiolect enroll NAME "lights please"')
    client.teach(options.name, options.phrase, options.samples, options.speak)
    try:
        state = _follow(options, client)
    except KeyboardInterrupt:
        client.cancel_teaching()
        print("\ncancelled; nothing is kept of it", file=sys.stderr)
        return 130
    if state["state"] != "done" or not state["result"].get("adapter"):
        _say(options, state, _not_learnt(options, state))
        return 1
    done = f'"{options.phrase}" is learnt, and in use: {_version(state["result"])}'
    return _say(options, state, [done, "see what is kept: idiolect review " + options.name])


_REFUSED = {
    1: "what was learnt went too far",
    2: "others would be understood worse",
    3: "it would hear things that nobody said",
    4: "one of your own phrases would be understood worse",
    5: "somebody in the household would be mistaken for you",
    6: "it would be no improvement",
    7: "it could not be made again the same way",
}
"""The meaning, for people, of each check that a version fails (``learning.gate``)."""
_NO_BETTER = 6


def _not_learnt(options: argparse.Namespace, state: TeachingState) -> list[str]:
    """Return why a phrase is not in use, and what to do where its takes are kept."""
    if state["state"] != "done":
        return [f"not learnt: {state['reason']}"]
    check = state["result"].get("gate", {}).get("check", 0)
    why = _REFUSED.get(check, state["reason"] or "the gate refused it")
    forget = f'forget it (idiolect forget {options.name} --phrase "{options.phrase}") and choose other words'
    well = "if it is understood as it is, all is well; else " if check == _NO_BETTER else ""
    return [f"kept, but not used: {why}", f"{well}teach it once more, or {forget}"]


def _follow(options: argparse.Namespace, client: Client) -> TeachingState:
    """Show prompts, the level meter, and why an attempt was refused, until it is over; return the end."""
    last, advised = None, set[str]()
    while True:
        state = client.teaching()
        step = (state["state"], state["attempts"])
        if step != last:
            last = step
            _announce(options, state)
        for line in [f"  {each['text']}: {each['do']}" for each in state["advice"]]:
            if line not in advised:
                print(line, file=sys.stderr, flush=True)
                advised.add(line)
        if state["state"] in ("done", "failed", "cancelled"):
            return state
        if state["state"] == "listening" and sys.stderr.isatty():
            print(f"\r  [{meter(state['level_dbfs'])}]", end="", file=sys.stderr, flush=True)
        time.sleep(_POLL_S)


_KEEP = "\n  if this is how you say it: idiolect enroll --keep"


def _announce(options: argparse.Namespace, state: Teaching) -> None:
    number = f"{min(state['taken'] + 1, state['wanted'])}/{state['wanted']}"
    text = {
        "listening": f'  {number}  say "{options.phrase}" now',
        "refused": f"  refused: {state['reason']}" + (_KEEP if state["keepable"] else ""),
        "taken": f"  good: take {state['takes'][-1]}" if state["takes"] else "  good",
        "training": "  learning ...",
    }.get(state["state"])
    if text:
        print(("\r\033[K" if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)


def _correct(options: argparse.Namespace) -> int:
    answer = _client(options).correct(options.event, options.phrase)
    return _say(options, answer, _learnt(answer))


def _confirm(options: argparse.Namespace) -> int:
    answer = _client(options).confirm(options.event)
    return _say(options, answer, _learnt(answer))


def _learnt(answer: Mapping[str, Any]) -> list[str]:
    lines = [
        f"kept as example {answer['example']}"
        + ("" if answer["counts"] else f", but it does not count: {answer['why']}")
    ]
    if answer.get("rolled_back"):
        lines.append("what was on trial was taken back: it had been corrected too often")
    if answer["counts"]:
        lines.append("it is learnt from in the next idle window; to have it now: idiolect learn --now")
    return lines


# -- seeing, forgetting, taking along ------------------------------------------------------------------------------


def _review(options: argparse.Namespace) -> int:
    answer = _client(options).review(options.name)
    lines = [f"{answer['name']}  {answer['profile']}"]
    for purpose, grant in answer["purposes"].items():
        lines.append(f"  agreed to {purpose} on {grant['since']} ({grant['how']}), kept {grant['retention_days']} days")
        if purpose == "voice_match" and "voice" in answer:
            lines.append(f"    {voice_text(answer['voice'], answer['name'])}")
    for e in answer["examples"]:
        why = "" if e["counts"] else f"  [does not count: {e['why']}]"
        why += f"  [mapped from encoder {e['encoder'][:12]}]" if e.get("mapped") else ""
        lines.append(f"  {e['id']:5}  {e['day']}  {e['source']:12} {e['phrase']!r} until {e['expires']}{why}")
    for phrase in answer["shared"]:
        lines.append(f"  everybody may say {phrase!r}")
    for row in answer["usage"]:
        said = ", ".join(f"{phrase} {count}x" for phrase, count in row["said"].items())
        lines.append(f"  said on {row['day']}: {said} (until {row['expires']})")
    for name, value in answer["upkeep"].items():
        lines.append(f"  {name.replace('_', ' ')}: {value}")
    return _say(options, answer, [*lines, *_versions(answer["adapters"])])


def _versions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"  version {v['adapter']:3} of {v['day']}  {v['state']:11} {counted(v['examples'], 'example')},"
        f" held out {v['held_out']}: {v['wrong']} wrong"
        + (f" (before, {v['wrong_before']} of {v['known']})" if v["known"] else "")
        + ","
        f" used {v['uses']}x, corrected {v['corrections']}x"
        + (f", {v['mapped']} mapped" if v.get("mapped") else "")
        + (f", set aside for bundle {v['bundle'][:12]}" if v.get("set_aside") else "")
        for v in rows
    ]


def _history(options: argparse.Namespace) -> int:
    answer = _client(options).history(options.name)
    return _say(options, answer, _versions(answer["versions"]) or ["nothing was learnt yet"])


def _explain(options: argparse.Namespace) -> int:
    answer = _client(options).explain(options.name, options.adapter)
    return _say(options, answer, answer["text"])


def _report(options: argparse.Namespace) -> int:
    answer = _client(options).report(options.name)
    figures = answer["figures"]
    lines = [f"{answer['name']}: version {answer['adapter']}" if answer["adapter"] else "nothing learnt is in use"]
    if figures.get("held_out"):
        lines.append(f"  of {counted(figures['held_out'], 'held-out example')}; {answer['measured']}")
        lines.append(_bar("misunderstood", figures["error_after"]))
    if figures.get("known"):
        lines.append(f"  of {figures['known']} among them, of phrases that the model itself has")
        lines.append(_bar("misunderstood before", figures["error_before"]))
        lines.append(_bar("misunderstood now", figures["error_known"]))
    if some := figures.get("in_windows"):
        of_all = f"{counted(some, 'example')} of all {'is' if some == 1 else 'are'}"
        lines.append(f"  {of_all} judged by the sound of the end alone: no more is kept")
    if figures:
        lines.append(f"  since then {counted(figures['uses'], 'utterance')}, {figures['corrections']} corrected")
    if mapped := figures.get("mapped"):
        examples = counted(figures["examples"], "example")
        lines.append(f"  mapped from an earlier encoder: {mapped} of {examples}")
    return _say(options, answer, [*lines, *_lately(answer), *(f"  - {limit}" for limit in answer["limits"])])


def _bar(name: str, share: float) -> str:
    return f"  {name:20} {share:6.1%}  |{meter(-60 + 60 * share, 40)}|"


def _lately(answer: Report) -> list[str]:
    """Return health in daily use, and the last self-test slice by slice."""
    lines = []
    if health := answer.get("health"):
        lines.append(
            f"  lately: {health['rejected']:.0%} rejected, {health['corrected']:.0%} corrected; the base model alone"
            f" would have lost {health['won']:.0%} and gained {health['lost']:.0%}; sure {health['confidence']:.2f}"
            f" (base {health['base_confidence']:.2f})"
        )
    if tested := answer.get("selftest"):
        lines.append(f"  tested on {tested['day']}: {tested['worse'] or 'nothing is worse'}")
        for part in tested["slices"]:
            right = 1 - part["wrong"] / part["total"]
            lines.append(f"    {part['slice']:28} |{meter(-60 + 60 * right, 20)}| {right:4.0%} of {part['total']}"
                         f" (lost {part['lost']}, won {part['won']})")  # fmt: skip
    return lines


def _share(options: argparse.Namespace) -> int:
    answer = _client(options).share(options.name, options.phrase, options.wanted)
    shared = ", ".join(f'"{phrase}"' for phrase in answer["shared"]) or "nothing"
    return _say(options, answer, [f"everybody may say of what {options.name} taught: {shared}"])


def _forget(options: argparse.Namespace) -> int:
    wishes = {"example": options.example, "phrase": options.phrase, "day": options.day, "all": options.all or None}
    chosen = {name: value for name, value in wishes.items() if value is not None}
    answer = _client(options).forget(options.name, **chosen)
    done = f"{counted(answer['forgotten'], 'example')} forgotten; in use now: {_version(answer)}"
    return _say(options, answer, [done])


def _rollback(options: argparse.Namespace) -> int:
    answer = _client(options).rollback(options.name)
    return _say(options, answer, [f"in use now: {answer['in_use']}"])


def _passphrase(options: argparse.Namespace) -> str:
    if not options.seal:
        return ""
    return getpass.getpass("passphrase: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def _export(options: argparse.Namespace) -> int:
    document = _client(options).export(options.name, _passphrase(options))
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    if options.out is None:
        print(text, end="")
        return 0
    handle = os.open(options.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # nobody else's business
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return _say(options, {"file": str(options.out)}, [f"written to {options.out}, readable by you alone"])


def _import(options: argparse.Namespace) -> int:
    with Path(options.file).open("rb") as file:
        raw = file.read(_COPY_BYTES + 1)
    if len(raw) > _COPY_BYTES:
        raise RequestError(
            413, "document", f"is larger than {_COPY_BYTES >> 20} MiB, which is all that the daemon takes"
        )
    try:
        document = structure.load(raw, parts=_COPY_PARTS)
    except structure.StructureError as error:
        raise RequestError(422, "document", str(error)) from None
    except (ValueError, RecursionError):
        raise RequestError(422, "document", "is not JSON: make one with `idiolect export`") from None
    answer = _client(options).import_copy(options.name, document, _passphrase(options))
    lines = [f"{counted(answer['imported'], 'example')} taken over; in use now: {_version(answer)}"]
    gate = answer.get("gate")
    if gate and not gate["passed"]:
        lines.append(f"a version with them was refused: {gate['reason']}")
    if answer["left_out_without_consent"]:
        lines.append(f"{answer['left_out_without_consent']} left out: no consent covers them here")
    return _say(options, answer, lines)


# -- the command line ----------------------------------------------------------------------------------------------


def register(commands: Any, common: argparse.ArgumentParser, add: Add) -> None:
    """Add these commands to the parser."""
    consent = commands.add_parser("consent", help="agree to what is kept, withdraw, or see who agreed to what")
    parts = consent.add_subparsers(metavar="COMMAND", required=True)
    grant = add(parts, common, "grant", "put the question; the person answers", _grant)
    grant.add_argument("name", metavar="NAME")
    grant.add_argument("--purpose", action="append", choices=list(RETENTION), help="may be repeated; default: enrol")
    grant.add_argument("--all", action="store_true", help="ask for every purpose")
    grant.add_argument("--language", default="en", choices=["en", "de"], help="of the notice")
    withdraw = add(parts, common, "withdraw", "delete what a purpose collected", _withdraw)
    withdraw.add_argument("name", metavar="NAME")
    withdraw.add_argument("purpose", choices=list(RETENTION))
    shown = add(parts, common, "show", "list who agreed to what", _show)
    shown.add_argument("name", metavar="NAME", nargs="?")
    _named(add(commands, common, "erase", "forget a person altogether", _erase)).add_argument(
        "--yes", action="store_true"
    )
    _named(add(commands, common, "profile", 'say who speaks from now on; "guest" is nobody', _profile))
    enroll = add(commands, common, "enroll", "teach a phrase, live", _enroll)
    enroll.add_argument("name", metavar="NAME", nargs="?")
    enroll.add_argument("phrase", metavar="PHRASE", nargs="?")
    enroll.add_argument("--samples", type=int, default=3, metavar="N", help="1 to 10 (default 3)")
    enroll.add_argument("--speak", choices=["en", "de"], default="", help="prompt aloud too, with espeak-ng")
    enroll.add_argument("--cancel", action="store_true", help="stop what is being taught")
    enroll.add_argument("--take-back", type=int, metavar="N", help="let take N of what is being taught count no more")
    enroll.add_argument("--keep", action="store_true", help="let the take count that was just refused")
    correct = add(commands, common, "correct", "say what was meant by an event of the last minutes", _correct)
    correct.add_argument("event", metavar="EVENT", help="its id, as `idiolect listen --json` shows it")
    correct.add_argument("phrase", metavar="PHRASE")
    confirm = add(commands, common, "confirm", "say that an event was understood as it was meant", _confirm)
    confirm.add_argument("event", metavar="EVENT")
    _register_rights(commands, common, add)


def _register_rights(commands: Any, common: argparse.ArgumentParser, add: Add) -> None:
    _named(add(commands, common, "review", "show what is kept of somebody, and until when", _review))
    _named(add(commands, common, "history", "list the versions of what was learnt", _history))
    _named(add(commands, common, "report", "show a person's own figures, before and after", _report))
    explain = _named(add(commands, common, "explain", "say in words what was learnt and why it is used", _explain))
    explain.add_argument("--adapter", type=int, metavar="N", help="a version (default: the one in use)")
    _named(add(commands, common, "rollback", "take back what was learnt last", _rollback))
    for command, wanted, what in (
        ("share", True, "let everybody say a phrase that somebody taught"),
        ("unshare", False, "let nobody else say it any more"),
    ):
        shared = _named(add(commands, common, command, what, _share))
        shared.add_argument("phrase", metavar="PHRASE")
        shared.set_defaults(wanted=wanted)
    forget = _named(add(commands, common, "forget", "forget an example, a phrase, a day, or everything", _forget))
    which = forget.add_mutually_exclusive_group(required=True)
    which.add_argument("--example", type=int, metavar="N")
    which.add_argument("--phrase", metavar="PHRASE")
    which.add_argument("--day", metavar="2026-11-24")
    which.add_argument("--all", action="store_true")
    export = _named(add(commands, common, "export", "take a copy of what is kept of somebody", _export))
    export.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    export.add_argument("--seal", action="store_true", help="encrypt with a passphrase, to move to another device")
    bring = add(commands, common, "import", "bring a copy back, after consent here", _import)
    bring.add_argument("name", metavar="NAME")
    bring.add_argument("file", metavar="FILE")
    bring.add_argument("--seal", action="store_true", help="it is sealed: ask for the passphrase")


def _named(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("name", metavar="NAME", help="the person, by name or id")
    return command


def verify_adapter(client: Client, name: str, number: int) -> tuple[Proof, list[str]]:
    """Return, for `idiolect audit verify --adapter N`, the answer, and lines for people."""
    answer = client.verify_adapter(name, number)
    said = {
        "signed": "signed by this device's adapter key",
        "bundle": "made from the bundle that runs",
        "ledger": "made from exactly the examples that are kept",
        "consent": "every example is covered by a consent that holds",
        "replayed": "made again from them, byte for byte",
    }
    lines = [f"  {'ok  ' if answer['checks'][name] else 'FAIL'} {text}" for name, text in said.items()]
    return answer, lines
