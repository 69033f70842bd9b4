"""Somebody who agreed and was learnt from: data that must survive, or be gone for good."""

from __future__ import annotations

import base64
import json
from typing import Any

from product import Product

NAME = "ann"
PEOPLE = {NAME: {"users": ["root"]}}
"""For the configuration: root on the machine answers for her."""
PURPOSES = ("enrol", "adapt_corrections")


def document(examples: int, phrases: int = 4) -> dict[str, Any]:
    """An export of hers from another device."""
    from tests.support.learners import invented

    rows = [
        {
            "phrase": f"phrase {n % phrases}", "source": "enrolment", "day": 20_000, "session": f"{n % phrases:02x}",
            "heard": "", "copies": 1,
            "embeddings_float16": base64.b64encode(invented(n % phrases, n).astype("<f2").tobytes()).decode(),
        }
        for n in range(examples)
    ]  # fmt: skip
    return {"schema": "idiolect/person/v1", "examples": rows}


def agrees(product: Product, *purposes: str) -> None:
    """She agrees; needs ``people=PEOPLE`` in the settings."""
    wanted = " ".join(f"--purpose {purpose}" for purpose in purposes or PURPOSES)
    product.idiolect(f"consent grant {NAME} {wanted}", typed="yes\n").checked()


def moves_in(product: Product, examples: int = 12) -> None:
    """She agrees and brings what she taught elsewhere; a round makes an adapter of it."""
    if kept(product) is None:
        agrees(product)
        product.api("/v1/import", {"profile": NAME, "document": document(examples)}, seconds=30)


def kept(product: Product) -> int | None:
    """How many examples of hers are kept; None when nothing is known of her."""
    done = product.idiolect(f"review {NAME} --json")
    return len(json.loads(done.out)["examples"]) if done.rc == 0 else None


def personal(product: Product, seconds: float = 20) -> dict[str, Any]:
    """Wait until the vault is open; what `status` says of it."""

    def opened() -> dict[str, Any] | None:
        state: dict[str, Any] = product.status()["personalization"]
        return state if state["state"] == "on" else None

    found: dict[str, Any] = product.target.wait(opened, seconds, "personalization is on")
    return found


def verdict(product: Product, seconds: float = 40) -> dict[str, Any]:
    """`status` once the daemon knows whether it gets its keys."""

    def known() -> dict[str, Any] | None:
        status = product.status()
        return status if status["keys"]["state"] != "waiting" else None

    found: dict[str, Any] = product.target.wait(known, seconds, "the keys' state is known")
    return found
