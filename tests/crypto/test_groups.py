"""RFC 8548 section 5: public keys and shared secrets of the four TEPs."""

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.crypto.groups import GROUPS, KEYS_READY, EphemeralKey, group
from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.registry import Tep
from tcpcrypt.wire.profile import RFC8548

NIST = [Tep.ECDHE_P256, Tep.ECDHE_P521]
MONTGOMERY = [Tep.ECDHE_CURVE25519, Tep.ECDHE_CURVE448]
UNCOMPRESSED = dataclasses.replace(RFC8548, name="uncompressed", compressed_points=False)

P256 = 2**256 - 2**224 + 2**192 + 2**96 - 1
P521 = 2**521 - 1
ORDER_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def refused(key: EphemeralKey, peer_public: bytes) -> PeerReason:
    with pytest.raises(PeerError) as caught:
        key.agree(peer_public)
    return caught.value.reason


def point(length_field: int, octets: str) -> bytes:
    return length_field.to_bytes(2, "big") + bytes.fromhex(octets)


# private key, own public key, peer's public key, shared secret
KNOWN = {
    # RFC 7748 section 6.1
    Tep.ECDHE_CURVE25519: (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
    ),
    # RFC 7748 section 6.2
    Tep.ECDHE_CURVE448: (
        "9a8f4925d1519f5775cf46b04b5800d4ee9ee8bae8bc5565d498c28d"
        "d9c9baf574a9419744897391006382a6f127ab1d9ac2d8c0a598726b",
        "9b08f7cc31b7e3e67d22d5aea121074a273bd2b83de09c63faa73d2c"
        "22c5d9bbc836647241d953d40c5b12da88120d53177f80e532c41fa0",
        "3eb7a829b0cd20f5bcfc0b599b6feccf6da4627107bdb0d4f345b430"
        "27d8b972fc3e34fb4232a13ca706dcb57aec3dae07bdc1c67bf33609",
        "07fff4181ac6cc95ec1c16a94a0f74d12da232ce40a77552281d282b"
        "b60c0b56fd2464c335543936521c24403085d59a449a5037514a879d",
    ),
    # NIST CAVS 14.1, ECC CDH primitive, count 0; points compressed
    Tep.ECDHE_P256: (
        "7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534",
        "0023" "03" "ead218590119e8876b29146ff89ca61770c4edbbf97d38ce385ed281d8a6b230",
        "0023" "02" "700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287",
        "46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b",
    ),
    Tep.ECDHE_P521: (
        "017eecc07ab4b329068fba65e56a1f8890aa935e57134ae0ffcce802735151f4ea"
        "c6564f6ee9974c5e6887a1fefee5743ae2241bfeb95d5ce31ddcb6f9edb4d6fc47",
        "0045" "03"
        "00602f9d0cf9e526b29e22381c203c48a886c2b0673033366314f1ffbcba240ba4"
        "2f4ef38a76174635f91e6b4ed34275eb01c8467d05ca80315bf1a7bbd945f550a5",
        "0045" "02"
        "00685a48e86c79f0f0875f7bc18d25eb5fc8c0b07e5da4f4370f3a949034085433"
        "4b1e1b87fa395464c60626124a4e70d0f785601d37c09870ebf176666877a2046d",
        "005fc70477c3e63bc3954bd0df3ea0d1f41ee21746ed95fc5e1fdf90930d5e1366"
        "72d72cc770742d1711c3c3a4c334a0ad9759436a4d3c5bf6e74b9578fac148c831",
    ),
}  # fmt: skip


@pytest.mark.parametrize("tep", KNOWN, ids=lambda tep: tep.name)
def test_known_answers(tep: Tep) -> None:
    private, public, peer, shared = (bytes.fromhex(text) for text in KNOWN[tep])
    key = group(tep).from_private(private)
    assert key.public == public
    assert key.agree(peer).view() == shared
    assert key.agree(memoryview(peer)).view() == shared


