"""Hosts whose policies ask who the other one is, and what the tests see of that."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from netns.network import PORT, Network

from tcpcrypt.auth.identity import create_identity, load_identity
from tcpcrypt.auth.known_peers import KnownPeers
from tcpcrypt.auth.known_peers_file import KnownPeersFile
from tcpcrypt.daemon.client import Client, SessionInfo
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Host, wait_until

REFUSALS = ("refused", "aborted")


def policy(auth: str, mode: str = "require", *, ports: int = PORT, **keys: object) -> str:
    """One policy of a file."""
    lines = ["[[policy]]", f'mode = "{mode}"', f'auth = "{auth}"', f"match.ports = {ports}"]
    lines += [f'{name.replace("_", ".")} = "{value}"' for name, value in keys.items()]
    return "\n".join(lines) + "\n"


@dataclass
class Trusting:
    """One host, its file and its state; `start` serves."""

    network: Network
    host: Host
    directory: Path
    daemons: list[LabDaemon] = field(default_factory=list)
    through: tuple[str, ...] = ()
    """The command that runs the daemon."""

    def __post_init__(self) -> None:
        self.directory.mkdir(mode=0o700)
        self.state = self.directory / "state"
        self.control = self.directory / "control.sock"
        self.file = self.directory / "tcpcrypt.toml"
        self.store = KnownPeersFile(self.state / "known_peers")

    @property
    def daemon(self) -> LabDaemon:
        return self.daemons[-1]

    def write(self, text: str, **keys: str) -> None:
        """The configuration file; `keys` are those of [daemon]."""
        lines = [f'state = "{self.state}"', f'control = "{self.control}"']
        lines += [f"{name} = {value}" for name, value in keys.items()]
        self.file.write_text("[daemon]\n" + "\n".join(lines) + "\n" + text)

    def start(self, text: str, *arguments: str, **keys: str) -> LabDaemon:
        self.write(text, **keys)
        file = ("--config", str(self.file))
        with self.network.every_policy():
            self.daemons.append(LabDaemon(self.host, *file, *arguments, through=self.through))
        self.network.daemons.append(self.daemon)
        return self.daemon

    def stop(self) -> None:
        assert self.daemon.stop() == 0

    def reload(self, text: str, **keys: str) -> None:
        before = len(self.daemon.events("reloaded"))
        self.write(text, **keys)
        self.daemon.process.send_signal(signal.SIGHUP)
        self.daemon.wait_for("reloaded", count=before + 1)

    def known(self) -> KnownPeers:
        self.store.refresh()
        return self.store.current

    def keys(self, scope: str) -> list[str]:
        return list(self.known().of_scope(scope))

    def fingerprint(self) -> str:
        return load_identity(self.state / "identity").fingerprint

    def new_identity(self) -> str:
        """Another key, as of a host that was installed anew; its fingerprint."""
        path = self.state / "identity"
        path.unlink(missing_ok=True)
        return create_identity(path).fingerprint

    def sessions(self) -> list[SessionInfo]:
        with Client(self.control) as client:
            return list(client.sessions())

    def counters(self) -> dict[str, int]:
        with Client(self.control) as client:
            found: dict[str, int] = client.status()["counters"]
        return found

    def told(self) -> None:
        """The daemon has looked at its files."""
        with Client(self.control) as client:
            client.trust_changed()

    def enabled(self, count: int = 1) -> dict[str, str]:
        return self.daemon.wait_for("enabled", count=count)[-1]


@dataclass
class Pair:
    """Two hosts that ask each other who they are."""

    network: Network
    client: Trusting
    server: Trusting

    @property
    def scope(self) -> str:
        return f"{self.network.server_end.v4}:{PORT}"

    def start(self, text: str, **keys: str) -> None:
        self.client.start(text, **keys)
        self.server.start(text, **keys)

    def talk(self) -> None:
        """One connection with a byte each way, and its end, as both daemons tell it."""
        ends = [len(side.daemon.events("closed")) for side in (self.client, self.server)]
        with self.network.conversation():
            pass
        for side, before in zip((self.client, self.server), ends, strict=True):
            side.daemon.wait_for("closed", count=before + 1)

    def talk_alone(self) -> None:
        """As `talk`, where only the client has a daemon."""
        with self.network.conversation():
            pass

    def meet(self) -> None:
        """First contact, on disk at both."""
        self.talk()
        for side, scope in ((self.client, self.scope), (self.server, "*")):
            wait_until(lambda side=side, scope=scope: side.keys(scope), "key on disk")

    @contextlib.contextmanager
    def refused(self, port: int = PORT, *, reached: bool = False) -> Iterator[None]:
        """The application's connection is refused, and no service is reached.

        `reached`: where the server takes whatever comes, by its policy or for
        want of a daemon, its service may see a connection on which nothing is
        said, and a reset.
        """
        with self.network.listen(port=port) as listener:
            with pytest.raises(ConnectionRefusedError):
                self.network.connect(port=port)
            listener.settimeout(0.3)
            try:
                other, _address = listener.accept()
            except TimeoutError:
                reached = False
            else:
                with other:
                    other.settimeout(10)
                    assert reached
                    assert ended_by_reset(other)
            yield


def pair_of(network: Network, directory: Path) -> Pair:
    sides = [Trusting(network, h, directory / h.name) for h in (network.client, network.server)]
    return Pair(network, sides[0], sides[1])


def ended_by_reset(sock: socket.socket) -> bool:
    """Whether what comes next is a reset, and no end of file."""
    try:
        data = sock.recv(1)
    except (ConnectionResetError, BrokenPipeError):
        return True
    assert data, "an end of file, where there has to be a reset"
    return False
