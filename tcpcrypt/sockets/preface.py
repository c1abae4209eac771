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
"""

from __future__ import annotations

import os
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

__all__ = ["MAGIC", "PREFACE_MAX", "VERSION", "Preface"]

MAGIC: Final = b"TCENO"
VERSION: Final = 1
_HEAD: Final = MAGIC + bytes((VERSION,))
_OPTION_HEAD_LEN: Final = 2
"""Kind and length byte."""
PREFACE_MAX: Final = len(_HEAD) + TCP_OPTIONS_MAX
"""Bytes; no more are ever held of a peer that has not negotiated."""


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
    ) -> None:
        self._config = config
        self._role = role
        self._negotiation = Negotiation(
            config,
            Opener.ACTIVE if role is Role.A else Opener.PASSIVE,
            resumption=resumption,
            peer=peer,
            random=random,
        )
        self._received = bytearray()
        self.to_send = b""
        self.sent_len = 0
        """Bytes of the own preface, once it is made."""
        self.received_len = 0
        """Bytes of the peer's preface, once it is whole."""
        self.outcome: Negotiated | None = None
        if role is Role.A:
            self._queue(self._negotiation.option_to_send(syn=True, ack=False, room=TCP_OPTIONS_MAX))

    @property
    def only_offer(self) -> tuple[int, bytes] | None:
        """As A: the one TEP and variant that can come of the offer; None: there are several.

        An offer to resume a session is one of a fresh exchange as well.
        """
        own = self._negotiation.own
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
        negotiation = self._negotiation
        self.received_len = len(self._received)
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
        self.outcome = outcome

    def _queue(self, option: bytes) -> None:
        self.to_send = _HEAD + option
        self.sent_len = len(self.to_send)


def _refusal(reason: FallbackReason) -> NoEncryptionError:
    if reason is FallbackReason.NO_COMMON_TEP:
        return NoCommonTEPError(reason, "the ends are to authenticate in different ways")
    return NoEncryptionError(reason)
