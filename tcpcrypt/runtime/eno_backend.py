"""The seam between the relay and whatever carries TCP-ENO in its TCP headers.

A backend sees to it that the sockets given to it negotiate: the option gets
into the segments that leave, and the segments that arrive are shown to the
connection's `Negotiation`.  How it does that is its own affair: by diverting
the few packets of a handshake (`tcpcrypt.runtime.nfqueue`), or in the kernel.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from tcpcrypt.auth.trust import TrustTerms
from tcpcrypt.core.config import Config, RandomBytes
from tcpcrypt.core.negotiation import Negotiation
from tcpcrypt.core.policy import Policy

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "SYNS_TO_THE_KNOWN",
    "SYNS_WITH_OPTION",
    "EnoBackend",
    "NewRequest",
    "Requested",
    "SocketAddress",
    "Tuple4",
    "syns_with_option",
]

SYNS_WITH_OPTION: Final = 3
"""Paths that drop a SYN with an option they do not know exist.  RFC 8547 section
4.6 lets the opener leave ENO out of a SYN that it repeats; Linux sends the fourth
3 to 7 s after the first.  Not done where encryption is required."""
SYNS_TO_THE_KNOWN: Final = 6
"""The same where the path to the service has carried the option: then it is loss, or
a peer that is busy or stopped for a while.  Three SYNs or their answers are lost in
one of 5,000 connections where 3 % of the packets are, six in one of 20 million.  The
seventh SYN is the last that Linux sends."""

SocketAddress = tuple[Any, ...]
"""As Python's sockets have it: `(host, port)` or `(host, port, flow, scope)`."""


class Tuple4(NamedTuple):
    """A connection, seen from this host; addresses are packed."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int

    @classmethod
    def of_opener(cls, sock: socket.socket, remote: SocketAddress) -> Tuple4:
        """The connection that `sock` is opening to `remote`."""
        return cls.between(sock.getsockname(), remote)

    @classmethod
    def between(cls, local: SocketAddress, remote: SocketAddress) -> Tuple4:
        """The connection between these."""
        return cls(_packed(local[0]), local[1], _packed(remote[0]), remote[1])


def _packed(address: str) -> bytes:
    if ":" not in address:
        return socket.inet_aton(address)
    # The zone of a link-local address is not part of it.
    return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])


def _nothing(_tep: int, _identifier: bytes) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Requested:
    """A connection that a peer asks for, and what was decided about it at its SYN.

    The answer to the SYN goes by it, so that nothing that changes until the
    connection is there may change it.
    """

    negotiation: Negotiation
    policy: Policy
    config: Config
    terms: TrustTerms | None
    """What the peer is shown and asked; None: nothing."""
    shared: bool = False
    """Whether all who ask the same service alike, and resume nothing, get the same answer."""
    resumes: Callable[[int, bytes], bool] = _nothing
    """Whether a session is cached for a TEP and the identifier that a SYN asks for it by."""


class NewRequest(Protocol):
    """Decides about a SYN that has come."""

    def __call__(
        self,
        connection: Tuple4,
        *,
        options: ReadableBuffer = b"",
        resume: bool = True,
        random: RandomBytes = os.urandom,
    ) -> Requested:
        """`options` are those of the SYN, where its dialect is not known otherwise.

        `resume` False: a fresh exchange alone; `random` is for its nonce.
        """


def syns_with_option(*, insist: bool, known: bool) -> int:
    """How many SYNs carry the option before one leaves without; 0: all.  See `EnoBackend`."""
    if insist:
        return 0
    return SYNS_TO_THE_KNOWN if known else SYNS_WITH_OPTION


class EnoBackend(Protocol):
    """Carries TCP-ENO for sockets to peers."""

    @property
    def name(self) -> str: ...

    @property
    def evicted(self) -> int:
        """Handshakes of peers that were given up for want of room."""

    def configure(self, config: Config) -> None:
        """Negotiate by `config` what peers open from now on."""

    def adopt_listener(self, listener: socket.socket, new: NewRequest) -> None:
        """Negotiate on connections that `listener`, bound and not listening yet, accepts."""

    def opener(self, family: int, mark: int, config: Config) -> socket.socket:
        """A new nonblocking socket, prepared for `connect`; IPv4 or IPv6.

        `mark` are bits of SO_MARK that are not ours, `config` is what will be
        negotiated by.  Raises `OSError`.
        """

    def connect(
        self,
        sock: socket.socket,
        address: SocketAddress,
        negotiation: Negotiation,
        progress: Callable[[], None],
        *,
        mark: int = 0,
        insist: bool = False,
        known: bool = False,
    ) -> None:
        """Begin a nonblocking connect.

        `progress` is called when the negotiation has its outcome, and again
        when it is finished, unless that is the same moment.  `insist`: no SYN
        is ever repeated without the option.  `known`: the option is known to reach
        the other host, whose silence means something else (`syns_with_option`).

        Raises `OSError` as `socket.connect` does, but not for EINPROGRESS.
        """

    def connected(self, sock: socket.socket) -> None:
        """The connection that `connect` began is up; calls its `progress` if that is news.

        Raises `OSError` if it cannot go on.
        """

    def accepted(self, sock: socket.socket, connection: Tuple4) -> Requested | None:
        """What is known of a connection that a listener accepted; its negotiation is over.

        None: the handshake is not known, and the connection has to be reset.
        """

    def release(self, sock: socket.socket) -> None:
        """Forget `sock`, which is about to be closed.  Idempotent."""
