"""The three functions of `_fast` that the wire rests on, each on both twins."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.outcome import outcome

from tcpcrypt.errors import PeerError, PeerReason

# Bytes at the borders of the four classes of RFC 8547 section 4.1 come often.
BORDERS = st.sampled_from([0x00, 0x1F, 0x20, 0x7F, 0x80, 0x81, 0x9F, 0xA0, 0xA3, 0xFF])
CONTENTS = st.lists(BORDERS | st.integers(0, 255), max_size=60).map(bytes)
Parsed = tuple[int, tuple[tuple[int, bool, bytes], ...]]
OPTION_BYTES = st.lists(
    st.sampled_from([0, 1, 2, 3, 4, 8, 10, 69, 253]) | st.integers(0, 255), max_size=44
).map(bytes)


def reference_parse(c: bytes) -> Parsed | PeerReason:
    """RFC 8547 section 4.4 as a reader would write it down."""
    n, i = len(c), 0
    glob = None
    teps: list[tuple[int, bool, bytes]] = []
    while i < n:
        b = c[i]
        if b < 0x20:
            glob = b if glob is None else glob
            i += 1
        elif b < 0x80:
            teps.append((b, False, b""))
            i += 1
        elif b < 0xA0:
            size = (b & 0x1F) + 1
            if i + 1 < n and c[i + 1] < 0xA0:
                return PeerReason.ENO_RESERVED_LENGTH
            if i + 2 + size > n:
                return PeerReason.ENO_DATA_PAST_END
            teps.append((c[i + 1] & 0x7F, True, c[i + 2 : i + 2 + size]))
            i += 2 + size
        else:
            teps.append((b & 0x7F, True, c[i + 1 :]))
            i = n
    return glob or 0, tuple(teps)


@given(CONTENTS)
def test_parse_eno_reads_rfc8547_section_4_4(twin: ModuleType, contents: bytes) -> None:
    found = outcome(twin.parse_eno, contents)
    assert found == reference_parse(contents)
    if not isinstance(found, PeerReason):
        assert all(type(v) is bool and type(data) is bytes for _, v, data in found[1])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_all_take_any_buffer(twin: ModuleType, kind: type) -> None:
    assert twin.parse_eno(kind(b"\x01\x23")) == (1, ((0x23, False, b""),))
    assert twin.walk_options(kind(b"\x02\x04\x05\xb4")) == ((2, 0, 4),)
    assert twin.checksum(kind(b"\x12\x34")) == 0x1234


def test_all_take_slices_of_read_only_buffers(twin: ModuleType) -> None:
    view = memoryview(b"\x00\x45\x03\x23\x00")[1:4]
    assert twin.walk_options(view) == ((69, 0, 3),)
    assert twin.parse_eno(view[2:]) == (0, ((0x23, False, b""),))
    assert twin.checksum(view) == 0x4503 + 0x2300


@pytest.mark.parametrize("name", ["parse_eno", "walk_options", "checksum"])
@pytest.mark.parametrize("value", [5, "text", None])
def test_what_is_no_buffer_is_a_type_error(twin: ModuleType, name: str, value: object) -> None:
    with pytest.raises(TypeError):
        getattr(twin, name)(value)


@pytest.mark.parametrize("name", ["parse_eno", "walk_options", "checksum"])
def test_a_buffer_with_gaps_is_a_buffer_error(twin: ModuleType, name: str) -> None:
    with pytest.raises(BufferError):
        getattr(twin, name)(memoryview(b"\x45\x02\x45\x02")[::2])


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("", ()),
        ("00", ()),
        ("01", ()),
        ("0101", ()),
        ("020405b4", ((2, 0, 4),)),
        ("4502", ((69, 0, 2),)),
        ("01014502", ((69, 2, 4),)),
        ("4502 00 ff", ((69, 0, 2),)),
        ("00 02", ()),
        (
            "020405b4 0402 080a0000000100000000 01 030307",
            ((2, 0, 4), (4, 4, 6), (8, 6, 16), (3, 17, 20)),
        ),
        ("4528" + "00" * 38, ((69, 0, 40),)),
        ("01" * 40, ()),
    ],
)
def test_walk_lists_kinds_and_extents(
    twin: ModuleType, region: str, expected: tuple[tuple[int, int, int], ...]
) -> None:
    assert twin.walk_options(bytes.fromhex(region)) == expected


@pytest.mark.parametrize(
    "region",
    ["02", "0200", "0201", "0203ff00"[:4], "020405", "0101 45", "4503", "4529" + "00" * 38],
)
def test_walk_names_a_bad_length(twin: ModuleType, region: str) -> None:
    with pytest.raises(PeerError) as caught:
        twin.walk_options(bytes.fromhex(region))
    assert caught.value.reason is PeerReason.OPTION_LENGTH


def test_walk_refuses_more_than_40_bytes(twin: ModuleType) -> None:
    """RFC 9293 section 3.1: a data offset of 15 leaves 40 bytes."""
    with pytest.raises(PeerError) as caught:
        twin.walk_options(bytes(41))
    assert caught.value.reason is PeerReason.OPTION_LENGTH


@given(OPTION_BYTES)
def test_walk_gives_extents_that_fit_or_a_named_reason(twin: ModuleType, region: bytes) -> None:
    walk = outcome(twin.walk_options, region)
    if isinstance(walk, PeerReason):
        assert walk is PeerReason.OPTION_LENGTH
        return
    at = 0
    for kind, start, end in walk:
        assert set(region[at:start]) <= {1}
        assert region[start] == kind > 1
        assert region[start + 1] == end - start >= 2
        at = end
    assert at <= len(region)
    rest = region[at:].lstrip(b"\x01")
    assert not rest or rest[0] == 0


def reference_checksum(data: bytes, initial: int) -> int:
    """RFC 1071 section 4.1, word by word."""
    total = initial
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=200) | st.integers(0, 99).map(bytes), st.integers(0, 0xFFFF))
@example(b"", 0)
@example(b"", 0xFFFF)
@example(b"\xff\xff", 0)
@example(b"\xff\xff", 0xFFFF)
@example(b"\xff", 0x00FF)
def test_checksum_is_that_of_rfc1071(twin: ModuleType, data: bytes, initial: int) -> None:
    assert twin.checksum(data, initial) == reference_checksum(data, initial)


@given(st.binary(max_size=60).filter(lambda data: len(data) % 2 == 0), st.binary(max_size=60))
def test_checksum_goes_on_from_an_even_part(twin: ModuleType, first: bytes, rest: bytes) -> None:
    assert twin.checksum(rest, twin.checksum(first)) == twin.checksum(first + rest)


def test_checksum_of_a_super_packet(twin: ModuleType) -> None:
    """A GSO packet of 65535 bytes does not overflow the sum."""
    assert twin.checksum(b"\xff" * 65535) == reference_checksum(b"\xff" * 65535, 0)


def test_checksum_example_of_rfc1071(twin: ModuleType) -> None:
    """RFC 1071 section 3."""
    assert twin.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
