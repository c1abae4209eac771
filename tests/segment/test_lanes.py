"""What lanes are given and take back, and the queue that they take packets from."""

from __future__ import annotations

import contextlib
import errno
import gc
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from segment import path as paths
from segment.model import Engine
from segment.path import Path, Setup

from tcpcrypt import _fast
from tcpcrypt.core.config import Config
from tcpcrypt.core.lifecycle import SessionState
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.session import Session
from tcpcrypt.segment.composer import Composer
from tcpcrypt.segment.opening import Side
from tcpcrypt.wire.segment import Segment, TcpFlags

INNER_QUEUE, OUTER_QUEUE = 101, 102
OUTPUT, INPUT = 3, 1
NUMBER = struct.Struct("=HHIBx")


@pytest.fixture(autouse=True)
def twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "make_lanes", _fast.make_lanes)


def queued(number: int, identifier: int, hook: int, packet: bytes) -> bytes:
    """A datagram of nfnetlink_queue."""

    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

    body = struct.pack("!BBH", 2, 0, number)
    body += attribute(1, struct.pack("!IHB", identifier, 0x0800, hook))
    body += attribute(10, packet)
    return struct.pack("=IHHII", 16 + len(body), 3 << 8, 0, 0, 0) + body


def verdicts(octets: bytes) -> list[tuple[int, int, int, bytes]]:
    """Queue, identifier, verdict and packet of each."""
    found = []
    assert _fast.check_verdicts(octets, {INNER_QUEUE, OUTER_QUEUE}) == ""
    while octets:
        (length,) = struct.unpack_from("=I", octets)
        (number,) = struct.unpack_from("!H", octets, 18)
        what, identifier = struct.unpack_from("!II", octets, 24)
        packet = b""
        if length > 32:
            (size,) = struct.unpack_from("=H", octets, 32)
            packet = octets[36 : 32 + size]
        found.append((number, identifier, what, packet))
        octets = octets[length:]
    return found


class Queue:
    """Lanes whose kernel is the test."""

    def __init__(self, lanes: _fast.Lanes) -> None:
        self.lanes = lanes
        self.kernel, self.mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.raw = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # it sends nothing to IP
        self.buffer = bytearray(1 << 17)
        for end in (self.kernel, self.mine):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            end.setblocking(False)
        raw = self.raw.fileno()
        lanes.serve(self.mine.fileno(), -1, raw, raw, INNER_QUEUE, OUTER_QUEUE)

    def ask(
        self, datagram: bytes, before: bytearray | None = None
    ) -> tuple[int, list[tuple[int, int, int, bytes]]]:
        """What `receive` says of it, and the verdicts that left."""
        self.kernel.send(datagram)
        count, size = self.lanes.receive(self.buffer, 1, bytearray() if before is None else before)
        assert count == 1
        found = []
        while True:
            try:
                found += verdicts(self.kernel.recv(1 << 18))
            except BlockingIOError:
                return size, found

    def close(self) -> None:
        for sock in (self.kernel, self.mine, self.raw):
            sock.close()


class QueueEngine(Engine):
    """An engine that is shown packets by way of the queue first."""

    queue: Queue
    taken = 0

    def input(self, side: Side, packet: bytes) -> None:
        number, hook = ((INNER_QUEUE, OUTPUT), (OUTER_QUEUE, INPUT))[side]
        size, found = self.queue.ask(queued(number, 7, hook, packet))
        if size:
            assert not found
            assert self.queue.buffer[:size].endswith(packet + bytes(-len(packet) % 4))
            super().input(side, packet)
            return
        self.taken += 1
        [(queue, identifier, what, changed)] = found
        assert (queue, identifier) == (number, 7)
        assert what == (1 if changed else 0)
        if changed:
            self.outputs[side.other](changed)
        for _key, due in self.queue.lanes.take_armed():
            self.world.after(due - self.world.now, self._wake)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    made = made_path(monkeypatch)
    yield made
    closed(made)


