"""RFC 8548 section 5: Wycheproof's key agreements through `tcpcrypt.crypto.groups`."""

import dataclasses
from functools import lru_cache

import pytest
from wycheproof.cases import Case, cases

from tcpcrypt.crypto.groups import EphemeralKey, group
from tcpcrypt.errors import PeerError, PeerReason
from tcpcrypt.registry import Tep
from tcpcrypt.wire.profile import RFC8548, WireProfile

UNCOMPRESSED = dataclasses.replace(RFC8548, name="uncompressed", compressed_points=False)
"""The dialect whose points are not compressed; both validate."""
REFUSALS = {PeerReason.BAD_PUBLIC_KEY, PeerReason.INIT_PUBLIC_KEY_LENGTH}


def agreed(key: EphemeralKey, public: bytes) -> bytes | PeerReason:
    try:
        with key.agree(public) as shared:
            return bytes(shared.view())
    except PeerError as error:
        return error.reason


@pytest.mark.parametrize(
    ("file", "tep"), [("x25519", Tep.ECDHE_CURVE25519), ("x448", Tep.ECDHE_CURVE448)]
)
def test_48_5_montgomery_curves(file: str, tep: Tep) -> None:
    """Every u-coordinate, on the twist and non-canonical too, but none that gives zero."""
    for case in cases(file):
        got = agreed(group(tep).from_private(case["private"]), case["public"])
        if "PublicKeyTooLong" in case.flags:
            assert got is PeerReason.INIT_PUBLIC_KEY_LENGTH, str(case)
        elif "ZeroSharedSecret" in case.flags or not any(case["shared"]):
            assert got is PeerReason.ZERO_SHARED_SECRET, str(case)
        else:
            assert case.result in {"valid", "acceptable"}, str(case)
            assert got == case["shared"], str(case)


@lru_cache(maxsize=512)
def private_key(tep: Tep, scalar: bytes, profile: WireProfile) -> EphemeralKey:
    return group(tep, profile).from_private(scalar.lstrip(b"\x00"))


def agree(tep: Tep, case: Case, point: bytes, profile: WireProfile) -> bytes | PeerReason:
    public = (2 + len(point)).to_bytes(2, "big") + point
    return agreed(private_key(tep, case["private"], profile), public)


@pytest.mark.parametrize("form", ["", "_ecpoint"])
@pytest.mark.parametrize(
    ("curve", "tep"), [("ecdh_secp256r1", Tep.ECDHE_P256), ("ecdh_secp521r1", Tep.ECDHE_P521)]
)
def test_48_5_nist_curves(curve: str, tep: Tep, form: str) -> None:
    """Points are validated in either form, and refused in the form of the other dialect."""
    for case in cases(curve + form):
        point = case.point
        assert point is not None
        compressed = point[:1] in {b"\x02", b"\x03"}
        own, other = (RFC8548, UNCOMPRESSED) if compressed else (UNCOMPRESSED, RFC8548)
        got = agree(tep, case, point, own)
        if case.result == "invalid":
            assert got in REFUSALS, str(case)
        else:
            assert got == case["shared"], str(case)
        assert agree(tep, case, point, other) in REFUSALS, str(case)


@pytest.mark.parametrize(
    ("curve", "tep"), [("ecdh_secp256r1", Tep.ECDHE_P256), ("ecdh_secp521r1", Tep.ECDHE_P521)]
)
def test_48_5_valid_points_as_rfc_8548_sends_them(curve: str, tep: Tep) -> None:
    """The same points compressed: what the cases of the other form say of RFC 8548."""
    for case in cases(f"{curve}_ecpoint"):
        point = case.point or b""
        if case.result == "valid":
            size = len(point) // 2
            compressed = bytes([2 + (point[-1] & 1)]) + point[1 : 1 + size]
            assert agree(tep, case, compressed, RFC8548) == case["shared"], str(case)