@pytest.mark.parametrize(
    ("tep", "public_key_len", "shared_len"),
    [
        (Tep.ECDHE_P256, 35, 32),
        (Tep.ECDHE_P521, 69, 66),
        (Tep.ECDHE_CURVE25519, 32, 32),
        (Tep.ECDHE_CURVE448, 56, 56),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_sizes_of_section_5(tep: Tep, public_key_len: int, shared_len: int) -> None:
    curve = GROUPS[tep]
    one, other = curve.generate(), curve.generate()
    assert curve.public_key_len == len(one.public) == public_key_len
    assert curve.shared_len == len(one.agree(other.public)) == shared_len
    assert one.agree(other.public) == other.agree(one.public)
    assert one.public != other.public


def test_every_tep_of_rfc_8548_has_a_group() -> None:
    assert set(GROUPS) == set(Tep) - {Tep.EXPERIMENTAL}


@pytest.mark.parametrize("tep", [0x20, 0x25, 0xA3])
def test_other_teps_have_none(tep: int) -> None:
    with pytest.raises(LocalError):
        group(tep)


@pytest.mark.parametrize("tep", GROUPS)
def test_wiped_key_agrees_no_more(tep: int) -> None:
    key = group(tep).generate()
    assert repr(key) == "<EphemeralKey>"
    key.wipe()
    key.wipe()
    assert repr(key) == "<EphemeralKey wiped>"
    with pytest.raises(RuntimeError):
        key.agree(key.public)


@pytest.mark.parametrize("tep", GROUPS)
@given(junk=st.binary(max_size=80))
def test_junk_is_refused_with_a_reason(tep: int, junk: bytes) -> None:
    curve = group(tep)
    key = curve.from_private(b"\x01" * 32 + bytes(curve.shared_len - 32))
    reason = None
    try:
        key.agree(junk)
    except PeerError as error:
        reason = error.reason
    assert reason in {
        None,  # any 32 or 56 bytes are a key of the Montgomery curves
        PeerReason.INIT_PUBLIC_KEY_LENGTH,
        PeerReason.BAD_PUBLIC_KEY,
        PeerReason.ZERO_SHARED_SECRET,
    }


# --- Curve25519 and Curve448 ------------------------------------------------------

P25519 = 2**255 - 19
P448 = 2**448 - 2**224 - 1
ORDER_8 = [
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]
LOW_ORDER = [
    *(
        (Tep.ECDHE_CURVE25519, u, 32)
        for u in (0, 1, P25519 - 1, P25519, P25519 + 1, *ORDER_8, 1 << 255, (1 << 255) + 1)
    ),
    *((Tep.ECDHE_CURVE448, u, 56) for u in (0, 1, P448 - 1, P448, P448 + 1)),
]


@pytest.mark.parametrize(("tep", "u", "size"), LOW_ORDER, ids=lambda value: str(value)[:20])
def test_all_zero_shared_secret_must_abort(tep: Tep, u: int, size: int) -> None:
    """RFC 8548 section 5: MUST check the shared secret for all zeros, and abort."""
    key = group(tep).generate()
    assert refused(key, u.to_bytes(size, "little")) is PeerReason.ZERO_SHARED_SECRET


@pytest.mark.parametrize("tep", MONTGOMERY)
@pytest.mark.parametrize("change", [-1, 1])
def test_raw_keys_of_another_length(tep: Tep, change: int) -> None:
    curve = group(tep)
    octets = b"\x09" * (curve.public_key_len + change)
    assert refused(curve.generate(), octets) is PeerReason.INIT_PUBLIC_KEY_LENGTH
    with pytest.raises(LocalError):
        curve.from_private(octets)


# --- NIST curves ------------------------------------------------------------------


@pytest.mark.parametrize("tep", NIST)
def test_length_field_counts_itself_when_sent_and_may_not_when_received(tep: Tep) -> None:
    """Open point E2: send it inclusive, accept both."""
    one, other = group(tep).generate(), group(tep).generate()
    public = other.public
    assert int.from_bytes(public[:2], "big") == len(public)
    exclusive = (len(public) - 2).to_bytes(2, "big") + public[2:]
    assert one.agree(exclusive) == one.agree(public)


@pytest.mark.parametrize("tep", NIST)
def test_length_field_with_another_value(tep: Tep) -> None:
    key = group(tep).generate()
    size = len(key.public)
    for wrong in (0, 1, size - 3, size - 1, size + 1, 0xFFFF):
        octets = wrong.to_bytes(2, "big") + key.public[2:]
        assert refused(key, octets) is PeerReason.INIT_PUBLIC_KEY_LENGTH


@pytest.mark.parametrize("tep", NIST)
def test_keys_cut_short_or_too_long(tep: Tep) -> None:
    key = group(tep).generate()
    for octets in (b"", key.public[:1], key.public[:2], key.public[:-1], key.public + b"\x00"):
        assert refused(key, octets) is PeerReason.INIT_PUBLIC_KEY_LENGTH


@pytest.mark.parametrize("tep", NIST)
@pytest.mark.parametrize("lead", [0x00, 0x01, 0x04, 0x05, 0x06, 0x07, 0x82, 0xFF])
def test_forms_other_than_compressed_must_not_pass(tep: Tep, lead: int) -> None:
    """RFC 8548 section 5: keys are sent in compressed form; 00 would be infinity."""
    key = group(tep).generate()
    octets = key.public[:2] + bytes((lead,)) + key.public[3:]
    assert refused(key, octets) is PeerReason.BAD_PUBLIC_KEY


@pytest.mark.parametrize(
    ("tep", "length", "x"),
    [
        # x**3 - 3x + b is no square
        (Tep.ECDHE_P256, 32, 1),
        (Tep.ECDHE_P521, 66, 3),
        # x is not in the field
        (Tep.ECDHE_P256, 32, P256),
        (Tep.ECDHE_P256, 32, 2**256 - 1),
        (Tep.ECDHE_P521, 66, P521),
        (Tep.ECDHE_P521, 66, 2**521),
        (Tep.ECDHE_P521, 66, 2**528 - 1),
    ],
)
def test_received_points_must_be_validated(tep: Tep, length: int, x: int) -> None:
    """RFC 8548 section 5: coordinates in the field, point on the curve."""
    key = group(tep).generate()
    for lead in ("02", "03"):
        octets = point(length + 3, lead + x.to_bytes(length, "big").hex())
        assert refused(key, octets) is PeerReason.BAD_PUBLIC_KEY


def test_x_at_or_above_p_is_refused_where_its_residue_is_a_point() -> None:
    """P-256 has points with x = 0 and x = 5; p and p + 5 would be aliases of them."""
    key = group(Tep.ECDHE_P256).generate()
    for x in (0, 5):
        assert len(key.agree(point(35, "02" + x.to_bytes(32, "big").hex()))) == 32
        alias = (P256 + x).to_bytes(32, "big")
        assert refused(key, point(35, "02" + alias.hex())) is PeerReason.BAD_PUBLIC_KEY


def test_shared_secret_keeps_its_leading_zeros() -> None:
    """Open point E3: ES is a fixed-length string."""
    one = group(Tep.ECDHE_P256).from_private(b"\x02")
    scalar = next(
        n
        for n in range(1, 2000)
        if one.agree(group(Tep.ECDHE_P256).from_private(n.to_bytes(2, "big")).public).view()[0] == 0
    )
    shared = one.agree(group(Tep.ECDHE_P256).from_private(scalar.to_bytes(2, "big")).public)
    assert len(shared) == 32
    assert shared.view()[0] == 0


@pytest.mark.parametrize("scalar", [0, ORDER_P256, 2**256 - 1])
def test_scalars_out_of_range(scalar: int) -> None:
    with pytest.raises(LocalError):
        group(Tep.ECDHE_P256).from_private(scalar.to_bytes(32, "big"))


@pytest.mark.parametrize("tep", NIST)
def test_scalars_longer_than_the_field(tep: Tep) -> None:
    with pytest.raises(LocalError):
        group(tep).from_private(bytes(group(tep).shared_len) + b"\x01")


@pytest.mark.parametrize("tep", NIST)
def test_a_profile_with_uncompressed_points_takes_those_alone(tep: Tep) -> None:
    plain = group(tep, UNCOMPRESSED)
    one, other = plain.generate(), plain.generate()
    assert one.public[2] == 4
    assert plain.public_key_len == len(one.public) == 3 + 2 * plain.shared_len
    assert one.agree(other.public) == other.agree(one.public)
    off_curve = bytearray(other.public)
    off_curve[-1] ^= 1
    assert refused(one, bytes(off_curve)) is PeerReason.BAD_PUBLIC_KEY
    hybrid = other.public[:2] + b"\x06" + other.public[3:]
    assert refused(one, hybrid) is PeerReason.BAD_PUBLIC_KEY
    compressed = group(tep).generate().public
    assert refused(one, compressed) is PeerReason.INIT_PUBLIC_KEY_LENGTH


@pytest.mark.parametrize("tep", MONTGOMERY)
def test_the_form_of_points_does_not_touch_the_other_curves(tep: Tep) -> None:
    assert group(tep, UNCOMPRESSED) is group(tep)


@pytest.mark.parametrize("tep", GROUPS)
def test_key_pairs_made_ahead_are_given_out_once(tep: Tep) -> None:
    curve = group(tep)
    while curve.ready:
        curve.generate()
    for count in range(1, 4):
        assert curve.prepare()
        assert curve.ready == count
    keys = [curve.generate() for _ in range(4)]
    assert curve.ready == 0
    assert len({key.public for key in keys}) == 4
    assert keys[0].agree(keys[3].public) == keys[3].agree(keys[0].public)


def test_no_more_are_made_ahead_than_may_wait() -> None:
    curve = group(Tep.ECDHE_CURVE25519)
    while curve.prepare():
        assert curve.ready <= KEYS_READY
    assert curve.ready == KEYS_READY == 64


def test_a_process_that_forks_leaves_no_key_pair_to_its_child() -> None:
    curve = group(Tep.ECDHE_CURVE25519)
    curve.prepare()
    child = os.fork()
    if not child:
        os._exit(curve.ready)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert curve.ready
