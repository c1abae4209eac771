"""What passes an interface of this host, as it passes.

Packets come from `AF_PACKET` without their link header, so that every kind of
interface will do.  Needs CAP_NET_RAW.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, Self

from tcpcrypt.tools.decode.capture import CaptureError, Packet

__all__ = ["LiveCapture"]

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_SO_RCVBUFFORCE: Final = 33
_BUFFER: Final = 1 << 26
"""Bytes that the kernel keeps while this process is behind."""
_PACKET_MAX: Final = 1 << 18
_IP: Final = frozenset({0x0800, 0x86DD})
_LOOPBACK: Final = 772
"""ARPHRD_LOOPBACK: there each packet is seen twice, as it leaves and as it comes."""
_QUEUED_MAX: Final = 1 << 16
"""Packets that are read behind the end, at most; the kernel keeps fewer."""
_TICK: Final = 0.1
"""Seconds after which it is told that nothing has come."""


class LiveCapture:
    """A context manager over which packets are read, until a bound is reached.

    `packets` and `seconds` are the bounds; None: there is none.
    """

    def __init__(
        self, interface: str, *, packets: int | None = None, seconds: float | None = None
    ) -> None:
        """Raises `CaptureError` for an interface that is none, or for want of rights."""
        self._interface = interface
        self._packets = packets
        self._seconds = seconds
        try:
            # What passes before it is bound is nobody's.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        except PermissionError as error:
            raise CaptureError(
                f"{interface}: capturing needs CAP_NET_RAW: run it as root, or tcpdump with"
                " -w - in front of it"
            ) from error
        try:
            self._enlarge()
            self._socket.settimeout(_TICK)
            self._socket.bind((interface, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise CaptureError(f"{interface}: {os.strerror(error.errno or 0)}") from error
        self.dropped = 0
        """Packets that the kernel could not keep; known at the exit."""
        self._stopped = False
        self._before: Any = None

    def _enlarge(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def __enter__(self) -> Self:
        """From here on the first Ctrl-C ends the reading in order, and loses nothing."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._stop)
        return self

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self.dropped = struct.unpack("=II", statistics)[1]
        self._socket.close()

    def __iter__(self) -> Iterator[Packet | None]:
        """IP packets as they come; None where none has come for a moment.

        Raises `CaptureError` if the interface goes.
        """
        number = 0
        over, last = False, 0
        end = None if self._seconds is None else time.monotonic() + self._seconds
        while self._packets is None or number < self._packets:
            if not over and (self._stopped or (end is not None and time.monotonic() >= end)):
                # What had come by then is read, too.
                over, end = True, None
                last = number + _QUEUED_MAX
                self._socket.setblocking(False)
            if over and number >= last:
                return
            try:
                data, address = self._socket.recvfrom(_PACKET_MAX)
            except TimeoutError:
                yield None
                continue
            except BlockingIOError:
                return
            except OSError as error:
                raise CaptureError(f"{self._interface}: {error.strerror}") from error
            _name, protocol, way, kind, _hardware = address
            if protocol not in _IP or (kind == _LOOPBACK and way == socket.PACKET_OUTGOING):
                continue
            number += 1
            yield Packet(number, time.time(), memoryview(data))
