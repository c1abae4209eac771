"""Captured packets, looked at as a passive observer would."""

from collections.abc import Iterable

from tcpcrypt.errors import PeerError
from tcpcrypt.registry import TCP_OPTION_ENO
from tcpcrypt.wire.segment import Segment
from tcpcrypt.wire.tcpopt import parse_options


def segments(packets: Iterable[bytes], port: int = 80) -> list[Segment]:
    """The TCP segments among them that have to do with `port`."""
    found = []
    for packet in packets:
        try:
            segment = Segment.parse(packet)
        except PeerError:
            continue
        if port in {segment.source_port, segment.destination_port}:
            found.append(segment)
    return found


def eno(segment: Segment) -> bytes | None:
    """Contents of the segment's ENO option, or None."""
    contents = [o.data for o in parse_options(segment.options) if o.kind == TCP_OPTION_ENO]
    assert len(contents) <= 1
    return contents[0] if contents else None
