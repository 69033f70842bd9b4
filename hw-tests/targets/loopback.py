"""The device target against a machine of our own: a container that is reached by ssh and nothing else.

So the code that will run against real devices has run. sshd is started for each connection, at the end of a pipe into
the container's namespaces, as the container has no network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from . import roots
from .base import Done
from .device import Device
from .local import LACKS, Local

LOGIN = "hw-operator"
"""Not root: what needs root goes through sudo, as on most boards."""


class LoopbackDevice(Device):
    """A container in the place of a device; it has the container's microphone and TPM."""

    def __init__(self, release: str = roots.RELEASES[0]) -> None:
        self._container = box = Local(label="device", release=release)
        try:
            self._keys = tempfile.TemporaryDirectory(prefix="idiolect-hw-ssh-")
            key = Path(self._keys.name) / "id"
            roots.shell("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
            box.check("apt-get update -q && apt-get install -y -q --no-install-recommends openssh-server sudo",
                      timeout=240, network=True)  # fmt: skip
            box.check(f"systemctl disable --now ssh.service; mkdir -p /run/sshd; useradd -m -s /bin/bash {LOGIN}")
            box.put(f"{LOGIN} ALL=(ALL) NOPASSWD: ALL\n", "/etc/sudoers.d/hw", 0o440)
            box.put(key.with_suffix(".pub"), f"/home/{LOGIN}/.ssh/authorized_keys", 0o600)
            box.check(f"chown -R {LOGIN} /home/{LOGIN}/.ssh; usermod -p '*' {LOGIN}")
            options = ("-o", f"ProxyCommand={self._proxy()}", "-i", str(key), "-o", "IdentitiesOnly=yes")
            options += ("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self._keys.name}/known")
            super().__init__(f"{LOGIN}@container", options=options)
            self.name = "device:loopback"
            self.room, self.chip = box.room, box.chip
            self.facts.has_sound = self.facts.has_tpm = True
            self.facts.lacks = {**LACKS, "fresh": "it stands for a device that is in use"}
            self.facts.notes["login"] = f"{LOGIN}, sudo, over ssh"
        except BaseException:
            box.close()
            raise

    def _proxy(self) -> str:
        """Into the container's namespaces; the leader's number is looked up when it is used, as it changes."""
        leader = Path(self._keys.name) / "leader"
        leader.write_text(str(self._container.leader))
        return f"sh -c 'exec nsenter -t $(cat {leader}) -a /usr/sbin/sshd -i -e 2>/dev/null'"

    def run(self, command: str, *, timeout: float = 30, stdin: bytes = b"", network: bool = False) -> Done:
        if network:
            return self._container.run(command, timeout=timeout, stdin=stdin, network=True)
        return super().run(command, timeout=timeout, stdin=stdin)

    def reboot(self) -> None:
        self._hang_up()
        self._container.reboot()
        self._came_back()

    def power_cut(self) -> None:
        self._hang_up()
        self._container.power_cut()
        self._came_back()

    def _came_back(self) -> None:
        self._proxy()
        self._container.check("mkdir -p /run/sshd")
        self.wait(lambda: self.run("true").rc == 0, 20, "ssh works again")

    def unplug(self) -> None:
        self._container.unplug()

    def plug(self) -> None:
        self._container.plug()

    def close(self) -> None:
        super().close()
        self._container.close()
        self._keys.cleanup()
