"""Why nothing personal can be done: for want of what in the bundle, of keys, or of what is kept; and what mends it."""

from __future__ import annotations

from idiolect.errors import RequestError
from idiolect.trust.device.keys import View

NO_SPACE = "has no statistics to learn with"
NEW_BUNDLE = "install a bundle that has them: ./scripts/build_bundle.py takes them along from the one that is shipped"


def keyless(view: View) -> RequestError:
    """For what needs the vault only."""
    return RequestError(503, "keys", f"nothing personal without keys: {view.detail}; {view.fix}")


def closed(view: View, trouble: str, *, able: bool) -> RequestError:
    """For what needs to learn, too. ``able``: whether the bundle can; ``trouble``: what else is in the way."""
    if not able:
        return RequestError(503, "bundle", f"{NO_SPACE}: {NEW_BUNDLE}")
    if not view.released:
        return keyless(view)
    return RequestError(503, "learning", trouble or "is being opened: try again in a moment")


def no_yes() -> RequestError:
    """For a spoken agreement that this bundle could not hear."""
    fix = 'name this person\'s Unix user under "people" in the configuration, or install a bundle that has the phrase'
    return RequestError(409, "bundle", f'has no phrase "yes", so nobody can agree aloud: {fix}')
