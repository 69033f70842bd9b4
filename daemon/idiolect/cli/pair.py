"""`idiolect pair`: let a browser show somebody's page, and see or end what was let in."""

from __future__ import annotations

import argparse
import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from idiolect.cli import output as show
from idiolect.cli import systemctl
from idiolect.cli.files import CommandError
from idiolect.client import Client

Add = Callable[..., argparse.ArgumentParser]
UNIT = "idiolect-tcp@page.socket"
_LISTEN = re.compile(r"(?P<address>\[[^]]*\]|[^:]*):(?P<port>\d+) \(Stream\)")


def address(listen: str, access: str, host: str) -> str:
    """Return where the page is, from what systemd says that the unit listens on; "" where it listens on no port."""
    found = _LISTEN.search(listen)
    if found is None:
        return ""
    scheme, name = ("https", f"{host}.local") if access == "lan" else ("http", "localhost")
    return f"{scheme}://{name}:{found['port']}/"


def _where(access: str) -> list[str]:
    try:
        unit = systemctl.state(UNIT, ("Listen", "ActiveState"))
    except CommandError:  # without a bus, systemd answers root alone
        return [f"open the page; its port is what `sudo systemctl show -P Listen {UNIT}` says"]
    if unit and unit.get("ActiveState") == "active":
        url = address(unit.get("Listen", ""), access, socket.gethostname())
        if url:
            return [f"open {url}"]
    return [f"open the page; its port is that of {UNIT}, which is not enabled: see man idiolectd"]


def _pair(options: argparse.Namespace) -> int:
    client = Client(options.socket)
    if options.list or options.forget or options.forget_all:
        return _browsers(options, client)
    if not options.name:
        raise CommandError("pair: say for whom: idiolect pair NAME")
    answer = client.pair(options.name)
    lines = [*_where(answer["access"]), f"and type the code  {answer['code']}  (within five minutes)"]
    if answer["fingerprint"]:
        lines += [
            "The browser does not know this device yet and will warn of it. Before you go on, look at the certificate",
            "that it shows: its SHA-256 fingerprint must be",
            *(f"  {half}" for half in _halves(answer["fingerprint"])),
        ]
    print(json.dumps(answer, indent=2) if options.json else "\n".join(map(show.plain, lines)))
    return 0


def _halves(fingerprint: str) -> tuple[str, str]:
    return fingerprint[:47], fingerprint[48:]


def _browsers(options: argparse.Namespace, client: Client) -> int:
    if options.list:
        known = client.browsers()
        rows = [
            f"{row['id']}  {row['person']}  until {time.strftime('%Y-%m-%d', time.localtime(row['expires']))}"
            for row in known["browsers"]
        ]
        answer: Mapping[str, Any] = known
        lines = rows or ["no browser is paired"]
    else:
        what: dict[str, object] = {"all": True}
        if options.forget:
            what = {"id" if re.fullmatch("[0-9a-f]{16}", options.forget) else "profile": options.forget}
        answer = client.forget_browsers(**what)
        lines = [f"{answer['forgotten']} shut out"]
    missed = bool(options.forget) and not answer["forgotten"]
    print(json.dumps(answer, indent=2) if options.json else "\n".join(map(show.plain, lines)))
    return int(missed)


def register(commands: Any, common: argparse.ArgumentParser, add: Add) -> None:
    """Add the command to the parser."""
    pair = add(commands, common, "pair", "let a browser show somebody's page", _pair)
    pair.add_argument("name", nargs="?", help="whose page it will show")
    which = pair.add_mutually_exclusive_group()
    which.add_argument("--list", action="store_true", help="the browsers that are let in")
    which.add_argument("--forget", metavar="ID|NAME", help="shut out one browser, or all of somebody's")
    which.add_argument("--forget-all", action="store_true", help="shut out all")
