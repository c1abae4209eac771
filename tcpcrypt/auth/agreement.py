"""The key agreement of TEP 0x20: Noise IX in tcpcrypt's messages, and a proof by B.

```
Init1 ... | N_A | Pub_A | f1 (1) | S_A  (32, if f1.0) | hint (8, if f1.1)
Init2 ... | N_B | Pub_B | f2 (1) | C_B  (48, if f2.0) | V_B (32)
                        I2a ends ^         I2b ends ^

ES  = DH(e_A, e_B)                                  or with ML-KEM, in version 2
se  = DH(S_A, e_B), or Z if A shows no static       Z: 32 zero bytes
es  = DH(e_A, S_B), or Z if B shows no static
psk = the pre-shared key, or Z if none is used
K1  = Extract(N_A, eno_transcript | Init1 | I2a | ES | se)
C_B = AEAD(CPRF(K1, 20, ae_key_len), nonce 0, S_B, ad = Init1 | I2a)
PRK = Extract(N_A, eno_transcript | Init1 | I2b | ES | se | es | psk)
V_B = CPRF(PRK, 21, 32)
```

Why it is built so, and what it proves when, is in docs/authenticated-tep.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag

from tcpcrypt.auth.terms import (
    HINT_LEN,
    STATIC_KEY_LEN,
    VERSION_HYBRID,
    PeerProof,
    SharedKey,
    Terms,
)
from tcpcrypt.core.events import Role
from tcpcrypt.core.tep import Exchanged
from tcpcrypt.crypto.aead import aead
from tcpcrypt.crypto.groups import EphemeralKey, group
from tcpcrypt.crypto.hybrid import (
    INITIATOR_LEN,
    RESPONDER_LEN,
    HybridInitiator,
    HybridResponder,
)
from tcpcrypt.crypto.kdf import cprf, extract
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import AuthenticationError, PeerError, PeerReason
from tcpcrypt.registry import Tep
from tcpcrypt.wire.messages import Init2

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["AuthenticatedAgreement", "Tail1", "Tail2"]

_STATIC: Final = 0x01
_PSK: Final = 0x02
_FLAGS_LEN: Final = 1
_TAG_LEN: Final = 16
_SEALED_LEN: Final = STATIC_KEY_LEN + _TAG_LEN
_PROOF_LEN: Final = 32
_FIELD: Final = 2**255 - 19
_CONST_STATIC: Final = b"\x20"
_CONST_PROOF: Final = b"\x21"
_X25519: Final = group(Tep.ECDHE_CURVE25519)
_Z: Final = bytes(32)
"""In the place of a secret that the exchange does not have: the flags say so, and no
real one is all zero."""


@dataclass(frozen=True, slots=True)
class Tail1:
    """What follows Pub_A: f1, S_A, hint."""

    static: bytes | None = None
    hint: bytes | None = None

    @classmethod
    def parse(cls, tail: bytes) -> Tail1:
        """Exactly these bytes; `PeerError` with INIT_TAIL or BAD_PUBLIC_KEY."""
        flags = _flags(tail)
        static_len = STATIC_KEY_LEN if flags & _STATIC else 0
        hint_len = HINT_LEN if flags & _PSK else 0
        if (flags & _PSK and not static_len) or len(tail) != _FLAGS_LEN + static_len + hint_len:
            raise PeerError(PeerReason.INIT_TAIL)
        static = tail[_FLAGS_LEN : _FLAGS_LEN + static_len]
        if static:
            _check_point(static)
        return cls(static or None, tail[_FLAGS_LEN + static_len :] or None)

    def build(self) -> bytes:
        """As sent."""
        return _flag_byte(self.static, self.hint) + (self.static or b"") + (self.hint or b"")


@dataclass(frozen=True, slots=True)
class Tail2:
    """What follows Pub_B: f2, C_B, V_B."""

    proof: bytes
    sealed: bytes | None = None
    psk_used: bool = False

    @classmethod
    def parse(cls, tail: bytes) -> Tail2:
        """Exactly these bytes; `PeerError` with INIT_TAIL."""
        flags = _flags(tail)
        sealed_len = _SEALED_LEN if flags & _STATIC else 0
        if (flags & _PSK and not sealed_len) or len(tail) != _FLAGS_LEN + sealed_len + _PROOF_LEN:
            raise PeerError(PeerReason.INIT_TAIL)
        proof_at = _FLAGS_LEN + sealed_len
        return cls(tail[proof_at:], tail[_FLAGS_LEN:proof_at] or None, bool(flags & _PSK))

    def build(self) -> bytes:
        """As sent."""
        psk = self.psk_used or None
        return _flag_byte(self.sealed, psk) + (self.sealed or b"") + self.proof


Ephemeral = EphemeralKey | HybridInitiator | HybridResponder
"""One side's ephemeral keys: of version 1, of A in version 2, of B in version 2."""


