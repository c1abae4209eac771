"""RFC 8548 section 3.3: Init1 and Init2, the key exchange of one connection.

    A: sends Init1 at once              AWAITING_INIT2 --Init2--> DONE
    B: AWAITING_INIT1 --Init1--> answers with Init2               DONE

Encryption is on already, so that there is no way back: whatever is wrong with
a message ends in FAILED, and the connection is reset.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcpcrypt.core.config import Config, RandomBytes
from tcpcrypt.core.events import Role
from tcpcrypt.core.negotiation import Negotiated
from tcpcrypt.core.tep import Exchanged, KeyAgreement, tep_spec
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.registry import INIT1_MAGIC, INIT2_MAGIC, NONCE_LEN
from tcpcrypt.wire.messages import Init1, Init2, message_length

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["TABLE", "Exchange", "ExchangeState", "Outcome", "Prepared", "Stimulus", "prepare"]


class ExchangeState(enum.Enum):
    """What the exchange is waiting for."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    IDLE = "idle"
    AWAITING_INIT1 = "awaiting Init1"
    AWAITING_INIT2 = "awaiting Init2"
    DONE = "done"
    FAILED = "failed"


class Stimulus(enum.Enum):
    """What can happen to an exchange."""

    __hash__ = object.__hash__  # by identity: tables look members up at every step

    START_A = "start as A"
    START_B = "start as B"
    MESSAGE = "whole message"
    FAULT = "fault"


_S, _I = ExchangeState, Stimulus

TABLE: Final = {
    (_S.IDLE, _I.START_A): ("_send_init1", _S.AWAITING_INIT2),
    (_S.IDLE, _I.START_B): ("_wait", _S.AWAITING_INIT1),
    (_S.AWAITING_INIT1, _I.MESSAGE): ("_answer_init1", _S.DONE),
    (_S.AWAITING_INIT2, _I.MESSAGE): ("_complete", _S.DONE),
    (_S.AWAITING_INIT1, _I.FAULT): ("_wipe", _S.FAILED),
    (_S.AWAITING_INIT2, _I.FAULT): ("_wipe", _S.FAILED),
    (_S.IDLE, _I.FAULT): ("_wipe", _S.FAILED),
    (_S.DONE, _I.FAULT): ("_wipe", _S.FAILED),
    (_S.FAILED, _I.FAULT): ("_wipe", _S.FAILED),
}
"""`(state, stimulus) -> (method, next state)`; what is missing is a `LocalError`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished exchange yields."""

    prk: Secret
    aead: int
    peer_identity: bytes | None
    nonce_a: bytes
    """N_A, by which a key log names the exchange."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A's part of an exchange, made before B has agreed to it.

    Nothing in Init1 depends on B's option.  Who offers a fresh exchange of one
    TEP alone, in a stream that is for nothing else, may send it with the offer
    and wait once instead of twice.
    """

    agreement: KeyAgreement
    init1: Init1
    message: bytes
    """Init1, as transmitted."""


def prepare(config: Config, tep: int, variant: bytes, random: RandomBytes = os.urandom) -> Prepared:
    """Init1 of a fresh exchange; `variant` is that of the own offer."""
    return _prepared(config, tep_spec(config, tep).agreement(config, Role.A, variant), random)


def _prepared(config: Config, agreement: KeyAgreement, random: RandomBytes) -> Prepared:
    init1 = Init1(
        ciphers=tuple(config.aeads),
        nonce=random(NONCE_LEN),
        public_key=agreement.public_key,
        tail=agreement.init1_tail(),
    )
    return Prepared(agreement, init1, init1.build(config.profile))


