"""The errors that say why nothing personal can be done: the bundle, the keys or the vault lack something.

Each says what mends it.
"""

from __future__ import annotations

from idiolect.errors import RequestError
from idiolect.trust.device.keys import View

NO_SPACE = "has no statistics to learn with"
NEW_BUNDLE = "install a bundle that has them: ./scripts/build_bundle.py takes them along from the one that is shipped"


def keyless(view: View) -> RequestError:
    """Return the error for a request that needs the vault, while the keys are not released."""
    return RequestError(503, "keys", f"nothing personal without keys: {view.detail}; {view.fix}")


def closed(view: View, trouble: str, *, able: bool) -> RequestError:
    """Return the error for a request that needs learning.

    Args:
        trouble: what else is in the way, "" for nothing.
        able: whether the bundle has what learning needs.
    """
    if not able:
        return RequestError(503, "bundle", f"{NO_SPACE}: {NEW_BUNDLE}")
    if not view.released:
        return keyless(view)
    return RequestError(503, "learning", trouble or "is being opened: try again in a moment")


def no_yes() -> RequestError:
    """Return the error for a person who can agree only aloud, with a bundle that has no phrase "yes"."""
    fix = 'name this person\'s Unix user under "people" in the configuration, or install a bundle that has the phrase'
    return RequestError(409, "bundle", f'has no phrase "yes", so nobody can agree aloud: {fix}')
