"""Negotiation within the streams, where TCP options are out of reach.

Each stream of a connection between two programs that agreed on a port begins
with its SYN-form ENO option (RFC 8547 section 4.1), which no kernel has to know
of, and goes on with Init messages and frames as RFC 8548 has them:

```
54 43 45 4e 4f ("TCENO") | 01 | 45 | length (1) | contents (length - 2)
```

The host that connects is the active opener and speaks first; the other answers
as soon as it has read that.  The options are all of the transcript, as always,
and what they agree on binds at once, since there is no third segment that could
lose them.  Frame offsets count from the first byte of the stream, preface
included.

An active opener that offers one fresh exchange and nothing else sends its Init1
behind the preface: there is but one thing that the other can agree to.

Where no session is asked for, the outcome follows from the configuration and the
two options alone.  It is worked out once and kept (`Usual`): most connections of a
program negotiate the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tcpcrypt.core.config import Config, RandomBytes
from tcpcrypt.core.events import Role
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation, Opener
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.tep import tep_spec
from tcpcrypt.errors import FallbackReason, LocalError, NoCommonTEPError, NoEncryptionError
from tcpcrypt.registry import GLOBAL_B, TCP_OPTION_ENO, TCP_OPTIONS_MAX
from tcpcrypt.wire.eno import SynOption, ack_option

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["MAGIC", "PREFACE_MAX", "VERSION", "Preface", "Usual"]

MAGIC: Final = b"TCENO"
VERSION: Final = 1
_HEAD: Final = MAGIC + bytes((VERSION,))
_OPTION_HEAD_LEN: Final = 2
"""Kind and length byte."""
_USUAL_HEAD: Final = _HEAD + bytes((TCP_OPTION_ENO,))
_WHOLE_MIN: Final = len(_HEAD) + _OPTION_HEAD_LEN
"""Bytes that tell how long a preface is."""
PREFACE_MAX: Final = len(_HEAD) + TCP_OPTIONS_MAX
"""Bytes; no more are ever held of a peer that has not negotiated."""
_USUAL_MAX: Final = 64


@dataclass(slots=True)
class Usual:
    """What connections of one `Config` offer and agree on where none resumes a session.

    Never anything that names one, so that what is here is as good for the next connection.
    """

    offer: bytes = b""
    """The option of role A; empty: not known yet."""
    only_offer: tuple[int, bytes] | None = None
    """What stands in it (`Preface.only_offer`)."""
    outcomes: dict[tuple[Role, bytes], tuple[bytes, Negotiated]] = field(default_factory=dict)
    """By own role and the peer's option: the own option and what comes of both."""

    def keep(self, role: Role, theirs: bytes, own: bytes, outcome: Negotiated) -> None:
        """Remember one outcome.  Peers may make up options: there is a bound."""
        if len(self.outcomes) >= _USUAL_MAX:
            self.outcomes.clear()
        self.outcomes[role, theirs] = own, outcome


