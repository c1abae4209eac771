"""Two relays in one process, a session between them, an application at each end."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from support.hosts import Host, connect
from tcpcrypt.core.config import Config
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.pump import Pumping
from tcpcrypt.runtime.relay import Ending, Relay

PATIENCE = 20.0


def tcp_pair(buffers: int = 0) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection over the loopback; `buffers`: of how many bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.socket()
        if buffers:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                one.setsockopt(socket.SOL_SOCKET, option, buffers)
                listener.setsockopt(socket.SOL_SOCKET, option, buffers)
        one.connect(listener.getsockname())
        other, _address = listener.accept()
    for sock in (one, other):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(PATIENCE)
    return one, other


def until(condition: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Wait for what other threads do."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


@dataclass
class Side:
    """One relay and what it reported."""

    app: socket.socket
    relay: Relay
    pump: Pumping | None
    endings: list[tuple[Ending, str]] = field(default_factory=list)
    rekeys: list[Any] = field(default_factory=list)

    @property
    def lent(self) -> bool:
        return self.pump is not None and len(self.pump) > 0


class Chain:
    """`client` and `server`, joined by two relays.  A context manager."""

    def __init__(
        self,
        *,
        pumps: bool,
        config: Config | None = None,
        plain: bool = False,
        buffers: int = 0,
        threads: int = 1,
    ) -> None:
        self.loop = Loop()
        self.failures: list[Exception] = []
        self.loop.failed = lambda _fd, error: self.failures.append(error)
        self.wire = tcp_pair(buffers)
        config = config or Config()
        sessions = connect(Host(config), Host(config)) if not plain else (None, None)
        sides = []
        for outer, session in zip(self.wire, sessions, strict=True):
            pump = Pumping.open(self.loop, threads) if pumps else None
            assert not pumps or pump is not None
            app, inner = tcp_pair(buffers)
            inner.setblocking(False)
            sides.append(self._side(app, inner, outer, session, pump))
        self.client, self.server = sides
        for side in sides:
            side.relay.start()
        self._calls: list[Callable[[], None]] = []
        self._over = False
        self._thread = threading.Thread(target=self._run)

    def _side(self, app: Any, inner: Any, outer: Any, session: Any, pump: Any) -> Side:
        endings: list[tuple[Ending, str]] = []
        rekeys: list[Any] = []
        waiting = [inner]

        def ready(_established: Any) -> None:
            self._attach(waiting.pop(), lambda: relay)

        relay = Relay(
            self.loop,
            outer,
            session,
            ready=ready,
            ended=lambda ending, detail: endings.append((ending, detail)),
            releasing=lambda _sock: None,
            rekeyed=rekeys.append,
            proved=lambda _event: None,
            pump=pump,
        )
        return Side(app, relay, pump, endings, rekeys)

    def _attach(self, inner: socket.socket, relay: Callable[[], Relay]) -> None:
        relay().attach(inner)

    def _run(self) -> None:
        while not self._over:
            self.loop.step(0.05)
            while self._calls:
                self._calls.pop(0)()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run in the loop's thread, as everything that touches a relay has to."""
        results: list[Any] = []
        self._calls.append(lambda: results.append(function()))
        until(lambda: results)
        return results[0]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        self._thread.join()
        for side in (self.client, self.server):
            side.relay.reset()
            if side.pump is not None:
                assert len(side.pump) == 0
                side.pump.close()
            side.app.close()
        self.loop.close()
        if kind is None:
            assert self.failures == []

    def warm_up(self) -> None:
        """Exchange bytes until both relays have lent the connection, if they can."""
        for _ in range(50):
            self.client.app.sendall(b"?")
            assert self.server.app.recv(1) == b"?"
            self.server.app.sendall(b"!")
            assert self.client.app.recv(1) == b"!"
            if self.client.pump is None or (self.client.lent and self.server.lent):
                return
            time.sleep(0.01)
        raise AssertionError("the connection was never lent")


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    got = bytearray()
    while len(got) < size:
        part = sock.recv(size - len(got))
        assert part, "the stream ended"
        got += part
    return bytes(got)


def read_all(sock: socket.socket) -> bytes:
    """Up to the end of the stream."""
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def sending(sock: socket.socket, data: bytes, *, end: bool = True) -> Iterator[None]:
    """Send in another thread, meanwhile; then end the stream."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert failed == []