def engine_of(path: Path, mine: bool) -> QueueEngine:
    engine = path.engines[mine]
    assert isinstance(engine, QueueEngine)
    return engine


def made_path(
    monkeypatch: pytest.MonkeyPatch,
    caches: tuple[ResumptionCache | None, ResumptionCache | None] = (None, None),
) -> Path:
    """Engines whose packets come by queues; `closed` has to be called for it."""
    monkeypatch.setattr(paths, "Engine", QueueEngine)
    made = Path(Setup(config=(Config(), Config()), caches=caches))
    for mine in made.engines:
        lanes = made.lanes[mine]
        assert lanes is not None
        engine_of(made, mine).queue = Queue(lanes)
    return made


def closed(path: Path) -> None:
    for mine in path.engines:
        engine_of(path, mine).queue.close()


def opened(path: Path) -> Queue:
    """A connection that is lent at both engines; the client's queue."""
    path.open()
    path.client.write(b"one")
    path.server.write(b"two")
    path.world.run(2)
    queue = engine_of(path, True).queue
    assert len(queue.lanes) == 1
    return queue


def of_client(path: Path, data: bytes) -> bytes:
    """The next segment of the client's, which gets no further."""
    found: list[bytes] = []
    output, path.client.output = path.client.output, found.append
    path.client.write(data)
    path.client.output = output
    return found[0]


def test_packets_of_a_queue_are_sealed_opened_and_decided(path: Path) -> None:
    up, down = bytes(range(256)) * 300, bytes(range(255, -1, -1)) * 200
    path.open()
    path.client.write(up)
    path.server.write(down)
    path.world.run(60)
    assert bytes(path.server.received) == up
    assert bytes(path.client.received) == down
    for mine in (True, False):
        engine = engine_of(path, mine)
        assert engine.taken > 60
        assert engine.queue.lanes.taken == engine.taken
    path.client.close()
    path.server.close()
    path.world.run(60)
    assert path.client.peer_closed
    assert path.server.peer_closed
    assert path.flow(True).over


def left_to_python(path: Path) -> dict[bool, int]:
    """Counts, from now on, the packets that no lane has decided on."""
    counts = {True: 0, False: 0}

    def counting(mine: bool) -> None:
        flow = path.flow(mine)
        take = flow.take

        def counted(side: Side, segment: Segment, packet: bytes) -> Any:
            counts[mine] += 1
            return take(side, segment, packet)

        flow.take = counted  # type: ignore[method-assign,assignment]

    for mine in counts:
        counting(mine)
    return counts


def session_of(path: Path, mine: bool) -> Session:
    crypt = path.flow(mine)._crypt
    assert crypt is not None
    return crypt.session


def test_the_end_of_a_connection_does_not_enter_python(path: Path) -> None:
    opened(path)
    counts = left_to_python(path)
    sessions = {mine: session_of(path, mine) for mine in (True, False)}
    path.client.write(b"last words")
    path.client.close()
    path.server.close()
    path.world.run(5)
    assert path.client.peer_closed
    assert path.server.peer_closed
    assert counts == {True: 0, False: 0}
    for mine in (True, False):
        flow, lanes = path.flow(mine), path.lanes[mine]
        assert lanes is not None
        # What comes once more is not for a lane.
        last = next(packet for owner, packet in reversed(path.wire) if owner is not mine)
        asked = engine_of(path, mine).queue.ask(queued(OUTER_QUEUE, 9, INPUT, last))
        assert asked[0] > 0
        assert asked[1] == []
        # Before anybody has looked: a later connection of the same ports may begin.
        assert flow.over
        assert path.names(mine)[-1] != "closed"
        [key] = lanes.take_ended()
        assert key == flow._lending._key
        assert lanes.take_ended() == []
        assert flow.ended_elsewhere().packets == flow.ended_elsewhere().packets == []
        assert path.names(mine).count("closed") == 1
        assert len(lanes) == 0
        assert flow._crypt is None
        assert sessions[mine].state is SessionState.ABORTED
        sender, receiver = sessions[mine]._sender, sessions[mine]._receiver
        assert sender is not None
        assert receiver is not None
        with pytest.raises(RuntimeError, match="wiped"):
            sender._sealer.seal(b"x", bytearray(64), 0, 9)
        with pytest.raises(RuntimeError, match="wiped"):
            receiver._opener.open(bytes(64), bytearray(64), 0)