class Preface:
    """One host's side of the negotiation.

    `to_send` is there when it is to be written: at once as role A, after the
    peer's option as B.  `outcome` is there once both options are known.
    """

    def __init__(
        self,
        config: Config,
        role: Role,
        *,
        resumption: ResumptionCache | None = None,
        peer: bytes = b"",
        random: RandomBytes = os.urandom,
        usual: Usual | None = None,
    ) -> None:
        """`usual`: what connections of the same `config` have in common."""
        self._config = config
        self._role = role
        self._resumption = resumption
        self._peer = peer
        self._random = random
        self._usual = Usual() if usual is None else usual
        self._negotiation: Negotiation | None = None
        """None: it has not been needed."""
        self._resumes = False
        """Whether the own option asks for a session."""
        self._received = bytearray()
        self.to_send = b""
        self.sent_len = 0
        """Bytes of the own preface, once it is made."""
        self.received_len = 0
        """Bytes of the peer's preface, once it is whole."""
        self.outcome: Negotiated | None = None
        self.only_offer: tuple[int, bytes] | None = None
        """As A: the one TEP and variant that can come of the offer; None: there are several.

        An offer to resume a session is one of a fresh exchange as well."""
        if role is Role.A:
            self._offer()

    def _offer(self) -> None:
        """As A: make the own option, if it is not the usual one."""
        usual, resumption = self._usual, self._resumption
        asked = resumption is not None and self._config.resume and resumption.keeps(self._peer)
        if usual.offer and not asked:
            self.only_offer = usual.only_offer
            self._queue(usual.offer)
            return
        negotiation = self._negotiate(resumption)
        own = negotiation.own
        self._resumes = own is not None and own.ticket is not None
        self.only_offer = self._read_offer(negotiation)
        self._queue(negotiation.own.raw if negotiation.own is not None else b"")
        if not self._resumes:
            usual.only_offer = self.only_offer
            usual.offer = self.to_send[len(_HEAD) :]

    def _negotiate(self, resumption: ResumptionCache | None) -> Negotiation:
        active = self._role is Role.A
        self._negotiation = negotiation = Negotiation(
            self._config,
            Opener.ACTIVE if active else Opener.PASSIVE,
            resumption=resumption,
            peer=self._peer,
            random=self._random,
        )
        if active:
            negotiation.option_to_send(syn=True, ack=False, room=TCP_OPTIONS_MAX)
        return negotiation

    def _read_offer(self, negotiation: Negotiation) -> tuple[int, bytes] | None:
        own = negotiation.own
        if own is None or own.ticket is not None or len(own.option.suboptions) != 1:
            return None
        (suboption,) = own.option.suboptions
        meant = tep_spec(self._config, suboption.tep).read_offer(suboption.data)
        return None if meant is None else (suboption.tep, meant.variant)

    def receive(self, data: ReadableBuffer) -> memoryview:
        """Take bytes of the peer's stream; returns those past its preface.

        Raises `NoEncryptionError` or `NoCommonTEPError`: at the first byte that
        cannot be one of a preface.
        """
        view = memoryview(data).cast("B")
        if not self._received and self.outcome is None:
            # As a rule it comes in one piece.
            head = bytes(view[:_WHOLE_MIN])
            if len(head) == _WHOLE_MIN and head.startswith(_USUAL_HEAD):
                length = head[-1]
                end = len(_HEAD) + length
                if _OPTION_HEAD_LEN <= length <= TCP_OPTIONS_MAX and len(view) >= end:
                    self._decide(bytes(view[len(_HEAD) : end]))
                    return view[end:]
        taken = 0
        while self.outcome is None and taken < len(view):
            wanted = self._missing()
            piece = view[taken : taken + wanted]
            self._received += piece
            taken += len(piece)
            self._check()
            if not self._missing():
                self._decide(bytes(self._received[len(_HEAD) :]))
        return view[taken:]

    def abandon(self) -> None:
        """The connection is gone.  Idempotent."""
        if self._negotiation is not None:
            self._negotiation.abandon()

    def _missing(self) -> int:
        """Bytes to the next point at which more is known; 0: the preface is whole."""
        received, head = self._received, len(_HEAD) + _OPTION_HEAD_LEN
        whole = head if len(received) < head else len(_HEAD) + received[head - 1]
        return whole - len(received)

    def _check(self) -> None:
        """Raise `NoEncryptionError` for what cannot become a preface."""
        received = self._received
        if not _HEAD.startswith(received[: len(_HEAD)]):
            if received.startswith(MAGIC):
                detail = f"version {received[len(MAGIC)]}, and this host knows {VERSION}"
                raise NoEncryptionError(FallbackReason.NO_PREFACE, detail)
            raise NoEncryptionError(FallbackReason.NO_PREFACE)
        option = received[len(_HEAD) :]
        if option and option[0] != TCP_OPTION_ENO:
            raise NoEncryptionError(FallbackReason.ILL_FORMED, f"kind {option[0]}")
        if len(option) > 1 and not _OPTION_HEAD_LEN <= option[1] <= TCP_OPTIONS_MAX:
            raise NoEncryptionError(FallbackReason.ILL_FORMED, f"{option[1]} bytes")

    def _decide(self, option: bytes) -> None:
        self.received_len = len(_HEAD) + len(option)
        usual, role = self._usual, self._role
        found = None if self._resumes else usual.outcomes.get((role, option))
        if found is not None:
            own, self.outcome = found
            if role is Role.B:
                self._queue(own)
            return
        negotiation = self._negotiation
        if negotiation is None:
            # A has offered what is usual: nothing of the cache may come into that now.
            negotiation = self._negotiate(self._resumption if role is Role.B else None)
        self.outcome = self._settle(negotiation, option)
        if negotiation.repeatable and negotiation.own is not None:
            usual.keep(role, option, negotiation.own.raw, self.outcome)

    def _settle(self, negotiation: Negotiation, option: bytes) -> Negotiated:
        """What comes of the peer's option.  Raises `NoEncryptionError`."""
        negotiation.segment_received(syn=True, ack=self._role is Role.A, options=option)
        if self._role is Role.A:
            if negotiation.outcome is None:
                negotiation.option_to_send(syn=False, ack=True, room=TCP_OPTIONS_MAX)
        elif negotiation.outcome is None:
            self._queue(negotiation.option_to_send(syn=True, ack=True, room=TCP_OPTIONS_MAX))
            # The segment that would confirm ours: nothing here can have lost it.
            confirmed = ack_option(self._config.profile)
            negotiation.segment_received(syn=False, ack=True, options=confirmed)
        elif negotiation.outcome == Fallback(FallbackReason.NO_COMMON_TEP):
            # What lets the other end say why: an option that agrees on nothing.
            nothing = SynOption((), global_bits=GLOBAL_B, explicit_global=True)
            self._queue(nothing.build(self._config.profile))
        outcome = negotiation.outcome
        if isinstance(outcome, Fallback):
            raise _refusal(outcome.reason)
        if outcome is None:  # the table of the handshake leads to one of both
            raise LocalError("negotiation came to no end")
        return outcome

    def _queue(self, option: bytes) -> None:
        self.to_send = _HEAD + option
        self.sent_len = len(self.to_send)


def _refusal(reason: FallbackReason) -> NoEncryptionError:
    if reason is FallbackReason.NO_COMMON_TEP:
        return NoCommonTEPError(reason, "the ends are to authenticate in different ways")
    return NoEncryptionError(reason)
