"""RFC 8548 section 4.2: frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.outcome import outcome

from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.wire.frame import Flags, FrameHeader, Plaintext, max_data, sealed_size

TAG = 16


def test_header_layout() -> None:
    header = FrameHeader(1, 0x1234)
    assert header.build() == bytes.fromhex("01 1234")
    assert FrameHeader(0, 0).build() == bytes(3)
    assert FrameHeader.parse(b"\x01\x12\x34ciphertext", TAG) == header
    assert header.frame_len == 3 + 0x1234


@given(st.integers(0, 0xFF), st.integers(17, 0xFFFF))
def test_header_parse_gives_what_build_was_given(control: int, length: int) -> None:
    header = FrameHeader(control, length)
    assert FrameHeader.parse(header.build(), TAG) == header


@given(st.binary(max_size=5), st.sampled_from([0, 8, 16]))
def test_header_ends_in_a_value_or_a_named_reason(data: bytes, tag_len: int) -> None:
    header = outcome(FrameHeader.parse, data, tag_len)
    if isinstance(header, PeerReason):
        assert header is PeerReason.FRAME_TOO_SHORT
        assert len(data) < 3 or int.from_bytes(data[1:3], "big") < tag_len + 1
    else:
        # Reserved bits of the control byte are associated data like the rest.
        assert header.build() == data[:3]


@pytest.mark.parametrize("clen", [0, 1, 15, 16])
def test_clen_below_flags_and_tag_is_named(clen: int) -> None:
    """Section 4.2.1: 17 bytes at least with a tag of 16."""
    with pytest.raises(PeerError) as caught:
        FrameHeader.parse(bytes((0, 0, clen)), TAG)
    assert caught.value.reason is PeerReason.FRAME_TOO_SHORT
    assert FrameHeader.parse(b"\0\0\x11", TAG).length == 17


@pytest.mark.parametrize(("control", "rekey"), [(0, False), (1, True), (0xFE, False), (0xFF, True)])
def test_only_bit_0_of_control_means_rekey(control: int, rekey: bool) -> None:
    """Section 4.2.1: cres is ignored."""
    assert FrameHeader(control, 17).rekey is rekey


@pytest.mark.parametrize(("control", "length"), [(-1, 17), (256, 17), (0, -1), (0, 0x10000)])
def test_header_fields_that_do_not_fit_are_refused(control: int, length: int) -> None:
    with pytest.raises(LocalError):
        FrameHeader(control, length).build()


def test_flags_by_number() -> None:
    """Section 4.2.2."""
    assert Flags.FINP == 1
    assert Flags.URGP == 2


@pytest.mark.parametrize(
    ("plaintext", "raw"),
    [
        (Plaintext(b""), "00"),
        (Plaintext(b"ab"), "006162"),
        (Plaintext(b"", fin=True), "01"),
        (Plaintext(b"ab", urgent=0x0102), "0201026162"),
        (Plaintext(b"", fin=True, urgent=0), "030000"),
    ],
)
def test_plaintext_layout(plaintext: Plaintext, raw: str) -> None:
    assert plaintext.build().hex() == raw
    assert Plaintext.parse(bytes.fromhex(raw)) == plaintext


@given(
    st.builds(Plaintext, st.binary(max_size=50), st.booleans(), st.none() | st.integers(0, 65535))
)
def test_plaintext_parse_gives_what_build_was_given(plaintext: Plaintext) -> None:
    assert Plaintext.parse(plaintext.build()) == plaintext


def test_reserved_flags_are_ignored() -> None:
    """Section 4.2.2: fres."""
    assert Plaintext.parse(b"\xfcx") == Plaintext(b"x")
    assert Plaintext.parse(b"\xfdx") == Plaintext(b"x", fin=True)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", PeerReason.FRAME_TOO_SHORT),
        ("02", PeerReason.FRAME_URGENT_TRUNCATED),
        ("0300", PeerReason.FRAME_URGENT_TRUNCATED),
    ],
)
def test_plaintext_faults_are_named(raw: str, reason: PeerReason) -> None:
    with pytest.raises(PeerError) as caught:
        Plaintext.parse(bytes.fromhex(raw))
    assert caught.value.reason is reason


@given(st.binary(max_size=6))
def test_plaintext_ends_in_a_value_or_a_named_reason(raw: bytes) -> None:
    plaintext = outcome(Plaintext.parse, raw)
    if isinstance(plaintext, PeerReason):
        assert plaintext in (PeerReason.FRAME_TOO_SHORT, PeerReason.FRAME_URGENT_TRUNCATED)
    else:
        assert plaintext.build()[1:] == raw[1:]


@pytest.mark.parametrize("urgent", [-1, 0x10000])
def test_urgent_is_16_bits(urgent: int) -> None:
    with pytest.raises(LocalError):
        Plaintext(b"", urgent=urgent).build()


def test_max_data() -> None:
    """Section 4.2: clen is at most 65535 and counts flags, urgent and tag."""
    assert max_data(TAG) == 65518
    assert max_data(TAG, urgent=True) == 65516
    assert len(Plaintext(bytes(65518)).build()) + TAG == 0xFFFF
    assert len(Plaintext(bytes(65516), urgent=0).build()) + TAG == 0xFFFF


@pytest.mark.parametrize(
    ("length", "frame_data", "urgent", "size"),
    [
        (0, 1400, False, 20),
        (0, 1400, True, 22),
        (1, 1400, False, 21),
        (1400, 1400, False, 1420),
        (1401, 1400, False, 1441),
        (2800, 1400, True, 2842),
        (65518, 65518, False, 65538),
        (3, 1, False, 63),
    ],
)
def test_sealed_size(length: int, frame_data: int, urgent: bool, size: int) -> None:
    assert sealed_size(length, frame_data, TAG, urgent) == size


@given(st.integers(0, 5000), st.integers(1, 2000), st.booleans())
def test_sealed_size_is_that_of_the_frames(length: int, frame_data: int, urgent: bool) -> None:
    data = bytes(length)
    cuts = range(0, length, frame_data) or [0]
    frames = [
        Plaintext(data[at : at + frame_data], urgent=7 if urgent and at == 0 else None)
        for at in cuts
    ]
    total = sum(FrameHeader(0, len(frame.build()) + TAG).frame_len for frame in frames)
    assert sealed_size(length, frame_data, TAG, urgent) == total


@pytest.mark.parametrize(
    ("length", "frame_data", "urgent"),
    [(-1, 10, False), (10, 0, False), (10, -1, False), (10, 65519, False), (10, 65517, True)],
)
def test_sealed_size_refuses_what_no_frame_holds(
    length: int, frame_data: int, urgent: bool
) -> None:
    with pytest.raises(LocalError):
        sealed_size(length, frame_data, TAG, urgent)
