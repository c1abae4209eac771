"""Who wants plaintext out, an end of all connections, or the engine's memory."""

from collections.abc import Callable

import pytest
from segment.model import ACK, FIN, MODULUS, RST, SYN, TcpFlags
from segment.path import Path, Setup
from segment.test_edges import forged, opened
from segment.test_table import BACK, MSS, THERE, Clock, segment, table

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.errors import PeerReason
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.nfqueue import QUEUE_NUMBER
from tcpcrypt.runtime.segment_queue import INNER_QUEUE, OUTER_QUEUE
from tcpcrypt.runtime.segments import SegmentPlane
from tcpcrypt.segment import table as module
from tcpcrypt.segment.flow import Outcome
from tcpcrypt.segment.memory import Memory
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.stream import Stream
from tcpcrypt.segment.table import Table
from tcpcrypt.wire.segment import Segment

OTHER, OTHER_BACK = (THERE[0], 5000, *THERE[2:]), (*BACK[:3], 5000)


def with_eno() -> bytes:
    """The options of a SYN with ENO in it."""
    option = Negotiation(Config(), Opener.ACTIVE).option_to_send(True, False, 36)
    return MSS + option + bytes(-len(option) % 4)


def half_open(one: Table) -> None:
    """The inner host has answered a SYN with ENO: 101 of the peer's and 501 are next."""
    one.take(Side.OUTER, segment(BACK, SYN, 100, options=with_eno()))
    _, outcome = one.take(Side.INNER, segment(THERE, SYN | ACK, 500, 101, options=MSS))
    assert len(Segment.parse(outcome.packets[0][1]).options) > len(MSS)


# --- plaintext -----------------------------------------------------------------------


def test_a_syn_opens_no_way_for_an_older_connection() -> None:
    # What was encrypted before the engine was started anew, or has died here,
    # and of which the inner host has not heard.
    one = table()
    assert one.take(Side.OUTER, segment(BACK, SYN, 100, options=MSS))[1].passed
    assert one.flows[THERE].plain
    _, outcome = one.take(Side.INNER, segment(THERE, ACK, 500, 777, data=b"secret"))
    assert not outcome.passed
    [(to, packet)] = outcome.packets
    assert (to, Segment.parse(packet).flags, Segment.parse(packet).seq) == (Side.INNER, RST, 777)
    # Nor do bytes of whoever has sent the SYN get into that connection.
    _, outcome = one.take(Side.OUTER, segment(BACK, ACK, 777, 500, data=b"forged"))
    assert (outcome.passed, outcome.packets) == (False, [])
    # A SYN-ACK for another SYN is none for this one.
    assert not one.take(Side.INNER, segment(THERE, SYN | ACK, 500, 777))[1].passed
    # The peer has begun anew meanwhile, and is answered.
    assert one.take(Side.OUTER, segment(BACK, SYN, 300, options=MSS))[1].passed
    assert one.take(Side.INNER, segment(THERE, SYN | ACK, 500, 301))[1].passed
    assert one.take(Side.INNER, segment(THERE, ACK, 501, 301, data=b"plain"))[1].passed


@pytest.mark.parametrize(
    ("seq", "ack"), [(101, 500), (101, 502), (100, 501), (101 + (1 << 20), 501), (9, 501)]
)
def test_whoever_does_not_know_both_numbers_talks_no_handshake_into_plain_tcp(
    seq: int, ack: int
) -> None:
    one = table()
    half_open(one)
    _, outcome = one.take(Side.OUTER, segment(BACK, ACK, seq, ack))
    assert (outcome.passed, outcome.packets) == (False, [])
    assert not one.flows[THERE].plain


def test_what_lies_beyond_all_windows_is_given_no_number_that_is_believed() -> None:
    path = opened()
    before = path.client.segments
    for off in (1 << 22, -(1 << 22)):
        path.arrive(from_client=False, packet=forged(path, ACK, off=off))
    path.world.run(1)
    assert path.client.segments == before


