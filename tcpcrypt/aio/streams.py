"""Streams: `connect` and `create_server` in the manner of `asyncio.open_connection`
and `asyncio.start_server`.

The reader is an `asyncio.StreamReader`.  What ends it is an authenticated end of
the peer's stream, or an exception: `TruncationError`, `IntegrityError` or
`ResetError` instead of a quiet end of file.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from tcpcrypt.aio.channel import Channel, Converse, OnState, ProtocolFactory
from tcpcrypt.aio.opening import (
    BACKLOG,
    Address,
    accepting,
    bound,
    create_connection,
)
from tcpcrypt.aio.server import HANDSHAKES, OnFailure, SecureServer
from tcpcrypt.aio.transport import SecureTransport
from tcpcrypt.errors import LocalError, TcpcryptError
from tcpcrypt.sockets.keys import Keys
from tcpcrypt.sockets.state import Failure, State

__all__ = [
    "ClientConnected",
    "SecureWriter",
    "StreamServer",
    "connect",
    "create_server",
    "open_connection",
    "start_server",
]

_LIMIT: Final = 64 << 10
"""Bytes that a reader collects before it stops reading, and the longest line; as asyncio has it."""
_READY_MAX: Final = 128
"""Connections that wait for `accept`; more wait in the kernel."""


class SecureWriter(asyncio.StreamWriter):
    """An `asyncio.StreamWriter` that knows with whom it talks."""

    @property
    def transport(self) -> SecureTransport:
        """The transport, in AES_MODE."""
        return cast("SecureTransport", super().transport)

    @property
    def state(self) -> State:
        """AES_MODE or, once something went wrong, FAIL."""
        return self.transport.state

    @property
    def session_id(self) -> bytes | None:
        """The session ID, 33 bytes, the same at both ends (RFC 8548 section 3.4)."""
        return self.transport.session_id

    @property
    def peer_identity(self) -> str | None:
        """The fingerprint that the peer has proved; None if it showed none."""
        return self.transport.peer_identity

    @property
    def cipher(self) -> str | None:
        """The AEAD in use."""
        return self.transport.cipher

    @property
    def resumed(self) -> bool | None:
        """Whether the session continues an earlier one."""
        return self.transport.resumed

    @property
    def failure(self) -> Failure | None:
        """Why the connection failed, if it did."""
        return self.transport.failure

    @property
    def error(self) -> TcpcryptError | None:
        """The exception behind `failure`."""
        return self.transport.error

    def getsockopt(self, level: int, option: int | str) -> int | bytes:
        """An option of TCP, or of TCP-ENO by its name; see `SecureTransport.getsockopt`."""
        return self.transport.getsockopt(level, option)

    def setsockopt(self, level: int, option: int | str, value: int | bytes) -> None:
        """As `getsockopt`."""
        self.transport.setsockopt(level, option, value)

    @contextlib.contextmanager
    def cork(self) -> Iterator[None]:
        """Collect what is written within, and send it in as few frames as it takes."""
        with self.transport.cork():
            yield

    def abort(self) -> None:
        """Reset the connection; the peer sees `ResetError`, never an end."""
        self.transport.abort()

    def __del__(self) -> None:
        """Who has lost his writer has not said that his stream ends."""
        transport = self.transport
        if not transport.is_closing():
            transport.abort()
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)


ClientConnected = Callable[[asyncio.StreamReader, SecureWriter], Coroutine[Any, Any, object] | None]


class _Streams(asyncio.StreamReaderProtocol):
    """Reader and writer of one connection."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        self.reader = asyncio.StreamReader(limit=limit, loop=loop)
        super().__init__(self.reader, loop=loop)
        self.loop = loop

    def taken(self, transport: SecureTransport) -> tuple[asyncio.StreamReader, SecureWriter]:
        """The streams; from here on the program alone keeps the reader."""
        reader = self.reader
        del self.reader
        return reader, SecureWriter(transport, self, reader, self.loop)


async def connect(
    address: Address | None = None,
    *,
    peer: str,
    pq: str | None = None,
    timeout: float | None = 5.0,
    transport: str = "auto",
    keys: Keys = None,
    control: Path | str | None = None,
    on_state: OnState | None = None,
    limit: int = _LIMIT,
    sock: socket.socket | None = None,
    local_addr: tuple[str, int] | None = None,
) -> tuple[asyncio.StreamReader, SecureWriter]:
    """Open a connection that is encrypted and authenticated, or raise.

    Arguments and errors are those of `tcpcrypt.aio.create_connection`; `limit` is
    that of `asyncio.open_connection`.
    """
    loop = asyncio.get_running_loop()
    made, protocol = await create_connection(
        lambda: _Streams(limit, loop),
        address,
        peer=peer,
        pq=pq,
        timeout=timeout,
        transport=transport,
        keys=keys,
        control=control,
        on_state=on_state,
        sock=sock,
        local_addr=local_addr,
    )
    return cast("_Streams", protocol).taken(made)


