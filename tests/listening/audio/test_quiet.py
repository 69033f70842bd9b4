"""Standard error without one known line of a library: everything else comes through, whatever happens meanwhile."""

from __future__ import annotations

import subprocess
import sys

import pytest

ABOUT = """
import os, sys
from idiolect.listening.audio import quiet
from idiolect.listening.recognizer import bundle_directory
from idiolect.listening.pipeline.encoder import Encoder
model = (bundle_directory("builtin") / "encoder.tflite").read_bytes()
"""


def said(code: str, **more: object) -> str:
    command = [sys.executable, "-c", ABOUT + code]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False, **more)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_an_interpreter_is_made_without_a_word():
    pytest.importorskip("ai_edge_litert")
    assert "XNNPACK" in said("Encoder(model)")  # else there is nothing to keep away, and this can go
    assert said("with quiet.without():\n    Encoder(model)\n") == ""


def test_everything_else_is_passed_on_also_from_a_failure():
    code = (
        "try:\n    with quiet.without(b'known'):\n"
        "        os.write(2, b'first\\nknown\\nknown, and more\\n')\n"
        "        print('second', file=sys.stderr); os.write(2, b'cut')\n"
        "        raise ValueError\nexcept ValueError:\n    os.write(2, b' and after')\n"
    )
    assert said(code) == "first\nknown, and more\nsecond\ncut and after"


def test_without_standard_error_nothing_is_missed():
    assert said("os.close(2)\nwith quiet.without():\n    print('made')\n", stdout=subprocess.DEVNULL) == ""
