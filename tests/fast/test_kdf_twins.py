"""Both twins of key derivation, beside HMAC as the standard library has it."""

from __future__ import annotations

import hmac
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.registry import CONST_NEXTK, CONST_RESUME

EXPAND_MAX = 8160


def expanded(key: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 section 2.3."""
    out, last, number = b"", b"", 0
    while len(out) < length:
        number += 1
        last = hmac.digest(key, last + info + bytes((number,)), "sha256")
        out += last
    return out[:length]


@given(st.binary(max_size=100), st.binary(max_size=40), st.integers(1, 200))
def test_expand_is_hkdf(twins: list[ModuleType], key: bytes, info: bytes, length: int) -> None:
    for twin in twins:
        out = bytearray(length)
        twin.expand(memoryview(bytearray(key)), info, out)
        assert out == expanded(key, info, length)


def test_expand_yields_its_longest_output(twin: ModuleType) -> None:
    out = bytearray(EXPAND_MAX)
    twin.expand(bytes(32), b"info", memoryview(out))
    assert out == expanded(bytes(32), b"info", EXPAND_MAX)


@pytest.mark.parametrize("length", [0, EXPAND_MAX + 1])
def test_expand_refuses_other_lengths(twin: ModuleType, length: int) -> None:
    with pytest.raises(ValueError, match="1 to 8160"):
        twin.expand(bytes(32), b"", bytearray(length))


def test_expand_wants_buffers_of_the_right_kind(twin: ModuleType) -> None:
    for key, info, out in (
        ("text", b"", bytearray(32)),
        (bytes(32), "text", bytearray(32)),
        (bytes(32), b"", "text"),
    ):
        with pytest.raises(TypeError):
            twin.expand(key, info, out)
    with pytest.raises(BufferError):
        twin.expand(bytes(32), b"", bytes(32))


@given(st.binary(max_size=100), st.lists(st.binary(max_size=100), max_size=5))
def test_extract_is_hkdf(twins: list[ModuleType], salt: bytes, parts: list[bytes]) -> None:
    """RFC 5869 section 2.2, of all parts one behind the other."""
    for twin in twins:
        out = bytearray(32)
        twin.extract(salt, [memoryview(bytearray(part)) for part in parts], out)
        assert out == hmac.digest(salt, b"".join(parts), "sha256")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_extract_yields_32_bytes(twin: ModuleType, length: int) -> None:
    with pytest.raises(ValueError, match="yields 32 bytes"):
        twin.extract(b"salt", (b"input",), bytearray(length))


def test_extract_wants_buffers(twin: ModuleType) -> None:
    for salt, parts, out in (
        ("text", (), bytearray(32)),
        (b"", ("text",), bytearray(32)),
        (b"", (b"input", None), bytearray(32)),
        (b"", None, bytearray(32)),
        (b"", (), "text"),
    ):
        with pytest.raises(TypeError):
            twin.extract(salt, parts, out)
    with pytest.raises(BufferError):
        twin.extract(b"", (), bytes(32))


@given(st.binary(min_size=32, max_size=32), st.integers(1, 16), st.sampled_from([0, 1]))
def test_identifiers_are_halves_of_resume(
    twins: list[ModuleType], ss: bytes, steps: int, half: int
) -> None:
    names, current = [], ss
    for _ in range(steps):
        names.append(b"\xa3" + expanded(current, CONST_RESUME, 18)[9 * half : 9 * half + 9])
        current = expanded(current, CONST_NEXTK, 32)
    for twin in twins:
        secret = bytearray(ss)
        assert twin.resume_identifiers(secret, steps, half, b"\xa3") == tuple(names)
        assert secret == ss


@pytest.mark.parametrize(
    ("secret", "steps", "half", "prefix"),
    [
        (bytes(31), 1, 0, b""),
        (bytes(33), 1, 0, b""),
        (bytes(32), 0, 0, b""),
        (bytes(32), 1, 2, b""),
        (bytes(32), 1, -1, b""),
        (bytes(32), 1, 0, bytes(9)),
    ],
)
def test_identifiers_refuse_what_is_out_of_range(
    twin: ModuleType, secret: bytes, steps: int, half: int, prefix: bytes
) -> None:
    with pytest.raises(ValueError, match=r"range|32 bytes"):
        twin.resume_identifiers(secret, steps, half, prefix)
