"""The seam between the relay and whatever carries TCP-ENO in its TCP headers.

A backend sees to it that the sockets given to it negotiate: the option gets
into the segments that leave, and the segments that arrive are shown to the
connection's `Negotiation`.  How it does that is its own affair: by diverting
the few packets of a handshake (`tcpcrypt.runtime.nfqueue`), or in the kernel.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tcpcrypt.core.negotiation import Negotiation
from tcpcrypt.runtime.rules import Rule

__all__ = ["EnoBackend", "NewNegotiation", "PortRange", "SocketAddress", "Tuple4"]

SocketAddress = tuple[Any, ...]
"""As Python's sockets have it: `(host, port)` or `(host, port, flow, scope)`."""


@dataclass(frozen=True, slots=True)
class PortRange:
    """TCP ports `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}:{self.last}"

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


@dataclass(frozen=True, slots=True)
class Tuple4:
    """A connection, seen from this host; addresses are packed."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int

    @classmethod
    def of_socket(cls, sock: socket.socket) -> Tuple4:
        """The connection of `sock`.  Raises `OSError` if it has none (any more)."""
        return cls.of_opener(sock, sock.getpeername())

    @classmethod
    def of_opener(cls, sock: socket.socket, remote: SocketAddress) -> Tuple4:
        """The connection that `sock` is opening to `remote`."""
        local = sock.getsockname()
        return cls(_packed(sock, local), local[1], _packed(sock, remote), remote[1])


def _packed(sock: socket.socket, address: SocketAddress) -> bytes:
    # The zone of a link-local address is not part of it.
    return socket.inet_pton(sock.family, address[0].partition("%")[0])


NewNegotiation = Callable[[Tuple4], Negotiation]
"""Makes the passive negotiation for a SYN that has come."""


class EnoBackend(Protocol):
    """Carries TCP-ENO for sockets to peers."""

    @property
    def name(self) -> str: ...

    def rules(self, ports: Sequence[PortRange]) -> list[Rule]:
        """What the firewall has to do, once the listeners are adopted."""

    def adopt_listener(self, listener: socket.socket, new: NewNegotiation) -> None:
        """Negotiate on connections that `listener`, bound and not listening yet, accepts."""

    def adopt_opener(self, sock: socket.socket) -> None:
        """Prepare `sock`, which is to open a connection, before it is bound."""

    def connect(
        self,
        sock: socket.socket,
        address: SocketAddress,
        negotiation: Negotiation,
        progress: Callable[[], None],
    ) -> None:
        """Begin a nonblocking connect.

        `progress` is called when the negotiation has its outcome, and again
        when it is finished, unless that is the same moment.

        Raises `OSError` as `socket.connect` does, but not for EINPROGRESS.
        """

    def accepted(self, sock: socket.socket) -> Negotiation | None:
        """The negotiation of a connection that a listener accepted; it has its outcome.

        None: the handshake is not known, and the connection has to be reset.
        """

    def release(self, sock: socket.socket) -> None:
        """Forget `sock`, which is about to be closed.  Idempotent."""

    def close(self) -> None:
        """Give everything back."""
