"""What the streams of all connections keep is bounded, and each gets on nevertheless."""

from __future__ import annotations

import gc

import pytest
from segment import path as paths
from segment.model import Faults
from segment.path import CLIENT, SERVER, Path, Setup

from tcpcrypt.core.config import Config
from tcpcrypt.segment.lending import make_stream
from tcpcrypt.segment.memory import Memory
from tcpcrypt.segment.stream import Stream
from tcpcrypt.segment.table import Table

KIB = 1 << 10
WIDE = 1 << 30


class Streams:
    """Of one engine, by the twin of the run."""

    def __init__(self, most: int) -> None:
        self._lanes = paths.make_lanes()
        self.memory = Memory(most)
        if self._lanes is not None:
            self._lanes.memory.most, self.memory = most, self._lanes.memory

    def one(self, *, seals: bool = True) -> Stream:
        return make_stream(self._lanes, seals=seals, memory=self.memory)


def sealed(stream: Stream, size: int) -> None:
    """A frame of that size is kept, and was sent."""
    stream.sealed(size, bytes(size + 20))
    stream.input.end += size
    stream.emitted = stream.end


def test_windows_are_believed_while_little_is_kept() -> None:
    streams = Streams(WIDE)
    stream = streams.one()
    assert streams.memory.window == 32 << 20
    stream.acknowledged(0, WIDE, [])
    assert stream.edge == 32 << 20


def test_windows_are_believed_the_less_the_more_is_kept() -> None:
    streams = Streams(KIB * KIB)
    keeper, other = streams.one(), streams.one()
    believed = []
    for _ in range(33):
        sealed(keeper, 32 * KIB)
        believed.append(streams.memory.window)
    assert believed[0] == 32 << 20
    assert believed == sorted(believed, reverse=True)
    assert believed[-1] == 64 * KIB
    other.acknowledged(0, WIDE, [])
    assert other.edge == 64 * KIB


def test_what_was_told_to_a_source_stays() -> None:
    """RFC 9293 section 3.8.6: a window is not to shrink."""
    streams = Streams(KIB * KIB)
    stream, keeper = streams.one(), streams.one()
    stream.acknowledged(0, 512 * KIB, [])
    before = stream.edge
    sealed(keeper, 1020 * KIB)
    assert streams.memory.window < before
    stream.acknowledged(0, 600 * KIB, [])
    assert stream.edge == before == 512 * KIB
    # A sink that takes its own window back is heard.
    stream.acknowledged(0, 100 * KIB, [])
    assert stream.edge == 100 * KIB


@pytest.mark.parametrize("seals", [True, False])
def test_without_memory_nothing_new_is_taken_by_who_keeps_something(seals: bool) -> None:
    streams = Streams(64 * KIB)
    keeper, stream, idle = streams.one(), streams.one(seals=seals), streams.one(seals=seals)
    if seals:
        sealed(stream, 10)
    else:
        stream.take(0, bytes(30))
        stream.opened([bytes(10)], 30)
        stream.emitted = stream.end
    end = stream.input.end
    sealed(keeper, 70 * KIB)
    assert streams.memory.full
    assert not stream.take(end, b"new")
    assert stream.input.end == end
    assert streams.memory.refused == 1
    # Who keeps nothing gets on, a segment at a time.
    assert bytes(idle.take(0, b"new")) == b"new"
    assert streams.memory.refused == 1
    # And so does everybody once there is room.
    keeper.acknowledged(keeper.end, keeper.end + WIDE, [])
    assert not streams.memory.full
    assert bytes(stream.take(end, b"new")) == b"new"


def test_what_waits_for_its_turn_counts() -> None:
    streams = Streams(64 * KIB)
    stream = streams.one()
    for at in range(1, 40):
        stream.take(at * 4000, bytes(2000))
    # Nobody has to do anything to make it wait for ever: so it never fills all of it.
    assert streams.memory.half_full
    assert not streams.memory.full
    assert 32 * KIB <= streams.memory.taken < 40 * KIB
    assert streams.memory.refused
    # What closes a gap is taken: all that waits behind it could not go on otherwise.
    assert stream.take(0, bytes(4000))
    assert stream.input.end == 6000


