"""RFC 8548 section 5: authenticate a connection by its session ID, with credentials of your own.

Who proves signs, with an Ed25519 key, or MACs, with a secret that both have,
what the other end has asked (the challenge) together with the session ID and
with his own role, A or B, in TCP-ENO.  A proof is therefore good for one
connection, for one end of it and for one question: sent to another connection
or back to where it came from it proves nothing.

    challenge = os.urandom(32)                     # at one end; sent to the other
    proof = prove(session_id, Role.A, challenge, key)                  # there
    verify(session_id, Role.A, challenge, proof, key)                  # here: raises, or it is A

Both ends of one connection have the same session ID, and nobody else has made
one with it: whoever sits in the middle has two connections with two IDs.  The
connection must be encrypted, and the proof has to be checked before anything
that matters is sent or believed.  Prove in both directions if both ends matter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from tcpcrypt.core.events import Role
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import AuthenticationError, LocalError, PeerReason
from tcpcrypt.registry import SESSION_ID_LEN

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["CHALLENGE_MAX", "SECRET_MIN", "new_challenge", "prove", "verify"]

CHALLENGE_MAX: Final = 1 << 16
"""Bytes."""
SECRET_MIN: Final = 32
"""Bytes of a secret; they have to be random, a password would be guessed."""
_CHALLENGE_LEN: Final = 32
_LABEL: Final = b"tcpcrypt proof over a session ID, version 1\x00"
_SIGNED, _MACED = b"Ed25519\x00", b"HMAC-SHA256\x00"
_ROLES: Final = {Role.A: b"A", Role.B: b"B"}


def new_challenge() -> bytes:
    """32 random bytes, to be used once."""
    return os.urandom(_CHALLENGE_LEN)


def prove(
    session_id: ReadableBuffer,
    role: Role,
    challenge: ReadableBuffer,
    key: Ed25519PrivateKey | Secret,
) -> bytes:
    """Prove to the other end that this one has `key`.

    `role`: this end's.  Returns a signature of 64 bytes, or a MAC of 32 where
    `key` is a secret that both ends have, of 32 bytes or more.  Raises
    `LocalError` for what is no session ID, challenge or secret.
    """
    if isinstance(key, Secret):
        return _mac(session_id, role, challenge, key).finalize()
    return key.sign(_message(_SIGNED, session_id, role, challenge))


def verify(
    session_id: ReadableBuffer,
    role: Role,
    challenge: ReadableBuffer,
    proof: ReadableBuffer,
    key: Ed25519PublicKey | Secret,
) -> None:
    """Check what the other end has sent; returns if it has the key.

    `role`: the other end's, not one's own.  `challenge`: what this end has
    asked.  Raises `AuthenticationError` if it is not a proof of that,
    `LocalError` for what is no session ID, challenge or secret.
    """
    try:
        if isinstance(key, Secret):
            _mac(session_id, role, challenge, key).verify(bytes(proof))
        else:
            key.verify(bytes(proof), _message(_SIGNED, session_id, role, challenge))
    except InvalidSignature:
        detail = f"no proof by role {role.name} for this connection and challenge"
        raise AuthenticationError(PeerReason.AUTHENTICATION, detail) from None


def _mac(session_id: ReadableBuffer, role: Role, challenge: ReadableBuffer, key: Secret) -> HMAC:
    if len(key) < SECRET_MIN:
        raise LocalError(f"a secret has at least {SECRET_MIN} random bytes; a password is none")
    mac = HMAC(key.view(), SHA256())
    mac.update(_message(_MACED, session_id, role, challenge))
    return mac


def _message(
    kind: bytes, session_id: ReadableBuffer, role: Role, challenge: ReadableBuffer
) -> bytes:
    """What is signed: nothing in it can be read in two ways, since the challenge comes last."""
    ident, asked = bytes(session_id), bytes(challenge)
    if len(ident) != SESSION_ID_LEN:
        raise LocalError(f"a session ID has {SESSION_ID_LEN} bytes; is the connection encrypted?")
    if not 1 <= len(asked) <= CHALLENGE_MAX:
        raise LocalError(f"a challenge has 1 to {CHALLENGE_MAX} bytes")
    return _LABEL + kind + _ROLES[role] + ident + asked
