"""RFC 8548 sections 3.3 to 3.5: the key schedule and its typestates."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.crypto.aead import AEADS, aead
from tcpcrypt.crypto.schedule import MasterKey, SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import AeadId

SS = bytes(range(32))


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """CPRF as section 3.1 writes it, from the standard library."""
    blocks, last = b"", b""
    while len(blocks) < length:
        last = hmac.digest(key, last + info + bytes((len(blocks) // 32 + 1,)), "sha256")
        blocks += last
    return blocks[:length]


def raw(secret: Secret) -> bytes:
    return bytes(secret.view())


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=16), st.integers(0x21, 0xFF))
def test_session_id_and_keys_of_a_resumed_session(ss: bytes, sn: bytes, tep_byte: int) -> None:
    session_id, master, following = SessionSecret(Secret(ss), 1).use(tep_byte, sn)
    assert session_id == bytes((tep_byte,)) + expand(ss, b"\x02" + sn, 32)
    mk = expand(ss, b"\x03" + sn, 32)
    for generation in range(3):
        assert master.generation == generation
        for parameters in AEADS.values():
            keys = master.traffic_keys(parameters)
            assert raw(keys.ab) == expand(mk, b"\x04", parameters.key_len + 12)
            assert raw(keys.ba) == expand(mk, b"\x05", parameters.key_len + 12)
        master = master.advance()
        mk = expand(mk, b"\x03", 32)  # sn enters mk[0] alone (section 3.3)
    assert following.index == 2
    assert raw(following.take()) == expand(ss, b"\x01", 32)


def test_session_secret_of_a_fresh_exchange_is_prk() -> None:
    """Section 3.3: ss[0] = PRK, sn[0] is empty."""
    secret = SessionSecret.from_prk(Secret(SS))
    assert secret.index == 0
    session_id, _master, following = secret.use(0x23, b"")
    assert session_id == b"\x23" + expand(SS, b"\x02", 32)
    assert following.index == 1


@given(st.binary(min_size=32, max_size=32))
def test_resumption_identifiers_are_halves_of_one_output(ss: bytes) -> None:
    """Section 3.5: resume[i] = CPRF(ss[i], CONST_RESUME, 18)."""
    first, second = SessionSecret(Secret(ss), 3).resume_ids()
    assert (len(first), len(second)) == (9, 9)
    assert first + second == expand(ss, b"\x06", 18)


def test_peek_next_leaves_the_secret_as_it_is() -> None:
    secret = SessionSecret(Secret(SS), 4)
    identifiers = secret.resume_ids()
    following = secret.peek_next()
    assert following.index == 5
    assert following.resume_ids() != identifiers
    assert secret.resume_ids() == identifiers
    assert raw(following.take()) == expand(SS, b"\x01", 32)


@pytest.mark.parametrize(
    "act",
    [
        lambda secret: secret.use(0xA3, b""),
        lambda secret: secret.resume_ids(),
        lambda secret: secret.peek_next(),
        lambda secret: secret.take(),
    ],
    ids=["use", "resume_ids", "peek_next", "take"],
)
@pytest.mark.parametrize(
    "consume",
    [
        lambda secret: secret.use(0xA3, b""),
        lambda secret: secret.take(),
        lambda secret: secret.wipe(),
    ],
    ids=["used", "taken", "wiped"],
)
def test_a_session_secret_secures_one_connection(consume: object, act: object) -> None:
    """Section 3.5: ss[i] MUST NOT be used to secure more than one connection."""
    ss = Secret(SS)
    secret = SessionSecret(ss, 1)
    consume(secret)  # type: ignore[operator]
    assert ss.wiped
    with pytest.raises(RuntimeError):
        act(secret)  # type: ignore[operator]


def test_taken_secret_outlives_its_stage() -> None:
    assert raw(SessionSecret(Secret(SS), 1).take()) == SS


@pytest.mark.parametrize(("index", "length"), [(0, 1), (0, 16), (1, 49), (9, 64)])
def test_impossible_nonces_are_refused_and_consume_nothing(index: int, length: int) -> None:
    """Section 3.5: sn[0] is empty, each nonce has 0 to 8 bytes; a hash may follow."""
    secret = SessionSecret(Secret(SS), index)
    with pytest.raises(LocalError):
        secret.use(0xA3, bytes(length))
    assert secret.resume_ids()


@pytest.mark.parametrize("length", [0, 31, 33])
def test_session_secrets_have_32_bytes(length: int) -> None:
    with pytest.raises(LocalError):
        SessionSecret(Secret(bytes(length)))


def test_advance_wipes_the_former_master_key() -> None:
    mk = Secret(SS)
    master = MasterKey(mk)
    following = master.advance()
    assert mk.wiped
    assert following.generation == 1
    with pytest.raises(RuntimeError):
        master.advance()
    with pytest.raises(RuntimeError):
        master.traffic_keys(aead(AeadId.AES_128_GCM))


def test_wiped_master_key_gives_nothing() -> None:
    master = MasterKey(Secret(SS), 2)
    master.wipe()
    master.wipe()
    with pytest.raises(RuntimeError):
        master.advance()


def test_traffic_keys_wipe_both() -> None:
    keys = MasterKey(Secret(SS)).traffic_keys(aead(AeadId.CHACHA20_POLY1305))
    keys.wipe()
    assert keys.ab.wiped
    assert keys.ba.wiped


def test_nothing_shows_a_key() -> None:
    secret, master = SessionSecret(Secret(SS), 2), MasterKey(Secret(SS), 3)
    keys = master.traffic_keys(aead(AeadId.AES_128_GCM))
    assert repr(secret) == "<SessionSecret 2>"
    assert repr(master) == "<MasterKey 3>"
    assert repr(keys) == "TrafficKeys(ab=<Secret 28 bytes>, ba=<Secret 28 bytes>)"
    secret.wipe()
    master.wipe()
    assert repr(secret) == "<SessionSecret 2 wiped>"
    assert repr(master) == "<MasterKey 3 wiped>"
