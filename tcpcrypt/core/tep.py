"""TCP encryption protocols as values: how a TEP speaks in options and in Init.

The four TEPs of RFC 8548 differ in their group alone.  Another TEP, under the
identifier for experiments for instance, may put data into its suboption, bytes
behind the public keys, and secrets of its own into PRK: it brings a `TepSpec`
whose methods do so and whose `agreement` makes a `KeyAgreement` of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from tcpcrypt.crypto.groups import GROUPS, group
from tcpcrypt.crypto.kdf import extract
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import RESUME_ID_LEN, RESUME_NONCE_MAX
from tcpcrypt.wire.messages import Init1, Init2
from tcpcrypt.wire.profile import ResumptionForm, WireProfile

if TYPE_CHECKING:
    from tcpcrypt.core.config import Config
    from tcpcrypt.core.events import Role

__all__ = [
    "Exchanged",
    "KeyAgreement",
    "Offer",
    "PlainAgreement",
    "PlainTep",
    "SessionIdTep",
    "TepSpec",
    "tep_spec",
]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a suboption of one TEP says: a fresh exchange, or also a resumption."""

    identifier: bytes = b""
    """Nine bytes, or none for a fresh exchange alone (RFC 8548 section 3.5)."""
    nonce: bytes = b""
    variant: bytes = b""
    """Which of its exchanges the TEP means, in a form of its own; an answer is valid
    for the same one only."""
    accepts: bool = False
    """An answer that takes the session which was offered, without naming it."""


FRESH = Offer()


