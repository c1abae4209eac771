"""Both twins of segment parsing: the same fields, the same packets, the same refusals."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.outcome import outcome

from tcpcrypt.errors import LocalError

TCP = bytes.fromhex("9c4001bb fedcba98 01234567 70120203 00000000 020405b4 0402 0101")
PADDING = b"link"
V4 = bytes.fromhex("4500 0030 0007 4000 4006 0000 c0000201 c6336402") + TCP + PADDING
V6 = bytes.fromhex("60012345 001c 06 40") + bytes(range(32)) + TCP + PADDING
HOP = bytes.fromhex("60012345 0024 00 40") + bytes(range(32)) + b"\x06" + bytes(7) + TCP + PADDING

packets = st.one_of(
    st.binary(max_size=100),
    st.tuples(
        st.sampled_from([V4, V6, HOP]),
        st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4),
        st.integers(0, 95),
    ).map(lambda drawn: mutated(*drawn)),
)


def mutated(packet: bytes, changes: list[tuple[int, int]], length: int) -> bytes:
    octets = bytearray(packet)
    for at, value in changes:
        octets[at % len(octets)] = value
    return bytes(octets[:length])


def test_fields_are_where_the_rfcs_put_them(twin: ModuleType) -> None:
    fields = (0x9C40, 0x01BB, 0xFEDCBA98, 0x01234567, 0x12)
    for packet, version, tcp, addresses in (
        (V4, 4, 20, V4[12:20]),
        (V6, 6, 40, bytes(range(32))),
        (HOP, 6, 48, bytes(range(32))),
    ):
        half = len(addresses) // 2
        assert twin.parse_segment(packet) == (
            *(version, tcp, len(packet) - len(PADDING), 28),
            *(addresses[:half], fields[0], addresses[half:], fields[1]),
            *fields[2:],
        )


@given(packets)
def test_both_find_the_same(twins: list[ModuleType], packet: bytes) -> None:
    assert len({repr(outcome(twin.parse_segment, packet)) for twin in twins}) == 1


@given(packets, st.integers(-1, 60), st.binary(max_size=44), st.binary(max_size=20))
def test_both_rebuild_the_same(
    twins: list[ModuleType], packet: bytes, tcp: int, region: bytes, payload: bytes
) -> None:
    made = set()
    for twin in twins:
        try:
            made.add(twin.rebuild_segment(packet, tcp, region, memoryview(payload)))
        except (ValueError, LocalError) as error:
            made.add(repr(error))
    assert len(made) == 1


@pytest.mark.parametrize("packet", [V4, V6, HOP])
def test_what_is_rebuilt_is_found_again(twin: ModuleType, packet: bytes) -> None:
    tcp = twin.parse_segment(packet)[1]
    made = twin.rebuild_segment(packet, tcp, bytes(40), bytearray(b"more"))
    _version, _tcp, end, data_offset, *rest = twin.parse_segment(made)
    assert (end, data_offset) == (len(made), 60)
    assert rest == list(twin.parse_segment(packet)[4:])
    assert made.endswith(bytes(40) + b"more")


@pytest.mark.parametrize(("packet", "tcp"), [(b"", 20), (V4, 19), (V4, 40), (V6, 39), (b"\x50", 0)])
def test_no_header_can_be_there(twin: ModuleType, packet: bytes, tcp: int) -> None:
    with pytest.raises(ValueError, match="no TCP header"):
        twin.rebuild_segment(packet, tcp, b"", b"")
