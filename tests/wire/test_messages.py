"""RFC 8548 section 4.1: Init1 and Init2."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.outcome import outcome

from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.registry import INIT1_MAGIC, INIT2_MAGIC
from tcpcrypt.wire.messages import Init1, Init2, message_length
from tcpcrypt.wire.profile import RFC8548, WireProfile

ONE_BYTE_CIPHERS = dataclasses.replace(RFC8548, name="one-byte ciphers", cipher_id_len=1)
N_A = bytes(range(0x40, 0x60))
N_B = bytes(range(0x60, 0x80))
PUB_A = bytes(range(0x80, 0xA0))
PUB_B = bytes(range(0xA0, 0xC0))
INIT1 = bytes.fromhex("15101a0e 0000004f 03 0001 0002 0010") + N_A + PUB_A
"""X25519, three AEADs: 79 bytes."""
INIT2 = bytes.fromhex("097105e0 0000004a 0010") + N_B + PUB_B
"""X25519: 74 bytes."""

CIPHERS = st.lists(st.integers(1, 0xFFFF), min_size=1, max_size=255).map(tuple)
NONCES = st.binary(min_size=32, max_size=32)
KEYS = st.sampled_from([32, 35, 56, 69]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
TAILS = st.binary(max_size=40)


def test_init1_layout() -> None:
    init1 = Init1((1, 2, 0x10), N_A, PUB_A)
    assert init1.build() == INIT1
    assert len(INIT1) == 79
    assert Init1.parse(INIT1, 32) == init1


def test_init2_layout() -> None:
    init2 = Init2(0x10, N_B, PUB_B)
    assert init2.build() == INIT2
    assert len(INIT2) == 74
    assert Init2.parse(INIT2, 32) == init2


@given(CIPHERS, NONCES, KEYS, TAILS)
def test_parse_gives_what_build_was_given(
    ciphers: tuple[int, ...], nonce: bytes, key: bytes, tail: bytes
) -> None:
    init1 = Init1(ciphers, nonce, key, tail)
    assert Init1.parse(init1.build(), len(key)) == init1
    init2 = Init2(ciphers[0], nonce, key, tail)
    assert Init2.parse(init2.build(), len(key)) == init2


@given(st.lists(st.integers(1, 0xFF), min_size=1, max_size=255).map(tuple), NONCES, KEYS)
def test_width_of_ciphers_is_the_profile_s(
    ciphers: tuple[int, ...], nonce: bytes, key: bytes
) -> None:
    init1 = Init1(ciphers, nonce, key)
    raw = init1.build(ONE_BYTE_CIPHERS)
    assert len(raw) == 9 + len(ciphers) + 32 + len(key)
    assert Init1.parse(raw, len(key), ONE_BYTE_CIPHERS) == init1
    init2 = Init2(ciphers[0], nonce, key)
    raw = init2.build(ONE_BYTE_CIPHERS)
    assert len(raw) == 9 + 32 + len(key)
    assert Init2.parse(raw, len(key), ONE_BYTE_CIPHERS) == init2


def test_tail_is_kept_and_counted() -> None:
    """Section 4.1: "ignored" bytes are part of the message, which PRK hashes whole."""
    raw = Init1((1,), N_A, PUB_A, b"tail").build()
    assert raw[4:8] == (41 + 2 + 32 + 4).to_bytes(4, "big")
    assert raw.endswith(PUB_A + b"tail")
    assert Init1.parse(raw, 32).tail == b"tail"
    assert Init1.parse(raw, 30).public_key == PUB_A[:30]


@pytest.mark.parametrize("count", [0, 256])
def test_init1_offers_1_to_255_ciphers(count: int) -> None:
    with pytest.raises(LocalError):
        Init1((1,) * count, N_A, PUB_A).build()
    assert Init1.parse(Init1((1,) * 255, N_A, PUB_A).build(), len(PUB_A)).ciphers == (1,) * 255


@pytest.mark.parametrize(
    ("cipher", "profile"),
    [(0, RFC8548), (-1, RFC8548), (0x10000, RFC8548), (0x100, ONE_BYTE_CIPHERS)],
)
def test_ciphers_that_do_not_exist_are_not_sent(cipher: int, profile: WireProfile) -> None:
    with pytest.raises(LocalError):
        Init1((1, cipher), N_A, PUB_A).build(profile)
    with pytest.raises(LocalError):
        Init2(cipher, N_B, PUB_B).build(profile)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_nonces_are_32_bytes(size: int) -> None:
    """RFC 8548 section 5: N_A_LEN = N_B_LEN = 32."""
    with pytest.raises(LocalError):
        Init1((1,), bytes(size), PUB_A).build()
    with pytest.raises(LocalError):
        Init2(1, bytes(size), PUB_B).build()


def reason_of(kind: type[Init1 | Init2], raw: bytes, key_len: int = 32) -> PeerReason:
    with pytest.raises(PeerError) as caught:
        kind.parse(raw, key_len)
    return caught.value.reason


def test_wrong_magic_is_named() -> None:
    assert reason_of(Init1, INIT2) is PeerReason.INIT_MAGIC
    assert reason_of(Init2, INIT1) is PeerReason.INIT_MAGIC
    assert reason_of(Init1, b"GET / HTTP/1.1\r\n\r\n") is PeerReason.INIT_MAGIC


def test_a_message_cut_short_is_named() -> None:
    for cut in range(79):
        assert reason_of(Init1, INIT1[:cut]) is PeerReason.INIT_TOO_SHORT
    for cut in range(74):
        assert reason_of(Init2, INIT2[:cut]) is PeerReason.INIT_TOO_SHORT


def test_more_bytes_than_message_len_are_named() -> None:
    assert reason_of(Init1, INIT1 + b"\0") is PeerReason.INIT_TOO_LONG
    assert reason_of(Init2, INIT2 + b"\0") is PeerReason.INIT_TOO_LONG


def test_a_message_without_room_for_its_fixed_part_is_named() -> None:
    """message_len is consistent, yet the last byte of the key is not there."""
    assert reason_of(Init1, INIT1, 33) is PeerReason.INIT_TOO_SHORT
    assert reason_of(Init2, INIT2, 33) is PeerReason.INIT_TOO_SHORT
    many = INIT1[:8] + b"\xff" + INIT1[9:]
    assert reason_of(Init1, many) is PeerReason.INIT_TOO_SHORT
    least = INIT1_MAGIC + (41).to_bytes(4, "big") + bytes(33)
    assert reason_of(Init1, least) is PeerReason.INIT_TOO_SHORT


def test_an_offer_of_nothing_is_named() -> None:
    raw = INIT1_MAGIC + (73).to_bytes(4, "big") + b"\0" + N_A + PUB_A
    assert reason_of(Init1, raw) is PeerReason.INIT_NO_CIPHERS


def test_unknown_ciphers_are_kept_for_the_caller_to_judge() -> None:
    raw = bytearray(INIT1)
    raw[9:15] = bytes.fromhex("0000 ffff 0001")
    assert Init1.parse(raw, 32).ciphers == (0, 0xFFFF, 1)


@given(
    st.sampled_from([INIT1_MAGIC, INIT2_MAGIC, b""]),
    st.binary(max_size=200),
    st.booleans(),
    st.sampled_from([32, 35, 56, 69]),
)
def test_random_bytes_end_in_a_value_or_a_named_reason(
    magic: bytes, rest: bytes, consistent: bool, key_len: int
) -> None:
    raw = magic + rest
    if consistent:
        raw = magic + (len(raw) + 4).to_bytes(4, "big") + rest
    for kind in (Init1, Init2):
        value = outcome(kind.parse, raw, key_len)
        if isinstance(value, PeerReason):
            assert value.name.startswith("INIT_")
        else:
            assert len(value.nonce) == 32
            assert len(value.public_key) == key_len
            assert raw.endswith(value.nonce + value.public_key + value.tail)


def test_message_length_waits_for_eight_bytes() -> None:
    for have in range(8):
        assert message_length(INIT1[:have], INIT1_MAGIC, 4096) is None
    assert message_length(INIT1[:8], INIT1_MAGIC, 4096) == 79
    assert message_length(INIT1 + b"frames", INIT1_MAGIC, 4096) == 79
    assert message_length(memoryview(INIT2), INIT2_MAGIC, 74) == 74


@pytest.mark.parametrize("good", [0, 1, 2, 3])
def test_message_length_sees_a_wrong_magic_at_its_first_wrong_byte(good: int) -> None:
    prefix = INIT1_MAGIC[:good] + b"\x7f"
    with pytest.raises(PeerError) as caught:
        message_length(prefix, INIT1_MAGIC, 4096)
    assert caught.value.reason is PeerReason.INIT_MAGIC


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (0, PeerReason.INIT_TOO_SHORT),
        (7, PeerReason.INIT_TOO_SHORT),
        (40, PeerReason.INIT_TOO_SHORT),
        (41, None),
        (4096, None),
        (4097, PeerReason.INIT_TOO_LONG),
        (0xFFFFFFFF, PeerReason.INIT_TOO_LONG),
    ],
)
def test_message_length_is_bounded(length: int, reason: PeerReason | None) -> None:
    """RFC 8548 section 4.1: the field has 32 bits, a host's memory does not."""
    prefix = INIT2_MAGIC + length.to_bytes(4, "big")
    if reason is None:
        assert message_length(prefix, INIT2_MAGIC, 4096) == length
        return
    with pytest.raises(PeerError) as caught:
        message_length(prefix, INIT2_MAGIC, 4096)
    assert caught.value.reason is reason


@given(st.binary(max_size=20), st.integers(0, 1 << 33))
def test_message_length_ends_in_a_value_or_a_named_reason(prefix: bytes, limit: int) -> None:
    length = outcome(message_length, prefix, INIT1_MAGIC, limit)
    if isinstance(length, PeerReason):
        assert length.name.startswith("INIT_")
    else:
        assert length is None or 41 <= length <= limit
