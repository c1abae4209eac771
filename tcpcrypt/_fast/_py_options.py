"""RFC 8547 section 4.1, RFC 9293 section 3.1, RFC 1071: the Python twin of option parsing.

Index loops over bytes: this runs once for each packet of a handshake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcpcrypt._fast._py_buffers import readable
from tcpcrypt.errors import PeerError, PeerReason
from tcpcrypt.registry import (
    SUBOPTION_V,
    TCP_OPTION_END,
    TCP_OPTION_NOP,
    TCP_OPTIONS_MAX,
    TEP_FIRST,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["checksum", "parse_eno", "walk_options"]


def parse_eno(contents: ReadableBuffer) -> tuple[int, tuple[tuple[int, bool, bytes], ...]]:
    """Parse the contents of a SYN-form ENO option (RFC 8547 section 4.4).

    Returns the first global suboption byte (0 where there is none) and, in
    order, `(tep, v, data)` of each TEP suboption, `tep` without bit `v`.
    Raises `PeerError` with ENO_DATA_PAST_END or ENO_RESERVED_LENGTH.
    """
    octets = readable(contents).tobytes()
    total = len(octets)
    first_global = -1
    suboptions: list[tuple[int, bool, bytes]] = []
    index = 0
    while index < total:
        octet = octets[index]
        index += 1
        if octet < TEP_FIRST:
            # Section 4.2: only the first global suboption counts.
            if first_global < 0:
                first_global = octet
        elif octet < SUBOPTION_V:
            suboptions.append((octet, False, b""))
        elif octet < SUBOPTION_V + TEP_FIRST:
            if index == total:
                raise PeerError(PeerReason.ENO_DATA_PAST_END)
            tep = octets[index]
            # A length byte governs a TEP suboption with data; what a length
            # byte before anything else means is left to the future (section 7).
            if tep < SUBOPTION_V + TEP_FIRST:
                raise PeerError(PeerReason.ENO_RESERVED_LENGTH)
            end = index + 2 + (octet & (TEP_FIRST - 1))
            if end > total:
                raise PeerError(PeerReason.ENO_DATA_PAST_END)
            suboptions.append((tep & ~SUBOPTION_V, True, octets[index + 1 : end]))
            index = end
        else:
            suboptions.append((octet & ~SUBOPTION_V, True, octets[index:]))
            break
    return max(first_global, 0), tuple(suboptions)


def walk_options(options: ReadableBuffer) -> tuple[tuple[int, int, int], ...]:
    """List the TCP options of a header as `(kind, start, end)` (RFC 9293 section 3.1).

    `start` is the index of the kind byte, `end` one past the last data byte.
    NOPs are left out; the walk ends at end-of-options.  Raises `PeerError`
    with OPTION_LENGTH, also for more than 40 bytes of options.
    """
    view = readable(options)
    if view.nbytes > TCP_OPTIONS_MAX:
        raise PeerError(PeerReason.OPTION_LENGTH)
    octets = view.tobytes()
    total = len(octets)
    found: list[tuple[int, int, int]] = []
    index = 0
    while index < total:
        kind = octets[index]
        if kind == TCP_OPTION_NOP:
            index += 1
            continue
        if kind == TCP_OPTION_END:
            break
        if index + 1 == total:
            raise PeerError(PeerReason.OPTION_LENGTH)
        length = octets[index + 1]
        end = index + length
        if length < 2 or end > total:
            raise PeerError(PeerReason.OPTION_LENGTH)
        found.append((kind, index, end))
        index = end
    return tuple(found)


def checksum(data: ReadableBuffer, initial: int = 0) -> int:
    """One's-complement sum of `data` (RFC 1071), folded to 16 bits, not inverted.

    `initial` is a folded sum to go on from; an odd last byte is padded with 0.
    """
    view = readable(data)
    # 2**16 is 1 modulo 0xffff, so the sum of all 16-bit words is the number
    # that they spell, modulo 0xffff.  Folding gives 0 only for a sum of 0.
    total = int.from_bytes(view.tobytes(), "big")
    if view.nbytes & 1:
        total <<= 8
    total += initial
    return total % 0xFFFF or (0xFFFF if total else 0)
