"""RFC 8547: the handshake of a flow, whose SYNs pass with an option more or less.

Sequence numbers stay those of the two hosts until encryption is on: both
streams begin behind the SYN, on either side.
"""

from __future__ import annotations

import enum
from typing import Final

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.registry import (
    ENO_EXID,
    TCP_OPTION_ENO,
    TCP_OPTION_EXPERIMENT,
    TCP_OPTION_FAST_OPEN,
)
from tcpcrypt.segment.stream import OVERHEAD
from tcpcrypt.wire.segment import Segment
from tcpcrypt.wire.tcpopt import insert_option, mss, remove_option, replace_mss, room

__all__ = ["MSS_MIN", "Opening", "Side"]

_ACK_OPTION: Final = 4
"""`45 02` and its padding, in each segment until the peer's first one without SYN."""
_MSS_DEFAULT: Final = {4: 536, 6: 1220}
"""RFC 9293 section 3.7.1."""
MSS_MIN: Final = 64
"""What either host takes in one segment is not believed to be less."""
_TCP_OPTION_MPTCP: Final = 30
_SYNS_WITH_OPTION: Final = 3
"""SYNs that carry ENO where it need not be: a path that swallows those must not keep a
connection from coming about (RFC 8547 section 4.6)."""
_KEYED: Final = (19, 29)
"""TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925): whoever changes such a segment breaks it."""


class Side(enum.IntEnum):
    """Of this engine: where the application is, and where the wire."""

    INNER = 0
    OUTER = 1

    @property
    def other(self) -> Side:
        return _OTHER[self]


_OTHER: Final = {Side.INNER: Side.OUTER, Side.OUTER: Side.INNER}


class Opening:
    """The negotiation of one flow, and what its SYNs said."""

    def __init__(
        self, config: Config, opener: Side, peer: bytes, resumption: ResumptionCache | None
    ) -> None:
        active = opener is Side.INNER
        self.opener = opener
        self.peer = peer
        self.negotiation = Negotiation(
            config, Opener.ACTIVE if active else Opener.PASSIVE, resumption=resumption, peer=peer
        )
        self._insists = config.require_encryption
        self._syns = 0
        """Of this opener, without an answer."""
        self.mss: dict[Side, int] = {}
        """What each side takes at most in one segment, options included."""
        self._narrowed = False

    def leaves(self, segment: Segment) -> bytes:
        """A SYN or SYN-ACK to the wire, with ENO in it where it is due."""
        flags = segment.flags
        self.mss[Side.INNER] = mss(segment.options) or _MSS_DEFAULT[segment.version]
        options = _plainly(segment.options)
        space = room(options)
        if not flags.ack:
            self._syns += 1
            if (
                self._syns > _SYNS_WITH_OPTION
                and not self._insists
                and not self.mss.get(Side.OUTER)
            ):
                space = 0
        option = self.negotiation.option_to_send(flags.syn, flags.ack, space)
        region = insert_option(options, option) if option else None
        return _without_data(segment).with_options(options if region is None else region)

    def comes(self, segment: Segment) -> bytes:
        """A SYN or SYN-ACK from the wire, as the application's host is to see it."""
        flags = segment.flags
        self.mss[Side.OUTER] = mss(segment.options) or _MSS_DEFAULT[segment.version]
        self.negotiation.segment_received(flags.syn, flags.ack, segment.options)
        options = remove_option(_plainly(segment.options), TCP_OPTION_ENO)
        options = remove_option(options, TCP_OPTION_EXPERIMENT, ENO_EXID)
        options = replace_mss(options, self.largest)
        return _without_data(segment).with_options(options)

    @property
    def segment(self) -> int:
        """Payload and options of one segment on the wire at most.

        What either host takes counts, for its own interface may take no more; but
        nobody has work done for each byte of his (Linux has a least MSS, too).
        """
        return max(min(self.mss.values()), MSS_MIN + OVERHEAD + _ACK_OPTION)

    @property
    def largest(self) -> int:
        """The MSS for the application's host: a frame of it fits a segment on the wire."""
        return self.segment - self.overhead

    @property
    def overhead(self) -> int:
        """By how much a segment on the wire may be longer than what was sealed."""
        return OVERHEAD + _ACK_OPTION

    @property
    def single(self) -> int:
        """The longest payload that the application's host sends in one segment.

        On a path that turned out narrower it goes by the path, of which this host knows
        as well, and leaves no room for a frame.
        """
        return self.segment if self._narrowed else self.largest

    def narrow(self, to: Side, segment: int) -> None:
        """RFC 1191, RFC 8201: the path takes no longer segments, options included."""
        self._narrowed = True
        self.mss[to] = min(self.mss[to], segment)

    def option(self, region: bytes) -> bytes:
        """`region` of a segment to the wire that is no SYN, with ENO where it is due."""
        if self.negotiation.finished:
            return region
        option = self.negotiation.option_to_send(False, True, room(region))
        return (insert_option(region, option) or region) if option else region


def can_be_changed(options: memoryview) -> bool:
    """Whether a SYN asks for nothing that a changed segment would break."""
    return all(remove_option(options, kind) == options.tobytes() for kind in _KEYED)


def _plainly(options: memoryview) -> bytes:
    """Without what sends data before there are keys, or past this engine."""
    return remove_option(remove_option(options, TCP_OPTION_FAST_OPEN), _TCP_OPTION_MPTCP)


def _without_data(segment: Segment) -> Segment:
    """RFC 8547 section 4.7: data in a SYN with ENO is ignored."""
    return Segment.parse(segment.with_payload_dropped()) if len(segment.payload) else segment
