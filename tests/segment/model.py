"""A small TCP and a bad network, for engines to stand between.

The model shares no code with the engine but the reading and building of
packets.  It repeats with other boundaries than it sent with, as kernels do,
and complains of whatever a real TCP would not understand.
"""

from __future__ import annotations

import heapq
import itertools
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tcpcrypt.segment.flow import Flow, Outcome
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.packets import Header, make_packet, read_options, timestamps_and_blocks
from tcpcrypt.wire.segment import Segment, TcpFlags
from tcpcrypt.wire.tcpopt import mss

SYN, ACK, FIN, RST, PSH, URG = (
    TcpFlags.SYN,
    TcpFlags.ACK,
    TcpFlags.FIN,
    TcpFlags.RST,
    TcpFlags.PSH,
    TcpFlags.URG,
)
MODULUS = 1 << 32


class World:
    """Virtual time."""

    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        return self.now

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), call))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until something is so, or there is no more."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end and not until():
            self.now, _, call = heapq.heappop(self._events)
            call()


@dataclass
class Tcp:
    """One host's end of one connection."""

    world: World
    flow: tuple[bytes, int, bytes, int]
    isn: int
    mss: int = 1460
    scale: int | None = 7
    timestamps: bool = True
    sack: bool = True
    buffer: int = 200_000
    flight: int = 30_000
    joined: int = 1
    """Segments that leave as one packet, to be cut later, as with an interface that can."""
    output: Callable[[bytes], None] = lambda _packet: None
    state: str = "closed"
    received: bytearray = field(default_factory=bytearray)
    read: int = 0
    """Bytes of `received` that the application has taken."""
    reads: bool = True
    peer_closed: bool = False
    urgent: int | None = None
    repeated: int = 0
    segments: int = 0

    def __post_init__(self) -> None:
        self.data = bytearray()
        self.closing = False
        self.una = self.nxt = 0  # offsets; 0 is behind the SYN
        self.window = 0
        self.peer_isn = 0
        self.peer_mss = 536
        self.peer_scale = 0
        self.peer_fin: int | None = None
        self.early: dict[int, bytes] = {}
        self.sacked: set[int] = set()
        self.duplicates = 0
        self.rto = 0.3
        self.generation = 0
        self.recent = bytes(4)

    # what the application does

    def connect(self) -> None:
        self.state = "syn-sent"
        self._syn(SYN)

    def listen(self) -> None:
        self.state = "listen"

    def write(self, data: bytes) -> None:
        self.data += data
        self._push()

    def close(self) -> None:
        self.closing = True
        self._push()

    def consume(self) -> None:
        self.reads = True
        self.read = len(self.received)
        if self.state == "open":
            self._ack()

    # packets out

    def _tsval(self) -> bytes:
        return struct.pack("!I", int(self.world.now * 1000) % MODULUS)

    def _options(self, blocks: bool) -> bytes:
        ranges: list[tuple[int, int]] = []
        if self.sack and blocks:
            for start, piece in sorted(self.early.items()):
                if ranges and ranges[-1][1] >= start:
                    ranges[-1] = (ranges[-1][0], max(ranges[-1][1], start + len(piece)))
                else:
                    ranges.append((start, start + len(piece)))
        isn = self.peer_isn + 1
        return timestamps_and_blocks(
            self._tsval() + self.recent if self.timestamps else b"",
            [((isn + a) % MODULUS, (isn + b) % MODULUS) for a, b in ranges],
        )

    def _syn(self, flags: TcpFlags) -> None:
        options = b"\x02\x04" + struct.pack("!H", self.mss)
        if self.sack:
            options += b"\x04\x02\x01\x01"
        if self.timestamps:
            options += b"\x01\x01\x08\x0a" + self._tsval() + self.recent
        if self.scale is not None:
            options += bytes((1, 3, 3, self.scale))
        header = Header(
            seq=self.isn,
            ack=self.peer_isn + 1,
            flags=flags,
            window=min(self._room(), 65535),
            options=options,
        )
        self.output(make_packet(self.flow, header))
        self._rearm()

    def _room(self) -> int:
        return max(self.buffer - (len(self.received) - self.read), 0)

    def _segment(self, start: int, data: bytes, flags: TcpFlags = ACK, urgent: int = 0) -> None:
        header = Header(
            seq=(self.isn + 1 + start) % MODULUS,
            ack=(self.peer_isn + 1 + self._rcv()) % MODULUS,
            flags=flags,
            window=min(self._room() >> (self.scale or 0), 65535),
            options=self._options(not data),
            urgent=urgent,
        )
        self.segments += 1
        self.output(make_packet(self.flow, header, data))

    def _ack(self) -> None:
        self._segment(self.nxt, b"")

    def _rcv(self) -> int:
        return len(self.received) + (1 if self.peer_closed else 0)

    def _size(self) -> int:
        return max(min(self.peer_mss, self.mss) - (12 if self.timestamps else 0), 1)

    def _push(self) -> None:
        if self.state != "open":
            return
        limit = self.una + min(self.window, self.flight)
        while self.nxt < min(len(self.data), limit):
            size = min(self._size() * self.joined, limit - self.nxt)
            piece = bytes(self.data[self.nxt : self.nxt + size])
            flags = ACK | (PSH if self.nxt + len(piece) == len(self.data) else TcpFlags(0))
            self._segment(self.nxt, piece, flags)
            self.nxt += len(piece)
        if self.closing and self.nxt == len(self.data):
            self._segment(self.nxt, b"", ACK | FIN)
            self.nxt += 1
        if self.una < self.nxt or len(self.data) > self.nxt:
            self._rearm()

    def _again(self) -> None:
        """Repeat from `una` to the first byte that the peer has, in a piece of any size."""
        stop = min(self.nxt, len(self.data))
        size = min(self.world.random.choice((1, 7, 100, 536, 1500, 1500)), self._size())
        end = self.una
        while end < stop and end - self.una < size and end not in self.sacked:
            end += 1
        self.repeated += 1
        if end > self.una:
            self._segment(self.una, bytes(self.data[self.una : end]))
        elif self.una < self.nxt:
            self._segment(self.una, b"", ACK | FIN)
        else:
            self.keep_alive()

    def keep_alive(self, garbage: bytes = b"") -> None:
        """RFC 9293 section 3.8.4, and a probe of a window."""
        self._segment(self.una - 1, garbage)

    def reset(self) -> None:
        """The application is gone, and what was sent with it."""
        self._segment(self.nxt, b"", RST | ACK)
        self.state = "closed"

    def say_urgently(self, data: bytes, last: int) -> None:
        """`data` in one segment, byte `last` of it the last that is urgent."""
        self.data += data
        self._segment(self.nxt, data, ACK | PSH | URG, last + 1)
        self.nxt += len(data)

    def _rearm(self) -> None:
        self.generation += 1
        mine = self.generation
        self.world.after(self.rto, lambda: self._timeout(mine))

    def _timeout(self, generation: int) -> None:
        if generation != self.generation or self.state in {"closed", "reset"}:
            return
        if self.state == "syn-sent":
            self._syn(SYN)
        elif self.state == "syn-received":
            self._syn(SYN | ACK)
        elif self.una < self.nxt or len(self.data) > self.nxt:
            self._again()
            self._rearm()

    # packets in

    def input(self, packet: bytes) -> None:
        segment = Segment.parse(packet)
        assert segment.checksum_ok()
        flags = segment.flags
        options = read_options(segment.options)
        if self.state in {"closed", "reset"}:
            return
        if self.timestamps and not flags.syn and not flags.rst:
            assert options.timestamps, "a segment without timestamps (RFC 7323 section 3.2)"
        if flags.rst:
            self._reset(segment)
        elif flags.syn:
            self._syn_came(segment, options.scale, options.timestamps)
        elif self.state != "listen" and flags.ack:
            self._came(segment)

    def _reset(self, segment: Segment) -> None:
        if self.state == "syn-sent":
            fits = (segment.ack - self.isn) % MODULUS == 1
        else:
            fits = segment.seq == (self.peer_isn + 1 + self._rcv()) % MODULUS
        if fits:
            self.state = "reset"
        elif self.state == "open":
            self._ack()

    def _syn_came(self, segment: Segment, scale: int | None, timestamps: bytes) -> None:
        if self.state == "open":
            self._ack()
            return
        if self.state == "syn-received" and segment.flags.ack:
            # RFC 9293 section 3.5, figure 8: both have opened.
            assert segment.seq == self.peer_isn
            self.state = "open"
            self._ack()
            self._push()
            return
        self.peer_isn = segment.seq
        self.peer_mss = mss(segment.options) or 536
        self.recent = timestamps[:4] or bytes(4)
        self.window = segment.window
        if scale is None:
            self.scale = None
        self.peer_scale = 0 if self.scale is None else scale or 0
        self.timestamps = self.timestamps and bool(timestamps)
        if self.state == "syn-sent" and segment.flags.ack:
            assert segment.ack == (self.isn + 1) % MODULUS
            self.state = "open"
            self._ack()
            self._push()
        else:
            self.state = "syn-received"
            self._syn(SYN | ACK)

    def _offset(self, number: int, isn: int, near: int) -> int:
        distance = (number - isn - 1 - near) % MODULUS
        return near + (distance - MODULUS if distance >= 1 << 31 else distance)

    def _came(self, segment: Segment) -> None:
        options = read_options(segment.options)
        acknowledged = self._offset(segment.ack, self.isn, self.una)
        if acknowledged > self.nxt:
            self._ack()
            raise AssertionError("acknowledges what was never sent")
        if self.state == "syn-received":
            self.state = "open"
        offset = self._offset(segment.seq, self.peer_isn, self._rcv())
        if options.timestamps and offset <= self._rcv():
            self.recent = options.timestamps[:4]
        news = acknowledged > self.una
        old_window, blocks = self.window, set()
        if acknowledged >= self.una:
            self.window = segment.window << self.peer_scale
            for start, stop in options.blocks:
                a, b = (self._offset(n, self.isn, self.una) for n in (start, stop))
                assert a < b <= self.nxt, "selectively acknowledges what was never sent"
                blocks |= set(range(max(a, acknowledged), b))
            self.sacked = blocks
            self.una = acknowledged
        self._data(segment, offset)
        if news:
            self.duplicates = 0
            self._rearm()
        elif self.una < self.nxt and (blocks or not len(segment.payload)):
            if self.window == old_window:
                self.duplicates += 1
            if self.duplicates >= 3:
                self.duplicates = 0
                self._again()
        self._push()

    def _data(self, segment: Segment, offset: int) -> None:
        payload = bytes(segment.payload)
        if not payload and not segment.flags.fin:
            if offset < self._rcv():
                self._ack()  # a probe
            return
        end = offset + len(payload)
        limit = len(self.received) + self._room()
        payload = payload[: max(limit - offset, 0)]
        if segment.flags & URG:
            self.urgent = offset + segment.urgent_pointer - 1
        if payload and end > len(self.received):
            known = self.early.get(offset, b"")
            self.early[offset] = max(known, payload, key=len)
        if segment.flags.fin:
            self.peer_fin = end
        while self.early:
            start = min(self.early)
            if start > len(self.received):
                break
            piece = self.early.pop(start)
            self.received += piece[len(self.received) - start :]
        if self.peer_fin is not None and self.peer_fin == len(self.received):
            self.peer_closed = True
        if self.reads:
            self.read = len(self.received)
        self._ack()