class StreamServer(SecureServer):
    """What `create_server` returns."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        converse: Converse,
        factory: ProtocolFactory,
        *,
        callback: ClientConnected | None,
        on_state: OnState | None,
        on_failure: OnFailure | None,
        handshakes: int,
    ) -> None:
        super().__init__(
            listeners,
            converse,
            factory,
            on_state=on_state,
            on_failure=on_failure,
            handshakes=handshakes,
        )
        self._callback = callback
        self._ready: deque[tuple[asyncio.StreamReader, SecureWriter]] = deque()
        self._acceptors: deque[asyncio.Future[None]] = deque()

    async def accept(self) -> tuple[asyncio.StreamReader, SecureWriter]:
        """The next connection in AES_MODE.

        Raises `LocalError` where a callback gets them, `ConnectionAbortedError`
        once the server is closed.
        """
        if self._callback is not None:
            raise LocalError("connections of this server go to its callback")
        while not self._ready:
            if not self.sockets:
                raise ConnectionAbortedError("server is closed")
            waiter = asyncio.get_running_loop().create_future()
            self._acceptors.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # it was for another then
                raise
        found = self._ready.popleft()
        self.make_room()
        return found

    def close(self) -> None:
        """As `SecureServer.close`; connections that nobody has accepted are reset."""
        super().close()
        while self._ready:
            self._ready.popleft()[1].abort()
        while self._acceptors:
            self._wake()

    def established(self, channel: Channel) -> None:
        """Call the callback, or keep the connection for `accept`."""
        streams = cast("_Streams", channel.application).taken(channel.transport)
        if self._callback is None:
            self._ready.append(streams)
            self._wake()
            return
        channel.guarded(lambda: self._call(*streams), "client_connected_cb")

    def crowded(self) -> bool:
        """Whether enough connections wait for `accept`."""
        return len(self._ready) >= _READY_MAX

    def _wake(self) -> None:
        while self._acceptors:
            waiter = self._acceptors.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _call(self, reader: asyncio.StreamReader, writer: SecureWriter) -> None:
        assert self._callback is not None
        result = self._callback(reader, writer)
        if inspect.iscoroutine(result):
            task = asyncio.get_running_loop().create_task(result)
            task.add_done_callback(lambda done: _finished(done, writer))
            self.keep(task)


def _finished(task: asyncio.Task[object], writer: SecureWriter) -> None:
    """A program that broke off has not ended its stream: the peer is to see a reset."""
    if task.cancelled():
        writer.abort()
    elif (error := task.exception()) is not None:
        # What the other end did wrong is no fault of the program.
        if error is not writer.error:
            task.get_loop().call_exception_handler(
                {
                    "message": "Unhandled exception in client_connected_cb",
                    "exception": error,
                    "transport": writer.transport,
                }
            )
        writer.abort()


async def create_server(
    address: Address | None = None,
    client_connected_cb: ClientConnected | None = None,
    *,
    peer: str,
    pq: str | None = None,
    transport: str = "auto",
    keys: Keys = None,
    control: Path | str | None = None,
    on_state: OnState | None = None,
    on_failure: OnFailure | None = None,
    limit: int = _LIMIT,
    sock: socket.socket | None = None,
    backlog: int = BACKLOG,
    reuse_port: bool = False,
    handshakes: int = HANDSHAKES,
    start_serving: bool = True,
) -> StreamServer:
    """Listen for connections that are encrypted and authenticated.

    `client_connected_cb` is called with reader and writer of each, as with
    `asyncio.start_server`; a coroutine that it returns becomes a task, and a
    connection whose task fails is reset.  Without it, `accept` gives them.
    The other arguments, and the errors, are those of `tcpcrypt.aio.serve`.
    """
    loop = asyncio.get_running_loop()
    # First of all: what is missing is known before anything listens.
    converse = accepting(peer, keys, transport, control, handshakes, pq=pq)
    server = StreamServer(
        await bound(address, sock, backlog, reuse_port=reuse_port),
        converse,
        lambda: _Streams(limit, loop),
        callback=client_connected_cb,
        on_state=on_state,
        on_failure=on_failure,
        handshakes=handshakes,
    )
    if start_serving:
        server.start()
    return server


async def start_server(
    client_connected_cb: ClientConnected,
    host: str | None = None,
    port: int | None = None,
    *,
    peer: str,
    **more: Any,
) -> StreamServer:
    """`create_server` with the arguments of `asyncio.start_server`, and `peer`."""
    address = None if port is None else (host or "", port)
    return await create_server(address, client_connected_cb, peer=peer, **more)


async def open_connection(
    host: str | None = None, port: int | None = None, *, peer: str, **more: Any
) -> tuple[asyncio.StreamReader, SecureWriter]:
    """`connect` with the arguments of `asyncio.open_connection`, and `peer`."""
    address = None if port is None else (host or "", port)
    return await connect(address, peer=peer, **more)
