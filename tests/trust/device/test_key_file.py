from __future__ import annotations

import json
import os

import pytest

from idiolect.errors import KeystoreError
from idiolect.trust.device import key_file
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.vault.keystore import CURRENT, NEXT, Keystore, Slot
from idiolect.trust.vault.secret import Secret


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keystore.json"
    FileKeystore.create(path)
    return path


def test_what_is_made_is_for_its_owner_and_opens_again(path):
    assert path.stat().st_mode & 0o777 == 0o600
    keystore, released = FileKeystore.open(path)
    _, again = FileKeystore.open(path)
    assert released.root == again.root
    assert released.slots == again.slots
    assert released.slots[NEXT].generation == 1
    assert released.slots[NEXT].secret == released.slots[CURRENT].secret != released.root
    as_protocol: Keystore = keystore
    assert (as_protocol.kind, as_protocol.protected, as_protocol.minimum_version()) == ("file", False, 0)


def test_it_is_not_made_over_another(path):
    before = path.read_bytes()
    with pytest.raises(KeystoreError, match="exists"):
        FileKeystore.create(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("index", [NEXT, CURRENT])
def test_a_slot_is_replaced_and_the_other_stays(path, index):
    keystore, before = FileKeystore.open(path)
    keystore.raise_minimum(4)
    fresh = Slot(2, Secret.random())
    keystore.write_slot(index, fresh)
    _, after = FileKeystore.open(path)
    assert after.slots[index] == fresh
    assert after.slots[1 - index] == before.slots[1 - index]
    assert after.root == before.root
    assert keystore.minimum_version() == 4
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_minimum_only_rises(path):
    keystore, _ = FileKeystore.open(path)
    for version, expected in ((3, 3), (2, 3), (3, 3), (7, 7)):
        keystore.raise_minimum(version)
        assert keystore.minimum_version() == expected


def refused(path, state: str) -> str:
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(KeystoreError) as refusal:
        FileKeystore.open(path)
    assert refusal.value.state == state
    assert refusal.value.fix
    assert before == (path.read_bytes() if path.is_file() else None)
    return f"{refusal.value} {refusal.value!r} {refusal.value.__cause__!r}"


def test_an_absent_one(tmp_path):
    refused(tmp_path / "keystore.json", "absent")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_one_that_others_may_read_is_refused(path, mode):
    path.chmod(mode)
    assert f"{mode:04o}" in refused(path, "failed")


def test_a_link_is_refused(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    refused(tmp_path / "link", "damaged")


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    refused(tmp_path / "pipe", "damaged")


def edited(path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "idiolect/keystore/file/v2"},
        {"schema": "idiolect/keystore/file/v2", "credential": ""},
        {"schema": "idiolect/keystore/file/v2", "credential": 5},
        {"schema": "idiolect/keystore/file/v3"},
        {"credential": "0" * 16},
        {"root": "00"},
        {"root": "G" * 64},
        {"root": 5},
        {"next": None},
        {"next": {"generation": 0, "secret": "0" * 64}},
        {"next": {"generation": True, "secret": "0" * 64}},
        {"next": {"generation": 1.0, "secret": "0" * 64}},
        {"next": {"generation": 1, "secret": "0" * 64, "more": 1}},
        {"current": {"generation": 1}},
        {"minimum_version": -1},
        {"minimum_version": 2**53},
        {"more": 1},
    ],
)
def test_anything_but_the_schema_is_damage(path, changes):
    edited(path, **changes)
    refused(path, "damaged")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 4000, b"x" * 5000, b"null"])
def test_garbage_is_damage(path, raw):
    path.write_bytes(raw)
    refused(path, "damaged")


def test_a_double_key_is_damage(path):
    path.write_text(path.read_text().replace('"root"', '"root": "' + "0" * 64 + '", "root"'))
    refused(path, "damaged")


def test_every_truncation_is_damage_and_no_message_quotes_a_secret(path):
    whole = path.read_bytes()
    secret = json.loads(whole)["root"]
    for length in range(len(whole) - 2):
        path.write_bytes(whole[:length])
        assert secret[:8] not in refused(path, "damaged")


def test_a_directory_that_cannot_be_written_is_told_and_nothing_changes(path, monkeypatch):
    keystore, _ = FileKeystore.open(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(key_file, "write_durably", full)
    with pytest.raises(KeystoreError, match="No space left") as refusal:
        keystore.write_slot(NEXT, Slot(2, Secret.random()))
    assert refusal.value.state == "full"
    assert path.read_bytes() == before


def test_what_is_parsed_does_not_print(path):
    assert json.loads(path.read_text())["root"] not in repr(key_file._load(path))


# -- a credential as the other half -------------------------------------------------------------------------------


@pytest.fixture
def credential(tmp_path, monkeypatch):
    """The directory that systemd would make, with our credential in it."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    file = directory / key_file.CREDENTIAL
    file.write_bytes(b"a" * 32)
    return file


@pytest.fixture
def bound(tmp_path, credential):
    path = tmp_path / "bound.json"
    FileKeystore.create(path)
    return path


def test_the_file_alone_does_not_give_the_root(bound, credential):
    keystore, released = FileKeystore.open(bound)
    alone = bytes.fromhex(json.loads(bound.read_text())["root"])
    assert bytes(released.root.view) != alone
    assert FileKeystore.open(bound)[1].root == released.root
    keystore.write_slot(NEXT, Slot(2, Secret.random()))
    keystore.raise_minimum(3)
    assert FileKeystore.open(bound)[1].root == released.root
    credential.unlink()
    assert "is missing" in refused(bound, "absent")
    credential.write_bytes(b"b" * 32)
    assert "is another one" in refused(bound, "refused")


def test_the_same_file_with_another_credential_would_be_another_root(bound, credential):
    root = FileKeystore.open(bound)[1].root
    credential.write_bytes(b"b" * 32)
    edited(bound, credential=key_file._name(key_file._credential()))
    assert FileKeystore.open(bound)[1].root != root


def test_a_file_from_before_the_credential_opens_as_it_did(path, credential):
    root = json.loads(path.read_text())["root"]
    assert bytes(FileKeystore.open(path)[1].root.view).hex() == root


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 2000])
def test_a_credential_of_a_wrong_length_is_told_and_not_used(bound, credential, content):
    credential.write_bytes(content)
    message = refused(bound, "failed")
    assert key_file.CREDENTIAL in message


def test_nothing_of_the_credential_is_in_the_file(bound):
    assert b"a" * 4 not in bound.read_bytes()
    assert (b"a" * 4).hex() not in bound.read_text()
