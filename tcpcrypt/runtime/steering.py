"""The seam by which connections of applications reach the daemon, and its first filling.

Opening side, TPROXY.  Packets of an application that policy names get
MARK_STEERED in mangle OUTPUT, which routes them to `lo`, where TPROXY hands
them to our listener.  No address is translated, so that the application sees
the real server.  The SYN waits until the connection to the peer is decided
(`tcpcrypt.runtime.synhold`).  Connections older than the rules are listed at
the start and left alone one by one.  Whatever carries the mark and would leave
by another device is dropped, and so is a SYN on which nobody decided
(`tcpcrypt.runtime.ruleset`).

Accepting side, TPROXY too.  A SYN with option 69 to a port on which somebody
listens is handed to our listener; SYNs without it reach the service untouched.
Again no address is translated, so that the firewall rules of others see the
peer's connection as the service's, with the port that they know.  (DNAT to a
port of ours would show them that port: default-deny firewalls would drop it,
and those that let pass what was translated would open what they close.)

Our connection to the service comes from the client's address, so that logs and
access rules hold, but from another port: with the client's own it would have
the four-tuple of the peer's connection to us, in one namespace, and Linux looks
the newest socket up first.  The port is below those that systems give to
clients.  The connection carries MARK_INNER, so that it and the answers stay on
`lo`; whatever comes from outside for a socket with that mark is dropped, for
nobody there may speak in the client's name.

Known limits.  Link-local IPv6 is left alone (refused where encryption is
required).  A service that sets SO_MARK on its listener is not reached.  A
client behind a translator that happens to use the very port of one of our
connections to the same service, from the same address, has to wait until that
has ended.  What never leaves the host is never touched.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final, Protocol

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.channel import ask_whether_alive, equip
from tcpcrypt.runtime.eno_backend import SocketAddress
from tcpcrypt.runtime.privileges import be_transparent, stay_within_host, tcp_socket
from tcpcrypt.runtime.rules import (
    LISTENER_ADDRESS,
    MARK_ACCEPTED,
    MARK_STEERED,
    Rule,
    marked,
    tproxy,
)

__all__ = ["NotSteeredError", "Steering", "TransparentSteering"]

_BACKLOG: Final = 4096


class NotSteeredError(LocalError):
    """A connection came to a listener of ours by itself, not by our rules."""


class Steering(Protocol):
    """Brings connections to the daemon and knows where they were meant to go."""

    @property
    def name(self) -> str: ...

    @property
    def application_listeners(self) -> Sequence[socket.socket]:
        """Listening: connections that applications of this host open."""

    @property
    def peer_listeners(self) -> Sequence[socket.socket]:
        """Bound, not yet listening: connections that peers open with ENO."""

    def listen(self) -> None:
        """Begin to accept on all listeners."""

    def meant_by_application(self, sock: socket.socket) -> SocketAddress:
        """Where the application that was accepted as `sock` wants to.

        Raises `NotSteeredError`, `OSError`.
        """

    def meant_by_peer(self, sock: socket.socket) -> SocketAddress:
        """Which service the peer that was accepted as `sock` wants.

        Raises `NotSteeredError`, `OSError`.
        """

    def close(self) -> None: ...


class TransparentSteering:
    """TPROXY and DNAT; see the essay above."""

    name: Final = "tproxy"

    def __init__(self, families: Sequence[int] = (4, 6)) -> None:
        self._sockets: list[socket.socket] = []
        self._application: dict[int, socket.socket] = {}
        self._peer: dict[int, socket.socket] = {}
        self._own: set[SocketAddress] = set()
        """The addresses of the listeners."""
        try:
            for family in families:
                self._application[family] = self._listener(family)
                stay_within_host(self._application[family])
                self._application[family].setsockopt(
                    socket.SOL_SOCKET, socket.SO_MARK, MARK_ACCEPTED
                )
                self._peer[family] = self._listener(family)
                ask_whether_alive(self._peer[family])
        except BaseException:
            self.close()
            raise

    @property
    def application_listeners(self) -> Sequence[socket.socket]:
        return tuple(self._application.values())

    @property
    def peer_listeners(self) -> Sequence[socket.socket]:
        return tuple(self._peer.values())

    def _listener(self, family: int) -> socket.socket:
        sock = tcp_socket(family)
        self._sockets.append(sock)
        be_transparent(sock)
        # What is accepted has the service's address and port, and inherits this:
        # the service may be started again while there are such connections.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        equip(sock)
        # Nobody but TPROXY reaches an address of the loopback from outside.
        sock.bind((LISTENER_ADDRESS[family], 0))
        self._own.add(sock.getsockname()[:2])
        return sock

    def listen(self) -> None:
        for sock in self._sockets:
            sock.listen(_BACKLOG)
            # RFC 8547 section 4.7: data in a SYN with ENO are ignored.  The system may
            # have switched it on for every listener.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 0)

    def rules(self) -> list[Rule]:
        """What hands steered packets to the listener for applications, and nothing else."""
        unasked = [
            # Programs of this host that name a listener's own address.
            Rule(
                "mangle",
                "PREROUTING",
                (
                    *("-i", "lo", "-p", "tcp", "-d", LISTENER_ADDRESS[family]),
                    *("--dport", str(sock.getsockname()[1]), "-j", "DROP"),
                ),
                (family,),
            )
            for listeners in (self._application, self._peer)
            for family, sock in listeners.items()
        ]
        return unasked + [
            Rule(
                "mangle",
                "PREROUTING",
                (
                    *("-i", "lo", "-p", "tcp", *marked(MARK_STEERED)),
                    *tproxy(family, sock.getsockname()[1], MARK_STEERED),
                ),
                (family,),
            )
            for family, sock in self._application.items()
        ]

    def peer_ports(self) -> dict[int, int]:
        """The ports of the listeners for peers, by family."""
        return {family: sock.getsockname()[1] for family, sock in self._peer.items()}

    def meant_by_application(self, sock: socket.socket) -> SocketAddress:
        return self._meant(sock)

    def meant_by_peer(self, sock: socket.socket) -> SocketAddress:
        return self._meant(sock)

    def _meant(self, sock: socket.socket) -> SocketAddress:
        address: SocketAddress = sock.getsockname()
        if address[:2] in self._own:
            raise NotSteeredError("connection to the listener itself")
        return address

    def close(self) -> None:
        while self._sockets:
            self._sockets.pop().close()
