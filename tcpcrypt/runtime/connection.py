"""A connection of an application, from its arrival at the daemon to its end.

Two kinds: one that an application here opened, where the peer has to be
reached first, and one that a peer opened, where the service is connected to
only after the key exchange has shown that somebody is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from tcpcrypt.core.events import Established
from tcpcrypt.core.negotiation import Fallback, Negotiation, Opener
from tcpcrypt.core.session import Session
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Context
from tcpcrypt.runtime.eno_backend import SocketAddress, Tuple4
from tcpcrypt.runtime.loop import ERRORS, WRITE
from tcpcrypt.runtime.relay import Ending, Relay
from tcpcrypt.runtime.steering import NotSteeredError

__all__ = ["AcceptedByPeer", "Connection", "OpenedByApplication", "peer_name"]

_IP_BIND_ADDRESS_NO_PORT: Final = 24
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

Gone = Callable[["Connection"], None]


def peer_name(address: bytes, port: int) -> bytes:
    """The name under which sessions with a service are cached."""
    return address + port.to_bytes(2, "big")


class Connection(ABC):
    """What both kinds have in common.  `gone` is called once, at the end."""

    direction = ""

    def __init__(self, context: Context, gone: Gone) -> None:
        self.number = context.next_number()
        self.state = "connecting"
        self.established: Established | None = None
        self._context = context
        self._gone = gone
        self._relay: Relay | None = None
        self._inner: socket.socket | None = None
        self._outer: socket.socket | None = None
        self._client: SocketAddress = ()
        self._service: SocketAddress = ()

    @abstractmethod
    def start(self) -> None:
        """Begin; whatever goes wrong ends the connection and is reported."""

    @abstractmethod
    def _want_inner(self) -> None:
        """Data can pass: give the relay the application's side."""

    def describe(self) -> dict[str, object]:
        """The facts for a log or a status file; no secrets."""
        facts: dict[str, object] = {
            "id": self.number,
            "direction": self.direction,
            "client": _text(self._client),
            "service": _text(self._service),
        }
        if self.established is not None:
            facts |= {
                "session": self.established.session_id.hex(),
                "tep": f"{self.established.tep:#04x}",
                "aead": f"{self.established.aead:#06x}",
                "role": self.established.role.name,
                "start": "resumed" if self.established.resumed else "fresh",
            }
        return facts

    def traffic(self) -> dict[str, object]:
        """Application bytes so far, as seen from this host's application."""
        relay = self._relay
        return {"sent": relay.sent, "received": relay.received} if relay is not None else {}

    def owns(self, fd: int) -> bool:
        """Whether `fd` is one of its sockets."""
        mine = [sock.fileno() for sock in (self._inner, self._outer) if sock is not None]
        return fd in mine or (self._relay is not None and self._relay.owns(fd))

    def reset(self) -> None:
        """End it now, by RST on both sides."""
        if self._relay is not None:
            self._relay.reset()
        else:
            self._give_up("stopped", "daemon ends")

    def _speak(self, negotiation: Negotiation, peer: bytes) -> None:
        """The connection to the peer is up and negotiated: relay, or refuse."""
        context, outcome, outer = self._context, negotiation.outcome, self._outer
        if outcome is None or outer is None:
            raise LocalError("negotiation is not over")
        session = None
        if isinstance(outcome, Fallback):
            if context.config.require_encryption:
                context.counters.refused += 1
                self._give_up("refused", outcome.reason.value)
                return
            self.state = "plain"
            context.counters.fallback += 1
            context.report("fallback", {**self.describe(), "reason": outcome.reason.value})
        else:
            self.state = "exchanging"
            session = Session(context.config, outcome, resumption=context.resumption, peer=peer)
        context.loop.forget(outer.fileno())
        self._outer = None
        self._relay = Relay(
            context.loop,
            outer,
            session,
            ready=self._on_ready,
            ended=self._on_ended,
            releasing=context.backend.release,
        )
        self._relay.start()

    def _on_ready(self, established: Established | None) -> None:
        if established is not None:
            self.established = established
            self.state = "encrypted"
            counters = self._context.counters
            if established.resumed:
                counters.resumed += 1
            else:
                counters.fresh += 1
            self._context.report("enabled", self.describe())
        self._want_inner()

    def _attach(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None and self._relay is not None:
            self._context.loop.forget(inner.fileno())
            self._relay.attach(inner)

    def _on_ended(self, ending: Ending, detail: str) -> None:
        counters = self._context.counters
        facts = {**self.describe(), **self.traffic()}
        if ending is Ending.ABORTED:
            counters.aborted += 1
            self._context.report("aborted", {**facts, "reason": detail})
        else:
            counters.closed += 1
            self._context.report("closed", {**facts, "how": ending.value})
        self._drop()

    def _give_up(self, event: str, reason: str) -> None:
        """End a connection of which one side at most is up."""
        self._context.report(event, {**self.describe(), "reason": reason})
        if self._relay is not None:
            self._relay.reset()
        else:
            self._drop()

    def _drop(self) -> None:
        self.state = "closed"
        if self._outer is not None:
            self._context.backend.release(self._outer)
        for sock in (self._inner, self._outer):
            if sock is not None:
                self._context.loop.forget(sock.fileno())
                _reset(sock)
        self._inner = self._outer = None
        self._gone(self)


class OpenedByApplication(Connection):
    """An application of this host wants to reach a service elsewhere.

    Its connection is accepted before the peer has answered; where the peer
    refuses or cannot be reached the application sees a reset.
    """

    direction = "outgoing"

    def __init__(self, context: Context, gone: Gone, inner: socket.socket) -> None:
        super().__init__(context, gone)
        self._inner = inner
        self._negotiation: Negotiation | None = None
        self._connected = False
        self._peer = b""
        self._resuming = False

    def start(self) -> None:
        context, inner = self._context, self._inner
        if inner is None:
            return
        try:
            self._client = inner.getpeername()
            self._service = context.steering.meant_by_application(inner)
            inner.setblocking(False)
            self._connect(inner.family)
        except (OSError, NotSteeredError) as error:
            self._give_up("failed", str(error))
            return
        context.loop.watch(inner.fileno(), ERRORS, self._on_inner_error)

    def _connect(self, family: int) -> None:
        context = self._context
        outer = self._outer = socket.socket(family)
        outer.setblocking(False)
        context.backend.adopt_opener(outer)
        outer.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        # The peer sees the address that the application chose.
        outer.bind((self._client[0], 0, *self._client[2:]))
        remote = Tuple4.of_opener(outer, self._service)
        self._peer = peer_name(remote.remote, remote.remote_port)
        self._resuming = self._peer not in context.resuming
        if self._resuming:
            context.resuming.add(self._peer)
        self._negotiation = Negotiation(
            context.config,
            Opener.ACTIVE,
            resumption=context.resumption if self._resuming else None,
            peer=self._peer,
        )
        context.backend.connect(outer, self._service, self._negotiation, self._proceed)
        context.loop.watch(outer.fileno(), WRITE, self._on_outer)

    def _on_outer(self, _events: int) -> None:
        if self._outer is None:
            return
        number = self._outer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._give_up("failed", os.strerror(number))
            return
        self._connected = True
        self._context.loop.watch(self._outer.fileno(), ERRORS, self._on_outer)
        self._proceed()

    def _on_inner_error(self, _events: int) -> None:
        if self._relay is None:
            self._give_up("failed", "application gave up")
        else:
            self._relay.reset(Ending.RESET_BY_APPLICATION)

    def _proceed(self) -> None:
        """The connection is up and the outcome known, whichever came last."""
        negotiation = self._negotiation
        if negotiation is not None and negotiation.finished:
            self._let_others_resume()
        if (
            self._connected
            and self._relay is None
            and self._outer is not None
            and negotiation is not None
            and negotiation.outcome is not None
        ):
            self._speak(negotiation, self._peer)

    def _let_others_resume(self) -> None:
        if self._resuming:
            self._resuming = False
            self._context.resuming.discard(self._peer)

    def _drop(self) -> None:
        self._let_others_resume()
        super()._drop()

    def _want_inner(self) -> None:
        self._attach()


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
        self._speak(negotiation, connection.remote)

    def _want_inner(self) -> None:
        try:
            inner = self._inner = self._context.steering.service_socket(self._client, self._service)
        except OSError as error:
            self._give_up("failed", f"service: {error.strerror}")
            return
        self._context.loop.watch(inner.fileno(), WRITE, self._on_inner)

    def _on_inner(self, _events: int) -> None:
        inner = self._inner
        if inner is None:
            return
        number = inner.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._give_up("failed", f"service: {errno.errorcode.get(number, number)}")
        else:
            self._attach()


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


def _text(address: SocketAddress) -> str:
    if not address:
        return "-"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
