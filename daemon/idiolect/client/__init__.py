"""A typed client of the control API, for programs on the device: `from idiolect.client import Client`."""

from idiolect.client.client import (
    SOCKET,
    Client,
    NoAnswerError,
    NotPermittedError,
    RequestError,
    ServerEvent,
    UnreachableError,
    explain,
)

__all__ = [
    "SOCKET",
    "Client",
    "NoAnswerError",
    "NotPermittedError",
    "RequestError",
    "ServerEvent",
    "UnreachableError",
    "explain",
]
