"""The packets of one flow, made of what is known of its ends and streams.

Nothing of a header that came is copied but what lies beneath TCP, the
timestamps of whoever sent it, and the bits of `_PASSING`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tcpcrypt.segment.opening import MSS_MIN, Opening, Side
from tcpcrypt.segment.packets import Header, Options, make_packet, timestamps_and_blocks
from tcpcrypt.segment.stream import Stream
from tcpcrypt.wire.segment import Segment, TcpFlags

__all__ = ["PACKET_MAX", "Came", "Composer", "End", "Packets"]

Packets = list[tuple[Side, bytes]]
"""Where to, and the packet."""
PACKET_MAX: Final = 65_400
"""Payload of a packet that the kernel cuts into segments, or takes as it is: a frame
more than it joins (it leaves 320 bytes for headers), and less than IP can tell."""
_ROOM: Final = PACKET_MAX + 60
"""Payload, and beneath TCP as much as IPv4 has at most."""
_MODULUS: Final = 1 << 32
_BLOCKS_MAX: Final = 4
_SACK_LEN: Final = 4
"""Of the option and its padding, without blocks."""
_BLOCK_LEN: Final = 8
_TIMESTAMPS_LEN: Final = 12
_ACK_OPTION_LEN: Final = 4
_PASSING: Final = TcpFlags.PSH | TcpFlags.ECE | TcpFlags.CWR


@dataclass(slots=True)
class End:
    """What is known of the host on one side."""

    isn: int = -1
    """Its initial sequence number; negative before its SYN."""
    scale: int = 0
    timestamp: bytes = b""
    """TSval of its last segment, four bytes."""
    congestion: bool = False
    """Something of it came marked, and the other side has yet to hear."""


@dataclass(slots=True)
class Came:
    """A segment of one side, read."""

    side: Side
    segment: Segment
    packet: bytes | memoryview
    options: Options
    joined: bool
    """The kernel has joined several segments, and will cut what takes its place."""


class Composer:
    """Makes packets to either side.

    `addresses` are those in a packet to that side; `streams` stand by the side
    of their source.  `forwards`: the inner side is a network, so that packets
    have to fit its segments.
    """

    def __init__(
        self,
        addresses: dict[Side, tuple[bytes, int, bytes, int]],
        streams: dict[Side, Stream],
        opening: Opening,
        *,
        forwards: bool,
    ) -> None:
        self.ends = {Side.INNER: End(), Side.OUTER: End()}
        self.timestamps = False
        """Both ends use them (RFC 7323)."""
        self.blocks = False
        """Both ends take SACK (RFC 2018)."""
        self.urgent: int | None = None
        """Offset in the peer's application stream of its last urgent byte."""
        self._addresses = addresses
        self._streams = streams
        self._opening = opening
        self._forwards = forwards

    def bare(
        self, to: Side, packets: Packets, came: Came | None = None, at: int | None = None
    ) -> None:
        """A segment without data, at the offset `at` or where the stream stands."""
        where = self._streams[to.other].emitted if at is None else at
        packets.append((to, self._packet(to, where, b"", came=came)))

    def emit(
        self,
        to: Side,
        packets: Packets,
        start: int,
        stop: int,
        *,
        came: Came | None = None,
        region: bytes | None = None,
    ) -> None:
        """Output from `start` to `stop`, in as many packets as it takes, one at least.

        `came` is the segment that it is for; the first packet has the options
        `region`, if they are given.
        """
        stream = self._streams[to.other]
        most = self.most(to)
        if came is not None and came.joined:
            most = PACKET_MAX
        elif came is not None and came.side is not to and self.blocks and came.options.blocks:
            # Its SACK option goes on, and what else is to be sent may be more than it had.
            most -= _SACK_LEN + _BLOCK_LEN * min(len(came.options.blocks), self._blocks_max)
        # The header that is lent may be as long as its sender likes (RFC 8200 section 4).
        room = PACKET_MAX if came is None else _ROOM - came.segment.header_at
        while True:
            most = max(min(most, room), 1)
            until = min(stop, start + most)
            data, fin = stream.cut(start, until)
            last = came is None and until == stop
            made = self._packet(to, start, data, fin=fin, came=came, region=region, push=last)
            packets.append((to, made))
            stream.emitted = max(stream.emitted, until)
            start, region, most = until, None, self.most(to)
            if start >= stop:
                return

    def most(self, to: Side) -> int:
        """Payload of one packet at most, if it is one segment."""
        if to is Side.INNER and not self._forwards:
            return PACKET_MAX
        options = _TIMESTAMPS_LEN if self.timestamps else 0
        if to is Side.INNER:
            return max(self._opening.mss[to], MSS_MIN) - options
        options += 0 if self._opening.negotiation.finished else _ACK_OPTION_LEN
        return max(self._opening.segment - options, 1)

    def reset(self, to: Side, at: int) -> bytes:
        """RFC 9293 section 3.5.2: a reset, at an offset of the stream to that side."""
        sender, receiver = self.ends[to.other], self.ends[to]
        flags = TcpFlags.RST | TcpFlags.ACK
        ack = receiver.isn + 1 + self._streams[to].arrived
        header = Header(seq=sender.isn + 1 + at, ack=ack, flags=flags, window=0)
        return make_packet(self._addresses[to], header)

    def reset_answer(self, to: Side, segment: Segment) -> bytes:
        """RFC 9293 section 3.10.7.1: what a closed connection says to a segment."""
        header = Header(seq=segment.ack, ack=0, flags=TcpFlags.RST, window=0)
        return make_packet(self._addresses[to], header)

    def _packet(
        self,
        to: Side,
        at: int,
        data: bytes,
        *,
        fin: bool = False,
        came: Came | None = None,
        region: bytes | None = None,
        push: bool = False,
    ) -> bytes:
        source, like = self._streams[to], came if came is not None and came.side is not to else None
        sender, receiver = self.ends[to.other], self.ends[to]
        arrived = source.arrived
        if region is None:
            region = self._region(to, like, bare=not data)
        flags = TcpFlags.ACK
        if like is not None:
            flags |= like.segment.flags & _PASSING
        if fin:
            flags |= TcpFlags.FIN
        if data and push:
            flags |= TcpFlags.PSH
        ahead = 0
        if data and to is Side.INNER and self.urgent is not None and self.urgent >= at:
            ahead = min(self.urgent + 1 - at, 0xFFFF)
            flags |= TcpFlags.URG
        header = Header(
            seq=sender.isn + 1 + at,
            ack=receiver.isn + 1 + arrived,
            flags=flags,
            window=source.window(sender.scale),
            urgent=ahead,
            options=region,
            lasting=to is Side.INNER,
            congestion=sender.congestion and bool(data),
        )
        if data:
            sender.congestion = False
        if like is None:
            return make_packet(self._addresses[to], header, data)
        return make_packet(self._addresses[to], header, data, like.segment, like.packet)

    @property
    def _blocks_max(self) -> int:
        """How many blocks the options of a segment have room for."""
        return _BLOCKS_MAX - 1 if self.timestamps else _BLOCKS_MAX

    def _region(self, to: Side, like: Came | None, *, bare: bool) -> bytes:
        """The options of a segment that is no SYN."""
        timestamps = b""
        if self.timestamps:
            timestamps = self.ends[to.other].timestamp + self.ends[to].timestamp
            if like is not None and like.options.timestamps:
                timestamps = like.options.timestamps
        most = _BLOCKS_MAX
        if not bare:  # then there is the room that its sender has left for its own
            most = len(like.options.blocks) if like is not None else 0
        blocks = []
        if self.blocks and most:
            first = self.ends[to].isn + 1
            blocks = [
                ((first + start) % _MODULUS, (first + stop) % _MODULUS)
                for start, stop in self._streams[to].blocks()[:most]
            ]
        region = timestamps_and_blocks(timestamps, blocks)
        return self._opening.option(region) if to is Side.OUTER else region
