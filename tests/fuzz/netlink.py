"""What the kernel says of queued packets, and what a worker says to be done with them.

Packets come from the network whole; the messages around them from the kernel, or
from a worker that somebody may have taken over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fuzz.harness import alike, outcome

from tcpcrypt.runtime.netlink import parse_messages
from tcpcrypt.wire.segment import Segment

MAX_LEN = 300
QUEUE = 0x7463
SYN = bytes.fromhex(
    "4500003c1c4640004006b1e60a6301010a630102"
    "9c40005000000001000000008002faf0fe300000"
    "020405b4450602122000000001000000000103030700"[:40]
)
SYN6 = bytes.fromhex("6000000000180640") + bytes(15) + b"\1" + bytes(15) + b"\2" + SYN[20:44]


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def queued(packet: bytes, mark: bytes = b"\0\x90\0\0") -> bytes:
    """A datagram of the kernel with one packet."""
    body = struct.pack("!BBH", 2, 0, QUEUE) + _attribute(1, struct.pack("!IHB", 7, 0x0800, 3))
    body += _attribute(3, mark) + _attribute(10, packet)
    return struct.pack("=IHHII", 16 + len(body), 3 << 8, 0, 0, 0) + body


def seeds() -> Iterator[bytes]:
    yield queued(SYN)
    yield struct.pack("=IHHIIi", 36, 2, 0, 5, 0, -17) + bytes(16)
    yield SYN
    yield SYN6
    for payload, mark in ((None, None), (SYN, 0x900000), (None, 1)):
        yield alike(lambda twin, p=payload, m=mark: twin.build_verdict(QUEUE, 1, 4, p, m))  # type: ignore[misc]


def check(data: bytes) -> None:
    alike(lambda twin: twin.parse_queue(data))
    alike(lambda twin: twin.check_verdicts(data, frozenset({QUEUE})))
    outcome(lambda: list(parse_messages(memoryview(data))))
    found = alike(lambda twin: twin.parse_segment(data))
    if len(found) == 2:
        return
    tcp = found[1]
    assert tcp + found[3] <= found[2] <= len(data)
    region = data[tcp + 20 : tcp + found[3]]
    alike(lambda twin: twin.rebuild_segment(data, tcp, region, b"payload"))
    segment = Segment.parse(data)
    assert bytes(segment.options) == region
