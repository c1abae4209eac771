"""IPv4 packets of a connection between 192.0.2.1 (client) and 198.51.100.2."""

import struct

from tcpcrypt.wire.segment import Segment

CLIENT, SERVER = bytes((192, 0, 2, 1)), bytes((198, 51, 100, 2))
PORTS = 40000, 80
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
LINUX_SYN = bytes.fromhex("020405b40402080a000000010000000001030307")
CLIENT_ISN, SERVER_ISN = 0xFFFFFFF0, 1000
"""The client's numbers wrap behind 15 bytes."""


def packet(
    from_client=True,
    flags=ACK,
    *,
    seq=None,
    ack=None,
    data=b"",
    options=b"",
    at=0,
    acked=0,
    version=4,
):
    """A packet; `at` and `acked` count bytes of the two streams."""
    own, other = (CLIENT_ISN, SERVER_ISN) if from_client else (SERVER_ISN, CLIENT_ISN)
    if seq is None:
        seq = own + at + (not flags & SYN)
    if ack is None:
        ack = (other + 1 + acked) if flags & ACK else 0
    ports = PORTS if from_client else PORTS[::-1]
    ends = (CLIENT, SERVER) if from_client else (SERVER, CLIENT)
    words = (*ports, seq % 2**32, ack % 2**32, 0x50, flags, 502, 0, 0)
    tcp = struct.pack("!HHIIBBHHH", *words) + data
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 7, 0x4000, 64, 6, 0, *ends)
    if version == 6:
        return b"\x60\0\0\0" + struct.pack("!HBB", len(tcp), 6, 64) + bytes(32) + tcp
    return Segment.parse(head + tcp).with_options(options)


def syn(**fields):
    return packet(flags=SYN, options=LINUX_SYN, **fields)


def syn_ack(**fields):
    return packet(from_client=False, flags=SYN | ACK, options=LINUX_SYN, **fields)


def summed(octets):
    """A packet that was changed, with its checksums."""
    segment = Segment.parse(octets)
    return segment.with_options(segment.options)
