"""Connections are opened as by `sockops`, and accepted as by `nfqueue`.

Opening is where a queue costs most: two packets of each handshake wait for the
daemon there, one after the other, and the kernel has room for all that an
opener says.  The answer to a resumption it has no room for, which the queue
makes.

What the BPF program cannot judge, as a peer that has to prove who it is, opens
through the queue, too.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Negotiation
from tcpcrypt.runtime.eno_backend import NewRequest, Requested, SocketAddress, Tuple4
from tcpcrypt.runtime.nfqueue import NfqueueBackend
from tcpcrypt.runtime.sockops import SockopsBackend, can_judge

__all__ = ["MixedBackend"]


class MixedBackend:
    """See `tcpcrypt.runtime.eno_backend.EnoBackend`.

    `queued` is that of the netfilter queue, to whose `take` its packets go.
    """

    name: Final = "mixed"

    def __init__(self, sockops: SockopsBackend, queued: NfqueueBackend) -> None:
        self._sockops = sockops
        self._queued = queued
        self._diverted: set[socket.socket] = set()
        """Those that open through the queue."""

    @property
    def evicted(self) -> int:
        """See `EnoBackend`; the queue alone accepts."""
        return self._queued.evicted

    def configure(self, config: Config) -> None:
        # The program is told nothing, so that it answers no SYN.
        self._queued.configure(config)

    def adopt_listener(self, listener: socket.socket, new: NewRequest) -> None:
        self._queued.adopt_listener(listener, new)

    def opener(self, family: int, mark: int, config: Config) -> socket.socket:
        if can_judge(config):
            return self._sockops.opener(family, mark, config)
        sock = self._queued.opener(family, mark, config)
        self._diverted.add(sock)
        return sock

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
        backend = self._queued if sock in self._diverted else self._sockops
        backend.connect(sock, address, negotiation, progress, mark=mark, insist=insist, known=known)

    def connected(self, sock: socket.socket) -> None:
        backend = self._queued if sock in self._diverted else self._sockops
        backend.connected(sock)

    def accepted(self, sock: socket.socket, connection: Tuple4) -> Requested | None:
        return self._queued.accepted(sock, connection)

    def release(self, sock: socket.socket) -> None:
        self._diverted.discard(sock)
        self._queued.release(sock)
        self._sockops.release(sock)
