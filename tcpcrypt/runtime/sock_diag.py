"""Ending connections of this host's programs, by the kernel's socket diagnosis.

Needs CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY.  The program
sees ECONNABORTED; the peer is sent a reset.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.older import OlderConnection

__all__ = ["destroy"]

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DESTROY: Final = 21
_REQUEST_AND_ACK: Final = 5
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBxxI")
_PORTS: Final = struct.Struct("!HH")
_REST: Final = struct.Struct("=III")
_ANY: Final = 0xFFFFFFFF
"""State, or half a cookie, that any socket has."""
_ANSWER_AT: Final = 16
_GONE: Final = frozenset({0, errno.ENOENT})


def destroy(connections: Iterable[OlderConnection]) -> int:
    """End these connections; how many there were.

    Raises `LocalError` where the kernel cannot or this process may not, once all
    have been tried; at once where it does not answer.
    """
    count, problem = 0, 0
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
            diag.settimeout(5)
            for connection in connections:
                diag.send(_request(connection))
                (result,) = struct.unpack_from("=i", diag.recv(4096), _ANSWER_AT)
                count += result == 0
                problem = problem if -result in _GONE else -result
    except OSError as error:
        raise LocalError(f"connections could not be ended: {error}") from error
    if problem:
        raise LocalError(f"connections could not be ended: {os.strerror(problem)}")
    return count


def _request(connection: OlderConnection) -> bytes:
    family = socket.AF_INET if connection.local.version == 4 else socket.AF_INET6
    ports = _PORTS.pack(connection.local_port, connection.remote_port)
    ends = (connection.local.packed.ljust(16, b"\0"), connection.remote.packed.ljust(16, b"\0"))
    body = b"".join(
        (
            _REQUEST.pack(family, socket.IPPROTO_TCP, _ANY),
            ports,
            *ends,
            _REST.pack(0, _ANY, _ANY),
        )
    )
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DESTROY, _REQUEST_AND_ACK, 1, 0) + body
