from __future__ import annotations

import copy
import mmap
import os
import pickle
import resource
from pathlib import Path

import pytest

from idiolect.trust.vault.secret import Secret


def test_it_holds_what_it_was_given_and_nothing_after_wiping():
    secret = Secret(b"hidden")
    assert bytes(secret.view) == b"hidden"
    assert len(secret) == 6
    secret.wipe()
    secret.wipe()
    assert len(secret) == 0
    assert secret._page.closed
    with pytest.raises(ValueError, match="wiped"):
        _ = secret.view


def test_a_view_kept_past_wiping_shows_zeros():
    secret = Secret(b"hidden")
    view = secret.view
    secret.wipe()
    assert bytes(view) == bytes(6)


def test_the_view_cannot_be_written():
    with Secret(b"hidden") as secret, pytest.raises(TypeError):
        secret.view[0] = 0


def test_a_bytearray_given_is_zeroed():
    given = bytearray(b"hidden")
    with Secret(given) as secret:
        assert given == bytes(6)
        assert secret.view == b"hidden"


@pytest.mark.parametrize("length", [0, mmap.PAGESIZE + 1])
def test_lengths_out_of_range_are_refused(length):
    with pytest.raises(ValueError, match="1 byte to a page"):
        Secret(bytes(length))


@pytest.mark.parametrize("length", [1, mmap.PAGESIZE])
def test_lengths_at_their_limits_are_taken(length):
    with Secret(bytes(length)) as secret:
        assert len(secret) == length


def test_equality_is_by_content_and_only_among_secrets():
    assert Secret(b"a") == Secret(b"a")
    assert Secret(b"a") != Secret(b"b")
    assert Secret(b"a") != b"a"
    with pytest.raises(TypeError):
        hash(Secret(b"a"))


def test_it_does_not_print_or_travel():
    secret = Secret(b"hidden")
    assert repr(secret) == str(secret) == f"{secret}" == "<Secret>"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(secret)


def test_it_holds_no_descriptor():
    before = set(Path("/proc/self/fd").iterdir())
    with Secret(b"hidden"):
        assert set(Path("/proc/self/fd").iterdir()) == before


def test_random_ones_differ():
    assert Secret.random() != Secret.random()
    assert len(Secret.random(16)) == 16


def flags_of(address: int) -> list[str]:
    """VmFlags of the mapping that holds an address."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            low, high = (int(n, 16) for n in head.split("-"))
            found = low <= address < high
        elif found and head == "VmFlags:":
            return line.split()[1:]
    raise AssertionError("no such mapping")


def address_of(secret: Secret) -> int:
    import numpy as np

    return np.frombuffer(secret.view, np.uint8).ctypes.data


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] < mmap.PAGESIZE, reason="no locked memory allowed")
def test_its_page_is_locked_and_left_out_of_dumps_and_children():
    secret = Secret(b"hidden")
    flags = flags_of(address_of(secret))
    assert {"lo", "dd", "wf"} <= set(flags)


def locked_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmLck:")).split()[1])


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] < mmap.PAGESIZE, reason="no locked memory allowed")
def test_no_more_than_its_page_is_locked():
    before = locked_kib()
    kept = [Secret(b"hidden") for _ in range(3)]
    assert locked_kib() - before == len(kept) * mmap.PAGESIZE // 1024


def test_a_child_finds_zeros():
    secret = Secret(b"hidden")
    if (child := os.fork()) == 0:
        os._exit(0 if bytes(secret.view) == bytes(6) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert secret.view == b"hidden"


def test_a_context_wipes_at_its_end_even_after_an_error():
    for error in (None, KeyError):
        secret = Secret(b"hidden")
        view = secret.view
        try:
            with secret:
                if error:
                    raise error
        except KeyError:
            pass
        assert len(secret) == 0
        assert bytes(view) == bytes(6)
