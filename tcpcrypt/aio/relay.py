"""Two ends joined: a plain connection of this host and a secure one.

    program --plain-- Joint ==secure== Joint --plain-- service

Each direction ends by itself, and an end is handed on as an end: FINp for TCP
FIN and the other way round.  Whatever else happens to one side resets the
other, so that a connection that was attacked or broken never looks complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Final, cast

from tcpcrypt.aio.moving import ViewProtocol
from tcpcrypt.aio.transport import SecureTransport

__all__ = ["Joint"]

_SCRATCH: Final = 256 << 10
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)


class Joint:
    """One connection on its way through: `plain` and `secure` are its two protocols.

    The side that comes first waits, unread, for the other.  `over` is called once
    both are gone.
    """

    def __init__(self, over: Callable[[Joint], None]) -> None:
        self.plain = _Plain(self)
        self.secure = _Secure(self)
        self.error: BaseException | None = None
        """What broke it, if it did not end."""
        self.sent = 0
        """Bytes that went from the plain side to the secure one."""
        self.received = 0
        """Bytes that went from the secure side to the plain one."""
        self.name: object = None
        """Address of the program or client that opened it, once it is known."""
        self._over: Callable[[Joint], None] | None = over

    @property
    def whole(self) -> bool:
        """Whether both sides are there."""
        return self.plain.transport is not None and self.secure.transport is not None

    def abort(self, error: BaseException) -> None:
        """Reset whatever there is."""
        if self.error is None:
            self.error = error
        for side in (self.plain, self.secure):
            side.reset()

    # --- for the sides -------------------------------------------------------------------

    def opened(self) -> None:
        """A side has come."""
        if self.whole:
            for side in (self.plain, self.secure):
                side.start()

    def ended(self) -> None:
        """A side has no more to say."""
        if self.plain.ended and self.secure.ended:
            for side in (self.plain, self.secure):
                side.close()

    def lost(self, side: _Side, error: BaseException | None) -> None:
        """A side is gone."""
        complete = error is None and self.plain.ended and self.secure.ended
        if not complete:
            self.abort(error or ConnectionAbortedError("connection was given up"))
        other = self.other(side)
        # A side that has not come yet finds `error` when it does.
        if self._over is not None and (other.gone or not other.came):
            over, self._over = self._over, None
            over(self)

    def other(self, side: _Side) -> _Side:
        """The side across."""
        return self.secure if side is self.plain else self.plain


class _Side:
    """What both sides do alike."""

    def __init__(self, joint: Joint) -> None:
        self.joint = joint
        self.transport: asyncio.Transport | None = None
        self.came = self.gone = self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.came = True
        if self.joint.name is None:
            self.joint.name = transport.get_extra_info("peername")
        if self.joint.error is not None:
            self.reset()
            return
        self.hold()
        self.joint.opened()

    def hold(self) -> None:
        """Read nothing before `start`."""
        assert self.transport is not None
        self.transport.pause_reading()

    def start(self) -> None:
        assert self.transport is not None
        self.transport.resume_reading()

    def eof_received(self) -> bool:
        self.ended = True
        across = self.joint.other(self).transport
        assert across is not None
        with contextlib.suppress(OSError):  # what is wrong there, `connection_lost` will tell
            across.write_eof()
        self.joint.ended()
        return True

    def pause_writing(self) -> None:
        across = self.joint.other(self).transport
        assert across is not None
        across.pause_reading()

    def resume_writing(self) -> None:
        across = self.joint.other(self).transport
        assert across is not None
        across.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.joint.lost(self, exc)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        if self.transport is None or self.gone:
            return
        if not isinstance(self.transport, SecureTransport):
            sock = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self.transport.abort()


class _Plain(_Side, asyncio.BufferedProtocol):
    """The side of this host."""

    _view = memoryview(bytearray(_SCRATCH))  # emptied before the next is filled

    def hold(self) -> None:
        # Python 3.11 begins to read behind `connection_made`, whatever that has said.
        asyncio.get_running_loop().call_soon(self._hold)

    def _hold(self) -> None:
        if not self.joint.whole and not self.gone:
            super().hold()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self.joint.sent += nbytes
        across = self.joint.secure.transport
        assert across is not None
        across.write(self._view[:nbytes])


class _Secure(_Side, ViewProtocol):
    """The side of the network."""

    def data_received(self, data: bytes) -> None:
        self.joint.received += len(data)
        across = self.joint.plain.transport
        assert across is not None
        across.write(data)