def test_rfc5961_3_2_a_host_that_lacks_what_was_sent_last_believes_its_reset() -> None:
    # Without one it would go on in clear when the engine is gone.
    path = opened()
    engine = path.engines[True]
    assert engine is not None
    inner = engine.outputs[Side.INNER]
    engine.outputs[Side.INNER] = lambda _packet: None
    path.server.write(b"lost within")
    path.world.run(0.1)
    engine.outputs[Side.INNER] = inner
    stream = path.flow(True)._streams[Side.OUTER]
    assert stream.una < stream.emitted
    path.client.output = lambda _packet: None  # nobody is there to be asked
    for to, packet in path.flow(True).abort().packets:
        if to is Side.INNER:
            inner(packet)
    path.world.run(0.1)
    assert path.client.state == "reset"


@pytest.mark.parametrize("family", [4, 6])
def test_nothing_opened_dies_on_its_way_and_is_quoted_in_clear(family: int) -> None:
    # RFC 792, RFC 4443 section 3.3: Time Exceeded holds the packet that has died.
    path = Path(Setup(family=family, forwards=True))
    path.open()
    at = 8 if family == 4 else 7

    def nearly_dead(from_client: bool, packet: bytes) -> list[bytes]:
        changed = bytearray(packet)
        changed[at] = 1
        # Made anew, so that the checksum of the header is right.
        return [Segment.parse(changed).with_options(Segment.parse(changed).options)]

    lives: list[int] = []
    engine = path.engines[True]
    assert engine is not None
    inner = engine.outputs[Side.INNER]

    def watched(packet: bytes) -> None:
        assert Segment.parse(packet).checksum_ok()
        lives.append(packet[at])
        inner(packet)

    engine.outputs[Side.INNER] = watched
    path.meddle = nearly_dead
    path.server.write(b"welcome")
    path.world.run(2)
    assert bytes(path.client.received) == b"welcome"
    assert set(lives) == {64}


# --- an end of all connections ----------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (b"\x15", b"\xff" * 100, PeerReason.INIT_MAGIC),
        (b"\x15\x10\x1a\x0e", b"\xff" * 100, PeerReason.INIT_TOO_LONG),
    ],
)
def test_an_init_message_that_goes_wrong_later_ends_its_connection_alone(
    first: bytes, second: bytes, reason: PeerReason
) -> None:
    heard: list[tuple[str, dict[str, object]]] = []
    one = table(report=lambda _key, event, fields: heard.append((event, fields)))
    half_open(one)
    eno = b"\x45\x02\0\0"
    one.take(Side.OUTER, segment(BACK, ACK, 101, 501, options=eno, data=first))
    _, outcome = one.take(
        Side.OUTER, segment(BACK, ACK, 101 + len(first), 501, options=eno, data=second)
    )
    event, facts = heard[-1]
    assert (event, facts["reason"]) == ("aborted", reason.value)
    assert [Segment.parse(packet).flags for _, packet in outcome.packets] == [RST | ACK] * 2


@pytest.mark.parametrize("stamped", [SYN, SYN | ACK, ACK])
def test_rfc7323_3_2_timestamps_that_one_host_alone_has(stamped: TcpFlags) -> None:
    one = table()
    stamps = b"\1\1\x08\x0a" + bytes(range(8))
    syn, answer, ack = (stamps if flags == stamped else b"" for flags in (SYN, SYN | ACK, ACK))
    eno = with_eno()
    one.take(Side.OUTER, segment(BACK, SYN, 100, options=eno + syn))
    one.take(Side.INNER, segment(THERE, SYN | ACK, 500, 101, options=MSS + answer))
    one.take(Side.OUTER, segment(BACK, ACK, 101, 501, options=b"\x45\x02\0\0" + ack))
    assert one.flows[THERE]._crypt is not None
    # Whatever it says from now on has options that parse.
    _, outcome = one.take(Side.OUTER, segment(BACK, SYN, 100))
    assert [bytes(Segment.parse(packet).options) for _, packet in outcome.packets] == [b""]
    assert not one.flows[THERE].dead


