"""Proofs over a session ID: for one connection, one end and one question."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from support.hosts import open_pair

import tcpcrypt.auth
from tcpcrypt.auth import new_challenge, prove, verify
from tcpcrypt.core.events import Role
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import AuthenticationError, LocalError, PeerReason

SESSION = b"\x23" + bytes(range(32))
CHALLENGE = b"who are you"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SECRET = Secret(bytes(range(32)))

Keys = tuple[Ed25519PrivateKey | Secret, Ed25519PublicKey | Secret]
KEYS: list[Keys] = [(PRIVATE, PRIVATE.public_key()), (SECRET, SECRET)]
both = pytest.mark.parametrize("keys", KEYS, ids=["signed", "maced"])


def refuses(keys: Keys, session: bytes, role: Role, challenge: bytes, proof: bytes) -> None:
    with pytest.raises(AuthenticationError) as caught:
        verify(session, role, challenge, proof, keys[1])
    assert caught.value.reason is PeerReason.AUTHENTICATION


@both
@pytest.mark.parametrize("role", list(Role))
def test_who_has_the_key_proves_it(keys: Keys, role: Role) -> None:
    challenge = new_challenge()
    assert len(challenge) == 32
    assert challenge != new_challenge()
    proof = prove(SESSION, role, challenge, keys[0])
    assert len(proof) == (32 if keys[0] is SECRET else 64)
    verify(SESSION, role, challenge, proof, keys[1])
    verify(memoryview(SESSION), role, bytearray(challenge), memoryview(proof), keys[1])


@both
def test_a_proof_is_for_one_connection_one_end_and_one_question(keys: Keys) -> None:
    proof = prove(SESSION, Role.A, CHALLENGE, keys[0])
    refuses(keys, SESSION, Role.B, CHALLENGE, proof)  # reflected
    refuses(keys, SESSION[:-1] + b"\xff", Role.A, CHALLENGE, proof)
    refuses(keys, SESSION, Role.A, CHALLENGE + b"?", proof)


@both
def test_who_sits_in_the_middle_cannot_pass_a_proof_on(keys: Keys) -> None:
    client, towards_client = open_pair()
    towards_server, server = open_pair()
    # The server asks, the one in the middle passes on question and answer.
    proof = prove(client.session_id, client.role, CHALLENGE, keys[0])
    verify(towards_client.session_id, client.role, CHALLENGE, proof, keys[1])
    refuses(keys, server.session_id, towards_server.role, CHALLENGE, proof)


@both
def test_another_key_proves_nothing(keys: Keys) -> None:
    other = Ed25519PrivateKey.generate() if keys[0] is PRIVATE else Secret(os.urandom(32))
    refuses(keys, SESSION, Role.A, CHALLENGE, prove(SESSION, Role.A, CHALLENGE, other))


@both
def test_every_changed_bit_is_noticed(keys: Keys) -> None:
    proof = prove(SESSION, Role.A, CHALLENGE, keys[0])
    for bit in range(len(proof) * 8):
        changed = bytearray(proof)
        changed[bit // 8] ^= 1 << bit % 8
        refuses(keys, SESSION, Role.A, CHALLENGE, bytes(changed))


@both
@given(proof=st.binary(max_size=80))
def test_any_bytes_are_no_proof(keys: Keys, proof: bytes) -> None:
    refuses(keys, SESSION, Role.A, CHALLENGE, proof)


def test_what_is_signed_is_what_is_documented() -> None:
    """By the standard library; docs/identities.md has the layout."""
    label = b"tcpcrypt proof over a session ID, version 1\0HMAC-SHA256\0"
    message = label + b"A" + SESSION + CHALLENGE
    expected = hmac.digest(bytes(range(32)), message, hashlib.sha256)
    assert prove(SESSION, Role.A, CHALLENGE, SECRET) == expected
    label = b"tcpcrypt proof over a session ID, version 1\0Ed25519\0"
    PRIVATE.public_key().verify(
        prove(SESSION, Role.B, CHALLENGE, PRIVATE), label + b"B" + SESSION + CHALLENGE
    )


@both
@pytest.mark.parametrize("length", [0, 32, 34])
def test_without_a_session_id_nothing_is_proved(keys: Keys, length: int) -> None:
    with pytest.raises(LocalError, match="a session ID has 33 bytes"):
        prove(bytes(length), Role.A, CHALLENGE, keys[0])
    with pytest.raises(LocalError, match="is the connection encrypted"):
        verify(bytes(length), Role.A, CHALLENGE, b"", keys[1])


@both
@pytest.mark.parametrize("length", [0, 65537])
def test_challenges_have_bounds(keys: Keys, length: int) -> None:
    with pytest.raises(LocalError, match="a challenge has 1 to 65536 bytes"):
        prove(SESSION, Role.A, bytes(length), keys[0])
    with pytest.raises(LocalError, match="a challenge has"):
        verify(SESSION, Role.A, bytes(length), b"", keys[1])
    verify(SESSION, Role.A, b"c" * 65536, prove(SESSION, Role.A, b"c" * 65536, keys[0]), keys[1])


@pytest.mark.parametrize("length", [0, 8, 31])
def test_a_password_is_no_secret(length: int) -> None:
    with pytest.raises(LocalError, match="a password is none"):
        prove(SESSION, Role.A, CHALLENGE, Secret(bytes(length)))
    with pytest.raises(LocalError, match="a password is none"):
        verify(SESSION, Role.A, CHALLENGE, b"", Secret(bytes(length)))


def test_public_names_exist() -> None:
    for name in tcpcrypt.auth.__all__:
        assert getattr(tcpcrypt.auth, name) is not None
