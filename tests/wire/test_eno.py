"""RFC 8547 section 4: the ENO option."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.outcome import outcome

from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.wire.eno import EnoFound, Suboption, SynOption, ack_option, find_eno
from tcpcrypt.wire.profile import RFC8548, WireProfile

pytestmark = pytest.mark.usefixtures("fast_twin")

EXPERIMENTAL = dataclasses.replace(
    RFC8548, name="experimental", option_kind=253, option_exid=b"\x45\x4e"
)
"""The form of the drafts, as a profile of another dialect has it."""

IDENTIFIER = bytes.fromhex("a0a1a2a3a4a5a6a7a8")
NONCE = bytes.fromhex("0102030405060708")
TEPS = st.integers(0x20, 0x7F)
FIRSTS = st.lists(
    st.builds(Suboption, TEPS, st.none() | st.binary(min_size=1, max_size=32)), max_size=4
)
LASTS = st.builds(Suboption, TEPS, st.none() | st.binary(max_size=37))
SYN_OPTIONS = st.builds(
    SynOption,
    st.builds(lambda firsts, last: (*firsts, last), FIRSTS, LASTS) | st.just(()),
    st.integers(0, 3),
    st.booleans(),
)


def minimal_length(option: SynOption, exid_len: int) -> int:
    """Bytes that section 4.4 makes necessary."""
    length = 2 + exid_len + (1 if option.explicit_global or option.global_bits else 0)
    for index, suboption in enumerate(option.suboptions):
        length += 1 + len(suboption.data or b"")
        if suboption.data is not None and index < len(option.suboptions) - 1:
            length += 1
    return length


@given(SYN_OPTIONS, st.sampled_from([RFC8548, EXPERIMENTAL]))
def test_parse_gives_what_build_was_given(option: SynOption, profile: WireProfile) -> None:
    exid_len = len(profile.option_exid)
    length = minimal_length(option, exid_len)
    if length > 40:
        with pytest.raises(LocalError):
            option.build(profile)
        return
    raw = option.build(profile)
    assert raw[0] == profile.option_kind
    assert raw[1] == len(raw) == length
    assert raw[2 : 2 + exid_len] == profile.option_exid
    assert SynOption.parse(raw[2 + exid_len :], profile) == option
    assert find_eno(raw, profile) == EnoFound((raw,))


@given(st.binary(max_size=38))
def test_parsed_contents_can_be_built_again_to_the_same_value(contents: bytes) -> None:
    """Random contents end in a value or in one of two reasons (section 4.4)."""
    option = outcome(SynOption.parse, contents)
    if isinstance(option, PeerReason):
        assert option in (PeerReason.ENO_DATA_PAST_END, PeerReason.ENO_RESERVED_LENGTH)
        return
    if option.global_bits & 0x1C:
        with pytest.raises(LocalError):
            option.build()
        option = dataclasses.replace(option, global_bits=option.global_bits & 3)
    assert SynOption.parse(option.build()[2:]) == option


@pytest.mark.parametrize(
    ("option", "raw"),
    [
        (SynOption(()), "4502"),
        (SynOption((), explicit_global=True), "450300"),
        (SynOption((), 1), "450301"),
        (SynOption((Suboption(0x23),)), "450323"),
        (SynOption((Suboption(0x23),), explicit_global=True), "45040023"),
        (SynOption((Suboption(0x23),), 1, True), "45040123"),
        (SynOption((Suboption(0x23, b""),)), "4503a3"),
        (
            SynOption((Suboption(0x21), Suboption(0x23, IDENTIFIER + NONCE))),
            "451521a3a0a1a2a3a4a5a6a7a80102030405060708",
        ),
        (
            SynOption((Suboption(0x23, IDENTIFIER + NONCE), Suboption(0x21))),
            "451690a3a0a1a2a3a4a5a6a7a8010203040506070821",
        ),
        (
            SynOption((Suboption(0x23, IDENTIFIER + NONCE),), 1),
            "451501a3a0a1a2a3a4a5a6a7a80102030405060708",
        ),
        (SynOption((Suboption(0x23, b"\x05"), Suboption(0x24, b"\x06"))), "450780a305a406"),
    ],
)
def test_build_writes_a_length_byte_only_where_section_4_4_requires_one(
    option: SynOption, raw: str
) -> None:
    assert option.build().hex() == raw


def test_build_refuses_data_that_no_length_byte_announces() -> None:
    for data in (b"", bytes(33)):
        with pytest.raises(LocalError):
            SynOption((Suboption(0x23, data), Suboption(0x21))).build()
        SynOption((Suboption(0x21), Suboption(0x23, data))).build()


def test_build_refuses_what_a_tcp_header_cannot_hold() -> None:
    assert len(SynOption((Suboption(0x23, bytes(37)),)).build()) == 40
    with pytest.raises(LocalError):
        SynOption((Suboption(0x23, bytes(38)),)).build()
    with pytest.raises(LocalError):
        SynOption((Suboption(0x23, bytes(37)),)).build(EXPERIMENTAL)


@pytest.mark.parametrize("bits", [0x04, 0x1C, 0x20, 0x100, -1])
def test_reserved_global_bits_must_be_sent_as_zero(bits: int) -> None:
    """RFC 8547 section 4.2."""
    with pytest.raises(LocalError):
        SynOption((), bits).build()


@pytest.mark.parametrize("tep", [-1, 0, 0x1F, 0x80, 0xA3, 0x100])
def test_only_0x20_to_0x7f_identify_a_tep(tep: int) -> None:
    """RFC 8547 section 4.1."""
    with pytest.raises(LocalError):
        Suboption(tep)


def test_first_byte_carries_v() -> None:
    assert Suboption(0x23).first_byte == 0x23
    assert Suboption(0x23, b"").first_byte == 0xA3


def test_global_bits_by_name() -> None:
    """RFC 8547 section 4.2: b is 0x01, a is 0x02, the reserved bits are ignored."""
    option = SynOption.parse(b"\x1d")
    assert (option.b, option.application_aware, option.vacuous) == (True, False, True)
    option = SynOption.parse(b"\x1e\x23")
    assert (option.b, option.application_aware, option.vacuous) == (False, True, False)


def test_a_zero_global_suboption_equals_none() -> None:
    """RFC 8547 section 4.2: absent means 0x00."""
    assert SynOption.parse(b"\x00\x23") == SynOption.parse(b"\x23")


@pytest.mark.parametrize(("profile", "most"), [(RFC8548, 38), (EXPERIMENTAL, 36)])
def test_parse_refuses_more_than_a_tcp_header_holds(profile: WireProfile, most: int) -> None:
    assert len(SynOption.parse(b"\x23" * most, profile).suboptions) == most
    with pytest.raises(PeerError) as caught:
        SynOption.parse(b"\x23" * (most + 1), profile)
    assert caught.value.reason is PeerReason.OPTION_LENGTH


def test_ack_option_is_empty() -> None:
    """RFC 8547 section 4.1: in the non-SYN form tcpcrypt MUST send no contents."""
    assert ack_option() == b"\x45\x02"
    assert ack_option(EXPERIMENTAL) == b"\xfd\x04\x45\x4e"


@pytest.mark.parametrize(
    ("region", "options", "legacy"),
    [
        ("", [], False),
        ("020405b4", [], False),
        ("020405b4 45040123", ["45040123"], False),
        ("45040123 020405b4 4502", ["45040123", "4502"], False),
        ("4502 00 4502", ["4502"], False),
        ("fd05454e21", [], True),
        ("450323 fd05454e21", ["450323"], True),
        ("fd04f989", [], False),
        ("fd03 45", [], False),
        ("fd02", [], False),
        ("fe05454e21", [], False),
    ],
)
def test_find_gives_every_option_with_kind_and_length(
    region: str, options: list[str], legacy: bool
) -> None:
    """RFC 8547 sections 4.1, 4.8 and 11."""
    found = find_eno(bytes.fromhex(region))
    assert [option.hex() for option in found.options] == options
    assert found.legacy is legacy


def test_find_in_another_profile() -> None:
    region = bytes.fromhex("450323 fd05454e21 fd04f989 fd0345")
    assert find_eno(region, EXPERIMENTAL) == EnoFound((bytes.fromhex("fd05454e21"),), False)


@given(st.binary(max_size=44))
def test_find_ends_in_a_value_or_a_named_reason(region: bytes) -> None:
    found = outcome(find_eno, region)
    assert found is PeerReason.OPTION_LENGTH or isinstance(found, EnoFound)
