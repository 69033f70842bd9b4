"""The command line `idiolect`: asks the daemon over its socket and prints the answer.

It imports neither numpy nor h11, and what only some commands need it imports when they run: it starts in a tenth
of a second on a small board.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from idiolect import __version__
from idiolect.cli import box as cli_box
from idiolect.cli import bundle as cli_bundle
from idiolect.cli import config, pair, review
from idiolect.cli import learn as cli_idle
from idiolect.cli import output as show
from idiolect.cli import provision as cli_trust
from idiolect.cli.files import DEFAULT_CONFIG
from idiolect.client import Client, NoAnswerError, ServerEvent
from idiolect.errors import IdiolectError, TrustError
from idiolect.values import MAX_PAUSE_S

DEFAULT_SOCKET = "/run/idiolect/control.sock"
_PATIENCE_S = 30.0
"""Seconds that `listen` waits for a daemon that went away, such as for a restart."""

_HINT_S = 2.0
"""Seconds that an event may have to wait because `listen` asks whether anybody can be heard."""

_EPILOG = """\
exit codes:
  0    done
  1    the answer is no: doctor found a failure, status says that nobody can be heard (a pause by somebody is none),
       listen timed out before --count events, nobody agreed or was learnt from, or learn --now is not done yet
  2    wrong usage
  69   the daemon cannot be reached; the message says how to start it
  65   an audit log was changed, or a proof does not hold
  70   the daemon refused or failed
  74   the keystore or the vault cannot be used; the message says what to do
  77   no permission; the message says which group to join
  78   the configuration is wrong, or a bundle is refused
  130  interrupted with Ctrl-C;  141  the reader of the output went away

