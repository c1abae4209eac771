"""Calls each hot function of the extension CALLS times; run under callgrind by test_instructions.

python hot_functions.py CALLS
"""

import sys

from tcpcrypt._fast import _c
from tcpcrypt.crypto.aead import aead
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import AeadId
from tcpcrypt.wire.profile import RFC8548

SYN = bytes.fromhex(
    "4500003c1c4640004006b1e60a6301010a630102"  # IPv4
    "9c40005000000001000000008002faf0fe300000"  # TCP
    "020405b40402080a000000010000000001030307"
)
ENO = bytes.fromhex("21222324a3") + bytes(range(17))
KEY = Secret(bytes(range(32)))
DATA = 1400
BULK = 16 << 10


def queued(packet: bytes) -> bytes:
    """A datagram of the kernel with one packet."""
    attributes = b"\x0b\0\x01\0" + bytes(6) + b"\x03\0" + b"\x08\0\x03\0" + bytes(4)
    attributes += (4 + len(packet)).to_bytes(2, "little") + b"\x0a\0" + packet
    length = 20 + len(attributes)
    return length.to_bytes(4, "little") + b"\0\x03" + bytes(12) + b"tc" + attributes


def main(calls: int) -> None:
    parameters = aead(AeadId.AES_128_GCM)
    key = Secret(bytes(parameters.traffic_key_len))
    datagram, verdict = queued(SYN), _c.build_verdict(0x7463, 1, 4, SYN, 0x900000)
    numbers = frozenset({0x7463})
    out32, okay = bytearray(32), bytes(32)
    cache = _c.SessionCache(64, 8)
    for size in (DATA, BULK):
        sealer, opener = parameters.sealer(key, RFC8548), parameters.opener(key, RFC8548)
        plain = bytes(size)
        sealed, opened = bytearray(size + 3 + 1 + 16), bytearray(size + 20)
        for n in range(calls):
            offset = n * len(sealed)
            sealer.seal(plain, sealed, offset, size, False, False, -1)
            opener.open(sealed, opened, offset, False)
    for n in range(calls):
        _c.parse_segment(SYN)
        _c.rebuild_segment(SYN, 20, SYN[40:60], b"")
        _c.walk_options(SYN[40:60])
        _c.parse_eno(ENO)
        _c.expand(okay, b"\x03", out32)
        names = _c.resume_identifiers(out32, 4, 0, b"\xa3")
        _c.parse_queue(datagram)
        _c.build_verdict(0x7463, n, 4, SYN, 0x900000)
        _c.check_verdicts(verdict, numbers)
        cache.insert(b"peer", names, okay, b"meta")
        cache.lookup(names[0])


if __name__ == "__main__":
    main(int(sys.argv[1]))
