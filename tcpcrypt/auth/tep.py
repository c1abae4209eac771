"""The TEP that authenticates, under the identifier for experiments (0x20).

```
fresh       a0 | 54 41 version
resumption  a0 | 54 41 version | identifier (9) | nonce (4 to 8)
```

A SYN offers one version, and an answer of another one is not valid.  An active
opener sends five bytes of nonce and a passive one four: then either option has
20 bytes, what a SYN with timestamps has left.  The exchange itself is
`tcpcrypt.auth.agreement`; docs/authenticated-tep.md has the whole protocol.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tcpcrypt.auth.agreement import AuthenticatedAgreement
from tcpcrypt.auth.terms import PeerProof, Terms
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.core.tep import KeyAgreement, Offer
from tcpcrypt.errors import AuthenticationError
from tcpcrypt.registry import RESUME_ID_LEN, RESUME_NONCE_MAX, Tep

__all__ = ["MAGIC", "RESUMPTION_LIFETIME", "AuthenticatedTep"]

MAGIC: Final = b"TA"
_FRESH_LEN: Final = len(MAGIC) + 1
_NONCE_MIN: Final = 4
_NONCE_ACTIVE: Final = 5
_NONCE_PASSIVE: Final = 4

RESUMPTION_LIFETIME: Final = 24 * 3600.0
"""Seconds after a key exchange in which its proofs count; no resumption renews them."""


@dataclass(frozen=True, slots=True)
class AuthenticatedTep:
    """TEP 0x20 on the terms of one connection, or of those that a policy governs."""

    terms: Terms
    identifier = Tep.EXPERIMENTAL
    first_frame_proves = True
    resumption_lifetime = RESUMPTION_LIFETIME

    def fresh_data(self, answering: Offer | None = None) -> bytes:
        """Magic and version; that of the offer, in an answer."""
        return MAGIC + self._variant(answering)

    def resumption_data(self, own: Offer, answering: Offer | None = None) -> bytes:
        """Magic, version, identifier, nonce."""
        return MAGIC + self._variant(answering) + own.identifier + own.nonce

    def resumption_nonce_len(self, config: Config, *, passive: bool) -> int:
        """Fixed by the room that a SYN has, whatever is configured for other TEPs."""
        return _NONCE_PASSIVE if passive else _NONCE_ACTIVE

    def read_offer(self, data: bytes | None) -> Offer | None:
        """A version that the terms accept, alone or with a resumption."""
        if data is None or not data.startswith(MAGIC):
            return None
        variant = data[len(MAGIC) : _FRESH_LEN]
        if not variant or variant[0] not in self.terms.versions:
            return None
        identifier = data[_FRESH_LEN : _FRESH_LEN + RESUME_ID_LEN]
        nonce = data[_FRESH_LEN + RESUME_ID_LEN :]
        if identifier and not _NONCE_MIN <= len(nonce) <= RESUME_NONCE_MAX:
            return None
        return Offer(identifier, nonce, variant)

    read_answer = read_offer

    def may_resume(self, peer_identity: bytes | None, answering: Offer | None = None) -> bool:
        """Whether the terms accept today what the session proved, in the version meant.

        A is not content with a peer that showed no key where it shows its own: a
        session that policy no longer made would keep the key from being learnt.
        """
        proof = PeerProof.unpack(peer_identity or b"")
        if answering is None and proof.key is None and self.terms.identity is not None:
            return False
        if bytes((proof.version,)) != self._variant(answering):
            return False
        try:
            self.terms.judge(proof)
        except AuthenticationError:
            return False
        return True

    def judge(self, peer_identity: bytes | None) -> None:
        """As the terms do."""
        self.terms.judge(PeerProof.unpack(peer_identity or b""))

    def sn(self, nonce_a: bytes, nonce_b: bytes, eno_transcript: bytes) -> bytes:
        """Both nonces, and the hash of both options: unlike in RFC 8548 they are bound."""
        return nonce_a + nonce_b + hashlib.sha256(eno_transcript).digest()

    def agreement(self, config: Config, role: Role, variant: bytes) -> KeyAgreement:
        """An exchange of the negotiated version."""
        return AuthenticatedAgreement(self.terms, variant[0], role)

    def _variant(self, answering: Offer | None) -> bytes:
        if answering is not None:
            return answering.variant
        return bytes((self.terms.versions[0],))
