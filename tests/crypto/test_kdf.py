"""RFC 8548 section 3.1: Extract and CPRF are HKDF with SHA-256 (RFC 5869)."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.crypto.kdf import CPRF_MAX, cprf, extract
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError

# RFC 5869 appendix A.1 to A.3: IKM, salt, info, PRK, OKM
RFC_5869 = {
    "A.1": (
        b"\x0b" * 22,
        bytes(range(13)),
        bytes(range(0xF0, 0xFA)),
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    "A.2": (
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c6"
        "5e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    "A.3": (
        b"\x0b" * 22,
        b"",
        b"",
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
}


@pytest.mark.parametrize("case", RFC_5869)
def test_known_answers_of_rfc_5869(case: str) -> None:
    ikm, salt, info, prk, okm = RFC_5869[case]
    extracted = extract(salt, ikm)
    assert bytes(extracted.view()).hex() == prk
    assert bytes(cprf(extracted, info, len(okm) // 2).view()).hex() == okm


@given(st.binary(max_size=80), st.lists(st.binary(max_size=40), max_size=5))
def test_extract_is_hmac_over_the_parts_in_a_row(salt: bytes, parts: list[bytes]) -> None:
    expected = hmac.digest(salt, b"".join(parts), "sha256")
    assert extract(salt, *parts).view() == expected
    assert extract(bytearray(salt), *map(Secret, parts)).view() == expected
    assert extract(memoryview(salt), *map(bytearray, parts)).view() == expected


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=20), st.integers(1, 100))
def test_cprf_chains_its_blocks(key: bytes, info: bytes, length: int) -> None:
    blocks, last = b"", b""
    for number in range(1, 5):
        last = hmac.new(key, last + info + bytes((number,)), hashlib.sha256).digest()
        blocks += last
    assert cprf(Secret(key), info, length).view() == blocks[:length]


@pytest.mark.parametrize("length", [-1, 0, CPRF_MAX + 1])
def test_cprf_refuses_lengths_that_hkdf_cannot_yield(length: int) -> None:
    with pytest.raises(LocalError):
        cprf(Secret(bytes(32)), b"", length)


def test_cprf_yields_its_longest_output() -> None:
    assert len(cprf(Secret(bytes(32)), b"", CPRF_MAX)) == CPRF_MAX


def test_cprf_refuses_a_wiped_key() -> None:
    key = Secret(bytes(32))
    key.wipe()
    with pytest.raises(RuntimeError):
        cprf(key, b"", 32)
