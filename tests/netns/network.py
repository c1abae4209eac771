"""Two hosts and what tests do with them; `conftest.py` draws the topologies."""

import contextlib
import dataclasses
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpcrypt.tools.labdaemon import BACKEND, LabDaemon
from tcpcrypt.tools.netns import Host, Lab, Link, wait_until

PORT = 80


@dataclasses.dataclass
class Network:
    """Two hosts, perhaps with a third between them."""

    lab: Lab
    client: Host
    server: Host
    client_end: Link
    server_end: Link
    middle: Host | None = None
    middle_ends: tuple[Link, ...] = ()
    daemons: list[LabDaemon] = dataclasses.field(default_factory=list)

    def daemon(self, host: Host, *arguments: str) -> LabDaemon:
        daemon = LabDaemon(host, "--port", str(PORT), *arguments)
        self.daemons.append(daemon)
        return daemon

    def both(self, *arguments: str) -> tuple[LabDaemon, LabDaemon]:
        return self.daemon(self.client, *arguments), self.daemon(self.server, *arguments)

    @staticmethod
    @contextlib.contextmanager
    def every_policy() -> Iterator[None]:
        """Where sockops is tested: the backend with its program that serves all policies."""
        with pytest.MonkeyPatch.context() as patch:
            if os.environ.get(BACKEND) == "sockops":
                patch.setenv(BACKEND, "mixed")
            yield

    def spare_room(self) -> None:
        """Let the answer to a resumption fit: see `tcpcrypt.runtime.sockops`."""
        if os.environ.get(BACKEND) == "sockops":
            for host in (self.client, self.server):
                host.sysctl("net.ipv4.tcp_timestamps", "0")

    def meddle(self, *rule: str) -> None:
        """Add a rule to the middle host's mangle FORWARD, both families."""
        assert self.middle is not None
        for command in ("iptables", "ip6tables"):
            self.middle.run(command, "-t", "mangle", "-A", "FORWARD", *rule)

    def listen(self, family: int = 4, port: int = PORT, address: str = "") -> socket.socket:
        """A service of the server, listening at all addresses or this one."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        listener = self.server.socket(kind, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(10)
        listener.bind((address, port))
        listener.listen()
        return listener

    def connect(self, family: int = 4, port: int = PORT, timeout: float = 15) -> socket.socket:
        """A program of the client, connected to the server."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        sock = self.client.socket(kind, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        address = self.server_end.v4 if family == 4 else self.server_end.v6
        try:
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    @contextlib.contextmanager
    def conversation(self, family: int = 4) -> Iterator[tuple[socket.socket, socket.socket]]:
        """A connection from client to server, both ends, a byte exchanged each way."""
        with self.listen(family) as listener, self.connect(family) as one:
            one.sendall(b"?")
            other, _address = listener.accept()
            with other:
                other.settimeout(15)
                assert other.recv(1) == b"?"
                other.sendall(b"!")
                assert one.recv(1) == b"!"
                yield one, other

    def web(self, directory: Path) -> None:
        """`python -m http.server` on the server, IPv4 and IPv6, when this returns."""
        argv = (sys.executable, "-m", "http.server", str(PORT), "--bind", "::")
        with (directory / "web.log").open("w") as log:
            self.server.start(*argv, "--directory", str(directory), stdout=log, stderr=log)
        name = f"{PORT:04X}"

        def listening() -> bool:
            text = self.server.run("cat", "/proc/net/tcp6").stdout
            return any(
                line.split()[1].endswith(f":{name}") and line.split()[3] == "0A"
                for line in text.splitlines()[1:]
            )

        wait_until(listening, "web server")

    def curl(self, path: str, family: int = 4, *arguments: str, check: bool = True) -> str:
        host = self.server_end.v4 if family == 4 else f"[{self.server_end.v6}]"
        url = f"http://{host}:{PORT}{path}"
        argv = ("curl", "--silent", "--show-error", "--globoff", "--max-time", "30", url)
        return self.client.run(*argv, *arguments, check=check).stdout


@contextlib.contextmanager
def routed() -> Iterator[Network]:
    """Client and server with a router between them, which has to be told to meddle."""
    with Lab() as lab:
        client, middle, server = lab.host("client"), lab.host("middle"), lab.host("server")
        client_end, near = lab.join(client, middle)
        far, server_end = lab.join(middle, server)
        middle.sysctl("net.ipv4.ip_forward", "1")
        middle.sysctl("net.ipv6.conf.all.forwarding", "1")
        for host, end in ((client, near), (server, far)):
            host.run("ip", "-4", "route", "add", "default", "via", end.v4)
            host.run("ip", "-6", "route", "add", "default", "via", end.v6)
        yield Network(lab, client, server, client_end, server_end, middle, (near, far))