class AuthenticatedAgreement:
    """One side of one exchange (`tcpcrypt.core.tep.KeyAgreement`).

    Whatever the peer does wrong is a `PeerError`; what it does not prove an
    `AuthenticationError`.  `ephemeral` is for test vectors.
    """

    def __init__(
        self, terms: Terms, version: int, role: Role, *, ephemeral: Ephemeral | None = None
    ) -> None:
        self._terms = terms
        # What was shown stays, whatever becomes of the host's keys meanwhile.
        self._identity = terms.identity
        self._psk = terms.psk
        self._version = version
        self._role = role
        self._ephemeral = key = ephemeral or _generate(version, role)
        self._x25519 = key if isinstance(key, EphemeralKey) else key.x25519
        self.peer_public_key_len = _public_len(version, role.peer)
        self.peer_identity: bytes | None = None

    @property
    def public_key(self) -> bytes:
        """Pub_A, or Pub_B, which in version 2 is there once Init1 was answered."""
        return self._ephemeral.public

    def init1_tail(self) -> bytes:
        """A: who this host is, if the terms show it, and which key it shares."""
        identity, psk = self._identity, self._psk
        if identity is None:
            return Tail1().build()
        return Tail1(identity.public, psk.hint if psk is not None else None).build()

    def respond(
        self, exchanged: Exchanged, assemble: Callable[[bytes], bytes]
    ) -> tuple[bytes, Secret]:
        """See `KeyAgreement.respond`.  Nothing is computed for a peer that the terms refuse."""
        init1, terms = exchanged.init1, self._terms
        tail1 = Tail1.parse(init1.tail)
        self._check_peer(tail1.static, init1.public_key)
        identity = self._identity
        psk = None
        if tail1.hint is not None and identity is not None:
            psk = terms.find_psk(tail1.hint)
        proof = PeerProof(tail1.static, psk.name if psk is not None else "", self._version)
        terms.judge(proof)

        with _Secrets(exchanged) as secrets:
            secrets.es_ephemeral = self._ephemeral.agree(init1.public_key)
            if tail1.static is not None:
                secrets.se = self._x25519.agree(tail1.static)
            tail2 = Tail2(bytes(_PROOF_LEN), None, psk is not None)
            if identity is not None:
                # The length of the message is hashed too: a place is kept for C_B.
                blank = Tail2(bytes(_PROOF_LEN), bytes(_SEALED_LEN), psk is not None)
                i2a = assemble(blank.build())[: -_SEALED_LEN - _PROOF_LEN]
                tail2 = Tail2(blank.proof, secrets.seal(i2a, identity.public), blank.psk_used)
                secrets.es_static = identity.agree(_x25519_part(init1.public_key))
            i2b = assemble(tail2.build())[:-_PROOF_LEN]
            prk = secrets.prk(i2b, psk)
        with cprf(prk, _CONST_PROOF, _PROOF_LEN) as value:
            tail2 = Tail2(bytes(value.view()), tail2.sealed, tail2.psk_used)
        self.peer_identity = proof.pack()
        return assemble(tail2.build()), prk

    def complete(self, exchanged: Exchanged, init2: Init2, init2_message: bytes) -> Secret:
        """See `KeyAgreement.complete`.  What it returns is shared with a B that proved itself."""
        terms = self._terms
        tail2 = Tail2.parse(init2.tail)
        psk = self._used_psk(tail2)
        self._check_peer(None, init2.public_key)
        i2a = init2_message[: len(init2_message) - len(init2.tail) + _FLAGS_LEN]
        i2b = init2_message[:-_PROOF_LEN]
        with _Secrets(exchanged) as secrets:
            secrets.es_ephemeral = self._ephemeral.agree(init2.public_key)
            if self._identity is not None:
                secrets.se = self._identity.agree(_x25519_part(init2.public_key))
            static = None
            if tail2.sealed is not None:
                static = secrets.open(i2a, tail2.sealed)
                self._check_peer(static, init2.public_key)
            proof = PeerProof(static, psk.name if psk is not None else "", self._version)
            terms.judge(proof)
            if static is not None:
                secrets.es_static = self._x25519.agree(static)
            prk = secrets.prk(i2b, psk)
        with cprf(prk, _CONST_PROOF, _PROOF_LEN) as value, Secret(tail2.proof) as stated:
            if value != stated:
                prk.wipe()
                raise AuthenticationError(PeerReason.AUTHENTICATION, "its proof is wrong")
        self.peer_identity = proof.pack()
        return prk

    def wipe(self) -> None:
        """Forget the ephemeral private keys; the static one is not this object's."""
        self._ephemeral.wipe()

    def _used_psk(self, tail2: Tail2) -> SharedKey | None:
        """A: the key that it offered, if B used it."""
        if not tail2.psk_used:
            return None
        if self._identity is None or self._psk is None:
            raise PeerError(PeerReason.INIT_TAIL, "it uses a pre-shared key that was not offered")
        return self._psk

    def _check_peer(self, static: bytes | None, public: bytes) -> None:
        """Refuse reflections, and other encodings of a key than the one there is."""
        own = self._identity
        _check_point(_x25519_part(public))
        if static is not None:
            _check_point(static)
            if own is not None and static == own.public:
                raise AuthenticationError(PeerReason.AUTHENTICATION, "it shows this host's own key")
        if _x25519_part(public) == self._x25519.public:
            raise AuthenticationError(PeerReason.AUTHENTICATION, "it reflects the ephemeral key")


