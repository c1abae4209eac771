"""What each cell of the matrix does, and what makes it right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CASES", "Case"]

_MB: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row."""

    name: str
    profiles: tuple[str, ...] = ("rfc8548", "stanford")
    """The dialects in which it means something."""
    up: int = 500
    down: int = 5000
    count: int = 1
    at_once: int = 1
    server_first: bool = False
    half_close: bool = False
    aware: bool = False
    """The applications of who can say so (`aware` of an implementation) ask for session IDs."""
    tep: int = 0x21
    aead: int = 0x01
    fresh: int | None = None
    """How many of the connections have to be fresh; the rest is resumed."""
    loss: float = 0.0
    """Of the packets in each direction."""
    against: str = ""
    """What takes the other side's place: `plain`."""
    patience: float = 20.0
    quick: bool = True
    """Part of a quick run."""


CASES: Final = (
    Case(name="handshake"),
    Case(name="P-521", tep=0x22),
    Case(name="X25519", tep=0x23, profiles=("rfc8548",)),
    Case(name="X448", tep=0x24, profiles=("rfc8548",)),
    Case(name="AES-256", aead=0x02),
    Case(name="ChaCha20", aead=0x10, profiles=("rfc8548",)),
    Case(name="resumption", count=11, fresh=1),
    Case(name="app-aware", aware=True),
    Case(name="server first", server_first=True),
    Case(name="half-close", half_close=True, up=100_000, down=100_000),
    Case(name="upload 1 MB", up=_MB, down=10),
    Case(name="download 1 MB", up=10, down=_MB),
    Case(name="upload 100 MB", up=100 * _MB, down=10, patience=40, quick=False),
    Case(name="download 100 MB", up=10, down=100 * _MB, patience=40, quick=False),
    Case(name="100 parallel", count=100, at_once=100, up=5000, down=5000, patience=60),
    Case(name="1 % loss", loss=0.01, up=300_000, down=300_000, count=4, patience=15, quick=False),
    Case(name="fallback", against="plain"),
)