def test_a_key_is_forgotten_with_its_last_frame_and_half_a_connection_goes_on(path: Path) -> None:
    queue = opened(path)
    counts = left_to_python(path)
    flow = path.flow(True)
    session = session_of(path, True)
    sender = session._sender
    assert sender is not None
    path.client.close()
    path.world.run(2)
    assert len(queue.lanes) == 1
    path.server.write(bytes(5000))
    path.world.run(2)
    assert len(path.client.received) == 5003
    assert counts == {True: 0, False: 0}
    assert not flow.over
    flow._recall()
    assert session.state is SessionState.FINISHED
    with pytest.raises(RuntimeError, match="wiped"):
        sender._sealer.seal(b"x", bytearray(64), 0, 9)
    path.server.close()
    path.world.run(2)
    assert path.client.peer_closed
    assert flow.over


def test_rfc8548_3_7_a_forged_fin_is_left_to_python_and_ends_nothing(path: Path) -> None:
    opened(path)
    counts = left_to_python(path)
    forged: list[bytes] = []

    def meddle(from_client: bool, packet: bytes) -> list[bytes]:
        if not from_client and not forged and len(Segment.parse(packet).payload) == 0:
            octets = bytearray(packet)
            octets[Segment.parse(packet).header_at + 13] |= TcpFlags.FIN
            forged.append(Segment.parse(octets).with_payload_dropped())
            return [packet, forged[0]]
        return [packet]

    path.meddle = meddle
    path.client.write(b"request")
    path.world.run(2)
    assert forged
    assert counts[True] == 1
    assert not path.client.peer_closed
    path.server.write(b"answer")
    path.world.run(2)
    assert bytes(path.client.received) == b"twoanswer"
    assert len(engine_of(path, True).queue.lanes) == 1


def test_data_behind_the_own_fin_is_left_to_python(path: Path) -> None:
    queue = opened(path)
    ends: list[bytes] = []
    output = path.client.output
    path.client.output = lambda packet: (ends.append(packet), output(packet))[1]
    path.client.close()
    path.world.run(2)
    assert len(queue.lanes) == 1
    end = Segment.parse(next(packet for packet in ends if Segment.parse(packet).flags.fin))
    for further in (0, 1):
        behind = end.altered(
            bytes(end.options), b"behind", flags=TcpFlags.ACK, seq=end.seq + further
        )
        size, found = queue.ask(queued(INNER_QUEUE, 9, OUTPUT, behind))
        assert size > 0
        assert not found


