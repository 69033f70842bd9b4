"""The simulated microphone, and the rule for machines that cannot build it."""

from __future__ import annotations

import os

from .wavmic import PluginError, WavMic, build

__all__ = ["WavMic", "require_wavmic"]


def require_wavmic() -> None:
    """Skip the calling test where the plugin cannot be built; in CI fail, so that nobody loses these tests unseen."""
    import pytest  # only here: scripts use this package without it

    try:
        build()
    except PluginError as reason:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the microphone tests: {reason}")
        pytest.skip(str(reason))