def test_data_behind_the_own_fin_is_nothing() -> None:
    path = opened()
    path.client.close()
    path.world.run(1)
    beyond = path.client.isn + 1 + len(b"hello") + 1
    engine = path.engines[True]
    assert engine is not None
    engine.input(Side.INNER, segment(THERE, ACK, beyond, path.server.isn + 8, data=b"beyond"))
    path.server.write(b" still")
    path.world.run(1)
    assert bytes(path.server.received) == b"hello"
    assert bytes(path.client.received) == b"welcome still"


def test_a_mistake_of_the_engine_ends_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    one = table()
    half_open(one)
    one.take(Side.OUTER, segment(OTHER_BACK, SYN, options=MSS))
    one.take(Side.INNER, segment(OTHER, SYN | ACK, 500, 101))

    def mistaken(*_: object) -> Outcome:
        raise ZeroDivisionError

    monkeypatch.setattr(one.flows[THERE], "_segment", mistaken)
    _, outcome = one.take(Side.OUTER, segment(BACK, ACK, 101, 501, data=b"odd"))
    assert [to for to, _ in outcome.packets] == [Side.INNER, Side.OUTER]
    assert one.flows[THERE].dead
    _, outcome = one.take(Side.INNER, segment(THERE, ACK, 501, 101, data=b"secret"))
    assert not outcome.passed
    assert one.take(Side.INNER, segment(OTHER, ACK, 501, 101, data=b"plain"))[1].passed
    # The same for what a timer does; of what is gone there is none.
    monkeypatch.setattr(one.flows[OTHER], "handle_timeout", mistaken)
    one.handle_timeout(OTHER)
    assert one.flows[OTHER].dead
    assert one.handle_timeout((*OTHER[:3], 1)).packets == []


