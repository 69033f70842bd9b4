"""`idiolect bundle ...` as people and scripts meet it; failures leave nothing behind."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from idiolect.cli import main
from idiolect.trust.bundle import approvals
from idiolect.trust.bundle.public_keys import fingerprint, load_public, public_pem
from idiolect.trust.bundle.signing import load_private
from idiolect.trust.bundle.slots import Slots
from tests.support.bundles import BUILTIN, builtin, key, signed, write
from tests.support.fake_daemon import running

DAEMON = Path(__file__).parents[2] / "daemon"


class Shell:
    """Runs commands in this process: exit code, and what was printed."""

    def __init__(self, capsys):
        self._capsys = capsys

    def __call__(self, *arguments):
        try:
            code = main.main(["bundle", *map(str, arguments)])
        except SystemExit as end:  # argparse
            code = end.code
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *arguments):
        code, out, err = self(*arguments, "--json")
        assert err == ""
        return code, json.loads(out)


@pytest.fixture
def bundle(capsys):
    return Shell(capsys)


@pytest.fixture
def keys(tmp_path, bundle):
    """A folder with keys of its own, and a keys.d that trusts them."""
    assert bundle("keygen", tmp_path / "keys")[0] == 0
    (tmp_path / "keys.d").mkdir()
    (tmp_path / "keys.d" / "vendor.pem").write_bytes((tmp_path / "keys" / "bundle.pem").read_bytes())
    return tmp_path / "keys"


def signing(keys, source="builtin", **more):
    options = {"bundle-key": keys / "bundle.key", "policy-key": keys / "policy.key", **more}
    flat = [each for name, value in options.items() for each in (f"--{name.replace('_', '-')}", value)]
    return ["sign", source, *flat]


@pytest.fixture
def config(tmp_path):
    """A configuration of a device with its state under ``tmp_path``."""
    path = tmp_path / "idiolect.yaml"
    state = tmp_path / "state"
    state.mkdir()
    path.write_text(f"schema: 1\nbundle: installed\nstate_dir: {state}\ntrust:\n  keys_dir: {tmp_path}/keys.d\n")
    return path


def print_of(path):
    return fingerprint(load_public("x", path.read_bytes()))


# -- keys -------------------------------------------------------------------------------------------------------------


def test_keygen_writes_two_pairs_once(bundle, tmp_path):
    code, out, err = bundle("keygen", tmp_path / "new" / "keys")
    assert (code, err) == (0, "")
    folder = tmp_path / "new" / "keys"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {name: mode & 0o077 for name, mode in modes.items() if name.endswith(".key")} == {
        "bundle.key": 0,
        "policy.key": 0,
    }
    assert set(modes) == {"bundle.key", "bundle.pem", "policy.key", "policy.pem"}
    assert print_of(folder / "bundle.pem") in out
    assert print_of(folder / "policy.pem") in out
    assert "PRIVATE" not in out
    assert "provision --policy-key policy.pem" in out
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in before:
        for other in set(before) - {name}:
            (folder / other).unlink()
        code, out, err = bundle("keygen", folder)
        assert (code, out) == (2, "")
        assert f"{name} exists: a key is never overwritten" in err
        assert [path.name for path in folder.iterdir()] == [name]
        write(before, folder)


def test_keygen_with_a_password(bundle, tmp_path):
    (tmp_path / "password").write_text("correct horse\nnot this\n")
    assert bundle("keygen", tmp_path / "keys", "--password-file", tmp_path / "password")[0] == 0
    load_private("k", (tmp_path / "keys" / "bundle.key").read_bytes(), b"correct horse")
    code, _, err = bundle(*signing(tmp_path / "keys", out=tmp_path / "out"))
    assert code == 78
    assert "is encrypted: give its password with --password-file" in err
    assert not (tmp_path / "out").exists()
    assert bundle(*signing(tmp_path / "keys", out=tmp_path / "out", password_file=tmp_path / "password"))[0] == 0
    (tmp_path / "wrong").write_text("wrong")
    code, _, err = bundle(*signing(tmp_path / "keys", out=tmp_path / "other", password_file=tmp_path / "wrong"))
    assert "the password is wrong" in err
    assert "correct" not in err
    (tmp_path / "empty").write_text("\n")
    assert "is empty" in bundle("keygen", tmp_path / "k2", "--password-file", tmp_path / "empty")[2]
    assert not (tmp_path / "k2").exists()


# -- signing ----------------------------------------------------------------------------------------------------------


def test_signing_the_bundle_that_comes_with_idiolect(bundle, keys, tmp_path):
    before = dict(builtin())
    code, out, err = bundle(*signing(keys, out=tmp_path / "acme", name="acme", version=7))
    assert (code, err) == (0, "")
    assert out.startswith(f"signed acme version 7 in {tmp_path}/acme\n")
    assert "PCR 14 0000000000000000 -> " in out
    assert {path.name: path.read_bytes() for path in BUILTIN.iterdir()} == before
    code, answer = bundle.json("verify", tmp_path / "acme", "--keys", tmp_path / "keys.d")
    assert code == 0
    assert (answer["ok"], answer["name"], answer["version"]) == (True, "acme", 7)
    assert answer["signer"] == print_of(keys / "bundle.pem")
    assert [each["key"] for each in answer["approvals"]] == [print_of(keys / "policy.pem")]


def test_signing_in_place_and_again(bundle, keys, tmp_path):
    folder = write(builtin(), tmp_path / "mine")
    code, answer = bundle.json(*signing(keys, folder))
    assert (code, answer["version"]) == (0, 2)
    assert bundle(*signing(keys, folder, version=3))[0] == 0
    assert bundle(*signing(keys, folder, out=folder, version=4))[0] == 0
    assert {path.name for path in folder.iterdir()} == {*builtin(), "approvals.json", "model.sig"}
    assert bundle("verify", folder, "--keys", tmp_path / "keys.d", "--minimum", "4")[0] == 0


def test_an_upgrade_without_a_reboot(bundle, keys, tmp_path):
    for version in (1, 2):
        assert bundle(*signing(keys, out=tmp_path / f"v{version}", version=version))[0] == 0
    after = [each for v in (1, 2) for each in ("--upgrade-from", tmp_path / f"v{v}")]
    code, answer = bundle.json(*signing(keys, out=tmp_path / "v3", version=3), *after)
    assert code == 0
    before = [approvals.parse((tmp_path / f"v{v}" / "approvals.json").read_bytes())[0].to.hex() for v in (1, 2)]
    assert {each["from"] for each in answer["approvals"]} == {"0" * 64, *before}


def test_an_upgrade_from_a_bundle_of_another_policy_key(bundle, keys, tmp_path):
    folder = write(signed(2).files, tmp_path / "theirs")
    code, out, err = bundle(*signing(keys, out=tmp_path / "out", upgrade_from=folder))
    assert (code, out) == (2, "")
    assert "is approved by none of these policy keys" in err
    assert not (tmp_path / "out").exists()


def test_two_policy_keys_another_pcr_and_another_start(bundle, keys, tmp_path):
    assert bundle("keygen", tmp_path / "next")[0] == 0
    more = ["--policy-key", tmp_path / "next" / "policy.key", "--pcr", "8", "--pcr-start", "ab" * 32]
    code, answer = bundle.json(*signing(keys, out=tmp_path / "out"), *more)
    assert code == 0
    assert {each["key"] for each in answer["approvals"]} == {
        print_of(keys / "policy.pem"),
        print_of(tmp_path / "next" / "policy.pem"),
    }
    assert {(each["pcr"], each["from"]) for each in answer["approvals"]} == {(8, "ab" * 32)}


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--pcr", "16"], "0 to 15"),
        (["--pcr", "x"], "whole number"),
        (["--pcr-start", "00"], "64 hex digits"),
        (["--version", "0"], "from 1"),
        (["--version", "9" * 30], "whole number"),
        ([], "name a directory with --out"),
    ],
)
def test_wrong_usage_of_sign(bundle, keys, more, hint):
    code, out, err = bundle(*signing(keys), *more)
    assert (code, out) == (2, "")
    assert hint in err


def test_signing_never_mixes_with_what_is_there(bundle, keys, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    code, _, err = bundle(*signing(keys, out=tmp_path / "full"))
    assert code == 2
    assert "no empty directory" in err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious"]


def test_a_damaged_bundle_is_not_signed(bundle, keys, tmp_path):
    folder = write({**builtin(), "head.bin": b"x"}, tmp_path / "mine")
    code, _, err = bundle(*signing(keys, folder))
    assert code == 78
    assert "head.bin: refused (6)" in err
    assert not (folder / "model.sig").exists()


@pytest.mark.parametrize("name", ["bundle.pem", "none.key"])
def test_signing_with_what_is_no_private_key(bundle, keys, tmp_path, name):
    code, _, err = bundle(*signing(keys, out=tmp_path / "out"), "--bundle-key", keys / name)
    assert code in (74, 78)
    assert name in err
    assert "check the path" in err or "*.key" in err
    assert not (tmp_path / "out").exists()


# -- verifying --------------------------------------------------------------------------------------------------------


def test_verify_prints_a_line_for_each_check(bundle, tmp_path):
    folder = write(signed(2).files, tmp_path / "bundle")
    write({"vendor.pem": public_pem(key("bundle").public_key())}, tmp_path / "keys.d")
    code, out, _ = bundle("verify", folder, "--keys", tmp_path / "keys.d")
    assert code == 0
    assert [line[:5] for line in out.splitlines()[:7]] == [f"{n}  ok" for n in range(1, 8)]
    assert "OK: test version 2, signed by " in out
    code, out, _ = bundle("verify", folder, "--keys", tmp_path / "keys.d", "--minimum", "3")
    assert code == 78
    assert [line.split()[1] for line in out.splitlines()[:7]] == ["not", "ok", "ok", "refused", "not", "not", "not"]
    assert out.splitlines()[-1].startswith("bundle file manifest.json: refused (4): version 2 is below")


def test_verify_for_programs(bundle, tmp_path):
    folder = write({**signed(2).files, "head.bin": b"x"}, tmp_path / "bundle")
    write({"vendor.pem": public_pem(key("bundle").public_key())}, tmp_path / "keys.d")
    code, answer = bundle.json("verify", folder, "--keys", tmp_path / "keys.d")
    assert (code, answer["ok"]) == (78, False)
    assert {each["check"]: each["result"] for each in answer["checks"]} == {
        **dict.fromkeys((2, 3, 4), "ok"),
        6: "refused",
        **dict.fromkeys((1, 5, 7), "not reached"),
    }
    assert "head.bin" in answer["message"]


def test_verify_tells_whether_a_device_will_have_its_keys(bundle, tmp_path):
    folder = write(signed(2).files, tmp_path / "bundle")
    write({"vendor.pem": public_pem(key("bundle").public_key())}, tmp_path / "keys.d")
    for name in ("policy", "other"):
        write({f"{name}.pem": public_pem(key(name).public_key())}, tmp_path)
    verify = ["verify", folder, "--keys", tmp_path / "keys.d", "--policy-key"]
    assert bundle(*verify, tmp_path / "policy.pem")[0] == 0
    code, out, _ = bundle(*verify, tmp_path / "other.pem")
    assert code == 78
    assert "no approval by that policy key" in out


def test_verify_without_keys(bundle, tmp_path):
    folder = write(signed(2).files, tmp_path / "bundle")
    code, out, err = bundle("verify", folder, "--keys", tmp_path / "none")
    assert (code, out) == (78, "")
    assert "create it and put the vendor's bundle.pem into it" in err
    (tmp_path / "none").mkdir()
    code, out, _ = bundle("verify", folder, "--keys", tmp_path / "none")
    assert code == 78
    assert "put the vendor's into keys.d" in out


# -- on the device ----------------------------------------------------------------------------------------------------


def test_install_list_and_rollback(bundle, keys, config, tmp_path):
    code, out, _ = bundle("list", "--config", config)
    assert (code, out) == (0, "no bundle is installed: idiolect bundle install DIR\n")
    for version in (1, 2):
        assert bundle(*signing(keys, out=tmp_path / f"v{version}", version=version, name="acme"))[0] == 0
        code, out, err = bundle("install", tmp_path / f"v{version}", "--config", config)
        assert (code, err) == (0, "")
        assert f"acme version {version} is in the current slot" in out
        assert "systemctl restart idiolectd" in out
    code, answer = bundle.json("list", "--config", config)
    assert [(row["slot"], row["version"], row["name"]) for row in answer["slots"]] == [
        ("current", 2, "acme"),
        ("previous", 1, "acme"),
    ]
    assert all(row["signer"] == print_of(keys / "bundle.pem") for row in answer["slots"])
    assert answer["current"] == answer["slots"][0]["directory"]
    code, out, _ = bundle("rollback", "--config", config)
    assert code == 0
    assert [line.split()[:4] for line in bundle("list", "--config", config)[1].splitlines()] == [
        ["current", answer["slots"][1]["directory"], "acme", "version"],
        ["previous", answer["slots"][0]["directory"], "acme", "version"],
    ]


def test_install_refuses_what_the_device_would(bundle, keys, config, tmp_path):
    slots = Slots(tmp_path / "state" / "bundles")
    theirs = write(signed(2).files, tmp_path / "theirs")
    unsigned = write(builtin(), tmp_path / "unsigned")
    for folder in (theirs, unsigned):
        code, out, err = bundle("install", folder, "--config", config)
        assert (code, out) == (78, "")
        assert "model.sig: refused (3)" in err
    assert bundle(*signing(keys, out=tmp_path / "v1", version=1))[0] == 0
    slots.note_minimum(2)
    code, _, err = bundle("install", tmp_path / "v1", "--config", config)
    assert code == 78
    assert "refused (4): version 1 is below the minimum 2" in err
    assert slots.state().current is None


def test_a_damaged_slot_is_shown_as_what_it_is(bundle, keys, config, tmp_path):
    assert bundle(*signing(keys, out=tmp_path / "v1"))[0] == 0
    assert bundle("install", tmp_path / "v1", "--config", config)[0] == 0
    slots = Slots(tmp_path / "state" / "bundles")
    (slots.directory(slots.state().current) / "head.bin").write_bytes(b"x")
    code, out, _ = bundle("list", "--config", config)
    assert code == 0
    assert "head.bin: refused (6)" in out
    assert bundle("install", tmp_path / "v1", "--config", config)[0] == 0
    assert "refused" not in bundle("list", "--config", config)[1]


def test_a_rollback_with_nothing_to_go_back_to(bundle, config):
    code, out, err = bundle("rollback", "--config", config)
    assert (code, out) == (78, "")
    assert "there is no previous bundle" in err


def test_a_rollback_to_what_the_daemon_would_refuse(bundle, keys, config, tmp_path):
    for version in (1, 2):
        assert bundle(*signing(keys, out=tmp_path / f"v{version}", version=version))[0] == 0
        assert bundle("install", tmp_path / f"v{version}", "--config", config)[0] == 0
    slots = Slots(tmp_path / "state" / "bundles")
    before = slots.note_minimum(2)
    code, out, err = bundle("rollback", "--config", config)
    assert (code, out) == (78, "")
    assert "refused (4): version 1 is below the minimum 2" in err
    assert slots.state() == before


def test_with_a_tpm_the_next_step_is_the_one_that_brings_the_keys(bundle, keys, config, tmp_path):
    config.write_text(config.read_text() + "keystore: tpm\n")
    for version in (1, 2):
        assert bundle(*signing(keys, out=tmp_path / f"v{version}", version=version))[0] == 0
        out = bundle("install", tmp_path / f"v{version}", "--config", config)[1]
        assert "--upgrade-from the running one" in out
    assert "next: reboot" in bundle("rollback", "--config", config)[1]


def test_a_configuration_that_runs_another_bundle_is_told(bundle, keys, config, tmp_path):
    config.write_text(config.read_text().replace("bundle: installed\n", ""))
    assert bundle(*signing(keys, out=tmp_path / "v1"))[0] == 0
    assert "say 'bundle: installed'" in bundle("install", tmp_path / "v1", "--config", config)[1]
    assert "not in use: the configuration says 'bundle: builtin'" in bundle("list", "--config", config)[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_root_installs_for_the_owner_of_the_state_directory(bundle, keys, config, tmp_path):
    state = tmp_path / "state"
    os.chown(state, 65534, 65534)
    for folder in (tmp_path, *tmp_path.parents):  # the owner must get there, as to /var/lib
        if folder.owner() == "root" and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    assert bundle(*signing(keys, out=tmp_path / "v1"))[0] == 0
    assert bundle("install", tmp_path / "v1", "--config", config)[0] == 0
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in state.rglob("*")}
    assert owners == {(65534, 65534)}
    assert os.geteuid() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led astray")
def test_a_link_in_the_state_directory_leads_root_nowhere(bundle, keys, config, tmp_path):
    """The daemon's user swaps its folder for a link to a folder of root's: root writes there as that user only."""
    state, precious = tmp_path / "state", tmp_path / "precious"
    precious.mkdir(mode=0o755)
    os.chown(state, 65534, 65534)
    (state / "bundles").symlink_to(precious)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    assert bundle(*signing(keys, out=tmp_path / "v1"))[0] == 0
    code, _, err = bundle("install", tmp_path / "v1", "--config", config)
    assert code == 77
    assert "Permission denied" in err
    assert list(precious.iterdir()) == []


def test_mark_good_asks_the_daemon(path, capsys):
    with running(path):
        assert main.main(["--socket", str(path), "bundle", "mark-good"]) == 0
        assert capsys.readouterr().out == "from now on no bundle below version 3 gets the keys\n"
        assert main.main(["--socket", str(path), "bundle", "mark-good", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"minimum": 3}


def test_mark_good_without_a_daemon(path, capsys):
    assert main.main(["--socket", str(path), "bundle", "mark-good"]) == 69
    assert "not running" in capsys.readouterr().err


# -- the whole --------------------------------------------------------------------------------------------------------


def test_the_commands_load_no_numpy_and_the_others_no_cryptography(tmp_path):
    code = """