@dataclass
class Faults:
    """What a network does; each the probability for one packet."""

    lose: float = 0.0
    repeat: float = 0.0
    swap: float = 0.0
    delay: float = 0.005


def cut(packet: bytes, size: int) -> list[bytes]:
    """A joined packet as the segments that an interface makes of it."""
    segment = Segment.parse(packet)
    payload = bytes(segment.payload)
    if len(payload) <= size:
        return [packet]
    segments = []
    for at in range(0, len(payload), size):
        last = at + size >= len(payload)
        header = Header(
            seq=segment.seq + at,
            ack=segment.ack,
            flags=segment.flags if last else segment.flags & ~(PSH | FIN),
            window=segment.window,
            options=bytes(segment.options),
        )
        segments.append(make_packet(segment.flow, header, payload[at : at + size]))
    return segments


class Engine:
    """A flow with its held segments and its timer, between two networks."""

    def __init__(self, world: World, flow: Flow, outputs: dict[Side, Callable[[bytes], None]]):
        self.world, self.flow, self.outputs = world, flow, outputs
        self.held: list[tuple[Side, bytes]] = []

    def input(self, side: Side, packet: bytes) -> None:
        segment = Segment.parse(packet)
        outcome = self.flow.take(side, segment, packet)
        if outcome.passed:
            self.outputs[side.other](packet)
        if outcome.held:
            self.held.append((side, packet))
        self.carry_out(outcome)

    def carry_out(self, outcome: Outcome) -> None:
        for to, packet in outcome.packets:
            self.outputs[to](packet)
        if self.held and self.flow.ready:
            held, self.held = self.held, []
            for side, packet in held:
                self.input(side, packet)
        if self.flow.due is not None:
            self.world.after(self.flow.due - self.world.now + 1e-6, self._wake)

    def _wake(self) -> None:
        if self.flow.due is not None and self.world.now >= self.flow.due:
            self.carry_out(self.flow.handle_timeout())
