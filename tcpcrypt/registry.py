"""IANA numbers and sizes of RFC 8547 and RFC 8548; the only place they live."""

from __future__ import annotations

import enum
from typing import Final

# --- TCP ------------------------------------------------------------------

TCP_OPTION_END: Final = 0
TCP_OPTION_NOP: Final = 1
TCP_OPTION_MSS: Final = 2
TCP_OPTION_WINDOW_SCALE: Final = 3
TCP_OPTION_SACK_PERMITTED: Final = 4
TCP_OPTION_SACK: Final = 5
TCP_OPTION_TIMESTAMPS: Final = 8
TCP_OPTION_FAST_OPEN: Final = 34
TCP_OPTION_ENO: Final = 69
"""RFC 8547 section 11."""
TCP_OPTION_EXPERIMENT: Final = 253
"""RFC 4727; with `ENO_EXID` the form of old drafts, never sent beside kind 69."""
ENO_EXID: Final = b"\x45\x4e"
TCPS_EXID: Final = b"\x54\x43"
"""ExID under which TCP/S sends the keys of a SYN: `TC`."""
TCPS_TAG_EXID: Final = b"\x54\x4d"
"""ExID of its tag on a segment: `TM`."""
TCPS_IDENTITY_EXID: Final = b"\x54\x49"
"""ExID under which its hosts show their static keys: `TI`."""

TCP_OPTIONS_MAX: Final = 40
"""Bytes that all TCP options of one segment share (RFC 9293 section 3.1)."""

# --- RFC 8547, TCP-ENO ----------------------------------------------------

GLOBAL_B: Final = 0x01
"""Global suboption bit `b`: set by the host that plays role B (section 4.2)."""
GLOBAL_A: Final = 0x02
"""Global suboption bit `a`: the application is aware of TCP-ENO (section 4.2)."""

SUBOPTION_V: Final = 0x80
"""Bit `v` of a suboption byte: data follows (section 4.1)."""
TEP_FIRST: Final = 0x20
"""Suboption values below are global suboptions or length bytes (section 4.1)."""
SUBOPTION_DATA_MAX: Final = 32
"""Data bytes that a length byte can announce (section 4.1)."""


class Tep(enum.IntEnum):
    """TCP encryption protocol identifiers, bit `v` clear (RFC 8548 section 7)."""

    EXPERIMENTAL = 0x20
    ECDHE_P256 = 0x21
    ECDHE_P521 = 0x22
    ECDHE_CURVE25519 = 0x23
    ECDHE_CURVE448 = 0x24


# --- RFC 8548, tcpcrypt ---------------------------------------------------


class AeadId(enum.IntEnum):
    """`sym_cipher` values (RFC 8548 section 7)."""

    AES_128_GCM = 0x0001
    AES_256_GCM = 0x0002
    CHACHA20_POLY1305 = 0x0010


CONST_NEXTK: Final = b"\x01"
CONST_SESSID: Final = b"\x02"
CONST_REKEY: Final = b"\x03"
CONST_KEY_A: Final = b"\x04"
CONST_KEY_B: Final = b"\x05"
CONST_RESUME: Final = b"\x06"
INIT1_MAGIC: Final = b"\x15\x10\x1a\x0e"
INIT2_MAGIC: Final = b"\x09\x71\x05\xe0"

NONCE_LEN: Final = 32
"""N_A_LEN and N_B_LEN of every TEP of RFC 8548 (section 5)."""
K_LEN: Final = 32
"""Length of ss[i] and mk[j] of every TEP of RFC 8548 (section 5)."""
SESSION_ID_LEN: Final = 33
RESUME_LEN: Final = 18
RESUME_ID_LEN: Final = 9
RESUME_NONCE_MAX: Final = 8

FRAME_HEADER_LEN: Final = 3
"""Control byte and 16-bit ciphertext length (section 4.2.1)."""
FRAME_FLAGS_LEN: Final = 1
FRAME_URGENT_LEN: Final = 2
FRAME_CIPHERTEXT_MAX: Final = 0xFFFF
CONTROL_REKEY: Final = 0x01
FLAG_FINP: Final = 0x01
FLAG_URGP: Final = 0x02