class TepSpec(Protocol):
    """How one TEP uses its suboption and agrees on keys."""

    @property
    def identifier(self) -> int:
        """The TEP's number, 0x20 to 0x7f."""
        ...

    @property
    def first_frame_proves(self) -> bool:
        """A proves itself by its first frame, and either side of a resumed session too.

        A then sends one at once, B neither reports nor sends anything before
        it came, and no session of a TEP less preferred is resumed instead.
        """
        ...

    @property
    def resumption_lifetime(self) -> float | None:
        """Seconds from the key exchange for which sessions may come of it."""
        ...

    def fresh_data(self, answering: Offer | None = None) -> bytes | None:
        """Suboption data that offers a fresh exchange, or accepts that of `answering`.

        None for the bare byte.
        """
        ...

    def resumption_data(self, own: Offer, answering: Offer | None = None) -> bytes:
        """Suboption data that offers a resumption, or accepts that of `answering`.

        Of `own` the identifier and the nonce count.
        """
        ...

    def resumption_nonce_len(self, config: Config, *, passive: bool) -> int:
        """Bytes of the own resumption nonce."""
        ...

    def may_resume(self, peer_identity: bytes | None, answering: Offer | None = None) -> bool:
        """Whether a session that proved `peer_identity` may go on, as things are now."""
        ...

    def judge(self, peer_identity: bytes | None) -> None:
        """Accept a peer that has just proved itself by its first frame.

        Raises `AuthenticationError`: what was accepted when it was claimed may
        have been revoked since.
        """
        ...

    def sn(self, nonce_a: bytes, nonce_b: bytes, eno_transcript: bytes) -> bytes:
        """sn[i] of a resumed session; the nonces by role in the original session."""
        ...

    def read_offer(self, data: bytes | None) -> Offer | None:
        """What a suboption in the peer's SYN says; None if it is not valid."""
        ...

    def read_answer(self, data: bytes | None) -> Offer | None:
        """What a suboption in the peer's SYN-ACK says; None if it is not valid."""
        ...

    def agreement(self, config: Config, role: Role, variant: bytes) -> KeyAgreement:
        """A new key agreement with fresh ephemeral keys."""
        ...


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The public side of a key exchange, as both hosts saw it."""

    eno_transcript: bytes
    aead: int
    """What B chose."""
    init1: Init1
    init1_message: bytes
    """As transmitted, ignored tail included (open point E13: "the transmitted
    encodings" go into PRK)."""


class KeyAgreement(Protocol):
    """One side of a key exchange; used once, then wiped."""

    @property
    def public_key(self) -> bytes:
        """Pub_A or Pub_B as on the wire; Pub_B may depend on Init1."""
        ...

    @property
    def peer_public_key_len(self) -> int:
        """Bytes of the peer's key on the wire."""
        ...

    @property
    def peer_identity(self) -> bytes | None:
        """What the exchange tells of the peer, once it is over."""
        ...

    def init1_tail(self) -> bytes:
        """A: the bytes behind Pub_A."""
        ...

    def respond(
        self, exchanged: Exchanged, assemble: Callable[[bytes], bytes]
    ) -> tuple[bytes, Secret]:
        """B: the whole Init2, and PRK.

        `assemble` makes Init2 from a tail, so that a TEP can hash a part of the
        message before the tail is final.  Raises `PeerError`.
        """
        ...

    def complete(self, exchanged: Exchanged, init2: Init2, init2_message: bytes) -> Secret:
        """A: PRK.  Raises `PeerError`."""
        ...

    def wipe(self) -> None:
        """Forget the private keys."""
        ...


class PlainAgreement:
    """RFC 8548 section 3.3: PRK = Extract(N_A, eno_transcript | Init1 | Init2 | ES)."""

    peer_identity: bytes | None = None

    def __init__(self, tep: int, profile: WireProfile) -> None:
        self._key = group(tep, profile).generate()
        self.public_key = self._key.public
        self.peer_public_key_len = len(self.public_key)

    def init1_tail(self) -> bytes:
        """RFC 8548 section 4.1: nothing is to be sent behind the key."""
        return b""

    def respond(
        self, exchanged: Exchanged, assemble: Callable[[bytes], bytes]
    ) -> tuple[bytes, Secret]:
        """See `KeyAgreement.respond`."""
        init2 = assemble(b"")
        return init2, self._prk(exchanged, init2, exchanged.init1.public_key)

    def complete(self, exchanged: Exchanged, init2: Init2, init2_message: bytes) -> Secret:
        """See `KeyAgreement.complete`; the peer's tail is hashed, then ignored."""
        return self._prk(exchanged, init2_message, init2.public_key)

    def _prk(self, exchanged: Exchanged, init2_message: bytes, peer_public: bytes) -> Secret:
        with self._key.agree(peer_public) as es:
            return extract(
                exchanged.init1.nonce,
                exchanged.eno_transcript,
                exchanged.init1_message,
                init2_message,
                es,
            )

    def wipe(self) -> None:
        """Forget the ephemeral private key."""
        self._key.wipe()


@dataclass(frozen=True, slots=True)
class PlainTep:
    """One of the four TEPs of RFC 8548 (sections 3.2 and 3.5)."""

    identifier: int
    first_frame_proves = False
    resumption_lifetime = None

    def fresh_data(self, answering: Offer | None = None) -> bytes | None:
        """The TEP byte alone, `v` = 0."""
        return None

    def resumption_data(self, own: Offer, answering: Offer | None = None) -> bytes:
        """Nine identifier bytes, then 0 to 8 nonce bytes."""
        return own.identifier + own.nonce

    def resumption_nonce_len(self, config: Config, *, passive: bool) -> int:
        """As configured; the RFC's default is eight."""
        return config.resume_nonce_len

    def may_resume(self, peer_identity: bytes | None, answering: Offer | None = None) -> bool:
        """There is nothing that could have changed."""
        return True

    def judge(self, peer_identity: bytes | None) -> None:
        """Nobody proves anything."""

    def sn(self, nonce_a: bytes, nonce_b: bytes, eno_transcript: bytes) -> bytes:
        """RFC 8548 section 3.5: the nonces alone."""
        return nonce_a + nonce_b

    def read_offer(self, data: bytes | None) -> Offer | None:
        """RFC 8548 section 3.5: under nine bytes is the same as no data.

        More than 17 bytes cannot be a resumption, whose nonce has at most 8
        (open point E9); like an unknown identifier it still offers a fresh
        exchange.
        """
        if data is None or not self._may_resume(data):
            return FRESH
        return Offer(bytes(data[:RESUME_ID_LEN]), bytes(data[RESUME_ID_LEN:]))

    def read_answer(self, data: bytes | None) -> Offer | None:
        """RFC 8548 section 3.5: a passive opener that sends data resumes.

        Data that cannot be a resumption is therefore not valid (open point E10).
        """
        if data is not None and not self._may_resume(data):
            return None
        return self.read_offer(data)

    @staticmethod
    def _may_resume(data: bytes) -> bool:
        return RESUME_ID_LEN <= len(data) <= RESUME_ID_LEN + RESUME_NONCE_MAX

    def agreement(self, config: Config, role: Role, variant: bytes) -> KeyAgreement:
        """An exchange with ephemeral keys alone."""
        return PlainAgreement(self.identifier, config.profile)


@dataclass(frozen=True, slots=True)
class SessionIdTep(PlainTep):
    """A TEP that resumes by session ID (`ResumptionForm.SESSION_ID`)."""

    def resumption_data(self, own: Offer, answering: Offer | None = None) -> bytes:
        """Nine bytes of the session ID; nothing in the answer."""
        return own.identifier if answering is None else b""

    def resumption_nonce_len(self, config: Config, *, passive: bool) -> int:
        """There is none."""
        return 0

    def read_offer(self, data: bytes | None) -> Offer | None:
        """Nine bytes ask for a session; anything else for a fresh exchange."""
        return FRESH if data is None or len(data) != RESUME_ID_LEN else Offer(bytes(data))

    def read_answer(self, data: bytes | None) -> Offer | None:
        """Bit `v` alone takes what was offered; with data it means nothing."""
        if data is None:
            return FRESH
        return None if data else Offer(accepts=True)


def tep_spec(config: Config, tep: int) -> TepSpec:
    """The spec of a TEP that `config` lists."""
    return config.extensions.get(tep) or _SPECS[config.profile.resumption][tep]


_SPECS: Final[dict[ResumptionForm, dict[int, TepSpec]]] = {
    ResumptionForm.RESUME_IDENTIFIER: {tep: PlainTep(tep) for tep in GROUPS},
    ResumptionForm.SESSION_ID: {tep: SessionIdTep(tep) for tep in GROUPS},
}
