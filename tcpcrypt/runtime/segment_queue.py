"""Where packets of the segment plane wait, and the sockets that add others.

Two queues of one socket, so that packets of both sides come in their order.  What
takes a packet's place leaves with its verdict; the rest leaves by a raw socket,
with MARK_SEGMENT, for which the rules do not ask the queue.  Towards an
application of this host that is by way of `lo`.

Never fail-open: there is no bypass, and packets that come while nobody listens
are dropped.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Mapping
from typing import Final, Protocol

from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.rules import MARK_SEGMENT, SEGMENT_INNER_QUEUE, SEGMENT_OUTER_QUEUE

__all__ = ["INNER_QUEUE", "OUTER_QUEUE", "Adding", "RawSockets", "open_segment_queue"]

INNER_QUEUE: Final = SEGMENT_INNER_QUEUE
OUTER_QUEUE: Final = SEGMENT_OUTER_QUEUE
QUEUE_LENGTH: Final = 4096
_SEND_BUFFER: Final = 1 << 20
_IPV6_HDRINCL: Final = 36


class Adding(Protocol):
    """Sends whole packets that are not in the place of a queued one."""

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """Where verdicts go (-1: to the queue's own socket), and packets of IPv4 and of IPv6.

        -1 for packets: to where verdicts go, behind four bytes of zero.
        """

    def send(self, packet: bytes) -> None:
        """One that finds no room is lost like any packet; it comes again."""


def open_segment_queue(others: Mapping[int, int] | None = None) -> PacketQueue:
    """Take both queues, and `others` with their lengths.  Raises `LocalError`."""
    lengths = dict.fromkeys((INNER_QUEUE, OUTER_QUEUE), QUEUE_LENGTH)
    return PacketQueue.open({**lengths, **(others or {})}, joined=True)


class RawSockets:
    """Raises `OSError` where CAP_NET_RAW is missing."""

    def __init__(self, families: Collection[int] = (4, 6)) -> None:
        self._sockets: dict[int, socket.socket] = {}
        try:
            for family in families:
                self._sockets[family] = _raw(family)
        except BaseException:
            self.close()
            raise

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """See `Adding`."""
        four, six = (
            self._sockets[family].fileno() if family in self._sockets else -1 for family in (4, 6)
        )
        return -1, four, six

    def send(self, packet: bytes | memoryview) -> None:
        """See `Adding`; of an IP version that is not served nothing is sent."""
        version = packet[0] >> 4
        sock = self._sockets.get(version)
        if sock is None:
            return
        if version == 4:
            address: tuple[object, ...] = (socket.inet_ntop(socket.AF_INET, packet[16:20]), 0)
        else:
            address = (socket.inet_ntop(socket.AF_INET6, packet[24:40]), 0, 0, 0)
        with contextlib.suppress(OSError):
            sock.sendto(packet, address)

    def close(self) -> None:
        """Idempotent."""
        while self._sockets:
            self._sockets.popitem()[1].close()


def _raw(version: int) -> socket.socket:
    """A socket that sends packets as they are, headers and all."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(
        family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW
    )
    try:
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_SEGMENT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    except BaseException:
        sock.close()
        raise
    return sock
