"""A `tcpcryptd` with a file of its own, and what is seen of its processes from outside."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from netns.network import Network

from tcpcrypt.tools.labdaemon import BACKEND
from tcpcrypt.tools.netns import Host, wait_until

POLICY = """
[daemon]
control = "{control}"
{daemon}

[[policy]]
mode = "{mode}"
match = {{ ports = [80] }}
"""


class Daemon:
    """A daemon with a file of its own on one host; a service manager listens to it."""

    def __init__(
        self,
        host: Host,
        directory: Path,
        mode: str = "opportunistic",
        daemon: str = "",
        *arguments: str,
        **environment: str,
    ) -> None:
        self.host = host
        self.directory = directory / host.name
        self.directory.mkdir(exist_ok=True)
        self.file = self.directory / "tcpcrypt.toml"
        self.control = self.directory / "control.sock"
        self.write(mode, daemon)
        self._log = self.directory / "log"
        self._log.write_text("")
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify = self.directory / "notify"
        notify.unlink(missing_ok=True)
        self.manager.bind(str(notify))
        self.manager.settimeout(10)
        with (self.directory / "stderr").open("w") as errors:
            self.process = host.start(
                *(sys.executable, "-m", "tcpcrypt.cli.tcpcryptd", "--config", str(self.file)),
                *("--log-file", str(self._log), *arguments),
                stderr=errors,
                cwd="/",
                env={**os.environ, "NOTIFY_SOCKET": str(notify), **environment},
            )

    def write(self, mode: str, daemon: str = "") -> None:
        if backend := os.environ.get(BACKEND):
            daemon = f'backend = "{backend}"\n{daemon}'
        self.file.write_text(POLICY.format(control=self.control, mode=mode, daemon=daemon))

    def started(self) -> Daemon:
        self.wait_for("started")
        return self

    def events(self, *names: str) -> list[dict[str, str]]:
        lines = [
            dict(word.partition("=")[::2] for word in shlex.split(line))
            for line in self._log.read_text().splitlines()
        ]
        return [line for line in lines if not names or line["event"] in names]

    def wait_for(self, name: str, timeout: float = 30) -> dict[str, str]:
        def found() -> list[dict[str, str]]:
            events = self.events(name)
            assert events or self.process.poll() is None, self.said()
            return events

        return wait_until(found, name, timeout)[0]

    def said(self) -> str:
        return (self.directory / "stderr").read_text() + self._log.read_text()

    @property
    def worker(self) -> int:
        return int(self.wait_for("started")["worker"])

    @property
    def janitor(self) -> int:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")

        def alone() -> int:
            # A child has its parent's name until it gives itself one.
            found = [pid for pid in path.read_text().split() if is_janitor(pid)]
            return int(found[0]) if len(found) == 1 else 0

        return wait_until(alone, "janitor")

    def told(self) -> dict[str, str]:
        lines = self.manager.recv(4096).decode().split("\n")
        return dict(line.partition("=")[::2] for line in lines)

    def ask(self, method: str) -> dict[str, object]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.control))
            sock.sendall(json.dumps({"v": 1, "method": method, "params": {}}).encode() + b"\n")
            return json.loads(sock.makefile().readline())


def is_janitor(pid: str) -> bool:
    try:
        return name(pid) == "tcpcrypt-janit"
    except OSError:  # it has ended
        return False


def name(pid: int | str) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def rules(host: Host) -> str:
    text = host.run("iptables-save").stdout + host.run("ip6tables-save").stdout
    ours = [line for line in text.splitlines() if "TCPCRYPT" in line]
    ours += [line for line in host.run("ip", "rule").stdout.splitlines() if "29795" in line]
    return "\n".join(ours)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def status(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    raise KeyError(name)


@contextlib.contextmanager
def conversation(pair: Network, daemon: Daemon) -> Iterator[tuple[socket.socket, socket.socket]]:
    before = len(daemon.events("enabled"))
    with pair.conversation() as ends:
        wait_until(lambda: len(daemon.events("enabled")) > before, "encryption")
        yield ends
