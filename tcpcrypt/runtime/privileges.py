"""The seam between serving connections and what only CAP_NET_ADMIN may do for them.

A connection needs three things of the privileged: a socket to a peer that
carries our mark, a socket to a service that speaks in its client's name, and
the change of the mark when a handshake is over.  They are kept apart here so
that the process that faces the network need not have the capability.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final, Protocol

from tcpcrypt.runtime.rules import MARK_DONE, MARK_HANDSHAKE, MARK_INNER, MARK_MASK

__all__ = ["DirectPrivileges", "Privileges", "be_transparent", "stay_within_host", "tcp_socket"]

_SOL_IP: Final = 0
_SOL_IPV6: Final = 41
_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75
_UNPACED: Final = b"reno"


class Privileges(Protocol):
    """What connections need; `family` is 4 or 6, `mark` the bits that are not ours.

    All raise `OSError`.
    """

    def opener(self, family: int, mark: int = 0, *, diverted: bool = True) -> socket.socket:
        """A new nonblocking socket for a connection to a peer.

        `diverted`: its packets go through the netfilter queue until `finish`.
        """

    def service(self, family: int) -> socket.socket:
        """A new nonblocking socket for a connection to a service, in the name of its client."""

    def finish(self, sock: socket.socket, mark: int = 0, *, settled: bool = False) -> None:
        """The handshake of a connection to a peer is over: leave its packets alone.

        `settled`: the connection's mark says so already, and this only spares the
        kernel a look at it; who closes the socket soon need not be waited for.
        """


class DirectPrivileges:
    """See `Privileges`; for a process that has the capability."""

    def opener(self, family: int, mark: int = 0, *, diverted: bool = True) -> socket.socket:
        sock, ours = tcp_socket(family), MARK_HANDSHAKE if diverted else MARK_DONE
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, ours | _foreign(mark))
        except BaseException:
            sock.close()
            raise
        return sock

    def service(self, family: int) -> socket.socket:
        sock = tcp_socket(family)
        try:
            be_transparent(sock)
            stay_within_host(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_INNER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except BaseException:
            sock.close()
            raise
        return sock

    def finish(self, sock: socket.socket, mark: int = 0, *, settled: bool = False) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_DONE | _foreign(mark))


def tcp_socket(family: int, descriptor: int | None = None) -> socket.socket:
    """A nonblocking TCP socket of IPv4 or of IPv6 alone: a new one, or one made so before.

    What is known of it is said: else the kernel would be asked for each of them.
    """
    sock = socket.socket(
        socket.AF_INET if family == 4 else socket.AF_INET6,
        socket.SOCK_STREAM | socket.SOCK_NONBLOCK,
        socket.IPPROTO_TCP,
        fileno=descriptor,
    )
    if family == 6 and descriptor is None:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def be_transparent(sock: socket.socket) -> None:
    """Let `sock` use addresses that this host does not have (CAP_NET_ADMIN)."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(_SOL_IP, _IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(_SOL_IPV6, _IPV6_TRANSPARENT, 1)


def stay_within_host(sock: socket.socket) -> None:
    """Send as suits `lo`, where nothing is lost on the way and nobody else is in the queue.

    Where the host's congestion control paces what it sends, as BBR does, its timers
    cost a seventh of the processor time of bulk data, and spare nobody anything
    within the host.  Reno does not, and is in every kernel.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _UNPACED)


def _foreign(mark: int) -> int:
    return mark & 0xFFFFFFFF & ~MARK_MASK
