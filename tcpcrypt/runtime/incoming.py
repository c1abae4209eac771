"""A connection that a peer opens, with ENO in its SYN, to a service of this host.

The service is connected to only after the key exchange has shown that
somebody is there.
"""

from __future__ import annotations

import contextlib
import errno
import socket

from tcpcrypt.runtime.connection import Connection, Gone
from tcpcrypt.runtime.context import Context
from tcpcrypt.runtime.eno_backend import SocketAddress, Tuple4
from tcpcrypt.runtime.loop import WRITE
from tcpcrypt.runtime.steering import NotSteeredError

__all__ = ["AcceptedByPeer"]


class AcceptedByPeer(Connection):
    """A peer wants to reach a service of this host, and its SYN had ENO."""

    direction = "incoming"

    def __init__(self, context: Context, gone: Gone, outer: socket.socket) -> None:
        super().__init__(context, gone)
        self._outer = outer

    def start(self) -> None:
        context, outer = self._context, self._outer
        if outer is None:
            return
        try:
            connection = Tuple4.of_socket(outer)
            self._client = outer.getpeername()
            self._service = context.steering.meant_by_peer(outer)
            negotiation = context.backend.accepted(outer)
        except (OSError, NotSteeredError) as error:
            self._give_up("failed", str(error))
            return
        if negotiation is None:
            self._give_up("failed", "handshake is not known")
            return
        self._obey(self._context.policy_of_service(connection, self._service))
        self._speak(negotiation, connection.remote)

    def _want_inner(self) -> None:
        try:
            inner = self._inner = self._service_socket()
        except OSError as error:
            self._give_up("failed", f"service: {error.strerror}")
            return
        self._context.loop.watch(inner.fileno(), WRITE, self._on_inner)

    def _service_socket(self) -> socket.socket:
        """A socket that connects to the service in the name of the client."""
        try:
            return self._bound_to(self._client)
        except OSError:
            # The client's port is taken here: an earlier connection of the same
            # tuple is in TIME_WAIT, or a service listens there.  Its address counts more.
            return self._bound_to((self._client[0], 0, *self._client[2:]))

    def _bound_to(self, client: SocketAddress) -> socket.socket:
        sock = self._context.privileges.service(6 if ":" in client[0] else 4)
        try:
            sock.bind(client)
            with contextlib.suppress(BlockingIOError):
                sock.connect(self._service)
        except BaseException:
            sock.close()
            raise
        return sock

    def _on_inner(self, _events: int) -> None:
        inner = self._inner
        if inner is None:
            return
        number = inner.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._give_up("failed", f"service: {errno.errorcode.get(number, number)}")
        else:
            self._attach()
