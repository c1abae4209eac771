"""What connections of TCP/S do not have, in sentences for people; docs/tcps.md has the whole."""

from __future__ import annotations

from typing import Final

__all__ = ["LACKS"]

LACKS: Final = (
    "nothing proves who the peer is: who has seen one TI option can make that of any later"
    " connection, and who sits in the middle of the handshake has the connection",
    "its tag is no sound MAC, keys of near positions overlap, and acknowledgement, window, urgent"
    " pointer and options are not covered",
    "a reset by the peer is not obeyed, so that its end may go unnoticed; SACK, window scaling"
    " and timestamps are lost",
)
