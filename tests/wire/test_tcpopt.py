"""RFC 9293 section 3.1: option regions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.wire import tcpopt
from tcpcrypt.wire.tcpopt import TcpOption

pytestmark = pytest.mark.usefixtures("fast_twin")

LINUX_SYN = bytes.fromhex("020405b4 0402 080a1122334455667788 01 030307")
"""MSS, SACK-permitted, timestamps, NOP, window scale: 20 bytes."""
LINUX_ACK = bytes.fromhex("0101 080a1122334455667788")
ENO_21 = bytes.fromhex("4515 01 a3 a0a1a2a3a4a5a6a7a8 0102030405060708")
"""A SYN-ACK's option that resumes (RFC 8548 section 3.5)."""
ENO_ACK = bytes.fromhex("4502")

OPTIONS = st.lists(
    st.builds(TcpOption, st.integers(2, 255), st.binary(max_size=12)), max_size=6
).filter(lambda options: sum(len(option.build()) for option in options) <= 40)
REGIONS = st.lists(
    st.just(b"\x01") | st.builds(TcpOption, st.integers(2, 255), st.binary(max_size=10)), max_size=8
).map(lambda parts: b"".join(p if isinstance(p, bytes) else p.build() for p in parts)[:40])
RAW = st.builds(TcpOption, st.integers(2, 255), st.binary(max_size=38)).map(TcpOption.build)


@given(OPTIONS)
def test_parse_gives_what_build_was_given(options: list[TcpOption]) -> None:
    region = tcpopt.build_options(options)
    assert len(region) % 4 == 0
    assert len(region) <= 40
    assert tcpopt.parse_options(region) == tuple(options)


@given(st.binary(max_size=44))
def test_random_regions_end_in_a_value_or_a_named_reason(region: bytes) -> None:
    functions: list[Callable[[bytes], object]] = [
        tcpopt.parse_options,
        tcpopt.room,
        tcpopt.mss,
        lambda r: tcpopt.insert_option(r, ENO_ACK),
        lambda r: tcpopt.remove_option(r, 69),
        lambda r: tcpopt.replace_mss(r, 1400),
    ]
    try:
        tcpopt.parse_options(region)
        good = True
    except PeerError:
        good = False
    for function in functions:
        if good:
            function(region)
        else:
            with pytest.raises(PeerError) as caught:
                function(region)
            assert caught.value.reason is PeerReason.OPTION_LENGTH


def test_parse_leaves_padding_out_and_keeps_order() -> None:
    assert tcpopt.parse_options(LINUX_SYN) == (
        TcpOption(2, b"\x05\xb4"),
        TcpOption(4, b""),
        TcpOption(8, bytes.fromhex("1122334455667788")),
        TcpOption(3, b"\x07"),
    )


@pytest.mark.parametrize("kind", [-1, 0, 1, 256])
def test_padding_is_no_option(kind: int) -> None:
    with pytest.raises(LocalError):
        TcpOption(kind, b"")


def test_an_option_has_at_most_38_data_bytes() -> None:
    assert len(TcpOption(69, bytes(38)).build()) == 40
    with pytest.raises(LocalError):
        TcpOption(69, bytes(39))


def test_build_refuses_more_than_40_bytes() -> None:
    assert len(tcpopt.build_options([TcpOption(69, bytes(18))] * 2)) == 40
    with pytest.raises(LocalError):
        tcpopt.build_options([TcpOption(69, bytes(18)), TcpOption(69, bytes(19))])


def test_linux_syn_has_room_for_21_bytes() -> None:
    """RFC 8548 section 3.5's longest answer fits once the NOP has gone: 19 + 21 = 40."""
    assert tcpopt.room(LINUX_SYN) == len(ENO_21) == 21
    assert tcpopt.insert_option(LINUX_SYN, ENO_21) == (
        bytes.fromhex("020405b4 0402 080a1122334455667788 030307") + ENO_21
    )


def test_insert_keeps_the_layout_where_it_fits() -> None:
    option = bytes.fromhex("4504 01 23")
    assert tcpopt.insert_option(LINUX_SYN, option) == LINUX_SYN + option
    assert tcpopt.insert_option(LINUX_ACK, ENO_ACK) == LINUX_ACK + ENO_ACK + bytes(2)
    twenty = ENO_21[:1] + b"\x14" + ENO_21[2:20]
    assert tcpopt.insert_option(LINUX_SYN, twenty) == LINUX_SYN + twenty


def test_insert_into_nothing() -> None:
    assert tcpopt.insert_option(b"", ENO_ACK) == ENO_ACK + bytes(2)