class Exchange:
    """One host's side of the key exchange.

    Feed the peer's stream to `receive`; send what `to_send` holds.  `outcome`
    is there once `state` is DONE.  `prepared`: an Init1 that was sent already.
    """

    def __init__(
        self,
        config: Config,
        negotiated: Negotiated,
        *,
        prepared: Prepared | None = None,
        random: RandomBytes = os.urandom,
    ) -> None:
        self._config = config
        self._negotiated = negotiated
        self._random = random
        self._prepared = prepared
        if prepared is None:
            self._agreement = tep_spec(config, negotiated.tep).agreement(
                config, negotiated.role, negotiated.variant
            )
        else:
            self._agreement = prepared.agreement
        self._buffer = bytearray()
        self._init1: Init1 | None = None
        self._init1_message = b""
        self.sent_len = 0
        """Bytes of the own Init message."""
        self.received_len = 0
        """Bytes of the peer's Init message, once it is complete."""
        self.received = b""
        """That message."""
        self.to_send = b""
        """The own Init message; it must leave in a write of its own, because its
        last segment carries PSH (RFC 8548 section 3.3)."""
        self.outcome: Outcome | None = None
        self.state = ExchangeState.IDLE
        self._step(Stimulus.START_A if negotiated.role is Role.A else Stimulus.START_B, b"")

    def receive(self, data: ReadableBuffer) -> bytes:
        """Take bytes of the peer's stream; returns those past its Init message.

        Raises `PeerError`; the exchange has then failed for good.
        """
        magic = INIT2_MAGIC if self._negotiated.role is Role.A else INIT1_MAGIC
        self._buffer += data
        try:
            length = message_length(self._buffer, magic, self._config.max_init_len)
            if length is None or len(self._buffer) < length:
                return b""
            message, rest = bytes(self._buffer[:length]), bytes(self._buffer[length:])
            self._buffer.clear()
            self.received_len = length
            self.received = message
            self._step(Stimulus.MESSAGE, message)
        except PeerError:
            self._step(Stimulus.FAULT, b"")
            raise
        return rest

    def abandon(self) -> None:
        """Wipe the private keys; the exchange will not finish."""
        self._step(Stimulus.FAULT, b"")

    def _step(self, stimulus: Stimulus, message: bytes) -> None:
        try:
            method, following = TABLE[self.state, stimulus]
        except KeyError:
            raise LocalError(f"{stimulus.value} in state {self.state.value}") from None
        getattr(self, method)(message)
        self.state = following

    # --- the actions of the table ------------------------------------------------

    def _wait(self, _message: bytes) -> None:
        """B has nothing to say before Init1: it is B that chooses the AEAD."""

    def _wipe(self, _message: bytes) -> None:
        self._agreement.wipe()
        self._buffer.clear()

    def _send_init1(self, _message: bytes) -> None:
        made = self._prepared or _prepared(self._config, self._agreement, self._random)
        self._init1, self._init1_message = made.init1, made.message
        self._queue(made.message)
        if self._prepared is not None:
            self.to_send = b""  # it has left

    def _answer_init1(self, message: bytes) -> None:
        profile, agreement = self._config.profile, self._agreement
        init1 = Init1.parse(message, agreement.peer_public_key_len, profile)
        aead = next((aead for aead in self._config.aeads if aead in init1.ciphers), None)
        if aead is None:
            raise PeerError(PeerReason.NO_COMMON_AEAD)
        nonce = self._random(NONCE_LEN)

        def assemble(tail: bytes) -> bytes:
            return Init2(aead, nonce, agreement.public_key, tail).build(profile)

        exchanged = Exchanged(self._negotiated.eno_transcript, aead, init1, message)
        init2, prk = agreement.respond(exchanged, assemble)
        self._queue(init2)
        self._finish(prk, aead, init1.nonce)

    def _complete(self, message: bytes) -> None:
        init1, agreement = self._init1, self._agreement
        if init1 is None:  # the table leads here from _send_init1 only
            raise LocalError("Init2 without Init1")
        init2 = Init2.parse(message, agreement.peer_public_key_len, self._config.profile)
        if init2.cipher not in init1.ciphers:
            raise PeerError(PeerReason.AEAD_NOT_OFFERED, f"{init2.cipher:#06x}")
        exchanged = Exchanged(
            self._negotiated.eno_transcript, init2.cipher, init1, self._init1_message
        )
        prk = agreement.complete(exchanged, init2, message)
        self._finish(prk, init2.cipher, init1.nonce)

    def _queue(self, message: bytes) -> None:
        self.to_send = message
        self.sent_len = len(message)

    def _finish(self, prk: Secret, aead: int, nonce_a: bytes) -> None:
        self.outcome = Outcome(prk, aead, self._agreement.peer_identity, nonce_a)
        self._agreement.wipe()
