"""SYNs of applications that wait until the connection to the peer is decided.

So the application learns from its own `connect()` what became of it: that the
peer refused, or cannot be reached, and not from a reset afterwards.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from tcpcrypt.errors import PeerError
from tcpcrypt.runtime.eno_backend import SocketAddress, Tuple4
from tcpcrypt.runtime.netlink import QueuedPacket, Verdict
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.rules import (
    MARK_DIRECT,
    MARK_MASK,
    MARK_REFUSED,
    MARK_STEERED,
    MARK_UNREACHABLE,
)
from tcpcrypt.wire.segment import Segment

__all__ = ["HELD_MAX", "HeldSyn", "SynHold"]

HELD_MAX: Final = 16384
"""Connections that may wait at once; the SYNs of others are dropped, and come again."""
PACKETS_KEPT: Final = 1024
"""Beyond it a SYN waits until it is repeated, and no longer."""
_ARRIVED_KEPT: Final = 1024
"""Connections that have come, whose SYNs are known; all of some hundred milliseconds."""
_DSCP: Final = 0xFC


class HeldSyn:
    """One connection that an application opens.  Decide once, then `forget`.

    The SYN's repetitions, which come while the application has no answer, share
    the decision.
    """

    __slots__ = (
        *("_decision", "_hold", "_packet", "connection", "dscp", "family", "isn", "mark", "queue"),
        "superseded",
    )

    def __init__(self, hold: SynHold, packet: QueuedPacket, segment: Segment) -> None:
        self._hold = hold
        self._packet: QueuedPacket | None = None
        self._decision: int | None = None
        self.connection = Tuple4(*segment.flow)
        self.queue = packet.queue
        self.isn = segment.seq
        self.superseded: Callable[[], None] | None = None
        """Called when another connection of the same addresses takes its place."""
        self.family = segment.version
        self.mark = packet.mark & ~MARK_MASK
        """The bits of the application's SO_MARK that are not ours."""
        self.dscp = _traffic_class(packet.payload) & _DSCP

    @property
    def client(self) -> SocketAddress:
        return self._address(self.connection.local, self.connection.local_port)

    @property
    def service(self) -> SocketAddress:
        return self._address(self.connection.remote, self.connection.remote_port)

    def _address(self, packed: bytes, port: int) -> SocketAddress:
        if self.family == 4:
            return socket.inet_ntop(socket.AF_INET, packed), port
        return socket.inet_ntop(socket.AF_INET6, packed), port, 0, 0

    @property
    def decided(self) -> bool:
        return self._decision is not None

    def steer(self) -> None:
        """Let it come to the daemon's listener."""
        self._decide(MARK_STEERED)

    def leave_alone(self) -> None:
        """Let it, and all that follows, go to the peer as they are."""
        self._decide(MARK_DIRECT)

    def refuse(self) -> None:
        """Have it answered with a reset."""
        self._decide(MARK_REFUSED)

    def unreachable(self) -> None:
        """Have it answered with `host unreachable`."""
        self._decide(MARK_UNREACHABLE)

    def drop(self) -> None:
        """Give no answer; the application goes on to wait."""
        packet = self._take_out()
        if packet is not None:
            self._hold.queue.verdict(packet, Verdict.DROP)

    def keep(self, packet: QueuedPacket) -> None:
        """Let this one wait for the decision."""
        # Its content stays where it was received, and that is used again.
        self._packet = packet._replace(payload=memoryview(b""))
        self._hold.packets += 1

    def _take_out(self) -> QueuedPacket | None:
        packet, self._packet = self._packet, None
        if packet is not None:
            self._hold.packets -= 1
        return packet

    def forget(self) -> None:
        """A later SYN of the same addresses is a new connection.  Idempotent."""
        self.drop()
        self.superseded = None
        self._hold.forget(self)

    def arrived(self) -> None:
        """The application's connection is up; `forget`, but for repetitions of its SYN."""
        self._hold.note_arrived(self)
        self.forget()

    def _decide(self, mark: int) -> None:
        self._decision = mark
        packet = self._take_out()
        if packet is not None:
            self._pass(packet)

    def repeated(self, packet: QueuedPacket) -> None:
        """The application's kernel has sent the SYN again.

        It takes the place of the one before, unless so many wait that they
        could fill the kernel's queue: then none of this connection waits, and
        a later repetition takes the decision.
        """
        if self._decision is not None:
            self._pass(packet)
            return
        self.drop()
        if self._hold.packets < PACKETS_KEPT:
            self.keep(packet)
        else:
            self._hold.queue.verdict(packet, Verdict.DROP)

    def _pass(self, packet: QueuedPacket) -> None:
        mark = packet.mark & ~MARK_MASK | (self._decision or 0)
        self._hold.queue.verdict(packet, Verdict.REPEAT, mark=mark)