@pytest.mark.parametrize("seals", [True, False])
def test_many_small_things_count_for_what_they_take(seals: bool) -> None:
    """Frames of one byte, and pieces of one behind gaps of one."""
    streams = Streams(WIDE)
    stream = streams.one(seals=seals)
    for _ in range(3000):
        if seals:
            stream.sealed(1, bytes(21))
        else:
            stream.opened([b"x"], 21)
    assert streams.memory.taken > 3000 * 40
    stream.emitted = stream.end
    stream.acknowledged(stream.end, stream.end + WIDE, [])
    assert streams.memory.taken < 1000
    end = stream.input.end
    for at in range(3000):
        stream.take(end + 1 + 2 * at, b"x")
    assert streams.memory.taken > 3000 * 60
    stream.drop()
    del stream
    assert streams.memory.taken == 0


def test_a_repetition_is_no_segment_that_was_refused() -> None:
    streams = Streams(64 * KIB)
    stream = streams.one()
    sealed(stream, 70 * KIB)
    assert streams.memory.full
    stream.take(0, bytes(100))
    assert streams.memory.refused == 0
    stream.take(stream.input.end, bytes(100))
    assert streams.memory.refused == 1


def test_a_dead_connection_keeps_nothing_and_is_not_kept_by_strangers() -> None:
    path = Path(Setup())
    path.open()
    path.meddle = lambda from_client, packet: [] if from_client else [packet]
    path.client.write(bytes(30_000))
    path.world.run(1, lambda: False)
    assert path.memories[True].taken > 20_000
    flow = path.flow(True)
    flow.abort()
    assert flow.dead
    assert path.memories[True].taken < 1000
    heard = flow.last_heard
    path.world.run(5, lambda: False)
    path.arrive(from_client=False, packet=path.wire[-1][1])
    assert flow.last_heard == heard


def test_what_was_taken_comes_back() -> None:
    streams = Streams(WIDE)
    for seals in (True, False):
        stream = streams.one(seals=seals)
        for at in range(1, 20):
            stream.take(at * 1000 % 7919 + 5, bytes(900))
        assert streams.memory.taken
        stream.take(0, bytes(9000))
        assert not stream.input.gaps
        assert not streams.memory.taken
        stream.take(20_000, bytes(900))
        sealed(stream, 5000)
        stream.acknowledged(100, WIDE, [])
        assert streams.memory.taken
        del stream
    gc.collect()
    assert streams.memory.taken == 0


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("lose", [0.0, 0.03])
def test_every_byte_arrives_where_there_is_hardly_any_memory(family: int, lose: float) -> None:
    setup = Setup(family=family, memory=6 * KIB, wire=Faults(delay=0.01, lose=lose), seed=7)
    path = Path(setup)
    up, down = bytes(range(256)) * 800, bytes(reversed(range(256))) * 800
    path.exchange(up, down, 6000)
    assert sum(memory.refused for memory in path.memories.values())
    del path.engines
    assert b"\x10\x11\x12\x13" * 2 not in path.in_clear()


def test_connections_of_hosts_in_league_do_not_keep_a_window_each() -> None:
    """The inner host sends all that it may, and nobody beyond ever acknowledges."""
    lanes = paths.make_lanes()
    table = Table(lambda *_: Config(), lanes=lanes, memory_most=KIB * KIB)
    assert table.memory.most == KIB * KIB
    if lanes is not None:
        assert table.memory is lanes.memory
    for port in range(20):
        stream = make_stream(lanes, seals=True, memory=table.memory)
        stream.acknowledged(0, WIDE, [])
        stream.window(10)  # it is told to its source
        table.flows[CLIENT, port, SERVER, 80] = stream  # type: ignore[assignment]
        for _ in range(64):
            taken = stream.take(stream.input.end, bytes(16 * KIB))
            if not taken:
                break
            stream.sealed(len(taken), bytes(len(taken) + 20))
    assert table.memory.taken < 3 * KIB * KIB
    assert table.memory.refused >= 19
    table.flows.clear()


def test_who_keeps_nothing_goes_on_while_others_fill_the_memory() -> None:
    path = Path(Setup(memory=64 * KIB))
    path.open()
    lanes = path.lanes[True]
    other = make_stream(lanes, seals=True, memory=path.memories[True])
    sealed(other, 70 * KIB)
    assert path.memories[True].full
    path.client.write(bytes(4000))
    path.server.write(bytes(4000))
    both = (path.server.received, path.client.received)
    path.world.run(60, lambda: len(both[0]) == len(both[1]) == 4000)
    assert [len(received) for received in both] == [4000, 4000]
    assert path.memories[True].full
    assert path.flow(True).state == "encrypted"
