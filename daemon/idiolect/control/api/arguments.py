"""The checks of a request's arguments that parts of the API share; each raises ``RequestError`` 422."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from idiolect.errors import RequestError

T = TypeVar("T")


def only(given: Mapping[str, T], *known: str) -> Mapping[str, T]:
    """Return ``given``, which has no other names than the ``known``. Raises ``RequestError`` 422."""
    for name in given:
        if name not in known:
            raise RequestError(422, name[:64], f"unknown; known: {', '.join(known) or 'nothing'}")
    return given
