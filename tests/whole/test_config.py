"""The daemon and its configuration files: old ones are named in the log, and a reload lists them anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support import speech
from tests.support.alsa import require_wavmic
from tests.whole.test_service import Daemon

LAYERED = """\
import logging, pathlib, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
from idiolect.config.files import installed_files
from idiolect.service.service import start
vendor, main = map(pathlib.Path, sys.argv[1:])
sys.exit(start(None, lambda: installed_files(main, vendor)))
"""


class Layered(Daemon):
    """Started without --config, with its files somewhere else than in /usr/lib and /etc."""

    def __init__(self, folder):
        super().__init__(folder, speech.silence(0.2))
        self.vendor = folder / "vendor.yaml"
        self.vendor.write_text("schema: 2\ncontrol: {max_clients: 7, roles: {user: [audio]}}\n")

    def start(self):
        self.errors = (self.folder / "stderr").open("ab")
        command = [sys.executable, "-c", LAYERED, str(self.vendor), str(self.config)]
        self.process = subprocess.Popen(command, env=os.environ | self.mic.environment, stderr=self.errors)
        return self

    def reload(self, times=1):
        self.process.send_signal(signal.SIGHUP)
        self.wait(lambda: self.log.count("reloaded") == times)


@pytest.fixture
def made(tmp_path):
    require_wavmic()
    running = []

    def make(kind):
        running.append(kind(tmp_path))
        return running[-1]

    yield make
    for one in running:
        one.stop()


def plain(folder):
    return Daemon(folder, speech.silence(0.2))


def test_layers_and_a_new_file_at_a_reload(made):
    d = made(Layered).start().ready()
    answer = d.client.get("/v1/config?origin=true")
    assert answer["config"]["control"]["max_clients"] == 7
    assert answer["origin"]["control.max_clients"] == {"file": str(d.vendor), "line": 2}
    assert answer["origin"]["listening.mode"]["file"] == str(d.config)
    extra = d.folder / "conf.d" / "10-new.yaml"
    extra.parent.mkdir()
    extra.write_text("control:\n  people: {ann: [root]}\nlistening: {sensitivity: 0.25}\n")
    d.reload()
    answer = d.client.get("/v1/config?origin=true")
    assert answer["config"]["listening"]["sensitivity"] == 0.25
    assert answer["config"]["people"] == {"ann": {"users": ["root"], "sensitivity": "same"}}
    assert answer["origin"]["listening.sensitivity"] == {"file": str(extra), "line": 3}
    said = f"WARNING configuration: {extra}:2: written for schema 1; `idiolect config migrate {extra}` rewrites it"
    assert said in d.log
    assert "takes effect at the next start: people" in d.log
    extra.unlink()
    d.reload(2)
    assert d.client.get("/v1/config")["listening"]["sensitivity"] == 0.5
    assert d.log.count("written for schema 1") == 1


def test_explicit_files_are_all_that_count_and_old_ones_are_named_at_the_start(made):
    d = made(plain)
    d.config.write_text("schema: 1\n" + d.config.read_text())
    extra = d.folder / "conf.d" / "10-new.yaml"
    d.start().ready()
    note = f"{d.config}:1: written for schema 1; `idiolect config migrate {d.config}` rewrites it"
    assert d.log.count(note) == 1
    extra.parent.mkdir()
    extra.write_text("listening: {sensitivity: 0.25}\n")
    d.process.send_signal(signal.SIGHUP)
    d.wait(lambda: "reloaded" in d.log)
    assert d.client.get("/v1/config")["listening"]["sensitivity"] == 0.5
    assert d.log.count(note) == 2


def test_a_reload_refuses_a_newer_file_and_a_folder_that_cannot_be_listed(made):
    d = made(Layered).start().ready()
    extra = d.folder / "conf.d"
    extra.write_text("")
    d.process.send_signal(signal.SIGHUP)
    d.wait(lambda: "reload refused" in d.log)
    assert f"{extra}:1: file: cannot be listed" in d.log
    extra.unlink()
    extra.mkdir()
    (extra / "1.yaml").write_text("schema: 3\nwonders: 1\n")
    d.process.send_signal(signal.SIGHUP)
    d.wait(lambda: d.log.count("reload refused") == 2)
    assert "1.yaml:1: schema: is 3, and this idiolect knows schemas up to 2" in d.log
    assert "wonders" not in d.log
