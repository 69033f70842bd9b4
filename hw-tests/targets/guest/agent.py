"""Runs in the virtual board: commands come in on a virtio-serial port, one JSON line each, and answers go out likewise.

It needs no network, no login and no bus, so it works while the board is sick. Commands run at the same time.
"""

import base64
import glob
import json
import os
import signal
import subprocess
import sys
import threading
import time

PORT = "idiolect.hw"
LINE = 4 << 20


def run(request: dict) -> dict:
    """One command in a session of its own, so that all of it can be stopped at its time limit."""
    began = time.monotonic()
    process = subprocess.Popen(
        ["/bin/sh", "-c", request["command"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    code: int | None = None
    try:
        out, err = process.communicate(base64.b64decode(request["stdin"]), timeout=request["timeout"])
    except subprocess.TimeoutExpired:
        code = 124
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    return {
        "rc": process.returncode if code is None else code,
        "out": base64.b64encode(out).decode(),
        "err": base64.b64encode(err).decode(),
        "seconds": time.monotonic() - began,
    }


def port_device() -> str:
    """The port's device; found by its name here, as udev may not have run yet."""
    while True:
        for name in glob.glob("/sys/class/virtio-ports/*/name"):
            with open(name) as file:
                if file.read().strip() == PORT:
                    return f"/dev/{name.split('/')[-2]}"
        time.sleep(0.05)


def main() -> None:
    """Serve until the machine goes down."""
    port = os.open(port_device(), os.O_RDWR)
    lock = threading.Lock()

    def serve(line: bytes) -> None:
        try:
            request = json.loads(line)
        except ValueError:
            return  # the rest of what was on its way when the board went down
        try:
            answer = run(request)
        except Exception as error:
            answer = {"rc": 125, "out": "", "err": base64.b64encode(repr(error).encode()).decode(), "seconds": 0.0}
        data = json.dumps({"id": request["id"], **answer}).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(port, data) :]

    pending = b""
    while True:
        received = os.read(port, 1 << 16)
        if not received:  # nobody at the other end
            time.sleep(0.05)
            continue
        *lines, pending = (pending + received).split(b"\n")
        pending = pending if len(pending) < LINE else b""
        for line in filter(None, lines):
            threading.Thread(target=serve, args=(line,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
