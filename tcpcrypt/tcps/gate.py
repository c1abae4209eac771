"""All TCP/S connections of a host: each segment to its own.

What is not known does not pass: TCP/S lets go whatever it has no entry for,
and so a full table, or five minutes of silence, are enough for it to go on in
the clear.  Tables are bounded here, too, and what is forgotten stands still.

A SYN of a peer makes no connection yet, and ends none: the kernel's answer may
still be that it knows nothing of it.  It waits among those that are half open
until the segment comes that only who has seen the answer can send, and takes
the place of a former connection between the same ports then.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from tcpcrypt.errors import PeerError
from tcpcrypt.tcps.connection import Connection, Fate, Terms
from tcpcrypt.tcps.known_hosts import KnownHosts
from tcpcrypt.tcps.states import State
from tcpcrypt.wire.segment import Segment

__all__ = ["CONNECTIONS_MAX", "HALF_OPEN_MAX", "Flow", "Gate"]

CONNECTIONS_MAX: Final = 16384
HALF_OPEN_MAX: Final = 4096
"""Connections of peers that are not there yet; the oldest goes."""
IDLE_SECONDS: Final = 3600.0
"""For so long nobody takes the place of a connection that says nothing."""
ENDED_SECONDS: Final = 120.0
"""A connection is kept so long behind its end, for what is sent again."""
UNANSWERED_SECONDS: Final = 300.0
"""For so long TCP is not silent while something waits to be acknowledged: it sends it
again sooner (RFC 6298 section 2: within 120 s, for Linux)."""
_MODULUS: Final = 1 << 32
Flow = tuple[bytes, int, bytes, int]
"""Address and port of this host, then of the other one."""


class _Entry:
    __slots__ = ("connection", "last")

    def __init__(self, connection: Connection, now: float) -> None:
        self.connection = connection
        self.last = now


class Gate:
    """Decides on segments.

    `terms` says what policy has for a flow and whether this host opens it.  PASS: it
    is left alone, the whole of it; DROP: policy has neither TCP/S for it nor the clear.
    `changed` is told of each new state of a connection.
    """

    def __init__(
        self,
        hosts: KnownHosts,
        terms: Callable[[Flow, bool], Terms | Fate],
        changed: Callable[[Flow, Connection], None] = lambda _flow, _connection: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unknown = 0
        """Segments of no connection that is known."""
        self.refused = 0
        """Connections for which there was no room, or that were given up for others."""
        self._hosts = hosts
        self._terms = terms
        self._changed = changed
        self._clock = clock
        self._live: OrderedDict[Flow, _Entry] = OrderedDict()
        self._half_open: OrderedDict[tuple[Flow, int], Connection] = OrderedDict()
        """By the number of the SYN as well: one more by anybody else touches none of them."""

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[tuple[Flow, Connection]]:
        for flow, entry in self._live.items():
            yield flow, entry.connection

    def outgoing(self, packet: memoryview) -> bytes | Fate:
        """What leaves in place of an IPv4 packet of this host."""
        try:
            segment = Segment.parse(packet)
        except PeerError:
            return Fate.DROP
        flow, flags = segment.flow, segment.flags
        if flags.syn and not flags.ack:
            return self._opens(flow, segment)
        key = flow, (segment.ack - 1) % _MODULUS
        half = self._half_open.get(key)
        if half is not None and (flags.syn or flags.rst):
            if flags.syn:
                # Who answers knows of no former one, whatever becomes of this.
                self._drop(flow)
            made = half.send(segment)
            if half.state is State.CLOSED:
                del self._half_open[key]
            return made
        connection = self._find(flow)
        if connection is not None and (not flags.syn or connection.answer == segment.seq):
            return self._sent(flow, connection, segment)
        self.unknown += 1
        # It carries nothing, and is how a kernel says that it has no such connection.
        return Fate.PASS if flags.rst else Fate.DROP

    def incoming(self, packet: memoryview) -> bytes | Fate:
        """What this host's TCP is given in place of an IPv4 packet."""
        try:
            segment = Segment.parse(packet)
        except PeerError:
            return Fate.DROP
        if not segment.checksum_ok():
            # TCP would not take it, and it would be given another checksum, that is right.
            return Fate.DROP
        source, source_port, destination, destination_port = segment.flow
        flow = (destination, destination_port, source, source_port)
        if segment.flags.syn and not segment.flags.ack:
            return self._is_opened(flow, segment)
        key = flow, (segment.seq - 1) % _MODULUS
        half = self._half_open.get(key)
        if half is not None and self._completes(half, segment):
            del self._half_open[key]
            if not self._admit(flow, half):
                return Fate.DROP
            self._changed(flow, half)
        connection = self._find(flow)
        if connection is None:
            self.unknown += 1
            return Fate.DROP
        return self._came(flow, connection, segment)

    def expire(self) -> int:
        """Forget connections that have ended; how many.  To be called now and then."""
        now = self._clock()
        gone = []
        for flow, entry in self._live.items():
            idle, connection = now - entry.last, entry.connection
            if idle > UNANSWERED_SECONDS:
                connection.given_up()
            if connection.ended and idle > ENDED_SECONDS:
                gone.append(flow)
        for flow in gone:
            self._live.pop(flow).connection.wipe()
        return len(gone)

    def close(self) -> None:
        """Forget all connections, and their keys."""
        for _flow, connection in self:
            connection.wipe()
        for connection in self._half_open.values():
            connection.wipe()
        self._live.clear()
        self._half_open.clear()

    # --- what opens a connection -----------------------------------------------

    def _opens(self, flow: Flow, segment: Segment) -> bytes | Fate:
        """The kernel has no connection there any more, if it opens one."""
        connection = self._find(flow)
        if connection is None or not connection.active or connection.isn != segment.seq:
            connection = self._begin(flow, segment, active=True)
            if connection is None or not self._admit(flow, connection):
                return Fate.DROP
        return self._sent(flow, connection, segment)

    def _is_opened(self, flow: Flow, segment: Segment) -> bytes | Fate:
        entry = self._live.get(flow)
        if entry is not None and entry.connection.active:
            # TCP would take it for a simultaneous open, and policy for another connection.
            return Fate.DROP
        if entry is not None and entry.connection.isn == segment.seq:
            return self._came(flow, entry.connection, segment)
        key = flow, segment.seq
        half = self._half_open.get(key)
        if half is None:
            half = self._begin(flow, segment, active=False)
            if half is None:
                return Fate.DROP
            self._half_open[key] = half
            while len(self._half_open) > HALF_OPEN_MAX:
                _key, oldest = self._half_open.popitem(last=False)
                oldest.wipe()
                self.refused += 1
        made = half.receive(segment)
        if half.state is State.REFUSED:
            del self._half_open[key]
        return made

    def _begin(self, flow: Flow, segment: Segment, *, active: bool) -> Connection | None:
        """A connection by the terms of policy, be it that it is known as one to be left alone.

        For what is not known does not pass, and packets say not who has opened it.
        None: policy lets nothing of it pass here.
        """
        terms, address = self._terms(flow, active), flow[2]
        if terms is Fate.DROP:
            self.refused += 1
            return None
        if isinstance(terms, Fate):
            return Connection.left_alone(self._hosts, address, segment.seq, active=active)
        return Connection(self._hosts, address, segment.seq, terms, active=active)

    @staticmethod
    def _completes(half: Connection, segment: Segment) -> bool:
        """Whether only who has seen the SYN-ACK can have sent this, the first behind the SYN."""
        flags, answer = segment.flags, half.answer
        return (
            answer is not None
            and flags.ack
            and not flags.syn
            and not flags.rst
            and (segment.ack - answer) % _MODULUS == 1
        )

    # --- the table ---------------------------------------------------------------

    def _admit(self, flow: Flow, connection: Connection) -> bool:
        """Take up `connection` in place of what was there; False: there is no room."""
        self._drop(flow)
        if len(self._live) >= CONNECTIONS_MAX and not self._make_room():
            connection.wipe()
            self.refused += 1
            return False
        self._live[flow] = _Entry(connection, self._clock())
        return True

    def _drop(self, flow: Flow) -> None:
        former = self._live.pop(flow, None)
        if former is not None:
            former.connection.wipe()

    def _make_room(self) -> bool:
        """Forget what has ended, or else what has said nothing for longest."""
        if self.expire():
            return True
        flow, oldest = next(iter(self._live.items()))
        if self._clock() - oldest.last <= IDLE_SECONDS:
            return False
        self._live.pop(flow).connection.wipe()
        self.refused += 1
        return True

    def _find(self, flow: Flow) -> Connection | None:
        entry = self._live.get(flow)
        if entry is None:
            return None
        entry.last = self._clock()
        self._live.move_to_end(flow)
        return entry.connection

    def _sent(self, flow: Flow, connection: Connection, segment: Segment) -> bytes | Fate:
        before = connection.state
        made = connection.send(segment)
        if connection.state is not before:
            self._changed(flow, connection)
        return made

    def _came(self, flow: Flow, connection: Connection, segment: Segment) -> bytes | Fate:
        before = connection.state
        made = connection.receive(segment)
        if connection.state is not before:
            self._changed(flow, connection)
        return made
