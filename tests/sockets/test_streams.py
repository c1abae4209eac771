"""Streams that are sealed and opened elsewhere, held against those that are not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.conversations import UNAUTHENTICATED, End, connected, taken, told

from tcpcrypt.errors import IntegrityError, LocalError, ResetError, TruncationError
from tcpcrypt.sockets.buffers import BUFFER_SIZE, BUFFERS, FRAME_MAX, WIRE_MAX, Buffers
from tcpcrypt.sockets.conversation import Conversation
from tcpcrypt.sockets.state import State
from tcpcrypt.sockets.streams import IDLE, Streams


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Conversation, Conversation]:
    return connected(
        End.at(tmp_path / "a", UNAUTHENTICATED), End.at(tmp_path / "b", UNAUTHENTICATED)
    )


def sealed(streams: Streams, data: bytes, room: int = WIRE_MAX) -> bytes:
    """All of `data`, as it goes to the wire."""
    view, wire, out = memoryview(data), bytearray(), memoryview(bytearray(room))
    while view:
        consumed, written = streams.seal(view, out)
        wire += out[:written]
        while streams.queue:
            wire += streams.queue.popleft()
        assert consumed or written or wire
        view = view[consumed:]
    return bytes(wire)


def opened(streams: Streams, wire: bytes) -> bytes:
    """What comes of wire bytes, in order."""
    buffer, out = memoryview(bytearray(BUFFER_SIZE)), memoryview(bytearray(BUFFER_SIZE))
    buffer[FRAME_MAX : FRAME_MAX + len(wire)] = wire
    data = bytes(out[: streams.open(buffer, FRAME_MAX + len(wire), out)])
    return data + bytes(told(streams.conversation).data)


@pytest.mark.parametrize("seed", range(6))
def test_they_speak_to_the_core_and_hear_it(
    ends: tuple[Conversation, Conversation], seed: int
) -> None:
    """Data, new keys of either side, urgent data and ends, in pieces of any size."""
    chance = random.Random(seed)
    core, other = ends
    streams = Streams(other)
    session = core._session
    assert session is not None
    said, heard, answered, answer = bytearray(), bytearray(), bytearray(), bytearray()
    wire = bytearray()
    for _ in range(60):
        what = chance.random()
        data = chance.randbytes(chance.choice((1, 30, 1400, 5000, 70_000)))
        if what < 0.5:
            core.send(data)
            said += data
        elif what < 0.6:
            session.rekey()
        elif what < 0.7:
            session.send_data(data, urgent=0)
            said += data
        else:
            reply = sealed(streams, data)
            answer += data
            core.receive_data(reply)
        wire += taken(core)
        for _ in range(chance.randrange(4)):
            size = min(len(wire), chance.choice((1, 2, 100, 65_000, WIRE_MAX)))
            heard += opened(streams, bytes(wire[:size]))
            del wire[:size]
        while streams.queue:  # answers to new keys (RFC 8548 section 3.8)
            core.receive_data(streams.queue.popleft())
        answered += told(core).data
    core.finish()
    wire += taken(core)
    while wire:
        heard += opened(streams, bytes(wire[:WIRE_MAX]))
        del wire[:WIRE_MAX]
    streams.finish()
    while streams.queue:
        core.receive_data(streams.queue.popleft())
    answered += told(core).data
    assert heard == said
    assert answered == answer
    assert core.over
    assert other.over
    assert core.error is other.error is None


def test_frames_are_small_at_first_and_large_in_bulk(
    ends: tuple[Conversation, Conversation],
) -> None:
    streams = Streams(ends[0])
    sizes = frames(sealed(streams, bytes(300_000)))
    assert set(sizes[:8]) == {1400}
    assert sizes[12] == 65_516
    assert frames(sealed(streams, bytes(70_000)))[0] == 65_516
    assert frames(sealed(streams, b"a small write")) == [13]


def test_frames_are_small_again_after_silence(ends: tuple[Conversation, Conversation]) -> None:
    clock = Clock()
    streams = Streams(ends[0], clock=clock)
    sealed(streams, bytes(100_000))
    clock.now += IDLE
    assert frames(sealed(streams, bytes(70_000)))[0] == 65_516
    clock.now += IDLE + 0.01
    again = frames(sealed(streams, bytes(300_000)))
    assert set(again[:10]) == {1400}
    assert 65_516 in again


def frames(wire: bytes) -> list[int]:
    """Data bytes of each frame."""
    sizes, place = [], 0
    while place < len(wire):
        length = int.from_bytes(wire[place + 1 : place + 3], "big")
        sizes.append(length - 17)
        place += 3 + length
    return sizes


def test_little_room_seals_little(ends: tuple[Conversation, Conversation]) -> None:
    streams = Streams(ends[0])
    out = memoryview(bytearray(3000))
    consumed, written = streams.seal(memoryview(bytes(100_000)), out)
    assert (consumed, written) == (2800, 2840)


def test_what_the_conversation_has_to_say_goes_first(
    ends: tuple[Conversation, Conversation],
) -> None:
    streams = Streams(ends[0])
    streams.queue.append(b"earlier")
    out = memoryview(bytearray(100))
    assert streams.seal(memoryview(b"later"), out) == (0, 0)
    streams._take_back()
    assert streams.seal(memoryview(b"later"), out) == (0, 0)


@pytest.mark.parametrize("lent", [True, False])
def test_a_forged_frame_ends_it(ends: tuple[Conversation, Conversation], lent: bool) -> None:
    core, other = ends
    streams = Streams(other)
    if not lent:
        streams._take_back()
    core.send(b"good")
    good = taken(core)
    core.send(b"bad")
    bad = bytearray(taken(core))
    bad[10] ^= 1
    assert opened(streams, good) == b"good"
    assert opened(streams, bytes(bad)) == b""
    assert other.state is State.FAIL
    assert isinstance(other.error, IntegrityError)
    with pytest.raises(IntegrityError):
        streams.seal(memoryview(b"x"), memoryview(bytearray(100)))
    with pytest.raises(IntegrityError):
        streams.finish()
    assert streams._sealing is streams._opening is None
    assert opened(streams, good) == b""


def test_ends_of_tcp(ends: tuple[Conversation, Conversation]) -> None:
    first, second = map(Streams, ends)
    first.receive_eof()
    assert isinstance(ends[0].error, TruncationError)
    second.receive_reset()
    assert isinstance(ends[1].error, ResetError)
    first.close()
    second.close()


def test_a_stream_that_is_finished_seals_no_more(ends: tuple[Conversation, Conversation]) -> None:
    streams = Streams(ends[0])
    streams.finish()
    ends[1].receive_data(b"".join(bytes(chunk) for chunk in streams.queue))
    assert told(ends[1]).ended
    streams.queue.clear()
    with pytest.raises(LocalError, match="finished"):
        streams.seal(memoryview(b"x"), memoryview(bytearray(100)))
    # The other one goes on.
    ends[1].send(b"still")
    assert opened(streams, taken(ends[1])) == b"still"


def test_buffers_go_round() -> None:
    stock = Buffers()
    one = stock.take()
    assert len(one) == BUFFER_SIZE
    stock.give(one)
    assert stock.take() is one
    for _ in range(100):
        stock.give(bytearray(BUFFER_SIZE))
    assert len(stock._free) <= 16
    assert len(BUFFERS.take()) == BUFFER_SIZE
