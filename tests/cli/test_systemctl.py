"""What the command line does with systemctl. The real one is asked in hw-tests/; here it is a script that notes."""

from __future__ import annotations

import os

import pytest

from idiolect.cli import systemctl
from idiolect.cli.files import CommandError

SYSTEMCTL = """\
#!/bin/sh
echo "$@" >> {folder}/calls
case "$1" in
    show) cat {folder}/$2 2>/dev/null || echo LoadState=not-found ;;
    stop) [ ! -e {folder}/refuse ] || {{ echo "Access denied" >&2; exit 4; }} ;;
esac
"""


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    script = tmp_path / "bin" / "systemctl"
    script.parent.mkdir()
    script.write_text(SYSTEMCTL.format(folder=tmp_path))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(systemctl, "_SYSTEMD", tmp_path)
    return tmp_path


def units(systemd, service="active", socket="active"):
    for name, state in ((systemctl.SERVICE, service), (systemctl.SOCKET, socket)):
        (systemd / name).write_text(f"LoadState=loaded\nActiveState={state}\n")


def acts(systemd):
    return [line for line in (systemd / "calls").read_text().splitlines() if not line.startswith("show")]


def test_both_units_are_stopped_socket_first_and_started_again(systemd):
    units(systemd)
    with systemctl.stopped() as by_systemd:
        assert by_systemd
        assert acts(systemd) == ["stop idiolectd.socket idiolectd.service"]
    assert acts(systemd)[1:] == ["start idiolectd.socket idiolectd.service"]


def test_they_are_started_again_whatever_happens(systemd):
    units(systemd)
    with pytest.raises(KeyError), systemctl.stopped():
        raise KeyError
    assert acts(systemd)[-1] == "start idiolectd.socket idiolectd.service"


def test_a_socket_alone_is_stopped_too_as_it_would_start_the_daemon(systemd):
    units(systemd, service="inactive")
    with systemctl.stopped():
        pass
    assert acts(systemd) == ["stop idiolectd.socket", "start idiolectd.socket"]


def test_nothing_is_done_where_nothing_runs_or_there_is_no_systemd(systemd, monkeypatch):
    units(systemd, service="failed", socket="inactive")
    with systemctl.stopped() as by_systemd:
        assert by_systemd
    assert acts(systemd) == []
    (systemd / systemctl.SERVICE).unlink()
    with systemctl.stopped() as by_systemd:
        assert not by_systemd
    monkeypatch.setattr(systemctl, "_SYSTEMD", systemd / "none")
    assert systemctl.state(systemctl.SERVICE, ()) is None


def test_who_may_not_stop_it_is_told_what_to_do(systemd):
    units(systemd)
    (systemd / "refuse").touch()
    with pytest.raises(CommandError, match="Access denied: try again with sudo") as refused, systemctl.stopped():
        pass
    assert refused.value.exit_code == 77
    assert len(acts(systemd)) == 1


def test_pairing_goes_on_where_systemd_answers_root_alone(systemd, monkeypatch):
    """On an image without a bus."""
    from idiolect.cli import pair

    def refused(*_):
        raise CommandError("systemctl show: Failed to connect to bus: try again with sudo", 77)

    monkeypatch.setattr(systemctl, "_systemctl", refused)
    assert pair._where("loopback") == [
        "open the page; its port is what `sudo systemctl show -P Listen idiolect-tcp@page.socket` says"
    ]
