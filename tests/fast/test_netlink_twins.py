"""Both twins of nfnetlink_queue's messages: the same packets, verdicts and refusals."""

from __future__ import annotations

import struct
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.errors import LocalError

QUEUE = 29795
PAYLOAD = b"\x45packet"


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, sequence: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


HEADER = attribute(1, struct.pack("!IHB", 0xFEDCBA98, 0x0800, 3))
QUEUED = message(
    3 << 8,
    struct.pack("!BBH", 2, 0, QUEUE)
    + HEADER
    + attribute(3, b"\x89\xab\xcd\xef")
    + attribute(99, b"something newer")
    + attribute(0x8000 | 10, PAYLOAD),
)
ANSWER = message(2, struct.pack("=i", -17) + bytes(16), 0x89ABCDEF)

datagrams = st.one_of(
    st.binary(max_size=60),
    st.tuples(
        st.lists(st.sampled_from([QUEUED, ANSWER]), min_size=1, max_size=3).map(b"".join),
        st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=4),
        st.integers(0, 300),
    ).map(lambda drawn: mutated(*drawn)),
)


def mutated(datagram: bytes, changes: list[tuple[int, int]], length: int) -> bytes:
    octets = bytearray(datagram)
    for at, value in changes:
        octets[at % len(octets)] = value
    return bytes(octets[:length])


def test_packets_and_answers_in_order(twin: ModuleType) -> None:
    other = message(5 << 8, b"of another subsystem")
    found = twin.parse_queue(QUEUED + other + ANSWER + QUEUED)
    assert [len(one) for one in found] == [6, 2, 6]
    queue, identifier, hook, mark, start, end = found[0]
    assert (queue, identifier, hook, mark) == (QUEUE, 0xFEDCBA98, 3, 0x89ABCDEF)
    assert QUEUED[start:end] == PAYLOAD
    assert found[1] == (0x89ABCDEF, 17)
    assert found[2][4] == start + len(QUEUED + other + ANSWER)


@pytest.mark.parametrize(
    "datagram",
    [
        QUEUED[:15],
        QUEUED[:-4],
        struct.pack("=IHHII", 15, 2, 0, 0, 0),
        message(2, b"abc"),
        message(3 << 8, b"\0\0\0"),
        message(3 << 8, bytes(4)),
        message(3 << 8, bytes(4) + attribute(1, bytes(6))),
        message(3 << 8, bytes(4) + attribute(1, bytes(6) + b"\5")),  # no such hook
        message(3 << 8, bytes(4) + HEADER + struct.pack("=HH", 3, 10)),
        message(3 << 8, bytes(4) + HEADER + struct.pack("=HH", 5, 10)),
        message(3 << 8, bytes(4) + HEADER + attribute(3, b"abc")),
    ],
)
def test_lengths_that_contradict_each_other(twin: ModuleType, datagram: bytes) -> None:
    with pytest.raises(LocalError):
        twin.parse_queue(datagram)


@given(datagrams)
def test_both_find_the_same(twins: list[ModuleType], datagram: bytes) -> None:
    found = set()
    for twin in twins:
        try:
            found.add(repr(twin.parse_queue(datagram)))
        except LocalError as error:
            found.add(str(error))
    assert len(found) == 1


verdicts = st.tuples(
    st.sampled_from([QUEUE, 0, 0xFFFF]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 4]),
    st.none() | st.binary(max_size=70),
    st.none() | st.integers(0, 2**32 - 1),
)


@given(st.lists(verdicts, max_size=4))
def test_what_both_build_is_the_same_and_passes(
    twins: list[ModuleType], several: list[tuple[int, int, int, bytes | None, int | None]]
) -> None:
    made = {b"".join(twin.build_verdict(*one) for one in several) for twin in twins}
    assert len(made) == 1
    for twin in twins:
        assert twin.check_verdicts(*made, {QUEUE, 0, 0xFFFF}) == ""
        foreign = any(one[0] == QUEUE for one in several)
        assert bool(twin.check_verdicts(*made, {0, 0xFFFF})) is foreign


def test_what_cannot_be_is_not_built(twin: ModuleType) -> None:
    largest = twin.build_verdict(QUEUE, 1, 1, bytes(0xFFFF - 4), None)
    assert twin.check_verdicts(largest, {QUEUE}) == ""
    for queue, payload in ((QUEUE, bytes(0xFFFF - 3)), (1 << 16, None)):
        with pytest.raises(ValueError):
            twin.build_verdict(queue, 1, 1, payload, None)


@given(
    st.lists(verdicts, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=3),
    st.integers(0, 300),
)
def test_both_refuse_the_same(
    twins: list[ModuleType],
    several: list[tuple[int, int, int, bytes | None, int | None]],
    changes: list[tuple[int, int]],
    length: int,
) -> None:
    whole = b"".join(twins[0].build_verdict(*one) for one in several)
    datagram = mutated(whole, changes, length)
    assert len({twin.check_verdicts(datagram, {QUEUE, 0, 0xFFFF}) for twin in twins}) == 1


ACCEPT = attribute(2, struct.pack("!II", 1, 7))


def decided(attributes: bytes, *, kind: int = 0x301, flags: int = 1, family: int = 0) -> bytes:
    body = struct.pack("!BBH", family, 0, QUEUE) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (decided(ACCEPT)[:19], "shorter than its headers"),
        (decided(ACCEPT)[:-4], "wrong length"),
        (decided(ACCEPT, kind=0x302), "no verdict"),
        (decided(ACCEPT, flags=5), "no verdict"),
        (decided(ACCEPT, family=2), "not on a packet of ours"),
        (decided(b""), "does not say what it is"),
        (decided(attribute(10, b"abcd")), "does not say what it is"),
        (struct.pack("=IHHII", 24, 0x301, 1, 0, 0) + b"\0\0" + QUEUE.to_bytes(2, "big") + b"\x0c\0"
         b"\2\0", "wrong length"),
        (decided(ACCEPT + struct.pack("=HH", 3, 10)), "attribute has a wrong length"),
        (decided(ACCEPT + struct.pack("=HH", 9, 10)), "attribute has a wrong length"),
        (decided(ACCEPT + ACCEPT), "not in order"),
        (decided(attribute(2, struct.pack("!II", 5, 7))), "neither to drop nor to accept"),
        (decided(attribute(2, b"\0\0\0\1")), "neither to drop nor to accept"),
        (decided(ACCEPT + attribute(11, b"abcd")), "that ours do not have"),
        (decided(ACCEPT + attribute(3, b"abcdefgh")), "that ours do not have"),
    ],
)  # fmt: skip
def test_what_is_no_verdict_of_ours(twin: ModuleType, datagram: bytes, reason: str) -> None:
    assert reason in twin.check_verdicts(datagram, {QUEUE})
    assert twin.check_verdicts(decided(ACCEPT), {QUEUE}) == ""