class SynHold:
    """All held SYNs.  `came` takes each new one, which it must see decided in the end."""

    def __init__(self, queue: PacketQueue, came: Callable[[HeldSyn], None]) -> None:
        self.queue = queue
        self.packets = 0
        """That wait in the kernel now."""
        self.overflowed = 0
        """SYNs dropped because too many were waiting."""
        self._came = came
        self._held: dict[Tuple4, HeldSyn] = {}
        self._arrived: OrderedDict[Tuple4, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def take_stray(self, packet: QueuedPacket, leave_alone: Callable[[Tuple4, int], bool]) -> None:
        """A SYN that was steered and is about to leave: its socket is bound to a device.

        `leave_alone` is told connection and sequence number, and says whether it may.
        """
        try:
            segment = Segment.parse(packet.payload)
        except PeerError:
            self.queue.verdict(packet, Verdict.DROP)
            return
        if leave_alone(Tuple4(*segment.flow), segment.seq):
            mark = packet.mark & ~MARK_MASK | MARK_DIRECT
            self.queue.verdict(packet, Verdict.REPEAT, mark=mark)
        else:
            self.queue.verdict(packet, Verdict.DROP)

    def take(self, packet: QueuedPacket) -> None:
        """A SYN from one of the hold queues."""
        try:
            segment = Segment.parse(packet.payload)
        except PeerError:
            # Not what the rules say that they send here.
            self.queue.verdict(packet, Verdict.DROP)
            return
        held = HeldSyn(self, packet, segment)
        if self._arrived.get(held.connection) == (held.isn, held.queue):
            # Repeated before the answer was heard, as on a machine that is busy: it
            # is nobody's any more, and must not open another connection to the peer.
            self.queue.verdict(packet, Verdict.DROP)
            return
        known = self._held.get(held.connection)
        if known is not None and (known.isn, known.queue) == (held.isn, held.queue):
            known.repeated(packet)
            return
        if known is not None and known.superseded is not None:
            known.superseded()
        if held.connection in self._held:
            self.queue.verdict(packet, Verdict.DROP)
        elif len(self._held) >= HELD_MAX:
            self.overflowed += 1
            self.queue.verdict(packet, Verdict.DROP)
        else:
            self._held[held.connection] = held
            held.keep(packet)
            try:
                self._came(held)
            except BaseException:
                held.forget()  # nobody decides this one; a repetition is asked about anew
                raise

    def note_arrived(self, held: HeldSyn) -> None:
        """See `HeldSyn.arrived`."""
        self._arrived.pop(held.connection, None)
        self._arrived[held.connection] = held.isn, held.queue
        if len(self._arrived) > _ARRIVED_KEPT:
            self._arrived.popitem(last=False)

    def forget(self, held: HeldSyn) -> None:
        """See `HeldSyn.forget`."""
        if self._held.get(held.connection) is held:
            del self._held[held.connection]


def _traffic_class(packet: memoryview) -> int:
    if packet[0] >> 4 == 4:
        return packet[1]
    return (packet[0] << 4 | packet[1] >> 4) & 0xFF
