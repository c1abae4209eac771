"""Listening: handshakes run beside each other, and a silent client delays nobody.

Each connection accepted is a `Channel` at once.  At most `HANDSHAKES` of them
are short of AES_MODE at a time; where there are as many, or no descriptors for
more, the next waits in the kernel until one is done or the oldest has had a
second, which is then dropped.  So a flood of silent clients takes no more memory
than that, and whoever answers within a second gets through.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from tcpcrypt.aio.channel import Channel, Converse, OnState, ProtocolFactory
from tcpcrypt.errors import HandshakeTimeoutError, PeerReason, TcpcryptError
from tcpcrypt.sockets.state import Failure

__all__ = ["HANDSHAKES", "OnFailure", "SecureServer"]

HANDSHAKES: Final = 1024
"""Connections short of AES_MODE at a time."""
_PATIENCE: Final = 1.0
"""Seconds that a connection has in any case."""
_AT_ONCE: Final = 64
"""Connections accepted in one turn of the loop."""
_SCARCE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_BREATH: Final = 0.1
"""Seconds to wait where this host has run out of something."""

_log: Final = logging.getLogger("tcpcrypt.aio")

OnFailure = Callable[[object, BaseException], object]
"""Takes the address of a peer and why its connection failed before AES_MODE."""


class SecureServer:
    """What `serve` returns; used as `asyncio.Server` is."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        converse: Converse,
        factory: ProtocolFactory,
        *,
        on_state: OnState | None,
        on_failure: OnFailure | None,
        handshakes: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners = list(listeners)
        self._converse = converse
        self._factory = factory
        self._on_state = on_state
        self._on_failure = on_failure
        self._limit = handshakes
        self._pending: dict[Channel, None] = {}  # in the order in which they came
        self._tasks: set[asyncio.Task[object]] = set()
        self._serving: list[asyncio.Task[None]] = []
        self._room = asyncio.Event()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.failures: Counter[Failure] = Counter()
        """How many connections failed before AES_MODE, by reason."""

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; none once closed."""
        return tuple(self._listeners)

    @property
    def handshakes(self) -> int:
        """Connections short of AES_MODE."""
        return len(self._pending)

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return bool(self._serving)

    def start(self) -> None:
        """Accept connections.  Idempotent."""
        if not self._serving:
            self._serving = [
                self._loop.create_task(self._serve(listener)) for listener in self._listeners
            ]

    async def start_serving(self) -> None:
        """Accept connections.  Idempotent."""
        self.start()

    async def serve_forever(self) -> None:
        """Accept connections until cancelled; closes the server then."""
        self.start()
        try:
            await asyncio.gather(*self._serving)
        finally:
            self.close()

    def close(self) -> None:
        """Accept nothing more and drop what is short of AES_MODE.  The rest stays."""
        for task in self._serving:
            task.cancel()
        for listener in self._listeners:
            # The loop must not find it closed, nor another in its place.
            with contextlib.suppress(NotImplementedError):
                self._loop.remove_reader(listener)
            listener.close()
        self._listeners, self._serving = [], []
        for channel in list(self._pending):
            channel.give_up(ConnectionAbortedError("server was closed"))
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        """Wait until `close` was called and accepting has come to its end."""
        await asyncio.shield(self._closed)
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await self.wait_closed()

    # --- for servers that do more ------------------------------------------------------------

    def established(self, channel: Channel) -> None:
        """A connection is in AES_MODE, and its protocol knows."""

    def crowded(self) -> bool:
        """Whether to accept nothing until `make_room`."""
        return False

    def make_room(self) -> None:
        """Look again whether there is room for more."""
        self._room.set()

    # --- inside ------------------------------------------------------------------------------

    async def _serve(self, listener: socket.socket) -> None:
        while True:
            await self._until_room()
            try:
                sock, _address = await self._loop.sock_accept(listener)
                self._take(sock)
                for _ in range(min(_AT_ONCE, self._limit - len(self._pending))):
                    # Those that wait already, without a turn of the loop for each.
                    sock, _address = listener.accept()
                    sock.setblocking(False)
                    self._take(sock)
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if error.errno not in _SCARCE:
                    raise
                _log.warning("accepting stops for %g s: %s", _BREATH, error.strerror)
                # Silent clients may have what is missing.
                while self._pending and self._oldest_may_stay() <= 0:
                    pass
                await asyncio.sleep(_BREATH)

    def _oldest_may_stay(self) -> float:
        """Seconds that the connection which waits longest still has; if none, it is dropped."""
        oldest = next(iter(self._pending))
        left = oldest.begun + _PATIENCE - time.monotonic()
        if left <= 0:
            detail = "others were waiting"
            oldest.give_up(HandshakeTimeoutError(PeerReason.TIMEOUT, detail))
        return left

    async def _until_room(self) -> None:
        while self.crowded() or len(self._pending) >= self._limit:
            left = None
            if not self.crowded():
                left = self._oldest_may_stay()
                if left <= 0:
                    continue
            self._room.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._room.wait()

    def _take(self, sock: socket.socket) -> None:
        channel = Channel(self._loop, self._converse, self._factory, self._settled, self._on_state)
        self._pending[channel] = None
        self.keep(self._loop.create_task(self._connect(channel, sock)))

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a task until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, channel: Channel, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: channel, sock)
        except OSError as error:
            sock.close()
            channel.give_up(error)

    def _settled(self, channel: Channel) -> None:
        self._pending.pop(channel, None)
        self._room.set()
        error = channel.error
        if error is None:
            self.established(channel)
            return
        if isinstance(error, TcpcryptError):
            self.failures[Failure.of(error)] += 1
        address = channel.raw.get_extra_info("peername") if channel.connected else None
        _log.info("connection of %s: %s", address, error)
        if self._on_failure is not None:
            self._on_failure(address, error)
