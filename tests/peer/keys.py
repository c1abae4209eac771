"""RFC 8548 sections 3.1 and 3.3 to 3.5: every key, from the formulas."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass


def extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.new(salt, ikm, hashlib.sha256).digest()


def cprf(key: bytes, info: bytes, length: int) -> bytes:
    out, block, n = b"", b"", 1
    while len(out) < length:
        block = hmac.new(key, block + info + bytes([n]), hashlib.sha256).digest()
        out, n = out + block, n + 1
    return out[:length]


@dataclass(frozen=True)
class SessionSecret:
    """ss[i]."""

    ss: bytes
    index: int = 0

    def following(self) -> SessionSecret:
        return SessionSecret(cprf(self.ss, b"\x01", 32), self.index + 1)

    def session_id(self, tep_byte: int, sn: bytes) -> bytes:
        return bytes([tep_byte]) + cprf(self.ss, b"\x02" + sn, 32)

    def master_key(self, sn: bytes) -> bytes:
        return cprf(self.ss, b"\x03" + sn, 32)

    def half(self, role: str) -> bytes:
        """What the host that had `role` in the original session sends."""
        resume = cprf(self.ss, b"\x06", 18)
        return resume[:9] if role == "A" else resume[9:]


@dataclass(frozen=True)
class Remembered:
    """A session secret to resume with; `role` is that of the original session."""

    secret: SessionSecret
    role: str
    tep: int
    aead: int


def other(role: str) -> str:
    return "B" if role == "A" else "A"
