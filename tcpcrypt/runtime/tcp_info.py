"""What Linux tells of a TCP connection that is up (TCP_INFO, `struct tcp_info`)."""

from __future__ import annotations

import socket
import struct
from typing import Final

__all__ = ["has_heard", "has_sack", "lost_order"]

_OPTIONS: Final = 5
"""Byte of `tcpi_options`."""
_OPTION_SACK: Final = 2
_ACKED: Final = struct.Struct("=120xQQ")
"""Up to and with `tcpi_bytes_acked` and `tcpi_bytes_received`."""
_OUT_OF_ORDER: Final = struct.Struct("=224xI")
"""Up to and with `tcpi_rcv_ooopack`, which there is since Linux 5.4."""


def has_sack(sock: socket.socket) -> bool:
    """Whether both ends announced selective acknowledgements (RFC 2018)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OPTIONS + 1)
    return bool(info[_OPTIONS] & _OPTION_SACK)


def has_heard(sock: socket.socket) -> bool:
    """Whether the peer of a connection that this host opened has sent more than its SYN.

    Data, or an acknowledgement of some: the SYN counts for a byte.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
    acked, received = _ACKED.unpack(info)
    return bool(received) or acked > 1


def lost_order(sock: socket.socket) -> bool:
    """Whether anything ever came before what stands before it in the stream.

    Asked after a read, it also speaks for what was read: a gap is noticed when
    what lies behind it comes, and nothing that fills it can be read before.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OUT_OF_ORDER.size)
    (segments,) = _OUT_OF_ORDER.unpack(info)
    return bool(segments)
