"""The seam by which connections of applications reach the daemon, and its first filling.

Opening side, TPROXY.  Packets of an application that policy names get
MARK_STEERED in mangle OUTPUT, which routes them to `lo`, where TPROXY hands
them to our listener.  No address is translated, so that the application sees
the real server.  The SYN waits until the connection to the peer is decided
(`tcpcrypt.runtime.synhold`).  Connections older than the rules are listed at
the start and left alone one by one.  Whatever carries the mark and would leave
by another device is dropped, and so is a SYN on which nobody decided
(`tcpcrypt.runtime.ruleset`).

Accepting side, DNAT.  A SYN with option 69 goes to a listener of ours under
another port of the same address; SYNs without it reach the service untouched.
TPROXY will not do here.  The service has to see the client's address and
port, hence our connection to it has the very 4-tuple of the peer's connection
to us, in one namespace.  Linux looks established sockets up by 4-tuple, the
newest first, and a socket that is not bound to a device, as the service's is
not, matches packets of any device.  Tried with our two sockets bound to their
devices or not, in all four ways: the connection to the service did not come
about, or the peer's next segment no longer reached us.  DNAT gives the peer's
connection another local port and keeps its address.  The connection to the
service is bound to the client's address (IP_TRANSPARENT), carries MARK_INNER
so that it and the answers stay on `lo`, and is not tracked, because its tuple
is that of the tracked connection.

Known limits.  Link-local IPv6 is left alone (refused where encryption is
required).  A host firewall sees the peer's connections under the listener's
port (`-m conntrack --ctstate DNAT --ctorigdstport` tells the real one).  A
service that sets SO_MARK on its listener is not reached.  What never leaves
the host is never touched.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Sequence
from typing import Final, Protocol

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.eno_backend import SocketAddress
from tcpcrypt.runtime.privileges import be_transparent, tcp_socket
from tcpcrypt.runtime.rules import MARK_ACCEPTED, MARK_MASK, MARK_STEERED, Rule, marked

__all__ = ["NotSteeredError", "Steering", "TransparentSteering"]

_SOL_IP: Final = 0
_SOL_IPV6: Final = 41
_SO_ORIGINAL_DST: Final = 80
_BACKLOG: Final = 4096
_LISTENER_PORTS: Final = range(16384, 32768)
"""Below the ports that Linux gives to clients: the listener's own port must not
be one from which a client comes, whose port the connection to the service uses."""


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
        try:
            for family in families:
                self._application[family] = self._application_listener(family)
                self._peer[family] = self._peer_listener(family)
        except BaseException:
            self.close()
            raise

    @property
    def application_listeners(self) -> Sequence[socket.socket]:
        return tuple(self._application.values())

    @property
    def peer_listeners(self) -> Sequence[socket.socket]:
        return tuple(self._peer.values())

    def _application_listener(self, family: int) -> socket.socket:
        sock = tcp_socket(family)
        self._sockets.append(sock)
        be_transparent(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_ACCEPTED)
        # Nobody but TPROXY reaches an address of the loopback from outside.
        sock.bind((_loopback(family), 0))
        return sock

    def _peer_listener(self, family: int) -> socket.socket:
        sock = tcp_socket(family)
        self._sockets.append(sock)
        for port in random.sample(_LISTENER_PORTS, 100):
            try:
                sock.bind(("", port))
            except OSError:
                continue
            return sock
        raise LocalError(f"no free port for the IPv{family} listener")

    def listen(self) -> None:
        for sock in self._sockets:
            sock.listen(_BACKLOG)

    def rules(self) -> list[Rule]:
        """What hands steered packets to the listeners."""
        rules = []
        for family, sock in self._application.items():
            tproxy = (
                *("-i", "lo", "-p", "tcp", *marked(MARK_STEERED), "-j", "TPROXY"),
                *("--on-ip", _loopback(family), "--on-port", str(sock.getsockname()[1])),
                *("--tproxy-mark", f"{MARK_STEERED:#x}/{MARK_MASK:#x}"),
            )
            rules.append(Rule("mangle", "PREROUTING", tproxy, (family,)))
        return rules

    def peer_ports(self) -> dict[int, int]:
        """The ports of the listeners for peers, by family."""
        return {family: sock.getsockname()[1] for family, sock in self._peer.items()}

    def meant_by_application(self, sock: socket.socket) -> SocketAddress:
        address: SocketAddress = sock.getsockname()
        if address[1] == self._application[_family(sock)].getsockname()[1]:
            raise NotSteeredError("connection to the listener itself")
        return address

    def meant_by_peer(self, sock: socket.socket) -> SocketAddress:
        address: SocketAddress
        if sock.family == socket.AF_INET:
            raw = sock.getsockopt(_SOL_IP, _SO_ORIGINAL_DST, 16)
            address = (socket.inet_ntoa(raw[4:8]), struct.unpack_from("!H", raw, 2)[0])
        else:
            raw = sock.getsockopt(_SOL_IPV6, _SO_ORIGINAL_DST, 28)
            port, flow = struct.unpack_from("!HI", raw, 2)
            scope = struct.unpack_from("=I", raw, 24)[0]
            address = (socket.inet_ntop(socket.AF_INET6, raw[8:24]), port, flow, scope)
        if address[1] == self._peer[_family(sock)].getsockname()[1]:
            raise NotSteeredError("connection to the listener itself")
        return address

    def close(self) -> None:
        while self._sockets:
            self._sockets.pop().close()


def _family(sock: socket.socket) -> int:
    return 4 if sock.family == socket.AF_INET else 6


def _loopback(family: int) -> str:
    return "127.0.0.1" if family == 4 else "::1"
