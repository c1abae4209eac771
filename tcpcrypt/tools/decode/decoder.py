"""Packets of any number of connections, each to its own."""

from __future__ import annotations

from collections import deque
from typing import Final

from tcpcrypt.errors import PeerError, PeerReason
from tcpcrypt.tools.decode.capture import Packet
from tcpcrypt.tools.decode.connection import Connection
from tcpcrypt.tools.decode.frames import FrameSink
from tcpcrypt.tools.decode.keys import KeyStore
from tcpcrypt.tools.decode.report import ConnectionReport, endpoint
from tcpcrypt.tools.decode.sink import NowhereSink, Sink
from tcpcrypt.wire.segment import Segment

__all__ = ["Decoder"]

_IPV6_LEN: Final = 40
_LINGERING: Final = 240.0
"""Seconds, two MSL of RFC 9293: what belongs to a connection may come so late."""
_ENDED_MAX: Final = 10_000
"""Connections of which late copies are awaited."""
_FRAGMENTS_MAX: Final = 10_000
"""Pairs of hosts of whose fragments is told."""
_SEQ_MOD: Final = 1 << 32
Flow = tuple[bytes, int, bytes, int]


class Decoder:
    """Feed `packet`, then `finish`; plaintext goes to the sink meanwhile.

    With `port`, connections from or to others are passed over.  `keep` says how many
    reports `finish` returns at most; the sink is given each at its end.
    """

    def __init__(
        self,
        store: KeyStore,
        sink: Sink | None = None,
        *,
        frames: FrameSink | None = None,
        port: int | None = None,
        keep: int | None = None,
    ) -> None:
        self._store = store
        self._sink = sink or NowhereSink()
        self._frames = frames
        self._port = port
        self._keep = keep
        self._reports: list[ConnectionReport] = []
        self._by_flow: dict[Flow, tuple[Connection, bool]] = {}
        """By sender and receiver; whether the sender is the client."""
        self._ended: deque[tuple[float, Flow, Connection]] = deque()
        """Of which late copies may come, the longest ended first."""
        self._fragments: set[frozenset[bytes]] = set()
        self._time = 0.0
        self.damaged = 0
        """Packets that contradict themselves."""
        self.connections = 0

    def packet(self, packet: Packet) -> None:
        """Take an IP packet; what is not TCP is passed over."""
        self._time = packet.time
        missing = _missing(packet.data) if packet.cut else 0
        data = bytes(packet.data) + bytes(missing) if missing else packet.data
        try:
            segment = Segment.parse(data)
        except PeerError as error:
            if error.reason is PeerReason.SEGMENT_FRAGMENT:
                if len(self._fragments) < _FRAGMENTS_MAX:
                    self._fragments.add(_hosts(packet.data))
            elif error.reason is not PeerReason.SEGMENT_NOT_TCP:
                self.damaged += 1
            return
        if self._port is not None and self._port not in (segment.flow[1], segment.flow[3]):
            return
        found = self._find(segment)
        if found is None:
            return
        connection, from_client = found
        before = connection.ended
        connection.segment(segment, from_client, packet.time, missing)
        if connection.ended:
            if not before:
                self._ended.append((packet.time, segment.flow, connection))
            if connection.complete:
                self._close(connection, segment.flow)
            self._forget()

    def keys_came(self) -> None:
        """The key store has more than before: connections that waited may be read."""
        for flow, (connection, _from_client) in list(self._by_flow.items()):
            connection.keys_came(self._time)
            if connection.complete:
                self._close(connection, flow)

    def finish(self) -> list[ConnectionReport]:
        """All connections that are kept, in the order of their first packets."""
        for flow, (connection, _from_client) in list(self._by_flow.items()):
            self._close(connection, flow)
        return self._reports

    def _close(self, connection: Connection, flow: Flow) -> None:
        connection.finish(self._time)
        if connection.report.errors and _pair(flow) in self._fragments:
            connection.report.note(
                "IP fragments between these hosts were captured, which are not put together"
            )

    def _forget(self) -> None:
        """Let go of connections that ended long ago, or many others ago."""
        while self._ended:
            at, flow, connection = self._ended[0]
            crowded = len(self._ended) > _ENDED_MAX
            if not crowded and at + _LINGERING >= self._time:
                return
            self._ended.popleft()
            if not crowded and connection.last > at and not connection.complete:
                # A RST, or a FIN, that its hosts have not believed.
                self._ended.append((connection.last, flow, connection))
                continue
            self._close(connection, flow)
            for way in (flow, (*flow[2:], *flow[:2])):
                if way in self._by_flow and self._by_flow[way][0] is connection:
                    del self._by_flow[way]

    def _find(self, segment: Segment) -> tuple[Connection, bool] | None:
        """Whose segment it is; None: nobody's, or not known yet."""
        found = self._by_flow.get(segment.flow)
        if found is None:
            return self._begin(segment)
        if not self._begins_anew(segment, *found):
            return found
        former, earlier = found[0], found[0].reopening
        if former.complete or not former.answered:
            self._close(former, segment.flow)
            return self._begin(segment)
        # Anybody can send a SYN.  One that is answered was believed.
        if not segment.flags.ack:
            former.reopening = Segment.parse(segment.with_payload_dropped())
            return None
        source, source_port, destination, destination_port = segment.flow
        back = (destination, destination_port, source, source_port)
        if earlier is None or earlier.flow != back or (segment.ack - earlier.seq) % _SEQ_MOD != 1:
            return None
        self._close(former, segment.flow)
        self._begin(earlier)[0].segment(earlier, True, self._time)
        return self._by_flow[segment.flow]

    @staticmethod
    def _begins_anew(segment: Segment, connection: Connection, from_client: bool) -> bool:
        """Whether a SYN opens another connection on the same ports."""
        flags = segment.flags
        if not flags.syn:
            return False
        mine = connection.client if from_client else connection.server
        if mine.isn is not None:
            return segment.seq != mine.isn
        # The server's first SYN: an answer, or a simultaneous open.
        return not (flags.ack or connection.opening)

    def _begin(self, segment: Segment) -> tuple[Connection, bool]:
        flow = source, source_port, destination, destination_port = segment.flow
        answer = segment.flags.syn and segment.flags.ack
        sender = endpoint(segment.source, source_port)
        receiver = endpoint(segment.destination, destination_port)
        client, server = (receiver, sender) if answer else (sender, receiver)
        report = ConnectionReport(self.connections, client, server)
        self.connections += 1
        if self._keep is None or len(self._reports) < self._keep:
            self._reports.append(report)
        connection = Connection(report, self._store, self._sink, self._frames)
        back = (destination, destination_port, source, source_port)
        self._by_flow[flow] = connection, not answer
        self._by_flow[back] = connection, answer
        return self._by_flow[flow]


def _missing(packet: memoryview) -> int:
    """Bytes that a packet should have and the capture has not."""
    if packet[0] >> 4 == 6:
        length = _IPV6_LEN + int.from_bytes(packet[4:6], "big")
    else:
        length = int.from_bytes(packet[2:4], "big")
    return max(0, length - len(packet))


def _pair(flow: Flow) -> frozenset[bytes]:
    return frozenset((flow[0], flow[2]))


def _hosts(packet: memoryview) -> frozenset[bytes]:
    """Source and destination address of an IP packet."""
    start, size = (8, 16) if packet[0] >> 4 == 6 else (12, 4)
    at = range(start, start + 2 * size, size)
    return frozenset(bytes(packet[index : index + size]) for index in at)