class _Secrets:
    """What enters K1 and PRK; wiped at the end of a `with` block."""

    def __init__(self, exchanged: Exchanged) -> None:
        self._exchanged = exchanged
        self._aead = aead(exchanged.aead)
        self.es_ephemeral = Secret(b"")
        """ES"""
        self.se: Secret | None = None
        self.es_static: Secret | None = None
        """es"""

    def seal(self, i2a: bytes, static: bytes) -> bytes:
        """C_B.  Its key seals this alone, so that the nonce may be zero."""
        with self._key(i2a) as key:
            cipher = self._aead.construct(bytes(key.view()))
            sealed: bytes = cipher.encrypt(self._nonce, static, self._associated(i2a))
        return sealed

    def open(self, i2a: bytes, sealed: bytes) -> bytes:
        """S_B.  Raises `AuthenticationError`."""
        with self._key(i2a) as key:
            cipher = self._aead.construct(bytes(key.view()))
            try:
                static: bytes = cipher.decrypt(self._nonce, sealed, self._associated(i2a))
            except InvalidTag:
                raise AuthenticationError(
                    PeerReason.AUTHENTICATION, "its static key cannot be opened"
                ) from None
        return static

    def prk(self, i2b: bytes, psk: SharedKey | None) -> Secret:
        """PRK."""
        return self._extract(i2b, self.es_static or _Z, psk.key if psk is not None else _Z)

    def _key(self, i2a: bytes) -> Secret:
        with self._extract(i2a) as k1:
            return cprf(k1, _CONST_STATIC, self._aead.key_len)

    def _extract(self, init2_part: bytes, *more: ReadableBuffer | Secret) -> Secret:
        exchanged = self._exchanged
        return extract(
            exchanged.init1.nonce,
            exchanged.eno_transcript,
            exchanged.init1_message,
            init2_part,
            self.es_ephemeral,
            self.se or _Z,
            *more,
        )

    def _associated(self, i2a: bytes) -> bytes:
        return self._exchanged.init1_message + i2a

    @property
    def _nonce(self) -> bytes:
        return bytes(self._aead.nonce_len)

    def __enter__(self) -> _Secrets:
        return self

    def __exit__(self, *_raised: object) -> None:
        for secret in (self.es_ephemeral, self.se, self.es_static):
            if secret is not None:
                secret.wipe()


def _generate(version: int, role: Role) -> Ephemeral:
    if version != VERSION_HYBRID:
        return _X25519.generate()
    return HybridInitiator.generate() if role is Role.A else HybridResponder()


def _public_len(version: int, role: Role) -> int:
    if version != VERSION_HYBRID:
        return _X25519.public_key_len
    return INITIATOR_LEN if role is Role.A else RESPONDER_LEN


def _x25519_part(public: bytes) -> bytes:
    """In version 2 it comes last; in version 1 there is nothing else."""
    return public[-STATIC_KEY_LEN:]


def _flags(tail: bytes) -> int:
    flags = tail[0] if tail else 0xFF
    if flags & ~(_STATIC | _PSK):
        raise PeerError(PeerReason.INIT_TAIL)
    return flags


def _flag_byte(static: object, psk: object) -> bytes:
    flags = _STATIC if static is not None else 0
    return bytes((flags | _PSK if psk is not None else flags,))


def _check_point(public: bytes) -> None:
    """One encoding for each key, or another one could pass for another host's."""
    if int.from_bytes(public, "little") >= _FIELD:
        raise PeerError(PeerReason.BAD_PUBLIC_KEY, "not below 2**255 - 19")
