"""What somebody who can write to a bundle's directory may try: every byte, every kind of file, every race.

Each attack runs against a real directory, and the refusal's number is the expected one.
"""

from __future__ import annotations

import os
import random
import socket
import threading

import pytest

from idiolect.errors import BundleError
from idiolect.listening.recognizer import read_bundle
from idiolect.trust.bundle.directory import Directory
from idiolect.trust.bundle.manifest import CAPS, OPTIONAL_CAPS
from idiolect.trust.bundle.source import Memory
from idiolect.trust.bundle.verify import verify
from tests.support.bundles import signed, trusted, write

FILES = signed(2).files
META = ("manifest.json", "approvals.json", "model.sig")


@pytest.fixture
def folder(tmp_path):
    return write(FILES, tmp_path / "bundle")


def refused(folder):
    """The number of the check that refuses it; nothing is loaded on the way."""
    with pytest.raises(BundleError) as refusal:
        read_bundle(folder, trusted(), allow_unsigned=False)
    return refusal.value.check


@pytest.mark.parametrize("name", META)
def test_every_byte_of_a_small_file(name):
    """All positions, one random bit each: refused, by the form or by the signature."""
    rng, data = random.Random(name), FILES[name]
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << rng.randrange(8)
        with pytest.raises(BundleError) as refusal:
            verify(Memory({**FILES, name: bytes(changed)}), trusted())
        assert refusal.value.check in (2, 3), position
        assert name != "model.sig" or refusal.value.check == 3, position


@pytest.mark.parametrize("name", sorted({**CAPS, **OPTIONAL_CAPS}))
def test_bytes_of_a_payload_file(name):
    rng, data = random.Random(name), FILES[name]
    for position in {0, len(data) - 1, *rng.sample(range(len(data)), 20)}:
        changed = bytearray(data)
        changed[position] ^= 1 << rng.randrange(8)
        with pytest.raises(BundleError) as refusal:
            verify(Memory({**FILES, name: bytes(changed)}), trusted())
        assert (refusal.value.file, refusal.value.check) == (name, 6)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_removed_emptied_or_replaced_by_another(folder, name):
    path, data = folder / name, FILES[name]
    path.unlink()
    assert refused(folder) == (3 if name == "model.sig" else 5)
    path.write_bytes(b"")
    assert refused(folder) == {"manifest.json": 2, "approvals.json": 2, "model.sig": 3}.get(name, 6)
    path.write_bytes(signed(3).files[name] if name in META else data[::-1])
    # An older or newer signed part does not go with the rest: 3 is always the answer.
    assert refused(folder) == (3 if name in META else 6)
    path.write_bytes(data)
    assert read_bundle(folder, trusted(), allow_unsigned=False).version == 2


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_link_a_directory_a_fifo_a_socket_or_a_device_in_a_files_place(folder, tmp_path, name, monkeypatch):
    path, elsewhere = folder / name, tmp_path / "elsewhere"
    elsewhere.write_bytes(FILES[name])
    path.unlink()
    path.symlink_to(elsewhere)
    assert refused(folder) == 5
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert refused(folder) == 5
    path.unlink()
    path.mkdir()
    assert refused(folder) == 5
    path.rmdir()
    os.mkfifo(path)
    assert refused(folder) == 5  # and at once: nobody ever writes
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folder)  # a socket's path has 107 bytes
        listener.bind(name)
        assert refused(folder) == 5
    path.unlink()
    if os.geteuid() == 0:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: no end
        assert refused(folder) == 5


@pytest.mark.parametrize("name", ["extra", ".hidden", "HEAD.BIN", "head.bin ", "nul\n", "x" * 200])
def test_an_extra_file_link_or_directory(folder, name):
    (folder / name).write_bytes(b"x")
    assert refused(folder) == 5
    (folder / name).unlink()
    (folder / name).symlink_to("head.bin")
    assert refused(folder) == 5
    (folder / name).unlink()
    (folder / name).mkdir()
    assert refused(folder) == 5
    (folder / name).rmdir()
    os.mkfifo(folder / name)
    assert refused(folder) == 5


