"""The streams of both twins: whatever is done to them, they say the same."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tcpcrypt import _fast
from tcpcrypt.segment.lending import make_stream
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