@pytest.mark.parametrize("length", [80, 1600, 30_000])
def test_rfc8200_4_extension_headers_of_any_length(length: int) -> None:
    path = Path(Setup(family=6), buffer=1_000_000, flight=300_000, joined=40)
    path.open()
    path.client.write(b"a word")
    path.world.run(2)
    # One has 2048 bytes at most, but there may be many.
    chain = b"".join(
        bytes((60 if at + 2048 < length else 6, (min(2048, length - at) // 8) - 1))
        + bytes(min(2048, length - at) - 2)
        for at in range(0, length, 2048)
    )

    def longer(from_client: bool, packet: bytes) -> list[bytes]:
        if from_client:
            return [packet]
        size = int.from_bytes(packet[4:6], "big") + len(chain)
        head = packet[:4] + size.to_bytes(2, "big") + b"\x3c" + packet[7:40]
        return [head + chain + packet[40:]]

    path.meddle = longer
    content = bytes(range(250)) * 1000
    path.server.write(content)
    path.world.run(60, lambda: len(path.client.received) == len(content))
    assert bytes(path.client.received) == content
    assert "failed" not in path.names(True)


# --- connections of others, in the clear -----------------------------------------------------


def test_rfc5961_a_forged_end_makes_no_open_connection_over() -> None:
    one = table()
    one.take(Side.OUTER, segment(BACK, SYN, 100, options=MSS))
    one.take(Side.INNER, segment(THERE, SYN | ACK, 500, 101))
    one.take(Side.OUTER, segment(BACK, ACK, 101, 501))
    one.take(Side.INNER, segment(THERE, ACK, 501, 101, data=b"open"))
    one.take(Side.INNER, segment(THERE, FIN | ACK, 505, 101))
    one.take(Side.OUTER, segment(BACK, ACK, 101, 506))
    for flags in (RST, FIN | ACK):
        one.take(Side.OUTER, segment(BACK, flags, 5_000_000, 77))
        assert not one.flows[THERE].over
    one.take(Side.OUTER, segment(BACK, RST, 101))
    assert one.flows[THERE].over


@pytest.mark.parametrize("opener", list(Side))
def test_who_was_refused_may_ask_again_from_the_same_port(opener: Side) -> None:
    one = table()
    asks, answers = (THERE, BACK) if opener is Side.INNER else (BACK, THERE)
    one.take(opener, segment(asks, SYN, 100, options=with_eno()))
    stranger = segment(answers, RST | ACK, 0, 77)
    if opener is Side.INNER:
        one.take(Side.OUTER, stranger)
        assert not one.flows[THERE].over
    assert one.take(opener.other, segment(answers, RST | ACK, 0, 101))[1].passed
    _, outcome = one.take(opener, segment(asks, SYN, 9_000, options=with_eno()))
    assert [to for to, _ in outcome.packets] == [opener.other]


@pytest.mark.parametrize("opener", list(Side))
def test_who_got_no_answer_may_ask_again_from_the_same_port(opener: Side) -> None:
    one = table()
    asks = THERE if opener is Side.INNER else BACK
    one.take(opener, segment(asks, SYN, 100, options=with_eno()))
    _, outcome = one.take(opener, segment(asks, SYN, 9_000, options=with_eno()))
    assert [to for to, _ in outcome.packets] == [opener.other]
    # But nobody else's SYN comes between the inner host's answer and the peer's next.
    half_open(other := table())
    assert other.take(Side.OUTER, segment(BACK, SYN, 9_000, options=MSS))[1] == Outcome()
    assert not other.flows[THERE].plain


# --- memory, and work ----------------------------------------------------------------------


@pytest.mark.parametrize("require", [False, True])
def test_a_flood_of_what_is_refused_is_forgotten(
    require: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BEGINNING_MAX", 10)
    one = table(Config(require_encryption=require))
    for port in range(1000, 1030):
        flow, back = (*THERE[:3], port), (BACK[0], port, *BACK[2:])
        one.take(Side.OUTER, segment(back, SYN, options=MSS))
        one.take(Side.INNER, segment(flow, RST | ACK, 0, 101))  # nobody listens there
    assert len(one.flows) == 10


def test_there_are_so_many_connections_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLOWS_MAX", 1)
    one = table()
    assert one.take(Side.INNER, segment(THERE, SYN, options=MSS))[1].packets
    assert one.take(Side.INNER, segment(OTHER, SYN, options=MSS)) == (None, Outcome())
    assert list(one.flows) == [THERE]


@pytest.mark.parametrize(
    ("closes", "silent", "patience"),
    [(False, False, 432_000), (False, True, 1000), (True, False, 3600)],
)
def test_who_vanishes_without_a_word_is_forgotten(
    closes: bool, silent: bool, patience: int
) -> None:
    path = opened()
    if silent:
        path.meddle = lambda from_client, packet: [packet] if from_client else []
        path.client.write(b"is there anybody?")
    if closes:
        path.client.close()
    path.world.run(1)
    flow = path.flow(True)
    assert not flow.forgotten(flow.last_heard + patience - 10)
    assert flow.forgotten(flow.last_heard + patience + 10)


def test_frames_without_data_leave_nothing_behind() -> None:
    stream = Stream(seals=False)
    for _ in range(1000):
        stream.take(stream.input.end, bytes(20))
        stream.opened([], 20)
    assert len(stream.cells) == 0
    assert stream.arrived == 20_000


def test_rfc8548_3_8_answers_to_new_keys_that_nobody_acknowledges() -> None:
    path = opened()
    mine = path.flow(True)._crypt
    theirs = path.flow(False)._streams[Side.INNER]
    assert mine is not None
    stands = theirs.una

    def never_acknowledging(from_client: bool, packet: bytes) -> list[bytes]:
        if not from_client:
            return [packet]
        changed = bytearray(packet)
        at = Segment.parse(packet).header_at + 8
        changed[at : at + 4] = ((path.server.isn + 1 + stands) % MODULUS).to_bytes(4, "big")
        return [Segment.parse(changed).with_options(Segment.parse(changed).options)]

    path.meddle = never_acknowledging
    for _ in range(1100):
        if not path.flow(False).dead:
            path.flow(True)._recall()  # the keys may be lent
            mine.session.rekey()
            mine._drain()
            path.client.keep_alive()
            path.world.run(0.02)
            assert theirs.end - stands < 1100 * 20
    assert ("aborted", {"reason": PeerReason.TIMEOUT.value}) in path.events[False]
    # Who acknowledges may go on for ever.
    stream = Stream(seals=True)
    for _ in range(3):
        stream.sealed(0, bytes(20))
        stream.emitted = stream.end
        stream.acknowledged(stream.end, stream.end + 100, [])
        assert stream.dataless == 0


def test_nobody_has_a_packet_made_for_each_byte_of_his() -> None:
    one = table()
    syn = b"\x02\x04\x00\x01" + with_eno()[4:]
    one.take(Side.OUTER, segment(BACK, SYN, 100, options=syn))
    one.take(Side.INNER, segment(THERE, SYN | ACK, 500, 101, options=MSS))
    flow = one.flows[THERE]
    assert flow._opening.segment == 88
    assert flow._composer.most(Side.OUTER) >= 64


def test_nor_has_a_host_behind_a_gateway_one_made_for_each_byte_that_comes_for_it() -> None:
    one = table()
    one.take(Side.OUTER, segment(BACK, SYN, 100, options=with_eno()), forwarded=True)
    small = segment(THERE, SYN | ACK, 500, 101, options=b"\x02\x04\x00\x01")
    one.take(Side.INNER, small, forwarded=True)
    assert one.flows[THERE]._composer.most(Side.INNER) == 64


# --- the kernel's queues ----------------------------------------------------------------------


class Queue:
    """Instead of the kernel's."""

    def __init__(self) -> None:
        self.verdicts: list[tuple[int, Verdict, bytes | None]] = []

    def verdict(
        self, packet: QueuedPacket, what: Verdict, payload: bytes | None = None, mark: int = 0
    ) -> None:
        self.verdicts.append((packet.identifier, what, payload))

    def fileno(self) -> int:
        return -1

    def receive_by(self, receiver: object) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class Loop:
    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def watch(self, *_: object) -> None:
        pass

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.calls.append((seconds, call))

    call_every = call_later


class Adding:
    descriptors = (-1, -1, -1)

    def send(self, packet: bytes) -> None:
        pass


@pytest.fixture
def queue() -> Queue:
    return Queue()


def plane_of(queue: Queue, config: Config | None) -> SegmentPlane:
    loop, adding = Loop(), Adding()
    return SegmentPlane(loop, queue, adding, lambda *_: config)  # type: ignore[arg-type]


def queued(number: int, identifier: int, packet: bytes) -> QueuedPacket:
    return QueuedPacket(number, identifier, Hook.FORWARD, 0, memoryview(packet))


def test_what_comes_from_another_queue_is_dropped(queue: Queue) -> None:
    plane = plane_of(queue, Config())
    plane._on_packet(queued(QUEUE_NUMBER, 1, segment(THERE, SYN)))
    assert queue.verdicts == [(1, Verdict.DROP, None)]


def test_what_waits_for_keys_does_not_leave_with_another_connection(queue: Queue) -> None:
    clock = Clock()
    plane = plane_of(queue, Config())
    plane.table._clock = clock
    syn_ack = Negotiation(Config(), Opener.PASSIVE)
    plane._on_packet(queued(INNER_QUEUE, 1, segment(THERE, SYN, 500, options=MSS)))
    offered = Segment.parse(queue.verdicts[-1][2] or b"").options
    syn_ack.segment_received(True, False, offered)
    option = syn_ack.option_to_send(True, True, 36)
    answer = segment(BACK, SYN | ACK, 100, 501, options=MSS + option + bytes(-len(option) % 4))
    plane._on_packet(queued(OUTER_QUEUE, 2, answer))
    plane._on_packet(queued(INNER_QUEUE, 3, segment(THERE, ACK, 501, 101)))
    plane._on_packet(queued(INNER_QUEUE, 4, segment(THERE, ACK, 501, 101, data=b"secret")))
    assert 4 not in [identifier for identifier, _, _ in queue.verdicts]
    # A flood has the connection forgotten, and a SYN that its port begins in clear.
    plane.table._drop(THERE)
    plane._on_packet(queued(OUTER_QUEUE, 5, segment(BACK, SYN, 100, options=MSS)))
    assert queue.verdicts[-2:] == [(5, Verdict.ACCEPT, None), (4, Verdict.DROP, None)]
    assert plane._held_count == 0


def test_what_is_due_earlier_does_not_wait_for_what_was_put_off(queue: Queue) -> None:
    plane = plane_of(queue, Config())
    clock = plane._clock = Clock()
    loop = plane._loop
    assert isinstance(loop, Loop)
    plane._on_packet(queued(INNER_QUEUE, 1, segment(THERE, SYN, 500, options=MSS)))
    flow = plane.table.flows[THERE]
    asked: list[float] = []
    plane.table.handle_timeout = lambda _key: (asked.append(clock.now), Outcome())[1]  # type: ignore[method-assign]
    del loop.calls[:]
    for due in (60.0, 60.0, 0.2, 0.2):
        flow._timer.due = clock.now + due
        plane._follow(THERE)
    (late, put_off), (soon, at_once) = loop.calls
    assert (late, round(soon, 6)) == (60.0, 0.2)
    flow._timer.due = None
    at_once()
    put_off()
    assert len(asked) == 1
    assert not plane._timed


class Told:
    """Lanes that have told of three connections."""

    def __init__(self) -> None:
        self.ended = [(THERE[0], port, *THERE[2:]) for port in (1, 2, 3)]

    def take_ended(self) -> list[object]:
        told, self.ended = self.ended, []
        return list(told)

    def take_failed(self) -> list[object]:
        return []

    take_armed = take_failed


def test_where_memory_runs_out_at_one_connection_the_others_are_not_forgotten(
    queue: Queue,
) -> None:
    plane = plane_of(queue, Config())
    plane._lanes = Told()  # type: ignore[assignment]
    asked: list[int] = []

    def ended(key: tuple[bytes, int, bytes, int]) -> Outcome:
        asked.append(key[1])
        if len(asked) == 1:
            raise MemoryError
        return Outcome()

    plane.table.ended = ended  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        plane._follow_lanes()
    plane._sweep()
    assert sorted(asked) == [1, 2, 3]


def test_what_there_was_no_memory_to_repeat_is_repeated_later(queue: Queue) -> None:
    plane = plane_of(queue, Config())
    plane._clock = Clock()
    loop = plane._loop
    assert isinstance(loop, Loop)
    plane._on_packet(queued(INNER_QUEUE, 1, segment(THERE, SYN, 500, options=MSS)))

    def handle_timeout(_key: object) -> Outcome:
        raise MemoryError

    plane.table.handle_timeout = handle_timeout  # type: ignore[method-assign]
    plane._wake_at(THERE, plane._clock() + 0.2)
    _seconds, wake = loop.calls[-1]
    with pytest.raises(MemoryError):
        wake()
    seconds, _again = loop.calls[-1]
    assert seconds == 1.0
    assert plane._timed == {THERE: plane._clock() + 1.0}


def test_segments_for_which_there_was_no_memory_are_told_of(queue: Queue) -> None:
    loop, adding, told = Loop(), Adding(), []
    plane = SegmentPlane(
        loop,  # type: ignore[arg-type]
        queue,  # type: ignore[arg-type]
        adding,  # type: ignore[arg-type]
        lambda *_: Config(),
        exhausted=told.append,
    )
    ((_seconds, sweep),) = loop.calls
    plane.table.memory = Memory()
    sweep()
    plane.table.memory.refused = 3
    sweep()
    sweep()
    plane.table.memory.refused = 5
    sweep()
    assert told == [3, 2]


def test_what_was_damaged_on_its_way_gets_no_good_checksum(queue: Queue) -> None:
    # Under keys it would be the peer's word that the damage is what was said.
    plane = plane_of(queue, None)
    good = segment(THERE, SYN, options=MSS)
    damaged = good[:-1] + b"\xb5"
    plane._on_packet(queued(INNER_QUEUE, 1, damaged))
    plane._on_packet(queued(INNER_QUEUE, 2, good))
    # That of this host's own packets is for the interface to fill in.
    own = queued(INNER_QUEUE, 3, damaged)
    plane._on_packet(own._replace(hook=Hook.OUTPUT))
    assert [what for _, what, _ in queue.verdicts] == [
        Verdict.DROP,
        Verdict.ACCEPT,
        Verdict.ACCEPT,
    ]
