"""From what an interface delivers to the IP packet in it."""

from __future__ import annotations

from typing import Final

__all__ = ["ip_packet"]

_IPV4, _IPV6 = 0x0800, 0x86DD
_TAGS: Final = frozenset({0x8100, 0x88A8, 0x9100})
"""IEEE 802.1Q, 802.1ad, and the number that was used before 802.1ad."""
_TAG_LEN: Final = 4
_TAGS_MAX: Final = 4
_NULL, _ETHERNET, _LOOP, _SLL, _SLL2 = 0, 1, 108, 113, 276
_RAW: Final = frozenset({12, 14, 101, 228, 229})
_PROTOCOL_AT: Final = {_ETHERNET: (12, 14), _SLL: (14, 16), _SLL2: (0, 20)}
"""By link type (tcpdump.org/linktypes.html): where the protocol stands, and where
the header ends."""
_FAMILY_LEN: Final = 4


def ip_packet(link_type: int, frame: memoryview) -> memoryview | None:
    """The IP packet in a frame; None if there is none.

    `link_type` is a LINKTYPE_ number.  Raises `KeyError` for one that is not known.
    """
    if link_type in _RAW:
        return frame
    if link_type in (_NULL, _LOOP):
        return frame[_FAMILY_LEN:]  # the IP version tells more than the family
    at, end = _PROTOCOL_AT[link_type]
    for _ in range(_TAGS_MAX + 1):
        protocol = int.from_bytes(frame[at : at + 2], "big")
        if protocol in (_IPV4, _IPV6):
            return frame[end:]
        if protocol not in _TAGS:
            return None
        at, end = end + 2, end + _TAG_LEN
    return None
