"""The kernel's socket diagnosis: who listens at a name, and connections that are to end."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.older import OlderConnection

__all__ = ["destroy", "listeners"]

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_SOCK_DESTROY: Final = 21
_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_REQUEST_AND_ACK: Final = 5
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBxxI")
_PORTS: Final = struct.Struct("!HH")
_REST: Final = struct.Struct("=III")
_ANY: Final = 0xFFFFFFFF
"""State, or half a cookie, that any socket has."""
_ANSWER_AT: Final = 16
_GONE: Final = frozenset({0, errno.ENOENT})
_UNIX_REQUEST: Final = struct.Struct("=BBHIIIII")
_UNIX_ANSWER: Final = struct.Struct("=BBBxIII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_LISTENING: Final = 1 << 10
_SHOW_NAME: Final = 1
_UNIX_DIAG_NAME: Final = 0
_DATAGRAM: Final = 1 << 16


def destroy(connections: Iterable[OlderConnection]) -> int:
    """End these connections of this host's programs; how many there were.

    Needs CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY.  The program
    sees ECONNABORTED; the peer is sent a reset.  Raises `LocalError` where the kernel
    cannot or this process may not, once all have been tried; at once where it does not
    answer.
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


def listeners(name: bytes) -> set[int]:
    """Inodes of the Unix sockets that listen at the abstract `name`, without its null byte.

    In /proc/net/unix, which is looked at where the kernel has no unix_diag alone, a
    name with a newline in it forges lines, and that of a file looks like an abstract
    one.  Raises `OSError`.
    """
    request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, _LISTENING, 0, _SHOW_NAME, 0, 0)
    length = _HEADER.size + len(request)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(5)
        diag.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + request)
        try:
            return {inode for inode, found in _named(diag) if found == b"\0" + name}
        except FileNotFoundError:
            return _listed(name)


def _named(diag: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Inode and name of each socket of the answer, which comes in datagrams."""
    while True:
        for kind, body in _parts(diag.recv(_DATAGRAM), _HEADER, "IH", 0):
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", body)[0]
                raise OSError(number, os.strerror(number))
            inode = _UNIX_ANSWER.unpack_from(body)[3]
            for attribute, value in _parts(body, _ATTRIBUTE, "HH", _UNIX_ANSWER.size):
                if attribute == _UNIX_DIAG_NAME:
                    yield inode, value


def _parts(data: bytes, head: struct.Struct, form: str, at: int) -> Iterator[tuple[int, bytes]]:
    """Kind and contents of what begins with its length and its kind, from `at` on."""
    while at + head.size <= len(data):
        length, kind = struct.unpack_from(f"={form}", data, at)
        yield kind, data[at + head.size : at + length]
        at += max(length + 3 & ~3, head.size)


def _listed(name: bytes) -> set[int]:
    lines = Path("/proc/net/unix").read_bytes().split(b"\n")
    words = (line.split(b" ", 7) for line in lines)
    return {int(w[6]) for w in words if w[7:] == [b"@" + name] and w[6].isdigit()}
