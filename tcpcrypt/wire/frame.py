"""RFC 8548 section 4.2: encryption frames, their sizes and their plaintext.

```
control (1) | clen (2) | ciphertext (clen, tag included)
plaintext:   flags (1) | urgent (2, only with URGp) | data
```

The first three bytes are the associated data of the AEAD, exactly as they lie
on the wire.  Sealing and opening itself is `tcpcrypt._fast`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.registry import (
    CONTROL_REKEY,
    FLAG_FINP,
    FLAG_URGP,
    FRAME_CIPHERTEXT_MAX,
    FRAME_FLAGS_LEN,
    FRAME_HEADER_LEN,
    FRAME_URGENT_LEN,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Flags", "FrameHeader", "Plaintext", "max_data", "sealed_size"]


class Flags(enum.IntFlag):
    """RFC 8548 section 4.2.2: the flags byte; the other bits are reserved."""

    FINP = FLAG_FINP
    URGP = FLAG_URGP


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """RFC 8548 section 4.2.1: the control byte and `clen`.

    `control` keeps its reserved bits: they are ignored, yet authenticated.
    `length` is the number of ciphertext bytes, tag included.
    """

    control: int
    length: int

    @property
    def rekey(self) -> bool:
        """Section 3.8: this frame is the first under the next keys."""
        return bool(self.control & CONTROL_REKEY)

    @property
    def frame_len(self) -> int:
        """Bytes of the whole frame on the wire."""
        return FRAME_HEADER_LEN + self.length

    @classmethod
    def parse(cls, data: ReadableBuffer, tag_len: int) -> FrameHeader:
        """Parse the header at the start of `data`.

        Raises `PeerError` with FRAME_TOO_SHORT for fewer than 3 bytes, or for
        a `clen` with no room for the flags byte and a tag of `tag_len` bytes.
        """
        head = memoryview(data)[:FRAME_HEADER_LEN].tobytes()
        if len(head) < FRAME_HEADER_LEN:
            raise PeerError(PeerReason.FRAME_TOO_SHORT, "header is not whole")
        length = int.from_bytes(head[1:], "big")
        if length < FRAME_FLAGS_LEN + tag_len:
            raise PeerError(PeerReason.FRAME_TOO_SHORT, f"clen is {length}")
        return cls(head[0], length)

    def build(self) -> bytes:
        """The three bytes, which are also the associated data."""
        if not 0 <= self.control <= 0xFF or not 0 <= self.length <= FRAME_CIPHERTEXT_MAX:
            raise LocalError("frame header fields are 8 and 16 bits wide")
        return bytes((self.control,)) + self.length.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Plaintext:
    """RFC 8548 section 4.2.2: what a frame protects.

    `fin` is FINp; `urgent` the 16-bit urgent pointer, None without URGp.
    """

    data: bytes
    fin: bool = False
    urgent: int | None = None

    @classmethod
    def parse(cls, plaintext: ReadableBuffer) -> Plaintext:
        """Parse an authenticated plaintext; reserved flags are ignored.

        Raises `PeerError` with FRAME_TOO_SHORT for no bytes at all,
        FRAME_URGENT_TRUNCATED for URGp without its two bytes.
        """
        octets = memoryview(plaintext).tobytes()
        if not octets:
            raise PeerError(PeerReason.FRAME_TOO_SHORT, "no flags byte")
        fin = bool(octets[0] & Flags.FINP)
        if not octets[0] & Flags.URGP:
            return cls(octets[FRAME_FLAGS_LEN:], fin)
        data_at = FRAME_FLAGS_LEN + FRAME_URGENT_LEN
        if len(octets) < data_at:
            raise PeerError(PeerReason.FRAME_URGENT_TRUNCATED)
        urgent = int.from_bytes(octets[FRAME_FLAGS_LEN:data_at], "big")
        return cls(octets[data_at:], fin, urgent)

    def build(self) -> bytes:
        """Flags, urgent pointer if any, data."""
        flags = Flags.FINP if self.fin else Flags(0)
        if self.urgent is None:
            return bytes((flags,)) + self.data
        if not 0 <= self.urgent <= 0xFFFF:
            raise LocalError(f"urgent pointer {self.urgent} is not a 16-bit number")
        return bytes((flags | Flags.URGP,)) + self.urgent.to_bytes(2, "big") + self.data


def max_data(tag_len: int, urgent: bool = False) -> int:
    """RFC 8548 section 4.2.1: data bytes that one frame can hold."""
    return FRAME_CIPHERTEXT_MAX - tag_len - FRAME_FLAGS_LEN - (FRAME_URGENT_LEN if urgent else 0)


def sealed_size(length: int, frame_data: int, tag_len: int, urgent: bool = False) -> int:
    """RFC 8548 section 4.2: bytes on the wire for `length` bytes of data.

    The data are cut into frames of `frame_data` bytes, of which the last may
    be shorter; no data make one empty frame.  `urgent` adds the urgent field
    to the first.  `LocalError` for a `frame_data` that no frame can hold.
    """
    if length < 0 or not 1 <= frame_data <= max_data(tag_len, urgent):
        raise LocalError(f"no frame holds {frame_data} bytes of data")
    frames = max(1, -(-length // frame_data))
    overhead = FRAME_HEADER_LEN + FRAME_FLAGS_LEN + tag_len
    return length + frames * overhead + (FRAME_URGENT_LEN if urgent else 0)
