"""The streams of both twins: whatever is done to them, they say the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpcrypt import _fast
from tcpcrypt.segment.lending import make_stream
from tcpcrypt.segment.reassembly import Reassembly
from tcpcrypt.segment.stream import Stream

Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ("data", "none", "two", "send", "hear", "block", "told", "window", "begin")
        ),
        st.integers(0, 300),
        st.integers(0, 70_000),
    ),
    max_size=60,
)


def do(stream: Stream, step: Step) -> object:
    """One step of many; what there is to see of it."""
    what, number, wide = step
    length = {"data": number + 1, "none": 0, "two": number + 2}.get(what)
    if length is not None:
        data = bytes((number + at) & 0xFF for at in range(length))
        if stream.seals:
            stream.sealed(length, bytes(4 if length else 3) + data + bytes(16))
            stream.input.end += length
        else:
            cut = length // 2 if what == "two" else length
            stream.opened([data[:cut], data[cut:]] if length else [], length + 20)
            stream.input.end += length + 20
    elif what == "send":
        stream.emitted = max(stream.emitted, min(stream.emitted + wide, stream.sendable))
    elif what == "hear":
        stream.acknowledged(min(stream.una + number, stream.emitted + 3), stream.una + wide, [])
    elif what == "block":
        begin = stream.una + number
        return stream.acknowledged(stream.una, stream.una + wide, [(begin, begin + wide % 400)])
    elif what == "told":
        return stream.arrived, stream.blocks()
    elif what == "window":
        return [stream.window(scale) for scale in (0, 7)]
    else:
        stream.under_way = stream.input.end + number
    return None


def seen(stream: Stream, at: int) -> tuple[object, ...]:
    ends = sorted((min(stream.una + at, stream.end), min(stream.una + 3 * at, stream.end)))
    return (
        stream.una, stream.emitted, stream.edge, stream.widest, stream.dataless,
        stream.responsible, stream.end, stream.sendable, stream.overdue, stream.limit,
        stream.sacked, stream.fin, bytes(stream.cut(*ends)[0]), stream.cut(*ends)[1],
        len(stream.cells), stream.cells.app_end, stream.cells.wire_end,
        [f(stream.una + at - 30) for f in (stream.output_from, stream.output_to, stream.input_to)],
        [f(stream.cells.app_end - at) for f in (stream.cells.wire_from, stream.cells.wire_to)],
        [f(stream.cells.wire_end - at) for f in (stream.cells.app_from, stream.cells.app_to)],
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(seals=st.booleans(), done=steps, finp=st.booleans(), at=st.integers(0, 400))
def test_streams_agree(seals: bool, done: list[Step], finp: bool, at: int) -> None:
    one, other = Stream(seals=seals), make_stream(_fast.make_lanes(), seals=seals)
    for step in done:
        assert do(one, step) == do(other, step)
        assert seen(one, at) == seen(other, at)
    for stream in (one, other):
        stream.finish(b"frame with FINp" if finp else b"")
        stream.emitted = stream.end
    assert seen(one, at) == seen(other, at)
    for stream in (one, other):
        stream.acknowledged(stream.end, stream.end + at, [])
    assert seen(one, at) == seen(other, at)
    assert one.arrived == other.arrived


def test_much_is_kept_and_forgotten() -> None:
    one, other = Stream(seals=True), make_stream(_fast.make_lanes(), seals=True)
    for number in range(500):
        for stream in (one, other):
            stream.sealed(1000, (number % 251).to_bytes(1, "big") * 1020)
            stream.emitted = stream.end
            if number % 3 == 0:
                stream.acknowledged(stream.una + number * 7 % 2900, 1 << 20, [])
        assert one.cut(one.una, one.end) == other.cut(other.una, other.end)
        assert one.una == other.una
    for stream in (one, other):
        stream.acknowledged(stream.end, 1 << 20, [])
    assert len(one.cells) == len(other.cells) == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 300), st.integers(0, 40), st.integers(0, 255)), max_size=60),
    st.integers(20, 320),
)
def test_reassemblies_agree(pieces: list[tuple[int, int, int]], limit: int) -> None:
    one, other = Reassembly(), make_stream(_fast.make_lanes(), seals=True).input
    for offset, length, octet in pieces:
        data = bytes((octet + at) & 0xFF for at in range(length))
        assert bytes(one.put(offset, data, limit)) == bytes(other.put(offset, data, limit))
        assert (one.end, one.waiting, one.gaps) == (other.end, other.waiting, other.gaps)
        assert [one.blocks(most) for most in range(5)] == [other.blocks(most) for most in range(5)]


def both_twins(*, seals: bool) -> list[Stream]:
    return [Stream(seals=seals), make_stream(_fast.make_lanes(), seals=seals)]


def test_so_many_pieces_wait_and_what_is_in_order_never_does() -> None:
    for reassembly in (stream.input for stream in both_twins(seals=True)):
        for offset in range(2, 20_000, 2):
            reassembly.put(offset, b"x", 1 << 20)
        assert reassembly.waiting == 4096
        assert bytes(reassembly.put(0, b"y", 1 << 20)) == b"y"
        assert bytes(reassembly.put(1, b"z", 1 << 20)) == b"zx"
        assert (reassembly.end, reassembly.waiting) == (3, 4095)


def test_rfc2018_4_blocks_that_were_told_of_are_repeated() -> None:
    for reassembly in (stream.input for stream in both_twins(seals=True)):
        for offset in (10, 90, 30, 70, 50):
            reassembly.put(offset, b"ab", 100)
        assert reassembly.blocks() == [(50, 52), (70, 72), (30, 32), (90, 92)]
        reassembly.put(12, b"c", 100)
        assert reassembly.blocks() == [(10, 13), (50, 52), (70, 72), (30, 32)]
        reassembly.put(52, bytes(18), 100)
        assert reassembly.blocks() == [(50, 72), (10, 13), (30, 32), (90, 92)]


def test_a_segment_of_a_frame_is_a_segment_of_the_source() -> None:
    """The kernel cuts a frame of three segments where the source's segments end."""
    for stream in both_twins(seals=True):
        stream.sealed(3000, bytes(3020))
        stream.input.end += 3000
        stream.emitted = stream.end
        assert stream.acknowledged(1000, 1 << 16, [(2000, 3020)])
        assert (stream.arrived, stream.blocks()) == (1000, [(2000, 3000)])
        assert (stream.output_from(1000), stream.output_to(2000)) == (1000, 2000)
        # Without its tag nothing of the last one counts.
        assert stream.acknowledged(3000, 1 << 16, [])
        assert stream.arrived == 2999
        assert (stream.output_from(2000), stream.output_to(3000)) == (2000, 3020)


def test_what_came_before_a_gap_is_acknowledged_before_the_sink_has_answered() -> None:
    """Or the peer would take it for lost, for it hears of what came behind the gap."""
    for stream in both_twins(seals=False):
        for _ in range(2):
            stream.opened([bytes(1000)], 1020)
            stream.take(stream.input.end, bytes(1020))
        stream.emitted = stream.end
        assert (stream.arrived, stream.overdue) == (0, False)
        stream.take(3000, b"early")
        assert (stream.arrived, stream.blocks()) == (2040, [(3000, 3005)])
        assert stream.overdue  # it is the engine's to repeat now
        stream.acknowledged(2000, 1 << 16, [])
        assert not stream.overdue


@pytest.mark.parametrize("seals", [True, False])
def test_of_a_window_no_more_is_believed_than_may_be_kept(seals: bool) -> None:
    mine, its = make_stream(None, seals=seals), make_stream(_fast.make_lanes(), seals=seals)
    for stream in (mine, its):
        assert stream.acknowledged(0, 0xFFFF << 14, []) is True
        stream.window(14)
        assert stream.edge == 32 << 20
        assert stream.limit <= (32 << 20) + (1 << 17)
        assert stream.acknowledged(0, 0xFFFF << 14, []) is False  # and no news
