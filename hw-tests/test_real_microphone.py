"""A real microphone: IDIOLECT_HW_DEVICE=plughw:CARD=Mic python -m pytest hw-tests/test_real_microphone.py

Nothing that it hears is kept or printed. It wants a room that is not digitally silent.
"""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from idiolect.host.capture import BlockQueue, Capture
from idiolect.host.convert import level_dbfs
from idiolect.host.microphone import AlsaMicrophone, list_devices, open_source
from idiolect.values import BLOCK, SAMPLE_RATE

DEVICE = os.environ.get("IDIOLECT_HW_DEVICE", "")
pytestmark = pytest.mark.skipif(not DEVICE, reason="set IDIOLECT_HW_DEVICE to an ALSA capture device")


def test_five_seconds_arrive_in_real_time_without_loss():
    source = AlsaMicrophone(DEVICE)
    try:
        while source.read() is None:
            pass
        started, blocks = time.monotonic(), []
        while time.monotonic() - started < 5.0:
            block = source.read()
            blocks += [block] if block else []
    finally:
        closing = time.monotonic()
        source.close()
    assert time.monotonic() - closing < 0.1
    assert len(blocks) == pytest.approx(5.0 * SAMPLE_RATE / BLOCK, abs=3)
    assert source.overruns == 0
    assert not any(b.lost for b in blocks)
    assert level_dbfs(np.concatenate([b.samples for b in blocks])) > -100.0


def test_a_pause_releases_it():
    capture = Capture(lambda: open_source(DEVICE, channel="mix", gain_db=0.0), BlockQueue(32), lambda: None)
    thread = threading.Thread(target=capture.run)
    thread.start()
    try:
        for state, change in (("running", capture.pause), ("paused", lambda: None)):
            deadline = time.monotonic() + 5
            while capture.health.state != state:
                assert time.monotonic() < deadline, capture.health
                time.sleep(0.02)
            change()
        AlsaMicrophone(DEVICE).close()
    finally:
        capture.stop()
        thread.join(2.0)
    assert not thread.is_alive()


def test_devices_are_listed():
    assert any(device.name.startswith(("hw:", "plughw:", "default")) for device in list_devices())