def test_a_name_that_is_no_text(folder):
    (folder / os.fsdecode(b"bad\xff\x1b[31m")).touch()
    with pytest.raises(BundleError) as refusal:
        read_bundle(folder, trusted())
    assert refusal.value.check == 5
    assert str(refusal.value).isprintable()


def test_ten_thousand_files(folder):
    for n in range(1100):
        (folder / f"{n}").touch()
    assert refused(folder) == 1


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_of_a_terabyte(folder, name):
    with (folder / name).open("r+b") as file:
        file.truncate(1 << 40)  # sparse: it takes no space, and must take no memory
    assert refused(folder) == 1


def test_a_hard_link_is_a_file_like_any_other(folder, tmp_path):
    """Nothing is gained by one: the bytes are what counts."""
    (tmp_path / "copy").write_bytes(FILES["head.bin"])
    (folder / "head.bin").unlink()
    (folder / "head.bin").hardlink_to(tmp_path / "copy")
    assert read_bundle(folder, trusted(), allow_unsigned=False).version == 2


@pytest.mark.parametrize("name", ["../bundle/head.bin", "/etc/hostname", "..", ".", "", "a/../head.bin", "head.bin\0x"])
def test_a_path_in_a_name_is_never_opened(folder, name):
    with Directory(folder) as source, pytest.raises(BundleError) as refusal:
        source.read(name, 1 << 20)
    assert refusal.value.check == 5


def test_the_directory_is_opened_once(folder, tmp_path):
    """Another bundle in its place after it was opened is not what is read."""
    with Directory(folder) as source:
        folder.rename(tmp_path / "aside")
        write(signed(3).files, folder)
        assert verify(source, trusted()).manifest.version == 2


class _Swapping(Directory):
    """Changes the file behind the reader's back, right after it was read."""

    def __init__(self, folder):
        super().__init__(folder)
        self.folder = folder

    def read(self, name, cap):
        data = super().read(name, cap)
        (self.folder / name).write_bytes(b"evil")
        return data


def test_what_is_loaded_is_what_was_digested(folder):
    with _Swapping(folder) as source:
        verified = verify(source, trusted())
    assert verified.files == FILES
    assert (folder / "head.bin").read_bytes() == b"evil"


def test_a_writer_in_a_loop_never_gets_a_changed_file_in(folder):
    stop, wrong = threading.Event(), bytearray(FILES["head.bin"])
    wrong[1000] ^= 1

    def write_on():
        while not stop.is_set():
            for data in (bytes(wrong), FILES["head.bin"]):
                (folder / "new").write_bytes(data)
                (folder / "new").replace(folder / "head.bin")

    thread = threading.Thread(target=write_on)
    thread.start()
    outcomes = set()
    try:
        for _ in range(60):
            try:
                with Directory(folder) as source:
                    outcomes.add(verify(source, trusted()).files["head.bin"])
            except BundleError as error:
                outcomes.add(error.check)
    finally:
        stop.set()
        thread.join()
    assert outcomes <= {5, 6, FILES["head.bin"]}  # 5: the new file was about


def test_a_signed_bundle_stripped_of_its_signature_is_refused_where_one_is_needed(folder):
    (folder / "model.sig").unlink()
    assert refused(folder) == 3
    (folder / "approvals.json").unlink()
    assert refused(folder) == 3
    stripped = read_bundle(folder, trusted(), allow_unsigned=True)
    assert (stripped.signer, stripped.approvals) == ("", ())  # keystore: file may read it; it has no say in a TPM


def test_an_old_bundle_that_was_good_once(tmp_path):
    old = write(signed(1).files, tmp_path / "old")
    with pytest.raises(BundleError) as refusal:
        read_bundle(old, trusted(), minimum=2)
    assert refusal.value.check == 4