import sys
from idiolect.cli import main
def loaded(): return {"numpy", "cryptography"} & set(sys.modules)
assert not loaded(), loaded()
assert main.main(["bundle", "keygen", sys.argv[1] + "/k"]) == 0
k = sys.argv[1] + "/k/"
assert main.main(["bundle", "sign", "builtin", "--bundle-key", k + "bundle.key", "--policy-key", k + "policy.key",
                 "--out", sys.argv[1] + "/b"]) == 0
assert main.main(["bundle", "verify", sys.argv[1] + "/b", "--keys", k]) == 0
print(loaded())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=DAEMON
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "{'cryptography'}"


@pytest.mark.parametrize("arguments", [(), ("sign",), ("sign", "x"), ("verify", "x"), ("install",), ("unknown",)])
def test_wrong_usage(bundle, arguments):
    code, out, err = bundle(*arguments)
    assert (code, out) == (2, "")
    assert "usage: idiolect bundle" in err


def test_what_the_disk_refuses_is_a_sentence(bundle, keys, config, tmp_path):
    (tmp_path / "file").write_text("x")
    code, _, err = bundle("keygen", tmp_path / "file" / "keys")
    assert code == 74
    assert "Not a directory: check the path and the disk" in err
    code, _, err = bundle("install", tmp_path / "nothing", "--config", config)
    assert code == 78
    assert "nothing cannot be read (No such file or directory)" in err
