"""How bytes get between an event loop's transport, a conversation and a protocol.

Little is moved by the conversation itself.  `Bulk` seals and opens by
`tcpcrypt.sockets.streams`, straight from and to the memory of the program.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Final, cast

from tcpcrypt.sockets.buffers import BUFFER_SIZE, BUFFERS, FRAME_MAX, WIRE_MAX
from tcpcrypt.sockets.conversation import Conversation
from tcpcrypt.sockets.streams import Streams

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["BULK", "SCRATCH", "Bulk", "ViewProtocol", "deliver"]

BULK: Final = 14_000
"""Bytes written in all, or received at once, from which on `Bulk` pays: up to there
they take a few small frames."""
_WRITES_ARE_COPIED: Final = sys.version_info < (3, 12)
"""Whether asyncio's transports keep a copy of what the kernel has no room for."""


class _Scratch(threading.local):
    """What a thread receives into, and what it opens to.

    An event loop fills and empties both in one breath, so that all connections of
    a thread share them, and one that is idle has none.
    """

    def __init__(self) -> None:
        self.wire = memoryview(bytearray(BUFFER_SIZE))
        self.view = self.wire[FRAME_MAX:]
        self.plain = memoryview(bytearray(BUFFER_SIZE))


SCRATCH: Final = _Scratch()


class ViewProtocol(asyncio.Protocol):
    """A protocol whose `data_received` takes a read-only memoryview, its own to keep.

    That saves a copy of everything that is received.
    """


class Bulk(Streams):
    """The streams of a connection, and the transport that their frames go to."""

    def __init__(
        self, conversation: Conversation, raw: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(conversation)
        self._raw = raw
        self._is_copied = _WRITES_ARE_COPIED and isinstance(loop, asyncio.BaseEventLoop)

    def waiting(self) -> list[memoryview | bytes]:
        """What the conversation wants written; it is handed out once."""
        out = list(self.queue)
        self.queue.clear()
        return out

    def send(self, data: memoryview) -> None:
        """Seal and write all of `data`, which may change afterwards."""
        while data:
            buffer = BUFFERS.take()
            consumed, size = self.seal(data, memoryview(buffer)[:WIRE_MAX])
            data = data[consumed:]
            for out in self.waiting():
                self._raw.write(out)
            if size:
                self._raw.write(memoryview(buffer)[:size])
            if self._is_copied or not self._raw.get_write_buffer_size():
                BUFFERS.give(buffer)

    def receive(self, nbytes: int, application: asyncio.BaseProtocol) -> memoryview:
        """The data in what was received to `SCRATCH.view`, for that protocol.

        More may have come of it as events of the conversation, behind it.
        """
        out = SCRATCH.plain
        if isinstance(application, ViewProtocol):
            out = memoryview(bytearray(len(self.rest) + nbytes))  # which it may keep
        size = self.open(SCRATCH.wire, FRAME_MAX + nbytes, out)
        return out[:size].toreadonly()


def deliver(protocol: asyncio.BaseProtocol, data: ReadableBuffer) -> None:
    """Give a protocol data, in the way of its kind."""
    if isinstance(protocol, asyncio.BufferedProtocol):
        _fill(protocol, memoryview(data))
    elif isinstance(protocol, ViewProtocol) or _is_streams(protocol):
        cast("asyncio.Protocol", protocol).data_received(cast("bytes", data))
    else:
        cast("asyncio.Protocol", protocol).data_received(bytes(data))


def _is_streams(protocol: asyncio.BaseProtocol) -> bool:
    """Whether a StreamReader copies what comes at once; who does it differently may keep it,
    and the place in which it lies is the next connection's.
    """
    received = getattr(type(protocol), "data_received", None)
    return received is asyncio.StreamReaderProtocol.data_received


def _fill(protocol: asyncio.BufferedProtocol, data: memoryview) -> None:
    """Hand data to a protocol that has its own buffers."""
    while data:
        buffer = memoryview(protocol.get_buffer(len(data))).cast("B")
        if not len(buffer):
            raise RuntimeError("get_buffer() returned an empty buffer")
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        del buffer
        protocol.buffer_updated(size)
        data = data[size:]
