"""What differs between wire dialects of tcpcrypt, as data.

The core is written once against a `WireProfile`; RFC 8548 is one value of it,
the Stanford `tcpcryptd` of 2016 (drafts tcpinc-tcpeno-03 and
tcpinc-tcpcrypt-02) another.  A dialect is a value, never a branch on a name.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from tcpcrypt import registry
from tcpcrypt.registry import AeadId, Tep

__all__ = ["PROFILES", "RFC8548", "STANFORD", "NonceForm", "ResumptionForm", "WireProfile"]


class NonceForm(enum.IntEnum):
    """How a frame's stream offset becomes the AEAD nonce."""

    XOR_BIG_ENDIAN = 0
    """RFC 8548 section 4.2.3: 4 zero bytes, offset (8, big-endian), XOR NR."""
    LITTLE_ENDIAN_8 = 1
    """Stanford 2016: the offset alone, 8 bytes, little-endian; no NR."""


class ResumptionForm(enum.IntEnum):
    """How a SYN names the session that it resumes."""

    RESUME_IDENTIFIER = 0
    """RFC 8548 section 3.5: the sender's half of resume[i], then its nonce; either
    host may open; the answer names the session, too."""
    SESSION_ID = 1
    """Stanford 2016: bytes 1 to 9 of the next session ID, no nonce, behind the same
    TEP without data; the answer is the TEP byte with bit `v` and nothing more."""


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
    role_bit: bool = True
    """Bit `b` tells the roles; otherwise SYN is A's and SYN-ACK is B's, and `b` is
    never sent."""
    global_first: bool = True
    """The global suboption stands before all others; otherwise between those without
    data and those with, and a zero one is never sent."""
    resumption: ResumptionForm = ResumptionForm.RESUME_IDENTIFIER
    either_resumes: bool = True
    """Either host of a session may open the next one; otherwise its A alone."""
    resumed_ack_bare: bool = False
    """The first ACK of a connection that resumes carries no ENO."""
    init1_in_first_ack: bool = False
    """Peers expect Init1 in the first segment behind the SYN, and give up otherwise."""
    teps: tuple[int, ...] | None = None
    """TEPs that may be offered, None: any.  Peers have died of others."""
    aeads: tuple[int, ...] | None = None
    """AEAD algorithms that there are, None: any."""
    authenticated_end: bool = True
    """FINp ends a stream; otherwise TCP FIN does, which anybody can forge."""
    rekeying: bool = True
    """There are key generations after the first."""
    stream_max: int = 1 << 64
    """Stream bytes after which nonces would repeat; nothing is sealed or opened there."""
    init_as_data: bool = False
    """Peers that repeat their Init message late seal it, as the first frame."""
    frame_per_segment: bool = False
    """Peers take each segment for one whole frame."""
    repeats_anew: bool = False
    """Peers that announce no SACK seal again what they send again, after a loss in the
    wrong place: under a key and nonce of other bytes, so that its tag is right."""
    openings_at_once: int | None = None
    """Connections to one service that peers can take up at a time, None: any number."""
    lacks: tuple[str, ...] = ()
    """What sessions do not have that those of RFC 8548 have, for people."""


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

STANFORD: Final = WireProfile(
    name="stanford",
    option_kind=registry.TCP_OPTION_EXPERIMENT,
    option_exid=registry.ENO_EXID,
    # The empty option of the first ACK, once for each side.
    transcript_suffix=b"\xfd\x04" + registry.ENO_EXID,
    cipher_id_len=1,
    compressed_points=False,
    nonce_form=NonceForm.LITTLE_ENDIAN_8,
    offset_counts_init=False,
    role_bit=False,
    global_first=False,
    resumption=ResumptionForm.SESSION_ID,
    either_resumes=False,
    resumed_ack_bare=True,
    init1_in_first_ack=True,
    teps=(Tep.ECDHE_P256, Tep.ECDHE_P521),
    aeads=(AeadId.AES_128_GCM, AeadId.AES_256_GCM),
    authenticated_end=False,
    rekeying=False,
    # It counts in 32 bits.
    stream_max=1 << 32,
    init_as_data=True,
    frame_per_segment=True,
    repeats_anew=True,
    # As a proxy it has a backlog of 5, and searches all of the connection tracking of
    # its host for every SYN, one after the other; twice, for it never finds what the
    # first one asks for.
    openings_at_once=4,
    lacks=(
        "the end of a stream is not authenticated: a forged FIN cuts it off unnoticed",
        "a resumed session has no fresh randomness: its keys follow from the one before, and"
        " what its client sends can be held back, and played to the server once later on",
    ),
)

PROFILES: Final = {profile.name: profile for profile in (RFC8548, STANFORD)}
"""Every dialect by its name."""
