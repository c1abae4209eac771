"""RFC 8547: the TCP-ENO handshake of one connection, without any I/O.

The owner shows it every segment of the handshake, in either direction, and
asks it which option to put into each one that leaves.  It ends as `Negotiated`
(encryption is on, for ever) or as `Fallback` (plain TCP, and no further ENO
option is sent).  Its states are those of `tcpcrypt.core.handshake`.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcpcrypt.core.config import Config, RandomBytes
from tcpcrypt.core.events import Role
from tcpcrypt.core.handshake import TABLE, Action, Input, State
from tcpcrypt.core.offer import Choice, OfferedOption, choose, offer_options
from tcpcrypt.core.resumption import Recognised, ResumptionCache, Ticket
from tcpcrypt.errors import FallbackReason, LocalError, PeerError
from tcpcrypt.wire.eno import SynOption, ack_option, find_eno

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Fallback", "Negotiated", "Negotiation", "Opener"]


class Opener(enum.Enum):
    """How the connection was opened on this host."""

    ACTIVE = "active"
    PASSIVE = "passive"


@dataclass(frozen=True, slots=True)
class Negotiated:
    """Encryption is on.  What `tcpcrypt.core.session.Session` starts from."""

    role: Role
    tep: int
    tep_byte: int
    """The TEP byte of B's SYN option, bit `v` included: byte 0 of the session ID."""
    eno_transcript: bytes
    resuming: bool
    ticket: Ticket | None
    """The secret to resume with; None if `resuming` and it was spent meanwhile."""
    nonce_a: bytes
    nonce_b: bytes
    """Resumption nonces, by role in the original session."""
    peer_application_aware: bool
    variant: bytes = b""
    """Which of its exchanges the TEP means (`tcpcrypt.core.tep.Offer`)."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """The connection goes on in plain TCP."""

    reason: FallbackReason


@dataclass(frozen=True, slots=True)
class _PeerOption:
    raw: bytes
    option: SynOption
    choice: Choice


_NO_ENO: Final = {
    Input.SYN_BAD: FallbackReason.NO_ENO_IN_SYN,
    Input.SYN_ACK_BAD: FallbackReason.NO_ENO_IN_SYN_ACK,
    Input.ACK_BAD: FallbackReason.NO_ENO_IN_FIRST_ACK,
}


class Negotiation:
    """The ENO state machine of one connection.

    `peer` is the name under which a session with the other host is cached; the
    same bytes must come from `Session`.  Randomness is used for resumption
    nonces alone.
    """

    def __init__(
        self,
        config: Config,
        opener: Opener,
        *,
        resumption: ResumptionCache | None = None,
        peer: bytes = b"",
        random: RandomBytes = os.urandom,
    ) -> None:
        self._config = config
        self._opener = opener
        self._resumption = resumption if config.resume else None
        self._peer_name = peer
        self._random = random
        self._own: OfferedOption | None = None
        self._peer: _PeerOption | None = None
        self._peer_sent_non_syn = False
        self.state = State.START
        self.outcome: Negotiated | Fallback | None = None
        if not config.enabled:
            self._fall_back(FallbackReason.DISABLED)

    @property
    def finished(self) -> bool:
        """True when no later segment of the connection needs to be shown.

        RFC 8547 section 4.6: ENO goes into every segment until the peer's first
        one without SYN has come; where the first ACK carries none, into no more.
        """
        if self.outcome is None:
            return False
        plain = isinstance(self.outcome, Fallback)
        return self._peer_sent_non_syn or plain or self._bare_ack

    @property
    def own(self) -> OfferedOption | None:
        """The SYN-form option of this host, once it is fixed."""
        return self._own

    @property
    def repeatable(self) -> bool:
        """Whether the same two options lead to the same outcome for ever: encryption, and
        neither option names a session.
        """
        own, peer = self._own, self._peer
        if own is None or peer is None or not isinstance(self.outcome, Negotiated):
            return False
        return own.ticket is None and own.recognised is None and not peer.choice.offer.identifier

    @property
    def awaits_init1(self) -> bool:
        """Whether no segment without data may leave: the peer expects Init1 in the first."""
        outcome = self.outcome
        return (
            self._config.profile.init1_in_first_ack
            and self._opener is Opener.ACTIVE
            and isinstance(outcome, Negotiated)
            and not outcome.resuming
            and not self._peer_sent_non_syn
        )

    def abandon(self) -> None:
        """The connection is gone, and nothing may wait for it any more.  Idempotent."""
        if self.outcome is None:
            self._forget()

    # --- segments that leave -------------------------------------------------

    def option_to_send(self, syn: bool, ack: bool, room: int) -> bytes:
        """The raw ENO option for an outgoing segment with these flags.

        `room` is what the segment's other options leave of the 40 bytes
        (`tcpcrypt.wire.tcpopt.room`).  Empty: attach nothing.  Raises
        `LocalError` for a segment that cannot leave in this state.
        """
        sent = (Input.SEND_SYN_ACK if ack else Input.SEND_SYN) if syn else Input.SEND_ACK
        try:
            action, following = TABLE[self.state, sent]
        except KeyError:
            raise LocalError(f"cannot {sent.value} in state {self.state.value}") from None
        if action in {Action.SYN_FORM, Action.ENABLE_SYN_FORM}:
            option = self._syn_form(room)
            if not option:
                # RFC 8547 section 4.6 lets an active opener drop ENO from a SYN;
                # a passive one declines by silence (section 4.5).
                return b""
        else:
            option = self._ack_form(room) if action is not Action.NOTHING else b""
        self.state = following
        if action in {Action.ENABLE_SYN_FORM, Action.ENABLE_ACK_FORM}:
            if not option and not self._bare_ack:
                # The first ACK cannot carry ENO: the peer will fall back.
                self._fall_back(FallbackReason.NO_OPTION_SPACE)
                return b""
            self._enable()
        return option

    def _syn_form(self, room: int) -> bytes:
        """RFC 8547 section 4.6: the SYN-form option never changes once sent."""
        if self._own is None:
            candidates = offer_options(
                self._config,
                passive=self._opener is Opener.PASSIVE,
                answering=self._peer.choice if self._peer is not None else None,
                resumption=self._resumption,
                peer=self._peer_name,
                random=self._random,
                room=room,
            )
            self._own = next((own for own in candidates if len(own.raw) <= room), None)
            if self._own is None:
                self._fall_back(FallbackReason.NO_OPTION_SPACE)
                return b""
        if len(self._own.raw) > room:
            reason = FallbackReason.NO_OPTION_SPACE
            if self.state is State.SYN_SENT:
                reason = FallbackReason.SYN_RETRANSMITTED_PLAIN
            if self.state is not State.ENABLED:
                self._fall_back(reason)
            return b""
        return self._own.raw

    def _ack_form(self, room: int) -> bytes:
        """The non-SYN form, while the peer may still be waiting for it."""
        option = ack_option(self._config.profile)
        if self._bare_ack:
            return b""
        if self._peer_sent_non_syn or self._opener is Opener.PASSIVE or len(option) > room:
            return b""
        return option

    # --- segments that arrive ------------------------------------------------

    def segment_received(self, syn: bool, ack: bool, options: ReadableBuffer) -> None:
        """Take note of an incoming segment, whose raw option region is `options`.

        RST segments are not shown.  Never raises for what a peer can send.
        """
        if not syn and (not ack or self.state is State.SYN_SENT):
            return  # nothing that TCP would take
        if not syn:
            self._peer_sent_non_syn = True
        if self.state in {State.ENABLED, State.PLAIN, State.ACK_DUE}:
            # Nothing that the options say can matter any more.
            return
        try:
            raw = self._only_eno(options, syn)
            reason = self._judge(raw, ack) if syn else None
        except _UnusableError as unusable:
            raw, reason = b"", unusable.reason
        good = bool(raw) and reason is None
        if syn:
            seen = (
                (Input.SYN_ACK if good else Input.SYN_ACK_BAD)
                if ack
                else (Input.SYN if good else Input.SYN_BAD)
            )
        else:
            seen = Input.ACK if good else Input.ACK_BAD
        action, following = TABLE.get((self.state, seen), (Action.FALL_BACK, State.PLAIN))
        if action is Action.FALL_BACK:
            self._fall_back(reason or _NO_ENO.get(seen, FallbackReason.OUT_OF_ORDER))
            return
        self.state = following
        if action is Action.ENABLE:
            self._enable()

    def _only_eno(self, options: ReadableBuffer, syn: bool) -> bytes:
        """The segment's one ENO option, or b"" where there is none."""
        try:
            found = find_eno(options, self._config.profile)
        except PeerError:
            raise _UnusableError(FallbackReason.ILL_FORMED) from None
        if not syn and self._bare_ack:
            return ack_option(self._config.profile)  # it goes without saying
        if not syn:
            # RFC 8547 section 4.7: several in one non-SYN segment count as one,
            # and contents are ignored.
            return found.options[0] if found.options else b""
        if len(found.options) > 1 or (found.options and found.legacy):
            raise _UnusableError(FallbackReason.DUPLICATE_ENO)
        return found.options[0] if found.options else b""

    def _judge(self, raw: bytes, ack: bool) -> FallbackReason | None:
        """Why the peer's SYN-form option will not do, or None (and remember it)."""
        if not raw:
            return None
        if self._peer is not None:
            # RFC 8547 section 4.6: retransmissions and a simultaneous open's
            # SYN-ACK repeat the option byte for byte.
            return None if raw == self._peer.raw else FallbackReason.SYN_CHANGED
        profile = self._config.profile
        try:
            option = SynOption.parse(memoryview(raw)[2 + len(profile.option_exid) :], profile)
        except PeerError:
            return FallbackReason.ILL_FORMED
        own_b = self._own_b
        if (option.b if profile.role_bit else ack) == own_b:
            return FallbackReason.SAME_ROLE
        if self._config.require_application_aware and not option.application_aware:
            return FallbackReason.NOT_APPLICATION_AWARE
        choice = choose(
            self._config,
            own=self._own,
            theirs=option,
            own_is_b=own_b,
            answer=ack,
            resumption=self._resumption,
        )
        if isinstance(choice, FallbackReason):
            return choice
        self._peer = _PeerOption(raw, option, choice)
        return None

    @property
    def _own_b(self) -> bool:
        """RFC 8547 section 4.3: this host plays role B."""
        profile = self._config.profile
        return self._opener is Opener.PASSIVE or (profile.role_bit and self._config.active_b)

    @property
    def _bare_ack(self) -> bool:
        """Whether the first ACK carries no ENO, because the connection resumes."""
        own, peer = self._own, self._peer
        if own is None or peer is None or not self._config.profile.resumed_ack_bare:
            return False
        return own.recognised is not None or peer.choice.resumes_offer

    # --- how it ends ---------------------------------------------------------

    def _fall_back(self, reason: FallbackReason) -> None:
        self.state = State.PLAIN
        self._forget()
        self.outcome = Fallback(reason)

    def _forget(self) -> None:
        """A resumption did not come about: an own offer is spent, a peer's is not."""
        ticket = self._own.ticket if self._own is not None else None
        if ticket is not None:
            ticket.secret.wipe()
        recognised = self._peer.choice.recognised if self._peer is not None else None
        self._release(ticket)
        self._release(recognised)

    def _release(self, held: Ticket | Recognised | None) -> None:
        if held is not None and self._resumption is not None:
            self._resumption.release(held)

    def _enable(self) -> None:
        own, peer = self._own, self._peer
        if own is None or peer is None:  # the table leads here with both only
            raise LocalError("encryption cannot be enabled before both options are known")
        choice = peer.choice
        own_is_b = self._own_b
        role = Role.B if own_is_b else Role.A
        suffix = self._config.profile.transcript_suffix
        first, second = (peer.raw, own.raw) if own_is_b else (own.raw, peer.raw)
        ticket, resuming = self._ticket(own, choice)
        own_nonce, peer_nonce = own.nonce, choice.offer.nonce
        original_b = ticket is not None and ticket.original_role is Role.B
        if not resuming:
            self._forget()
            own_nonce = peer_nonce = b""
        self.outcome = Negotiated(
            role=role,
            tep=choice.tep,
            tep_byte=own.tep_byte(choice.tep) if own_is_b else choice.peer_tep_byte,
            eno_transcript=first + suffix + second + suffix,
            resuming=resuming,
            ticket=ticket,
            nonce_a=peer_nonce if original_b else own_nonce,
            nonce_b=own_nonce if original_b else peer_nonce,
            peer_application_aware=peer.option.application_aware,
            variant=choice.offer.variant,
        )

    def _ticket(self, own: OfferedOption, choice: Choice) -> tuple[Ticket | None, bool]:
        """The secret to resume with, and whether the two options agreed to."""
        if own.recognised is not None and self._resumption is not None:
            return self._resumption.commit(own.recognised, keep=self._config.cache), True
        if choice.resumes_offer:
            self._release(own.ticket)
            return own.ticket, True
        return None, False


class _UnusableError(Exception):
    """Internal: the segment's ENO option will not do."""

    def __init__(self, reason: FallbackReason) -> None:
        super().__init__(reason.value)
        self.reason = reason
