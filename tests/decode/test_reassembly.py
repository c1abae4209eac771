"""RFC 9293 section 3.4: whatever order, copies and cuts, the stream is the stream."""

from hypothesis import given
from hypothesis import strategies as st

from tcpcrypt.tools.decode.reassembly import ByteStream

STREAM = bytes(n * 7 % 251 for n in range(1500))


@given(
    isn=st.integers(0, 2**32 - 1),
    pieces=st.lists(st.tuples(st.integers(0, 1499), st.integers(1, 300)), max_size=40),
    order=st.randoms(use_true_random=False),
    reads=st.integers(1, 5),
)
def test_any_segments_give_the_stream(isn, pieces, order, reads) -> None:
    cover = [(at, 100) for at in range(0, 1500, 100)]
    segments = [*cover, *pieces]
    order.shuffle(segments)
    stream = ByteStream(isn)
    got = bytearray()
    for number, (at, length) in enumerate(segments):
        stream.add((isn + 1 + at) % 2**32, memoryview(STREAM[at : at + length]))
        if number % reads == 0:
            got += stream.buffer
            stream.consume(len(stream.buffer))
    got += stream.buffer
    assert bytes(got) == STREAM
    assert stream.gap is None
    assert list(stream.variants()) == []


def test_offsets_pass_four_gigabytes() -> None:
    stream = ByteStream(0)
    step = 1 << 29
    for turn in range(20):
        at = turn * step
        assert stream.offset((1 + at) % 2**32) == at
        stream.base += step
    stream.add((1 + 20 * step) % 2**32, memoryview(b"on"))
    assert (stream.base, bytes(stream.buffer)) == (20 * step, b"on")


def test_what_no_receiver_takes_is_ignored() -> None:
    stream = ByteStream(0)
    stream.add(1, memoryview(b"abc"))
    stream.add(4 + (1 << 30) + 1, memoryview(b"far"))
    assert stream.ignored == 1
    assert stream.gap is None
    stream.add(0, memoryview(b"\0"))  # a keep-alive probe
    stream.add(2**32 - 5, memoryview(b"old"))
    assert bytes(stream.buffer) == b"abc"


def test_the_first_copy_counts_and_others_are_kept() -> None:
    stream = ByteStream(0)
    stream.add(1, memoryview(b"first!"))
    stream.add(3, memoryview(b"XXXX more"))
    assert bytes(stream.buffer) == b"first! more"[:6] + b"ore"[:0] + b" more"
    assert list(stream.variants()) == [b"fiXXXX more"]
    stream.consume(3)
    assert list(stream.variants()) == [], "what has been read is not read again"


def test_copies_behind_a_gap() -> None:
    stream = ByteStream(0)
    stream.add(11, memoryview(b"later"))
    stream.add(11, memoryview(b"later and longer"))
    stream.add(11, memoryview(b"lat"))
    stream.add(11, memoryview(b"LATER"))
    assert stream.gap == (0, 10)
    assert stream.starts() == [10]
    stream.add(1, memoryview(b"0123456789"))
    assert bytes(stream.buffer) == b"0123456789later and longer"
    assert list(stream.variants()) == [b"0123456789LATER and longer"]


def test_going_on_behind_a_gap() -> None:
    stream = ByteStream(0)
    for at, data in ((21, b"lost too"), (41, b"here"), (45, b" and on"), (61, b"far")):
        stream.add(at, memoryview(data))

    def waiting(count: int) -> list[tuple[int, bytes]]:
        return [(start, bytes(octets)) for start, octets in stream.waiting(count)]

    assert waiting(100) == [
        *((20, b"lost too"), (40, b"here and on"), (44, b" and on"), (60, b"far")),
    ]
    assert waiting(6) == [(20, b"lost t"), (40, b"here a"), (44, b" and o"), (60, b"far")]
    stream.skip_to(40)
    assert (stream.base, bytes(stream.buffer)) == (40, b"here and on")
    assert stream.gap == (51, 60)


def test_memory_is_bounded(monkeypatch) -> None:
    from tcpcrypt.tools.decode import reassembly

    monkeypatch.setattr(reassembly, "_WAITING_MAX", 1000)
    stream = ByteStream(0)
    for at in range(100, 2000, 100):
        assert stream.overfull is (at > 1100)
        stream.add(at, memoryview(bytes(100)))
    for number in range(200):
        stream.add(100, memoryview(bytes([1 + number]) * 10))
    stream.add(1, memoryview(bytes(99)))
    assert len(list(stream.variants())) <= 64


def test_what_waits_may_overlap() -> None:
    stream = ByteStream(0)
    for at, data in ((11, b"0123456789"), (13, b"23"), (16, b"56789ab"), (25, b"far")):
        stream.add(at, memoryview(data))
    assert [(start, bytes(octets)) for start, octets in stream.waiting(20)] == [
        *((10, b"0123456789ab"), (12, b"23456789ab"), (15, b"56789ab"), (24, b"far")),
    ]
    assert stream.held == 22
