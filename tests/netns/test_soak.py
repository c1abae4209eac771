"""Connections opened and closed in every way, for a long time: nothing grows, nothing is lost.

Three minutes, or an hour with TCPCRYPT_TEST_PROFILE=long.
"""

import contextlib
import itertools
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.processes import descriptors, family, resident

from tcpcrypt.daemon.client import Client
from tcpcrypt.tools.netns import wait_until

LONG = os.environ.get("TCPCRYPT_TEST_PROFILE") == "long"
SECONDS = 3600 if LONG else 180
CLIENTS = 6
CLOSED_PORT = PORT + 1
ADDRESSES = 6000
"""More than the daemons keep secrets for: coming to the first again is a fresh exchange."""
GROWTH_MAX = 3 << 20
"""Bytes by which a daemon may grow once it is warm; a descriptor's buffer that is
lost with each connection would be a hundred times that."""
SPARE = 64
"""Descriptors that a daemon may have made ready for connections to come."""
RESET = struct.pack("ii", 1, 0)


def whole(sock: socket.socket) -> None:
    """All comes back, and then the end."""
    data = b"e" + random.randbytes(random.choice((10, 1000, 100_000)))
    sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
    sender.start()
    assert drained(sock) == data
    sender.join()


def service_ends(sock: socket.socket) -> None:
    sock.sendall(b"c" + bytes(100))
    assert drained(sock) == b"c" + bytes(100)


def half_closed(sock: socket.socket) -> None:
    """The service has said all it had to; the client has not."""
    sock.sendall(b"h")
    assert drained(sock) == b"h"
    sock.sendall(bytes(5000))
    sock.shutdown(socket.SHUT_WR)