@pytest.mark.parametrize("padding", ["00", "0000", "0101", "0100", "00ffff", "010101"])
def test_insert_takes_the_place_of_padding_at_the_end(padding: str) -> None:
    region = bytes.fromhex("020405b4" + padding)
    assert tcpopt.insert_option(region, ENO_ACK) == bytes.fromhex("020405b4 4502 0000")
    assert tcpopt.insert_option(bytes.fromhex(padding), ENO_ACK) == ENO_ACK + bytes(2)


def test_insert_compacts_nops_between_all_options() -> None:
    region = bytes.fromhex("01 020405b4 01 0402 0101 080a1122334455667788 01 030307 01")
    assert len(region) == 25
    assert tcpopt.insert_option(region, ENO_21) == tcpopt.insert_option(LINUX_SYN, ENO_21)


def test_insert_gives_none_where_even_compaction_does_not_help() -> None:
    assert tcpopt.insert_option(LINUX_SYN, b"\x45\x16" + bytes(20)) is None
    assert tcpopt.insert_option(b"\x02\x04\x05\xb4", b"\x45\x25" + bytes(35)) is None


def test_sack_leaves_room_for_the_acknowledgement_option_only_when_it_can() -> None:
    """A timestamp and three SACK blocks fill all 40 bytes; without NOPs 36."""
    three = LINUX_ACK + bytes.fromhex("0101 051a") + bytes(24)
    assert len(three) == 40
    assert tcpopt.room(three) == 4
    inserted = tcpopt.insert_option(three, ENO_ACK)
    assert inserted is not None
    assert [option.kind for option in tcpopt.parse_options(inserted)] == [8, 5, 69]


@pytest.mark.parametrize(
    "option",
    [
        "",
        "45",
        "00",
        "01",
        "0102",
        "0002",
        "4503",
        "4501",
        "450200",
        "4502 4502",
        "4529" + "00" * 39,
    ],
)
def test_what_is_inserted_is_exactly_one_option(option: str) -> None:
    with pytest.raises(LocalError):
        tcpopt.insert_option(b"", bytes.fromhex(option))


def test_an_option_may_fill_the_header() -> None:
    option = b"\x45\x28" + bytes(38)
    assert tcpopt.insert_option(b"", option) == option


@given(REGIONS, RAW)
def test_insert_appends_and_changes_nothing_else(region: bytes, option: bytes) -> None:
    try:
        before = tcpopt.parse_options(region)
    except PeerError:
        return
    result = tcpopt.insert_option(region, option)
    if len(option) > tcpopt.room(region):
        assert result is None
        return
    assert result is not None
    assert len(result) % 4 == 0
    assert len(result) <= 40
    assert tcpopt.parse_options(result) == (*before, TcpOption(option[0], option[2:]))
    assert tcpopt.room(result) == tcpopt.room(region) - len(option)


def test_remove_overwrites_with_nops() -> None:
    region = LINUX_SYN + bytes.fromhex("450401234502 0000")
    assert tcpopt.remove_option(region, 69) == LINUX_SYN + b"\x01" * 6 + bytes(2)
    assert tcpopt.remove_option(LINUX_SYN, 69) == LINUX_SYN


def test_remove_by_experiment_identifier() -> None:
    """RFC 6994: options of kind 253 are told apart by their ExID."""
    region = bytes.fromhex("fd05454e21 fd04f989 fd03 45")
    assert tcpopt.remove_option(region, 253, b"\x45\x4e") == b"\x01" * 5 + region[5:]


@given(REGIONS, st.integers(2, 255))
def test_remove_keeps_the_others_where_they_are(region: bytes, kind: int) -> None:
    try:
        before = tcpopt.parse_options(region)
    except PeerError:
        return
    result = tcpopt.remove_option(region, kind)
    assert len(result) == len(region)
    assert tcpopt.parse_options(result) == tuple(o for o in before if o.kind != kind)


def test_mss() -> None:
    assert tcpopt.mss(LINUX_SYN) == 1460
    assert tcpopt.mss(LINUX_ACK) is None
    assert tcpopt.mss(bytes.fromhex("0203b4")) is None
    assert tcpopt.mss(bytes.fromhex("020405b4 02040200")) == 512


def test_replace_mss() -> None:
    assert tcpopt.replace_mss(LINUX_SYN, 1400) == b"\x02\x04\x05\x78" + LINUX_SYN[4:]
    assert tcpopt.replace_mss(LINUX_ACK, 1400) == LINUX_ACK
    assert tcpopt.replace_mss(bytes.fromhex("0203b4"), 1400) == bytes.fromhex("0203b4")
    assert tcpopt.mss(tcpopt.replace_mss(bytes.fromhex("020405b4 02040200"), 0xFFFF)) == 0xFFFF


@pytest.mark.parametrize("mss", [-1, 0x10000])
def test_replace_mss_refuses_what_16_bits_do_not_hold(mss: int) -> None:
    with pytest.raises(LocalError):
        tcpopt.replace_mss(LINUX_SYN, mss)
