"""A connection that an application of this host opens to a service elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from typing import Final

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation, Opener
from tcpcrypt.core.policy import FlowDirection, Policy
from tcpcrypt.errors import FallbackReason, LocalError
from tcpcrypt.registry import Tep
from tcpcrypt.runtime.connection import (
    Connection,
    Gone,
    address_text,
    close_with_reset,
    peer_name,
)
from tcpcrypt.runtime.context import Context
from tcpcrypt.runtime.eno_backend import Tuple4
from tcpcrypt.runtime.loop import ERRORS, WRITE, Timer
from tcpcrypt.runtime.relay import Ending
from tcpcrypt.runtime.synhold import HeldSyn
from tcpcrypt.runtime.tally import errno_word
from tcpcrypt.runtime.turns import Turn
from tcpcrypt.wire.profile import WireProfile

__all__ = ["OpenedByApplication"]

_IP_BIND_ADDRESS_NO_PORT: Final = 24
_IPV6_TCLASS: Final = 67
_PEER_PATIENCE: Final = 140.0
"""Seconds for the peer to answer; Linux gives up on a SYN after some 127."""
_INNER_PATIENCE: Final = 5.0
"""Seconds for the application to take up the connection that it asked for; its
kernel repeats the SYN after 1 and 3."""
_REFUSALS: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})


class OpenedByApplication(Connection):
    """An application of this host wants to reach a service elsewhere.

    Its SYN is held until the peer has answered and the negotiation is over,
    and, where the peer has to prove who it is, until it has; then it comes to
    the daemon's listener (`came`), or is refused.
    """

    direction = "outgoing"

    def __init__(self, context: Context, gone: Gone, held: HeldSyn, policy: Policy) -> None:
        super().__init__(context, gone)
        self._held = held
        self._client, self._service = held.client, held.service
        self._negotiation: Negotiation | None = None
        self._connected = False
        self._asked: float | None = None
        """When its first SYN left for the peer."""
        self._peer = peer_name(held.connection.remote, held.connection.remote_port)
        self._data_can_pass = False
        self._steered = False
        self._turn: Turn | None = None
        self._patience: Timer | None = None
        held.superseded = self._not_wanted
        self.policy = policy

    @property
    def connection(self) -> Tuple4:
        """The application's."""
        return self._held.connection

    def start(self) -> None:
        with self._told():
            config, to = self._obey(), self._held.connection
            at_once = config.profile.openings_at_once
            if at_once is None:
                self._connect(config)
            else:
                service = to.remote, to.remote_port
                self._turn = self._context.turns.take(service, at_once, self._begin)

    def _begin(self) -> None:
        """Its turn has come; more may be known of the peer than when it took it."""
        policy, to = self.policy, self._held.connection
        if policy is not None and self._context.leaves_alone(policy, to):
            self._context.tally.count("direct")
            self._held.leave_alone()
            self._drop()
            return
        with self._told():
            self._connect(self._obey())

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong ends the connection and is reported."""
        try:
            yield
        except OSError as error:
            self._fail(error.errno or 0)
        except LocalError as error:
            self._give_up("failed", str(error), "configuration")

    def _obey(self) -> Config:
        policy, context, to = self.policy, self._context, self._held.connection
        if policy is None:
            raise LocalError("no policy")
        trust = context.authentication
        self._scope = trust.scope(policy, FlowDirection.OUTGOING, to.remote, to.remote_port)
        self._config, self.terms = trust.configure(
            context.configured(policy, self._dialect(policy)),
            policy,
            FlowDirection.OUTGOING,
            self._scope,
        )
        return self._config

    def _dialect(self, policy: Policy) -> WireProfile:
        """What was heard to work with this peer, or the first that policy allows."""
        to, profiles = self._held.connection, policy.profiles
        known = self._context.paths.profile(to.remote, to.remote_port, policy.profile)
        return next((profile for profile in profiles if profile.name == known), profiles[0])

    def _connect(self, config: Config) -> None:
        context, held = self._context, self._held
        outer = self._outer = context.backend.opener(held.family, held.mark, config)
        if held.dscp:
            level, option = (
                (socket.IPPROTO_IP, socket.IP_TOS)
                if held.family == 4
                else (socket.IPPROTO_IPV6, _IPV6_TCLASS)
            )
            outer.setsockopt(level, option, held.dscp)
        outer.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        # The peer sees the address that the application chose.
        outer.bind((self._client[0], 0, *self._client[2:]))
        self._negotiation = Negotiation(
            config, Opener.ACTIVE, resumption=context.resumption, peer=self._peer
        )
        to = held.connection
        self._asked = time.monotonic()
        context.backend.connect(
            outer,
            self._service,
            self._negotiation,
            self._proceed,
            mark=held.mark,
            insist=config.require_encryption,
            known=context.paths.encrypts(
                to.remote, to.remote_port, config.profile.name, self._allowed
            ),
        )
        context.loop.watch(outer.fileno(), WRITE, self._on_outer)

    def came(self, inner: socket.socket) -> None:
        """The application's connection has reached the daemon."""
        if self._inner is not None or not self._steered:
            close_with_reset(inner)
            return
        self._wait_for(None)
        self._held.arrived()
        inner.setblocking(False)
        self._inner = inner
        if self._data_can_pass:
            self._attach()
        else:
            self._context.loop.watch(inner.fileno(), ERRORS, self._on_inner_error)

    def _on_outer(self, _events: int) -> None:
        if self._outer is None:
            return
        number = self._outer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._fail(number)
            return
        self._connected = True
        try:
            self._context.backend.connected(self._outer)
        except OSError as error:
            self._fail(error.errno or 0)
        else:
            self._proceed()
        if self._outer is not None:  # not the relay's yet
            self._context.loop.watch(self._outer.fileno(), ERRORS, self._on_outer)

    def _fail(self, number: int) -> None:
        """Let the application's kernel report what ours was told of the peer."""
        if number == errno.ETIMEDOUT:
            to = self._held.connection
            self._context.paths.unanswered(to.remote, to.remote_port, self._allowed)
            self._held.drop()
        elif number not in _REFUSALS:
            self._held.unreachable()
        self._give_up("failed", os.strerror(number), errno_word(number))

    def _on_inner_error(self, _events: int) -> None:
        if self._relay is None:
            self._not_wanted()
        else:
            self._relay.reset(Ending.RESET_BY_APPLICATION)

    def _proceed(self) -> None:
        """The connection is up and the outcome known, whichever came last."""
        negotiation = self._negotiation
        if (
            self._connected
            and self._relay is None
            and self._outer is not None
            and negotiation is not None
            and negotiation.outcome is not None
        ):
            self._remember(negotiation)
            if not self._speak(negotiation, self._peer):
                return
            if self.established is None:
                # Init1 waits there: its verdict leaves with that on the application's SYN.
                self._context.take_packets()
            if not self._authenticates(negotiation):
                self._steer()

    @property
    def _allowed(self) -> str:
        """What policy says of dialects, by which paths are remembered."""
        return self.policy.profile if self.policy is not None else ""

    @staticmethod
    def _authenticates(negotiation: Negotiation) -> bool:
        """Whether the key exchange may yet refuse the peer, and so the connection."""
        outcome = negotiation.outcome
        return isinstance(outcome, Negotiated) and outcome.tep == Tep.EXPERIMENTAL

    def _steer(self) -> None:
        """Let the application's connection come.  Idempotent."""
        if not self._steered and self.state != "closed":
            self._steered = True
            self._wait_for(self._context.loop.call_later(_INNER_PATIENCE, self._not_wanted))
            self._held.steer()

    def _wait_for(self, timer: Timer | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = timer

    def look_after(self, now: float) -> None:
        """End it if the peer has not answered for so long that it never will.

        The kernel's own patience is shorter; but a handshake that nobody sees
        any more has none.  Who waits for a turn has not asked the peer anything, and
        learns nothing of it.
        """
        if self._steered or now - self.began <= _PEER_PATIENCE:
            return
        if self._asked is not None and now - self._asked > _PEER_PATIENCE:
            self._fail(errno.ETIMEDOUT)
        else:
            self._held.drop()  # its kernel has given up
            self._give_up("failed", os.strerror(errno.ETIMEDOUT), errno_word(errno.ETIMEDOUT))

    def _remember(self, negotiation: Negotiation) -> None:
        outcome, remote, silent = negotiation.outcome, self._held.connection, False
        if isinstance(outcome, Fallback):
            silent = outcome.reason is FallbackReason.SYN_RETRANSMITTED_PLAIN
            last, reason = "plain", outcome.reason.value
            if self._refuses(outcome):
                last = "refused"
        else:
            last, reason = "encrypted", ""
        spoken = self._config.profile.name if self._config is not None else ""
        allowed = self.policy.profiles if self.policy is not None else ()
        if self._context.paths.note(
            remote.remote,
            remote.remote_port,
            last,
            reason,
            profile=spoken,
            silent=silent,
            others=tuple(profile.name for profile in allowed if profile.name != spoken),
            allowed=self._allowed,
        ):
            facts: dict[str, object] = {"service": address_text(self._service), "reason": reason}
            self._context.report("remembered", facts)

    def _not_wanted(self) -> None:
        self._give_up("failed", "application gave up", "application_gave_up")

    def _drop(self) -> None:
        if self._negotiation is not None:
            self._negotiation.abandon()
        self._wait_for(None)
        self._next_turn()
        if not self._held.decided:
            self._held.refuse()
        self._held.forget()
        super()._drop()

    def _next_turn(self) -> None:
        if self._turn is not None:
            self._context.turns.over(self._turn)

    def _want_inner(self) -> None:
        self._next_turn()
        self._data_can_pass = True
        self._steer()
        self._attach()