environment:
  IDIOLECT_SOCKET  the control socket, unless --socket names one
  NO_COLOR         no colours
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code."""
    try:
        standard = argparse.Namespace(socket=os.environ.get("IDIOLECT_SOCKET") or DEFAULT_SOCKET, json=False)
        options = _parser().parse_args(arguments, standard)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # a phrase in any script, a terminal in ASCII
        run: Callable[[argparse.Namespace], int] = options.run
        code = run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 141
    except IdiolectError as error:
        fix = f"; {error.fix}" if isinstance(error, TrustError) else ""
        print(f"idiolect: {error}{fix}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a file that was named; what the socket has to say is an error of ours
        exists = isinstance(error, FileExistsError)
        fix = "name another file, or remove that one" if exists else "check the path and the disk"
        print(f"idiolect: {error.filename or 'a file'}: {error.strerror or error}: {fix}", file=sys.stderr)
        return 74
    return code


def _status(options: argparse.Namespace) -> int:
    status = _client(options).status()
    return _print(options, status, show.status_lines) or int(bool(show.unheard(status)))


def _pause(options: argparse.Namespace) -> int:
    client = _client(options)
    pause = client.pause_learning if options.what == "learning" else client.pause
    return _changed(options, pause(options.for_s))


def _resume(options: argparse.Namespace) -> int:
    client = _client(options)
    return _changed(options, client.resume_learning() if options.what == "learning" else client.resume())


def _changed(options: argparse.Namespace, answer: Mapping[str, Any]) -> int:
    if options.what == "learning":
        return _print(options, answer, lambda each: [show.learning_text(each.get("learning", {}))])
    return _print(options, answer, lambda each: [show.plain(show.listening_text(each.get("listening", {})))])


def _devices(options: argparse.Namespace) -> int:
    answer = _client(options).devices()
    return _print(options, answer, lambda each: show.device_lines(each.get("devices", [])) or ["no capture device"])


def _doctor(options: argparse.Namespace) -> int:
    from idiolect.cli.doctor import local_checks, one_screen

    checks = local_checks(Path(options.config))
    try:
        answer = _client(options).doctor()["checks"]
        checks.append({"check": "daemon", "ok": True, "level": "ok", "detail": "is running and answers", "fix": ""})
        checks.extend(dict(each) for each in answer)
    except NoAnswerError as error:
        failed = {"check": "daemon", "ok": False, "level": "fail", "detail": error.message, "fix": error.fix}
        checks.append(failed)
    checks = one_screen(checks)
    _print(options, {"checks": checks}, lambda _: show.check_lines(checks))
    return int(any(check.get("level") == "fail" for check in checks))


def _listen(options: argparse.Namespace) -> int:
    heard, client, hint = 0, _client(options), ""
    asking = Client(options.socket, timeout=_HINT_S)
    if sys.stderr.isatty():
        print("listening; Ctrl-C ends it", file=sys.stderr)
    for event in _follow(client, options.timeout):
        if event.kind == "connected" or not {"microphone", "listening"}.isdisjoint(event.data):
            hint = _hint(asking, hint)
        if event.id:
            print(json.dumps(event.data) if options.json else show.event_line(event.data), flush=True)
            heard += event.kind != "state"
        if heard == options.count:
            return 0
    return 0 if options.count is None else 1  # time is up


def _hint(client: Client, before: str) -> str:
    """Return why nobody can be heard, "" where somebody can; said where it is another reason than ``before``."""
    try:
        status = client.status()
    except NoAnswerError:  # the event stream says so, and waits for it
        return before
    why = show.unheard(status) or show.unheard_by_wish(status)
    if why != before:
        print(f"idiolect: {why or 'the microphone is heard again'}", file=sys.stderr)
    return why


def _follow(client: Client, seconds: float | None) -> Iterator[ServerEvent]:
    """Yield events until ``seconds`` are over, across restarts of the daemon; none twice, and none lost without a word.

    ``connected`` comes among them, the first time and again.
    """
    words = {
        "lost": "the daemon ended the stream; waiting for it",
        "restarted": "the daemon was started anew; what came just before may be lost",
        "lagged": "some events are lost: they left the daemon's memory before they were read",
    }
    try:
        for event in client.events(seconds=seconds, resume=True, patience_s=_PATIENCE_S):
            if event.kind in words:
                print(f"idiolect: {words[event.kind]}", file=sys.stderr)
            elif event.id or event.kind == "connected":
                yield event
    except TimeoutError:
        return


def _client(options: argparse.Namespace) -> Client:
    return Client(options.socket)


def _print(
    options: argparse.Namespace, answer: Mapping[str, Any], lines: Callable[[Mapping[str, Any]], list[str]]
) -> int:
    """Print the answer itself with --json, else what ``lines`` makes of it."""
    print(json.dumps(answer, indent=2) if options.json else "\n".join(lines(answer)))
    return 0


def _pause_seconds(text: str) -> float:
    seconds = show.seconds(text)
    if not 1 <= seconds <= MAX_PAUSE_S:
        raise argparse.ArgumentTypeError("a pause lasts from 1s to 7d; without --for it lasts until resumed")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    # Given both before and after the command; only what is really given overrides.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--socket", metavar="PATH", default=argparse.SUPPRESS, help="the daemon's control socket")
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON, for programs")
    parser = argparse.ArgumentParser(
        prog="idiolect",
        description="Talk to idiolectd, the voice daemon.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"idiolect {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add(commands, common, "status", "show what the daemon is doing", _status)
    listen = _add(commands, common, "listen", "print events as they happen, until Ctrl-C", _listen)
    listen.add_argument("--count", type=_count, metavar="N", help="end after N events; changes of state do not count")
    listen.add_argument("--timeout", type=show.seconds, metavar="TIME", help="end after this time (20, 30s, 5m)")
    pause = _add(commands, common, "pause", "stop listening, or learning; survives a restart", _pause)
    pause.add_argument("what", choices=["listening", "learning"])
    pause.add_argument("--for", dest="for_s", type=_pause_seconds, metavar="TIME", help="30s, 15m, 2h, 1d; up to 7d")
    resume = _add(commands, common, "resume", "listen, or learn, again", _resume)
    resume.add_argument("what", choices=["listening", "learning"])
    _add(commands, common, "devices", "list the sound cards one could capture from", _devices)
    config.register(commands, common, _add)
    doctor = _add(commands, common, "doctor", "find out what is wrong and what to do about it", _doctor)
    doctor.add_argument("--config", metavar="FILE", default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}")
    review.register(commands, common, _add)
    cli_idle.register(commands, common, _add)
    pair.register(commands, common, _add)
    cli_box.register(commands, common, _add)
    cli_bundle.register(commands, common, _add)
    cli_trust.register(commands, common, _add)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    name: str,
    about: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", parents=[common])
    command.set_defaults(run=run)
    return command


if __name__ == "__main__":
    sys.exit(main())
