"""The messages of a transfer: layouts, bounds, and whatever else a peer may send."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.transfer.codes import Code, MessageError
from tcpcrypt.transfer.digest import Algorithm, Digest
from tcpcrypt.transfer.messages import (
    BLOCK_MAX,
    PREFIXES_MAX,
    UNKNOWN_SIZE,
    Ack,
    Alive,
    Bye,
    Data,
    End,
    Have,
    Hello,
    Kind,
    Message,
    Put,
    Receipt,
    Refuse,
    data_header,
)
from tcpcrypt.transfer.parser import Parser

DIGEST = bytes(range(32))
ID = bytes(range(16))
U32 = st.integers(0, (1 << 32) - 1)
SIZES = st.integers(0, (1 << 63) - 1)
PATHS = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=32).map(tuple)
DIGESTS = st.builds(Digest, st.sampled_from(Algorithm), st.binary(min_size=32, max_size=32))
FAILURES = st.sampled_from([code for code in Code if code is not Code.OK])
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Hello,
        st.integers(1, (1 << 32) - 1),
        st.integers(1, (1 << 32) - 1),
        st.integers(1, (1 << 16) - 1),
        st.frozensets(st.sampled_from(Algorithm)),
    ),
    st.builds(
        Put,
        U32,
        st.binary(min_size=16, max_size=16),
        st.sampled_from(Kind),
        st.sampled_from(Algorithm),
        st.integers(0, (1 << 16) - 1),
        SIZES | st.just(UNKNOWN_SIZE),
        st.integers(-(1 << 63), (1 << 63) - 1),
        U32,
        PATHS,
    ),
    st.builds(
        Have,
        U32,
        st.dictionaries(
            st.integers(1, (1 << 63) - 1), st.binary(min_size=32, max_size=32), max_size=20
        ).map(lambda found: tuple(sorted(found.items()))),
    ),
    st.builds(Refuse, U32, FAILURES),
    st.builds(Ack, U32, SIZES),
    st.builds(End, U32, st.sampled_from(Code), SIZES, DIGESTS),
    st.builds(Receipt, U32, st.sampled_from(Code), DIGESTS, PATHS | st.just(())),
    st.just(Alive()),
    st.just(Bye()),
)


def parsed(data: bytes, *, block: int = BLOCK_MAX, step: int | None = None) -> list[Message]:
    parser, step = Parser(block), step or max(len(data), 1)
    return [m for at in range(0, len(data), step) for m in parser.feed(data[at : at + step])]


def code_of(data: bytes, *, block: int = BLOCK_MAX) -> Code:
    """Of what comes at once; byte by byte it is the same."""
    codes = []
    for step in (len(data), 1):
        with pytest.raises(MessageError) as caught:
            parsed(data, block=block, step=step)
        codes.append(caught.value.code)
    assert codes[0] is codes[1]
    return codes[0]


def test_layouts() -> None:
    """As in the text on top of the module."""
    assert Hello(4 << 20, 65536, 1024, frozenset(Algorithm)).build() == bytes.fromhex(
        "01 0000000f 535458 01 00400000 00010000 0400 06"
    )
    put = Put(3, ID, Kind.FILE, Algorithm.BLAKE2B, 0o644, 5, -1, 65536, (b"d", b"name"))
    assert put.build() == bytes.fromhex(
        "02 00000034 00000003 000102030405060708090a0b0c0d0e0f 00 02 01a4"
        "0000000000000005 ffffffffffffffff 00010000 02 01 64 04 6e616d65"
    )
    assert Have(3, ((5, DIGEST),)).build() == bytes.fromhex(
        "03 0000002d 00000003 01 0000000000000005" + DIGEST.hex()
    )
    assert Refuse(3, Code.EXISTS).build() == bytes.fromhex("04 00000005 00000003 02")
    assert data_header(3, 5, 7) == bytes.fromhex("05 00000013 00000003 0000000000000005")
    assert Ack(3, 5).build() == bytes.fromhex("06 0000000c 00000003 0000000000000005")
    digest = Digest(Algorithm.SHA256, DIGEST)
    assert End(3, Code.OK, 5, digest).build() == bytes.fromhex(
        "07 0000002e 00000003 00 0000000000000005 01" + DIGEST.hex()
    )
    assert Receipt(3, Code.OK, digest, (b"x",)).build() == bytes.fromhex(
        "08 00000029 00000003 00 01" + DIGEST.hex() + "01 01 78"
    )
    assert Alive().build() == bytes.fromhex("09 00000000")
    assert Bye().build() == bytes.fromhex("0a 00000000")


@given(st.lists(MESSAGES, max_size=5), st.integers(1, 40))
def test_what_is_built_is_parsed_in_pieces_of_any_length(
    messages: list[Message], piece: int
) -> None:
    data = b"".join(message.build() for message in messages)  # type: ignore[union-attr]
    parser, found = Parser(), []
    for at in range(0, len(data), piece):
        found += parser.feed(data[at : at + piece])
    assert found == messages
    assert parser.between


@given(st.binary(min_size=1, max_size=200), st.integers(1, 30))
def test_data_is_handed_on_as_it_comes(data: bytes, piece: int) -> None:
    wire = data_header(9, 1000, len(data)) + data + Bye().build()
    parser, at, found = Parser(), 1000, b""
    for start in range(0, len(wire), piece):
        for message in parser.feed(wire[start : start + piece]):
            if isinstance(message, Data):
                assert (message.file, message.offset) == (9, at)
                found += message.data
                at += len(message.data)
            else:
                assert message == Bye()
    assert found == data
    assert parser.between


def test_a_stream_does_not_end_within_a_message() -> None:
    wire = data_header(1, 0, 3) + b"abc"
    parser = Parser()
    for at in range(len(wire)):
        assert parser.between is (at == 0)
        list(parser.feed(wire[at : at + 1]))
    assert parser.between


@pytest.mark.parametrize("length", [0, 1, 16, 18, 0xFFFFFFFF])
def test_lengths_that_cannot_be_are_refused_at_the_header(length: int) -> None:
    wire = b"\x01" + length.to_bytes(4, "big")
    assert code_of(wire if length > 18 else wire + bytes(length)) is Code.PROTOCOL


@pytest.mark.parametrize("kind", [0, 0x0B, 0x7F, 0xFF])
def test_unknown_messages_are_refused(kind: int) -> None:
    assert code_of(bytes((kind, 0, 0, 0, 0))) is Code.PROTOCOL


def test_data_is_bounded_by_the_block_size() -> None:
    header = data_header(1, 0, 1001)
    assert parsed(header, block=1001) == []
    assert code_of(header, block=1000) is Code.BLOCK_SIZE
    assert code_of(data_header(1, 0, BLOCK_MAX + 1), block=1 << 31) is Code.BLOCK_SIZE
    assert code_of(b"\x05\xff\xff\xff\xff") is Code.BLOCK_SIZE
    assert code_of(data_header(1, 0, 0)) is Code.PROTOCOL
    assert code_of(b"\x05\0\0\0\x0b" + bytes(11)) is Code.PROTOCOL
    assert code_of(data_header(1, (1 << 63) - 1, 1)) is Code.SIZE


def test_nothing_is_allocated_for_a_length_that_is_announced() -> None:
    tracemalloc.start()
    try:
        for kind in range(256):
            try:
                parsed(bytes((kind,)) + b"\xff\xff\xff\xff" + bytes(100))
            except MessageError:
                continue
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_hello_of_others() -> None:
    good = Hello(1, 1, 1, frozenset(Algorithm)).build()
    assert code_of(good[:5] + b"SSH" + good[8:]) is Code.PROTOCOL
    assert code_of(good[:8] + b"\x02" + good[9:]) is Code.VERSION
    assert code_of(b"\x01\0\0\0\x04STX\x02") is Code.VERSION
    assert code_of(b"\x01\0\0\0\x03STX") is Code.PROTOCOL
    assert code_of(b"\x01\0\0\0\x05STX\x01\0") is Code.PROTOCOL
    for nothing in (Hello(0, 1, 1, frozenset()), Hello(1, 0, 1, frozenset()),
                    Hello(1, 1, 0, frozenset())):  # fmt: skip
        assert code_of(nothing.build()) is Code.PROTOCOL
    assert parsed(good[:-1] + b"\xff") == [Hello(1, 1, 1, frozenset(Algorithm))]


def test_put_out_of_bounds() -> None:
    put = Put(3, ID, Kind.FILE, Algorithm.SHA256, 0, 5, 0, 1, (b"a", b"bc")).build()
    path = put.index(b"\x02\x01a")
    for size in (1 << 63, (1 << 64) - 2):
        assert code_of(put[:29] + size.to_bytes(8, "big") + put[37:]) is Code.SIZE
    assert code_of(put[:25] + b"\x02" + put[26:]) is Code.PROTOCOL
    assert code_of(put[:26] + b"\x09" + put[27:]) is Code.ALGORITHM
    for count in (0, 1, 3, 255):
        assert code_of(put[:path] + bytes((count,)) + put[path + 1 :]) is Code.PROTOCOL
    assert code_of(put[: path + 3] + b"\x03bc") is Code.PROTOCOL
    for end in (path + 2, path + 3, path, path - 1, 5):
        body = put[5:end]
        assert code_of(b"\x02" + len(body).to_bytes(4, "big") + body) is Code.PROTOCOL
    many = Put(3, ID, Kind.FILE, Algorithm.SHA256, 0, 5, 0, 1, (b"x",) * 33)
    assert code_of(many.build()) is Code.PROTOCOL


def test_have_out_of_bounds() -> None:
    pair = (5).to_bytes(8, "big") + DIGEST
    assert code_of(Have(1, ((5, DIGEST), (5, DIGEST))).build()) is Code.PROTOCOL
    assert code_of(Have(1, ((6, DIGEST), (5, DIGEST))).build()) is Code.PROTOCOL
    assert code_of(Have(1, ((0, DIGEST),)).build()) is Code.PROTOCOL
    assert code_of(b"\x03\0\0\0\x2d\0\0\0\x01\x02" + pair) is Code.PROTOCOL
    assert code_of(b"\x03\0\0\0\x05\0\0\0\x01\x01") is Code.PROTOCOL
    most = tuple((at, DIGEST) for at in range(1, PREFIXES_MAX + 2))
    assert len(parsed(Have(1, most[:-1]).build())) == 1
    assert code_of(Have(1, most).build()) is Code.PROTOCOL


def test_codes_and_digests_that_do_not_exist() -> None:
    assert code_of(b"\x04\0\0\0\x05\0\0\0\x01\x00") is Code.PROTOCOL
    assert code_of(b"\x04\0\0\0\x05\0\0\0\x01\xff") is Code.PROTOCOL
    end = End(1, Code.OK, 5, Digest(Algorithm.SHA256, DIGEST)).build()
    assert code_of(end[:9] + b"\xff" + end[10:]) is Code.PROTOCOL
    assert code_of(end[:18] + b"\xff" + end[19:]) is Code.ALGORITHM


@given(st.binary(max_size=300), st.integers(0, 0x0B), st.booleans())
def test_random_bytes_end_in_messages_or_an_error(rest: bytes, kind: int, framed: bool) -> None:
    data = bytes((kind,)) + len(rest).to_bytes(4, "big") + rest if framed else rest
    with contextlib.suppress(MessageError):
        for message in parsed(data):
            assert isinstance(message, Message)


def test_codes() -> None:
    """Each is described and ends in a status of its own kind."""
    assert {code.exit_status for code in Code} == {0, 1, 3, 4, 5}
    assert all(code.text for code in Code)
    assert Code.DIGEST.exit_status == 4
    assert Code.BUSY.transient
    assert not Code.EXISTS.transient
    assert Code.of(OSError(28, "")) is Code.NO_SPACE
    assert Code.of(OSError(5, "")) is Code.STORAGE
    assert Code.of(OSError("no number")) is Code.STORAGE