def client_resets(sock: socket.socket) -> None:
    sock.sendall(b"e?")
    assert sock.recv(1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def service_resets(sock: socket.socket) -> None:
    sock.sendall(b"r")
    with pytest.raises(ConnectionResetError):
        drained(sock)


KINDS: tuple[Callable[[socket.socket], None], ...] = (
    *(whole, service_ends, half_closed, client_resets, service_resets),
)


def drained(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


class Service:
    """Does what the first byte of a connection says."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._out: dict[socket.socket, bytearray] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping:
            for key, _events in self._selector.select(0.2):
                if key.data is None:
                    sock, _address = self._listener.accept()
                    sock.setblocking(False)
                    self._selector.register(sock, selectors.EVENT_READ, bytearray())
                else:
                    with contextlib.suppress(BlockingIOError):
                        self._step(key.fileobj, key.data)  # type: ignore[arg-type]

    def _step(self, sock: socket.socket, kind: bytearray) -> None:
        try:
            self._flush(sock)
            data = sock.recv(1 << 16) if len(self._out.get(sock, b"")) < 1 << 18 else None
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise
            self._end(sock)
            return
        if data is None:
            return
        kind += data[: 1 - len(kind)]
        verb = bytes(kind)
        if verb == b"r":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._end(sock)
        elif not data and not self._out.get(sock):
            self._end(sock)
        elif verb == b"c":
            sock.send(data)
            self._end(sock)
        elif verb == b"h" and len(kind) == 1:
            kind += b"."
            sock.send(data[:1])
            sock.shutdown(socket.SHUT_WR)
        elif verb == b"e":
            self._out.setdefault(sock, bytearray()).extend(data)
            self._flush(sock)

    def _flush(self, sock: socket.socket) -> None:
        waiting = self._out.get(sock)
        if waiting:
            with contextlib.suppress(BlockingIOError):
                del waiting[: sock.send(waiting)]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
        self._selector.modify(sock, wanted, self._selector.get_key(sock).data)

    def _end(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        self._out.pop(sock, None)
        sock.close()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()


class Load:
    """Connections of all kinds, one after another, from several threads."""

    def __init__(self, net: Network) -> None:
        self.done: Counter[str] = Counter()
        self._net = net
        self._numbers = itertools.count()
        self._turns = itertools.count()
        self._lock = threading.Lock()
        self._stopping = False
        self.problems: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            with self._net.client.entered():
                while not self._stopping and not self.problems:
                    self._one(next(self._numbers))
        except BaseException as problem:
            self.problems.append(problem)

    def _one(self, number: int) -> None:
        name = self._refused() if number % 10 == 0 else self._served(number)
        with self._lock:
            self.done[name] += 1

    def _refused(self) -> str:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((self._net.server_end.v4, CLOSED_PORT), 20)
        return "refused"

    def _served(self, number: int) -> str:
        kind = KINDS[number % len(KINDS)]
        address = self._net.server_end.v4
        # Every address once at first, so that caches are full early; then half of
        # the connections go to one in turn.
        if number < ADDRESSES or number // len(KINDS) % 2:
            other = number if number < ADDRESSES else next(self._turns) % ADDRESSES
            address = f"10.98.{other >> 8}.{other & 255}"
        with socket.create_connection((address, PORT), 20) as sock:
            kind(sock)
        return kind.__name__

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        if self.problems:
            told = [
                line
                for daemon in self._net.daemons
                for line in daemon.events("failed", "fallback", "aborted", "bug", "exhausted")
                if not line.get("service", "").endswith(f":{CLOSED_PORT}")
            ]
            raise AssertionError(f"{told[-6:]} after {self.done}") from self.problems[0]


def counters(path: Path) -> dict[str, int]:
    with Client(path) as client:
        found: dict[str, int] = client.status()["counters"]
    return found


def quiet(path: Path) -> bool:
    with Client(path) as client:
        return bool(client.status()["connections"] == 0)


def test_nothing_grows_and_every_connection_is_accounted_for(pair: Network, tmp_path: Path) -> None:
    pair.spare_room()
    # Any address of that network is the server's.
    pair.server.run("ip", "route", "add", "local", "10.98.0.0/16", "dev", "lo")
    pair.client.run("ip", "route", "add", "10.98.0.0/16", "via", pair.server_end.v4)
    pair.client.sysctl("net.ipv4.tcp_tw_reuse", "1")
    tmp_path.chmod(0o755)
    paths = tmp_path / "client", tmp_path / "server"
    daemons = [
        pair.daemon(host, "--port", str(CLOSED_PORT), "--control", str(path))
        for host, path in zip((pair.client, pair.server), paths, strict=True)
    ]
    pids = [daemon.process.pid for daemon in daemons]
    assert all(len(family(pid)) > 1 for pid in pids)
    with pair.listen() as listener:
        service = Service(listener)
        try:
            with pair.connect() as sock:
                whole(sock)
            wait_until(lambda: all(map(quiet, paths)), "first connection's end")
            held = [descriptors(pid) for pid in pids]
            load = Load(pair)
            try:
                # Warm is who has seen every address; half of the time at most.
                end = time.monotonic() + SECONDS
                while time.monotonic() < end - SECONDS / 2 and not load.problems:
                    if load.done.total() > ADDRESSES + 2000:
                        break
                    time.sleep(0.5)
                warm = [resident(pid) for pid in pids]
                while time.monotonic() < end and not load.problems:
                    time.sleep(0.5)
            finally:
                load.stop()
            wait_until(lambda: all(map(quiet, paths)), "end of the last connection", 30)
        finally:
            service.stop()
    grown = [resident(pid) - before for pid, before in zip(pids, warm, strict=True)]
    assert max(grown) < GROWTH_MAX, (grown, warm, load.done)
    wait_until(
        lambda: all(descriptors(pid) <= h + SPARE for pid, h in zip(pids, held, strict=True)),
        "descriptors given back",
    )
    one, other = map(counters, paths)
    served = load.done.total() - load.done["refused"] + 1
    for found in (one, other):
        assert found["aborted"] == found["fallback"] == found["refused"] == 0, (served, one, other)
        assert found["fresh"] + found["resumed"] == found["closed"] == served, (one, other)
        assert found["fresh"] > 0
        assert found["resumed"] > 0
    assert one["failed"] == load.done["refused"]
    assert one["fresh"] == other["fresh"]
    assert not [event for daemon in daemons for event in daemon.events("bug", "aborted")]
