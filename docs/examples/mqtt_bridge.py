#!/usr/bin/env python3
"""An MQTT bridge for Idiolect: events go to a broker, and "listen" and "pause" come from it.

It needs paho-mqtt 2, and `idiolect.client`, which needs no other library: from a checkout of Idiolect, below daemon/.

    python3 -m venv ~/bridge && ~/bridge/bin/pip install 'paho-mqtt>=2'
    export PYTHONPATH=daemon MQTT_PASSWORD=...
    ~/bridge/bin/python docs/examples/mqtt_bridge.py \\
        --device kitchen --host broker.lan --port 8883 --tls --username kitchen

| topic | payload |
| --- | --- |
| idiolect/DEVICE/event/wake, phrase, rejected, state | the event as JSON, as `idiolect listen --json` prints it |
| idiolect/DEVICE/event/lagged, restarted | some events are missing before the next one |
| idiolect/DEVICE/available | online or offline, retained; offline too when bridge or daemon are gone |
| idiolect/DEVICE/command | to the bridge: `listen`, `pause` (until `listen`), or `pause 3600` (seconds) |

**What it publishes is what was said**: phrases, when, and by which profile, to whoever may read at that broker. The
daemon itself has no network; this program has. Run it as a user of its own in the group `idiolect`, with TLS, and let
nobody but your own home automation read those topics or write commands.
"""

import argparse
import json
import os
import socket
import sys
import time

import paho.mqtt.client as mqtt

from idiolect.client import SOCKET, Client, NoAnswerError, RequestError


class Bridge:
    """One broker and one daemon."""

    def __init__(self, device: str, daemon: Client) -> None:
        self.topic, self.daemon, self.available = f"idiolect/{device}", daemon, False
        self.broker = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"idiolect-{device}")
        self.broker.will_set(f"{self.topic}/available", "offline", qos=1, retain=True)
        self.broker.on_connect, self.broker.on_message = self._connected, self._command

    def run(self) -> None:
        """Carry events for ever, over restarts of either side."""
        self.broker.loop_start()  # a thread, which connects again by itself
        while True:
            try:
                for event in self.daemon.events(resume=True, patience_s=None):
                    if event.kind in ("connected", "lost"):
                        self.available = event.kind == "connected"
                        self._tell()
                    else:
                        self.broker.publish(f"{self.topic}/event/{event.kind}", json.dumps(event.data), qos=1)
            except NoAnswerError as error:  # not there yet, or not for us
                print(error, file=sys.stderr)
                time.sleep(5)

    def _tell(self) -> None:
        self.broker.publish(f"{self.topic}/available", "online" if self.available else "offline", qos=1, retain=True)

    def _connected(self, *_: object) -> None:
        self.broker.subscribe(f"{self.topic}/command", qos=1)
        self._tell()

    def _command(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        word, _, seconds = message.payload.decode(errors="replace").partition(" ")
        if message.retain:
            return  # of some time ago: who restarts the bridge does not want to pause again
        try:
            if word == "listen":
                self.daemon.resume()
            elif word == "pause":
                self.daemon.pause(float(seconds) if seconds else None)
        except (NoAnswerError, RequestError, ValueError) as error:
            print(f"command refused: {error}", file=sys.stderr)


def main() -> None:
    """Until it is killed."""
    parser = argparse.ArgumentParser(description="Carry Idiolect's events to an MQTT broker, and commands back.")
    parser.add_argument("--device", default=socket.gethostname(), help="its name in topics (default: the host's)")
    parser.add_argument("--socket", default=SOCKET, help="the daemon's control socket")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--tls", action="store_true", help="with the system's certificate authorities")
    parser.add_argument("--username", help="its password is in the environment: MQTT_PASSWORD")
    options = parser.parse_args()
    bridge = Bridge(options.device, Client(options.socket))
    if options.tls:
        bridge.broker.tls_set()
    if options.username:
        bridge.broker.username_pw_set(options.username, os.environ.get("MQTT_PASSWORD"))
    bridge.broker.connect(options.host, options.port)
    bridge.run()


if __name__ == "__main__":
    main()
