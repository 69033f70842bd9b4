"""The example of an MQTT bridge, as it is in docs/examples, between a daemon and a real broker on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.fake_daemon import event, running, wait_for

mqtt = pytest.importorskip("paho.mqtt.client")
BRIDGE = Path(__file__).parents[2] / "docs" / "examples" / "mqtt_bridge.py"
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed: apt-get install mosquitto")


class Listener:
    """Somebody else at the broker; ``heard`` is what came, by topic."""

    def __init__(self, port):
        self.heard: dict[str, list[str]] = {}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.on_message = self._take
        self.client.on_connect = lambda client, *_: client.subscribe("idiolect/#", qos=1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _take(self, _client, _data, message):
        self.heard.setdefault(message.topic, []).append(message.payload.decode())

    def say(self, text, **how):
        self.client.publish("idiolect/kitchen/command", text, qos=1, **how).wait_for_publish(5)

    def last(self, topic):
        return self.heard.get(f"idiolect/kitchen/{topic}", [""])[-1]


@pytest.fixture
def port(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    broker = subprocess.Popen([MOSQUITTO, "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield port
    broker.terminate()
    broker.wait(60)


def bridge(path, port):
    command = [sys.executable, str(BRIDGE), "--device", "kitchen", "--socket", str(path), "--port", str(port)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def listener(port):
    one = Listener(port)
    yield one
    one.client.disconnect()
    one.client.loop_stop()


def test_events_go_out_and_commands_come_in(path, port, listener):
    listener.say("pause", retain=True)  # of long ago
    with running(path) as run:
        process = bridge(path, port)
        try:
            wait_for(lambda: listener.last("available") == "online")
            run.publish("lights")
            wait_for(lambda: listener.last("event/phrase"))
            assert json.loads(listener.last("event/phrase")) == event("lights").as_dict()
            assert not run.daemon.paused
            listener.say("pause 60")
            wait_for(lambda: run.daemon.paused)
            assert 50 < run.daemon.paused_until - time.time() <= 60
            listener.say("listen")
            wait_for(lambda: not run.daemon.paused)
            listener.say("pause")
            wait_for(lambda: run.daemon.paused and run.daemon.paused_until is None)
            for nonsense in ("pause x", "pause -1", "erase ann", ""):
                listener.say(nonsense)
            listener.say("listen")
            wait_for(lambda: not run.daemon.paused)
        finally:
            process.kill()  # without a word: the broker says it
            said = process.communicate(timeout=60)[1]
        wait_for(lambda: listener.last("available") == "offline")
    assert said.count("command refused") == 2


def test_it_says_when_the_daemon_is_away(path, port, listener):
    with running(path):
        process = bridge(path, port)
        wait_for(lambda: listener.last("available") == "online")
    try:
        wait_for(lambda: listener.last("available") == "offline")
        with running(path) as again:
            wait_for(lambda: listener.last("available") == "online", 60)
            again.publish("one")
            wait_for(lambda: listener.last("event/phrase"))
    finally:
        process.kill()
        process.communicate(timeout=60)
