"""Connections opened and closed in every way, for a long time: nothing grows, nothing is lost.

Three minutes, or an hour with TCPCRYPT_TEST_PROFILE=long.
"""

import contextlib
import itertools
import os
import random
import select
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.processes import descriptors, family, resident

from tcpcrypt.daemon.client import Client
from tcpcrypt.errors import LocalError
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
PATIENCE = 60
"""Seconds for which a connection may stand still on a machine that is busy."""
STALLED = 2.0
"""Seconds without a word from a daemon, after which a first contact may have gone in
clear: the SYNs of three seconds were not answered (RFC 8547 section 4.6)."""
SILENCE = "SYN was retransmitted without ENO"
TROUBLE = ("failed", "fallback", "aborted", "refused", "bug", "exhausted", "restored")
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


def up(sock: socket.socket) -> None:
    """Wait until a connect is over."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    if not poll.poll(PATIENCE * 1000):
        raise TimeoutError("no connection")
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))
    sock.settimeout(PATIENCE)


def drained(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


class Service:
    """Does what the first byte of a connection says."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._out: dict[socket.socket, bytearray] = {}
        self.resets = 0
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
            self.resets += 1
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
        self._stories: list[str] = []
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
            socket.create_connection((self._net.server_end.v4, CLOSED_PORT), PATIENCE)
        return "refused"

    def _served(self, number: int) -> str:
        kind = KINDS[number % len(KINDS)]
        address = self._net.server_end.v4
        # Nearly every address once at first, so that caches are full early; then half
        # of the connections go to one in turn.
        if number < ADDRESSES:
            other = number if number % 8 else None
        else:
            other = next(self._turns) % ADDRESSES if number // len(KINDS) % 2 else None
        if other is not None:
            address = f"10.98.{other >> 8}.{other & 255}"
        began, ours = time.monotonic(), ""
        try:
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.connect_ex((address, PORT))
                # By its port the logs know it.
                ours = f"{self._net.client_end.v4}:{sock.getsockname()[1]}"
                up(sock)
                kind(sock)
        except BaseException as problem:
            after = time.monotonic() - began
            self._stories.append(
                f"connection {number}, {kind.__name__}, {ours} to {address}, began at"
                f" {time.strftime('%T', time.localtime(time.time() - after))},"
                f" after {after:.2f} s: {problem!r}; of it the daemons say {self._told(ours)}"
            )
            raise
        return kind.__name__

    def _told(self, client: str) -> list[dict[str, str]]:
        lines = (line for daemon in self._net.daemons for line in daemon.events())
        return [line for line in lines if line.get("client") == client][-6:]

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        if self.problems:
            told = "\n".join(self._stories + trouble(self._net))
            raise AssertionError(f"{told}\nafter {self.done}") from self.problems[0]


def trouble(net: Network) -> list[str]:
    """What the daemons say of anything but connections that went well."""
    return [
        f"{daemon.host.name}: {line}"
        for daemon in net.daemons
        for line in daemon.events(*TROUBLE)
        if not line.get("service", "").endswith(f":{CLOSED_PORT}")
    ][-20:]


class Watch:
    """How long the daemons have let somebody wait for an answer, at most."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.longest = 0.0
        self._paths = tuple(paths)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.5):
            for path in self._paths:
                began = time.monotonic()
                with contextlib.suppress(LocalError, OSError):
                    counters(path)
                self.longest = max(self.longest, time.monotonic() - began)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


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
            watch, load = Watch(paths), Load(pair)
            try:
                # Warm is who has seen every address and has worked for a sixth of the time:
                # until then the heap finds its shape, in ever smaller steps.
                began = time.monotonic()
                end = began + SECONDS
                while time.monotonic() < began + SECONDS / 2 and not load.problems:
                    seen = load.done.total() > ADDRESSES + 2000
                    if seen and time.monotonic() > began + SECONDS / 6:
                        break
                    time.sleep(0.5)
                warm = [resident(pid) for pid in pids]
                while time.monotonic() < end and not load.problems:
                    time.sleep(0.5)
            finally:
                watch.stop()
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
    told = f"{served} served, {one}, {other}, {watch.longest:.1f} s without a word\n"
    told += "\n".join(trouble(pair))
    for found in (one, other):
        assert found["aborted"] == found["refused"] == 0, told
        assert found["fresh"] + found["resumed"] + found["fallback"] == found["closed"], told
        assert found["fresh"] > 0
        assert found["resumed"] > 0
    assert one["closed"] + one["direct"] == served, told
    assert (one["fresh"], one["resumed"]) == (other["fresh"], other["resumed"]), told
    # Nothing is in clear, but for what met a daemon that stood still.
    plain = [line["reason"] for line in pair.daemons[0].events("fallback")]
    assert not plain or (watch.longest > STALLED and set(plain) == {SILENCE}), told
    assert plain or one["fallback"] == one["direct"] == other["fallback"] == 0, told
    assert one["failed"] == load.done["refused"], told
    assert service.resets == load.done["service_resets"], told
    assert not [event for daemon in daemons for event in daemon.events("bug", "aborted")]