def test_a_resumed_connection_is_usual_from_its_first_data_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RFC 8547 section 4.6: ENO goes into each segment until one has come from the peer."""
    caches = (ResumptionCache(Config()), ResumptionCache(Config()))
    Path(Setup(config=(Config(), Config()), caches=caches)).exchange(b"one", b"two")
    path = made_path(monkeypatch, caches)
    path.open()
    path.world.run(1)
    found = path.flow(True).established
    assert found is not None
    assert found.resumed
    counts = left_to_python(path)
    path.client.write(bytes(3000))
    path.world.run(1)
    path.server.write(b"answer")
    path.world.run(1)
    path.client.write(b"once more")
    path.world.run(1)
    assert len(path.server.received) == 3009
    assert counts == {True: 0, False: 0}
    sent = [
        bytes(Segment.parse(packet).options)[-4:] == b"\x45\x02\0\0"
        for from_client, packet in path.wire
        if from_client and len(Segment.parse(packet).payload)
    ]
    assert sent[0]
    assert not sent[-1]
    assert path.flow(True)._lending._greeting
    path.flow(True)._recall()
    assert path.flow(True)._opening.negotiation.finished
    closed(path)


def test_what_was_decided_before_leaves_before(path: Path) -> None:
    queue = opened(path)
    earlier = _fast.build_verdict(INNER_QUEUE, 6, 0, None, None)
    before = bytearray(earlier)
    packet = of_client(path, b"later")
    _, found = queue.ask(queued(INNER_QUEUE, 8, OUTPUT, packet), before)
    assert [(identifier, what) for _, identifier, what, _ in found] == [(6, 0), (8, 1)]
    assert before == b""
    # Nothing is sent for what is not decided here.
    before += earlier
    size, found = queue.ask(queued(INNER_QUEUE + 9, 8, OUTPUT, packet), before)
    assert (size > 0, found, before) == (True, [], earlier)


def test_verdicts_of_lanes_and_of_others_leave_together_and_in_their_order(path: Path) -> None:
    queue = opened(path)
    first, second = of_client(path, b"first"), of_client(path, b"second")
    queue.kernel.send(queued(INNER_QUEUE, 8, OUTPUT, first))
    queue.kernel.send(queued(INNER_QUEUE + 9, 9, OUTPUT, first))
    before = bytearray()
    count, size = queue.lanes.receive(queue.buffer, 5, before)
    assert (count, size > 0) == (2, True)
    with pytest.raises(BlockingIOError):
        queue.kernel.recv(1 << 18)
    assert [identifier for _, identifier, _, _ in verdicts(bytes(before))] == [8]
    before += _fast.build_verdict(INNER_QUEUE, 9, 0, None, None)
    queue.kernel.send(queued(INNER_QUEUE, 10, OUTPUT, second))
    assert queue.lanes.receive(queue.buffer, 5, before) == (2, -1)
    assert before == b""
    left = verdicts(queue.kernel.recv(1 << 18))
    assert [(identifier, what) for _, identifier, what, _ in left] == [(8, 1), (9, 0), (10, 1)]


@pytest.mark.parametrize("number", [800, 1600])
def test_more_verdicts_than_one_call_takes_keep_their_order(path: Path, number: int) -> None:
    queue = opened(path)
    message = _fast.build_verdict(INNER_QUEUE, 6, 0, None, None)
    before = bytearray(message * number)
    packet = of_client(path, b"behind them")
    queue.kernel.send(queued(INNER_QUEUE, 8, OUTPUT, packet))
    assert queue.lanes.receive(queue.buffer, 1, before) == (1, 0)
    assert before == b""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found += verdicts(queue.kernel.recv(1 << 18))
    assert [identifier for _, identifier, _, _ in found] == [6] * number + [8]


def test_what_is_forgotten_has_no_keys_and_says_nothing(path: Path) -> None:
    queue = opened(path)
    flow = path.flow(True)
    crypt = flow._crypt
    assert crypt is not None
    flow.forget()
    flow.forget()
    assert flow.dead
    assert len(queue.lanes) == 0
    assert crypt.session.state is SessionState.ABORTED


def test_damage_is_not_covered_by_a_new_checksum(path: Path) -> None:
    queue = opened(path)
    packet = bytearray(of_client(path, b"damaged"))
    packet[-1] ^= 1
    size, found = queue.ask(queued(INNER_QUEUE, 8, INPUT, bytes(packet)))
    assert size > 0
    assert not found


@pytest.mark.parametrize(
    "change",
    [
        lambda datagram: datagram[:19],
        lambda datagram: datagram[:4] + b"\x01\x04" + datagram[6:],
        lambda datagram: struct.pack("=I", len(datagram) + 4) + datagram[4:],
        lambda datagram: datagram[:20] + b"\x03\x00" + datagram[22:],
        lambda datagram: datagram[:20] + b"\xff\xff" + datagram[22:],
        lambda datagram: datagram[:22] + b"\x63\x00" + datagram[24:],
        lambda datagram: datagram[:34] + b"\x63\x00" + datagram[36:],
        lambda datagram: datagram[:32] + b"\xff\xff" + datagram[34:],
        lambda datagram: datagram[:36] + b"\x46" + datagram[37:],
        lambda datagram: datagram[:36] + b"\x44" + datagram[37:],
        lambda datagram: datagram[:38] + b"\xff\xff" + datagram[40:],
        lambda datagram: datagram[:42] + b"\x20\x00" + datagram[44:],
        lambda datagram: datagram[:45] + b"\x11" + datagram[46:],
        lambda datagram: datagram[:68] + b"\x40" + datagram[69:],
        lambda datagram: datagram[:68] + b"\xf0" + datagram[69:],
    ],
)
def test_what_does_not_parse_is_left_to_python(path: Path, change: Any) -> None:
    queue = opened(path)
    packet = of_client(path, b"x")
    datagram = queued(INNER_QUEUE, 8, OUTPUT, packet)
    assert datagram[36] == 0x45
    size, found = queue.ask(change(datagram))
    assert size > 0
    assert not found
    assert queue.ask(datagram)[0] == 0


@pytest.mark.parametrize("flags", [TcpFlags.SYN, TcpFlags.RST, TcpFlags.URG, TcpFlags.ACK])
def test_what_is_not_usual_is_left_to_python(path: Path, flags: TcpFlags) -> None:
    queue = opened(path)
    packet = bytearray(of_client(path, b"x"))
    packet[Segment.parse(packet).header_at + 13] ^= flags
    assert queue.ask(queued(INNER_QUEUE, 8, OUTPUT, bytes(packet)))[0] > 0


def test_nothing_waits_and_no_queue(path: Path) -> None:
    queue = opened(path)
    assert queue.lanes.receive(queue.buffer, 5, bytearray()) == (1, -1)
    lanes = _fast.make_lanes()
    assert lanes is not None
    with pytest.raises(RuntimeError, match="no queue"):
        lanes.receive(queue.buffer, 1, bytearray())
    queue.mine.close()
    with pytest.raises(OSError, match="no packets") as caught:
        queue.lanes.receive(queue.buffer, 1, bytearray())
    assert caught.value.errno == errno.EBADF


def test_a_connection_comes_back_once(path: Path) -> None:
    queue = opened(path)
    flow = path.flow(True)
    lane = flow._lending._lane
    assert lane is not None
    crypt = flow._crypt
    assert crypt is not None
    with pytest.raises(RuntimeError, match="in use"):
        crypt.wipe()
    flow._recall()
    assert len(queue.lanes) == 0
    with pytest.raises(RuntimeError, match="taken back"):
        lane.recall()
    with pytest.raises(RuntimeError, match="taken back"):
        lane.take(0, b"", 0.0)
    assert queue.ask(queued(INNER_QUEUE, 8, OUTPUT, of_client(path, b"x")))[0] > 0


def test_a_plane_that_is_dropped_with_a_connection_lent_lets_go_of_its_keys() -> None:
    """Lanes know each other: it is the garbage collector that finds them."""
    path = Path()
    path.open()
    path.client.write(b"one")
    path.server.write(b"two")
    path.world.run(2)
    crypt = path.flow(True)._crypt
    assert crypt is not None
    assert path.flow(True)._lending._lane is not None
    sender = crypt.session._sender
    assert sender is not None
    sealer = sender._sealer
    del path, crypt, sender
    gc.collect()
    sealer.wipe()  # which is refused while somebody uses it


def test_only_what_can_be_is_lent(path: Path) -> None:
    opened(path)
    flow = path.flow(True)
    flow._recall()
    crypt, lanes = flow._crypt, path.lanes[True]
    assert crypt is not None
    assert lanes is not None
    lease = crypt.lend()
    assert lease is not None
    assert lease.sealing is not None
    assert lease.opening is not None
    mine, theirs = flow._streams[Side.INNER], flow._streams[Side.OUTER]
    end = (1, 7, bytes(4), False, 1400, 1400)
    good: dict[str, Any] = {
        "sealer": lease.sealing.sealer, "seal_at": 0, "seal_end": 1 << 30, "frames_left": 9,
        "frame_data": 1400, "opener": lease.opening.opener, "open_at": 0, "begun": b"",
        "rto": 1.0, "due": 0.0, "tries": 0, "last_heard": 0.0,
    }  # fmt: skip
    key = (bytes(4), 1, bytes(4), 2)

    def lend(
        key: tuple[bytes, int, bytes, int] = key,
        streams: tuple[Any, Any] = (mine, theirs),
        first: tuple[int, int, bytes, bool, int, int] = end,
        **changed: Any,
    ) -> _fast.Lane:
        return lanes.lend(key, *streams, (first, end), True, True, **(good | changed))

    wrongs: tuple[dict[str, Any], ...] = (
        {"streams": (theirs, mine)},
        {"key": (bytes(16), 1, bytes(4), 2)},
        {"key": (bytes(4), 1, bytes(3), 2)},
        {"first": (1, 15, bytes(4), False, 1400, 1400)},
        {"first": (1, 7, b"", False, 1400, 1400)},
        {"frame_data": 0},
        {"frame_data": 65_519},
        {"begun": bytes(1 << 17)},
    )
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"stream|end of|timestamp|frame"):
            lend(**wrong)
    lane = lend()
    with pytest.raises(RuntimeError, match="lent"):
        lend()
    lane.recall()
    lend().recall()


def test_another_process_decides_and_adds_where_this_one_may_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Composer, "most", lambda _self, _to: 900)
    queue = opened(path)
    parent, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    raw = queue.raw.fileno()
    with parent, worker:
        parent.setblocking(False)
        queue.lanes.serve(queue.mine.fileno(), worker.fileno(), raw, raw, INNER_QUEUE, OUTER_QUEUE)
        assert queue.ask(queued(INNER_QUEUE, 8, OUTPUT, of_client(path, b"in clear"))) == (0, [])
        [(number, identifier, _, changed)] = verdicts(parent.recv(1 << 18))
        assert (number, identifier) == (INNER_QUEUE, 8)
        assert b"in clear" not in changed
        # What does not fit the place of a packet is added behind its verdict.
        injected = queue.lanes.injected
        packet = of_client(path, bytes(1300))
        assert queue.ask(queued(INNER_QUEUE, 9, OUTPUT, packet)) == (0, [])
        messages = []
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(parent.recv(1 << 18))
        added = [message[4:] for message in messages if message[:4] == bytes(4)]
        assert len(added) == queue.lanes.injected - injected > 0
        for made in added:
            assert Segment.parse(made).checksum_ok()
        assert sum(len(verdicts(m)) for m in messages if m[:4] != bytes(4)) == 1
        # And when that process is gone, this one ends: nobody decides any more.
        parent.close()
        with pytest.raises(SystemExit):
            queue.ask(queued(INNER_QUEUE, 10, OUTPUT, of_client(path, b"y")))
    queue.close()


def test_a_lane_that_fails_ends_its_connection_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path.client, "joined", 40)
    monkeypatch.setattr(path.client, "flight", 60_000)
    queue = opened(path)
    packet = of_client(path, bytes(45_000))
    assert len(packet) > 1 << 15  # so long that its verdict leaves at once
    queue.kernel.send(queued(INNER_QUEUE, 8, OUTPUT, packet))
    queue.kernel.close()
    assert queue.lanes.receive(queue.buffer, 1, bytearray()) == (1, 0)
    [(key, error)] = queue.lanes.take_failed()
    assert isinstance(error, OSError)
    assert queue.lanes.take_failed() == []
    flow = path.flow(True)
    assert key == flow._lending._key
    outcome = flow.give_up(error)
    assert {Segment.parse(made).flags for _, made in outcome.packets} == {
        TcpFlags.RST | TcpFlags.ACK
    }
    assert flow.dead
    assert path.names(True)[-1] == "failed"
    assert len(queue.lanes) == 0
