"""What differs between wire dialects of tcpcrypt, as data.

The core is written once against a `WireProfile`; RFC 8548 is one value of it.
Another dialect is another value, never a branch on a name.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from tcpcrypt import registry

__all__ = ["RFC8548", "NonceForm", "WireProfile"]


class NonceForm(enum.IntEnum):
    """How a frame's stream offset becomes the AEAD nonce."""

    XOR_BIG_ENDIAN = 0
    """RFC 8548 section 4.2.3: 4 zero bytes, offset (8, big-endian), XOR NR."""
    LITTLE_ENDIAN_8 = 1
    """Stanford 2016: the offset alone, 8 bytes, little-endian; no NR."""


@dataclass(frozen=True, slots=True)
class WireProfile:
    """One dialect.  Every field is a fact of the wire, none a preference."""

    name: str
    option_kind: int
    """TCP option kind that carries ENO."""
    option_exid: bytes
    """Experiment identifier after the length byte; empty for an own kind."""
    transcript_suffix: bytes
    """Bytes that the transcript holds after each of the two SYN options."""
    cipher_id_len: int
    """Bytes of one `sym_cipher` in Init1 and Init2."""
    compressed_points: bool
    """NIST points in compressed form; otherwise uncompressed."""
    nonce_form: NonceForm
    offset_counts_init: bool
    """Whether Init1 and Init2 count in a frame's stream offset (open point E1)."""


RFC8548: Final = WireProfile(
    name="rfc8548",
    option_kind=registry.TCP_OPTION_ENO,
    option_exid=b"",
    transcript_suffix=b"",
    cipher_id_len=2,
    compressed_points=True,
    nonce_form=NonceForm.XOR_BIG_ENDIAN,
    # Section 4.2.3 counts "in the underlying TCP datastream", and section 3.3
    # puts Init1 and Init2 "at the start of the data streams".
    offset_counts_init=True,
)
