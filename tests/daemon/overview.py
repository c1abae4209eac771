"""A small host in memory, and a control server on it in a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tcpcrypt.core.policy import Match, Mode, Policy
from tcpcrypt.daemon.control import ControlServer, ControlSocket
from tcpcrypt.runtime.loop import Loop

SESSION = "23" + "5a" * 32
TRANSCRIPT = "4504" + "2324" + "4504" + "0123"
"""A offers 0x23 and 0x24; B, its global suboption set, answers 0x23."""


IDENTITY = "tcpcrypt1:" + "7kmii73ngsm6uf4gflb6jtyd6m2ksu567e37l473usr6zrikpneq"
PEER = "tcpcrypt1:" + "75vv4lowzjd2rpffebpmfdgfjwjgugn7cz4oo57oqdqwzlxaptlq"


def authenticated(number: int, client: str, service: str, **changes: Any) -> dict[str, Any]:
    """A connection to a host that has proved who it is."""
    proof = {"fingerprint": PEER, "proved": True, "trust": "psk", "psk": "site-a"}
    return entry(number, client, service, tep="0x20", kex="X25519MLKEM768", **proof | changes)


def entry(number: int, client: str, service: str, **changes: Any) -> dict[str, Any]:
    """An encrypted connection that this host opened."""
    return {
        "id": number,
        "direction": "outgoing",
        "client": client,
        "service": service,
        "state": "encrypted",
        "policy": 2,
        "since": 1_790_000_000.25,
        "session": SESSION,
        "tep": "0x23",
        "kex": "X25519",
        "aead": "0x0001",
        "role": "A",
        "start": "fresh",
        "transcript": TRANSCRIPT,
        "rekeys": 0,
        "profile": "rfc8548",
        "lacks": [],
        "fingerprint": None,
        "proved": False,
        "trust": None,
        "psk": None,
        "sent": 78,
        "received": 1256,
    } | changes


def plain(number: int, client: str, service: str, state: str = "plain") -> dict[str, Any]:
    """A connection without encryption."""
    whole = entry(number, client, service, state=state)
    return {
        key: whole[key] for key in ("id", "direction", "client", "service", "state", "policy")
    } | {"since": whole["since"], "sent": 0, "received": 0}


def peer(address: str, last: str = "encrypted", **changes: Any) -> dict[str, Any]:
    return {
        "peer": address,
        "port": 443,
        "last": last,
        "reason": None,
        "until": None,
        "connections": 1,
    } | changes


@dataclass
class Memory:
    """An `Overview`.  Sockets are found by their addresses."""

    connections: list[dict[str, Any]] = field(default_factory=list)
    known: list[dict[str, Any]] = field(default_factory=list)
    by_socket: dict[tuple[tuple[str, int], tuple[str, int]], dict[str, Any]] = field(
        default_factory=dict
    )
    flushed: list[str | None] = field(default_factory=list)
    broken: bool = False

    def status(self) -> dict[str, Any]:
        if self.broken:
            raise RuntimeError("a mistake")
        return {
            "pid": 4711,
            "version": "0.1.0",
            "started": 1_790_000_000,
            "backend": "nfqueue",
            "steering": "tproxy",
            "identity": IDENTITY,
            "keylog": False,
            "policies": 2,
            "counters": {
                **{"fresh": 3, "resumed": 17, "fallback": 1, "direct": 0, "refused": 0},
                **{"aborted": 0, "failed": 2, "exhausted": 0, "closed": 19},
            },
            "connections": len(self.connections),
            "queue": {"overruns": 0, "evicted": 0, "held": 1, "held_overflowed": 0},
            "worker": 4712,
        }

    def sessions(self) -> list[dict[str, Any]]:
        return list(self.connections)

    def peers(self) -> list[dict[str, Any]]:
        return list(self.known)

    def find(self, local: tuple[str, int], remote: tuple[str, int]) -> dict[str, Any] | None:
        return self.by_socket.get((local, remote))

    def flush(self, peer: str | None) -> int:
        self.flushed.append(peer)
        kept = [known for known in self.known if peer not in (None, known["peer"])]
        forgotten = len(self.known) - len(kept)
        self.known = kept
        return forgotten


POLICIES = (
    Policy(Mode.NEVER, Match(ports=(range(22, 23),))),
    Policy(Mode.REQUIRE, Match(ports=(range(5432, 5433), range(8000, 8100)))),
)


@dataclass
class Service:
    """A running server."""

    path: Path
    memory: Memory
    server: ControlServer
    reports: list[tuple[str, dict[str, object]]]
    confirmed: list[bool]
    looked: list[bool]
    call: Callable[[Callable[[], None]], None]
    """Run something in the server's thread, and wait for it."""

    def connect(self, timeout: float = 10.0) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(str(self.path))
        return sock


@contextlib.contextmanager
def serving(path: Path, memory: Memory | None = None, confirm: bool = True) -> Iterator[Service]:
    """A server at `path` until the end of the block."""
    memory = Memory() if memory is None else memory
    control = ControlSocket(path)
    loop = Loop()
    reports: list[tuple[str, dict[str, object]]] = []
    confirmed: list[bool] = []
    looked: list[bool] = []
    server = ControlServer(
        loop,
        control.socket,
        memory,
        policies=lambda: POLICIES,
        report=lambda event, fields: reports.append((event, fields)),
        confirm=(lambda: confirmed.append(True)) if confirm else None,
        trust_changed=lambda: looked.append(True),
    )
    server.start()
    jobs: list[Callable[[], None]] = []
    ends = socket.socketpair()

    def work(_events: int) -> None:
        ends[1].recv(1)
        jobs.pop(0)()

    def call(job: Callable[[], None]) -> None:
        done = threading.Event()
        jobs.append(lambda: (job(), done.set()))
        ends[0].send(b".")
        assert done.wait(10)

    loop.watch(ends[1].fileno(), 1, work)
    thread = threading.Thread(target=loop.run, name="control")
    thread.start()
    try:
        yield Service(path, memory, server, reports, confirmed, looked, call)
    finally:
        call(server.close)
        loop.stop()
        thread.join(10)
        assert not thread.is_alive()
        loop.close()
        control.close()
        for end in ends:
            end.close()
