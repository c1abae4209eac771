"""The connections that pass a host or a gateway, by their addresses and ports.

Fails closed: a segment of a connection that is not known could belong to one
that was encrypted, so that none passes.  It has begun before the engine did;
its end on the inner side is reset.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tcpcrypt import _fast
from tcpcrypt.core.config import Config
from tcpcrypt.core.key_log import KeyLog
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.errors import PeerError
from tcpcrypt.segment.flow import Flow, Outcome, Report, fitted
from tcpcrypt.segment.memory import Memory
from tcpcrypt.segment.opening import Side, can_be_changed
from tcpcrypt.segment.packets import Header, make_packet
from tcpcrypt.segment.quoting import quoted
from tcpcrypt.wire.segment import Segment, TcpFlags

__all__ = ["Configure", "Key", "Table"]

Key = tuple[bytes, int, bytes, int]
"""Address and port of the inner side, then of the outer one."""
Configure = Callable[[Key, Side, bool], Config | None]
"""What a connection that is opened from this side is to be; None: left alone.  The
third says whether this host only forwards it."""

_BEGINNING_MAX: Final = 16384
"""Connections that have only begun; then the oldest is forgotten for a new one."""
_BEGINNING: Final = 130.0
"""Seconds that a handshake may take; Linux gives up on a SYN-ACK after 63."""
_PLAIN: Final = Config(enabled=False)
_REFUSED: Final = Config(enabled=False, require_encryption=True)
_FLOWS_MAX: Final = 1 << 18
"""Connections in all, those too that are over; further ones do not begin."""


class Table:
    """See above.  `take` is for every packet, `sweep` for now and then."""

    def __init__(
        self,
        configure: Configure,
        *,
        resumption: ResumptionCache | None = None,
        key_log: KeyLog | None = None,
        lanes: _fast.Lanes | None = None,
        memory_most: int | None = None,
        report: Callable[[Key, str, dict[str, object]], None] = lambda _key, _event, _fields: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.flows: dict[Key, Flow] = {}
        self._configure = configure
        self._resumption = resumption
        self._key_log = key_log
        self._lanes = lanes
        self.memory = Memory(memory_most)
        """What is kept for all connections, where there are no lanes; else `lanes` has that."""
        if lanes is not None:
            lanes.memory.most, self.memory = self.memory.most, lanes.memory
        self._report = report
        self._clock = clock
        self._beginning: dict[Key, float] = {}
        self._closing = False
        self._fitted: tuple[Config, Config] | None = None
        """The last configuration, and what its connections have: most have the same."""

    def take(
        self,
        side: Side,
        packet: bytes | memoryview,
        *,
        verified: bool = True,
        forwarded: bool = False,
    ) -> tuple[Key | None, Outcome]:
        """What becomes of a packet that comes from `side`, and whose it is.

        `verified`: nobody has to look whether it was damaged on its way.  What
        leaves has checksums of its own, under which damage would not show.
        `forwarded`: both ends are other hosts.
        """
        try:
            segment = Segment.parse(packet)
        except PeerError:
            # A fragment, or nothing that TCP could read; or what ICMP says of another.
            return self._error(side, packet)
        if not (verified or segment.checksum_ok() or segment.checksum_left()):
            return None, Outcome()
        flow, flags = segment.flow, segment.flags
        key = flow if side is Side.INNER else (flow[2], flow[3], flow[0], flow[1])
        known = self.flows.get(key)
        asks = flags.syn and not flags.ack
        if asks and (known is None or known.over or known.superseded(side, segment)):
            if self._closing:
                return None, Outcome()
            known = self._begin(key, side, segment, forwarded=forwarded)
        if known is None:
            return None, self._unknown(side, segment)
        outcome = self._ask(known, lambda: known.take(side, segment, packet))
        # What was refused stays among them, for anybody can have that as often as
        # he likes.  Only a handshake that is over lets an inner host say anything else;
        # or its peer has shown that it heard the answer, and both have nothing to say yet.
        said = side is Side.INNER and not flags.syn and not flags.rst
        if known.ready and not known.dead and (said or known.agreed):
            self._beginning.pop(key, None)
        return key, outcome

    def _error(self, side: Side, packet: bytes | memoryview) -> tuple[Key | None, Outcome]:
        """An ICMP error passes if it quotes nothing that was opened; else what may be said of it.

        What it says of a segment that was sealed reaches the inner host with the number that
        this one gave it, or not at all.
        """
        try:
            about = quoted(packet)
        except ValueError:
            return None, Outcome()
        if about is None:
            return None, Outcome(passed=True)
        source, source_port, destination, port = key = about.flow
        back = (destination, port, source, source_port)
        opened = self.flows.get(back)
        if opened is not None and not opened.plain:
            if side is Side.OUTER or opened.established is None:
                return None, Outcome()
            return back, self._ask(opened, lambda: opened.quoted_open(about))
        sealed = self.flows.get(key)
        if sealed is None or sealed.plain or sealed.established is None:
            return None, Outcome(passed=True)
        return key, self._ask(sealed, lambda: sealed.quoted(side, about))

    def handle_timeout(self, key: Key) -> Outcome:
        """What a connection sends whose `due` has come."""
        flow = self.flows.get(key)
        return Outcome() if flow is None else self._ask(flow, flow.handle_timeout)

    def ended(self, key: Key) -> Outcome:
        """A connection that is lent was ended by both sides."""
        flow = self.flows.get(key)
        return Outcome() if flow is None else self._ask(flow, flow.ended_elsewhere)

    def fail(self, key: Key, error: Exception) -> Outcome:
        """A connection at whose segment a lane has failed ends."""
        flow = self.flows.get(key)
        return Outcome() if flow is None else flow.give_up(error)

    @staticmethod
    def _ask(flow: Flow, what: Callable[[], Outcome]) -> Outcome:
        try:
            return what()
        except Exception as error:  # a mistake of ours ends one connection, and not all
            return flow.give_up(error)

    def _begin(self, key: Key, side: Side, syn: Segment, *, forwarded: bool) -> Flow | None:
        self._drop(key)
        if len(self.flows) >= _FLOWS_MAX:
            return None
        config = self._configure(key, side, forwarded)
        if config is None or not can_be_changed(syn.options):
            # What has to be encrypted and cannot be is refused by its flow.
            insist = config is not None and config.require_encryption
            config = _REFUSED if insist else _PLAIN
        if self._fitted is None or self._fitted[0] is not config:
            self._fitted = config, fitted(config)
        flow = Flow(
            key,
            side,
            self._fitted[1],
            resumption=self._resumption,
            key_log=self._key_log,
            forwards=forwarded,
            lanes=self._lanes,
            memory=self.memory,
            report=self._reporter(key),
            clock=self._clock,
        )
        self.flows[key] = flow
        self._beginning[key] = self._clock()
        while len(self._beginning) > _BEGINNING_MAX:
            self._drop(next(iter(self._beginning)))
        return flow

    def _reporter(self, key: Key) -> Report:
        return lambda event, fields: self._report(key, event, fields)

    def _drop(self, key: Key) -> None:
        self._beginning.pop(key, None)
        flow = self.flows.pop(key, None)
        if flow is not None:
            flow.forget()

    @staticmethod
    def _unknown(side: Side, segment: Segment) -> Outcome:
        flags = segment.flags
        if flags.rst:
            return Outcome(passed=True)
        if side is Side.OUTER or not flags.ack:
            return Outcome()
        back = (*segment.flow[2:], *segment.flow[:2])
        header = Header(seq=segment.ack, ack=0, flags=TcpFlags.RST, window=0)
        return Outcome([(side, make_packet(back, header))])

    def sweep(self) -> int:
        """Forget what is over; how many connections that were."""
        now = self._clock()
        gone = [
            key
            for key, flow in self.flows.items()
            if flow.forgotten(now) or now - self._beginning.get(key, now) > _BEGINNING
        ]
        for key in gone:
            self._drop(key)
        return len(gone)

    def close(self) -> list[tuple[Side, bytes]]:
        """Reset every connection that is encrypted; the packets that do it.

        Whoever does not believe his, as data was still on its way to him, says so,
        and is reset where he stands if `take` is asked for a moment longer.  New
        connections do not begin any more.
        """
        self._closing = True
        return [packet for flow in self.flows.values() for packet in flow.abort().packets]
