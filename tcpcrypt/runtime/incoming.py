"""A connection that a peer opens, with ENO in its SYN, to a service of this host.

The service is connected to only after the key exchange has shown that
somebody is there.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from typing import Final

from tcpcrypt.runtime.connection import Connection, Gone
from tcpcrypt.runtime.context import Context
from tcpcrypt.runtime.eno_backend import SocketAddress, Tuple4
from tcpcrypt.runtime.loop import WRITE
from tcpcrypt.runtime.steering import NotSteeredError
from tcpcrypt.runtime.tally import errno_word

__all__ = ["AcceptedByPeer"]

_PORTS: Final = range(1024, 16384)
"""From which the daemon connects to services.  Systems give higher ones to their
clients, so that hardly ever a client's own has the same number."""
_PORT_TRIES: Final = 64


class AcceptedByPeer(Connection):
    """A peer wants to reach a service of this host, and its SYN had ENO."""

    direction = "incoming"

    def __init__(self, context: Context, gone: Gone, outer: socket.socket) -> None:
        super().__init__(context, gone)
        self._outer = outer
        self._client_here: SocketAddress = ()

    @property
    def ends(self) -> tuple[SocketAddress, SocketAddress]:
        return self._client_here[:2], self._service[:2]

    def start(self) -> None:
        context, outer = self._context, self._outer
        if outer is None:
            return
        try:
            self._client = outer.getpeername()
            self._service = context.steering.meant_by_peer(outer)
            connection = Tuple4.between(self._service, self._client)
            requested = context.backend.accepted(outer, connection)
        except (OSError, NotSteeredError) as error:
            self._give_up("failed", str(error), "not_steered")
            return
        if requested is None:
            self._give_up("failed", "handshake is not known", "unknown_handshake")
            return
        self.policy, self.terms = requested.policy, requested.terms
        self._config = requested.config
        self._speak(requested.negotiation, connection.remote)

    def _want_inner(self) -> None:
        try:
            inner = self._inner = self._service_socket()
        except OSError as error:
            kind = f"service_{errno_word(error.errno or 0)}"
            self._give_up("failed", f"service: {error.strerror}", kind)
            return
        self._context.loop.watch(inner.fileno(), WRITE, self._on_inner)

    def _service_socket(self) -> socket.socket:
        """A socket that connects to the service from the client's address."""
        for _ in range(_PORT_TRIES):
            port = random.choice(_PORTS)
            try:
                return self._bound_to((self._client[0], port, *self._client[2:]))
            except OSError as error:
                if error.errno not in {errno.EADDRINUSE, errno.EADDRNOTAVAIL}:
                    raise
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    def _bound_to(self, client: SocketAddress) -> socket.socket:
        sock = self._context.privileges.service(6 if ":" in client[0] else 4)
        try:
            sock.bind(client)
            number = sock.connect_ex(self._service)
            if number not in {0, errno.EINPROGRESS}:
                raise OSError(number, os.strerror(number))
        except BaseException:
            sock.close()
            raise
        self._client_here = client
        return sock

    def _on_inner(self, _events: int) -> None:
        inner = self._inner
        if inner is None:
            return
        number = inner.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            reason = f"service: {errno.errorcode.get(number, number)}"
            self._give_up("failed", reason, f"service_{errno_word(number)}")
        else:
            self._attach()
