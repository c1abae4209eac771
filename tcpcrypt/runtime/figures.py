"""A host in numbers at one moment, for whoever draws curves of them."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tcpcrypt.auth.known_peers import TrustLevel
from tcpcrypt.runtime.tally import Tally

__all__ = ["STATES", "Figures", "connection_slots"]

STATES: Final = ("connecting", "exchanging", "encrypted", "plain")
_SPARE_DESCRIPTORS: Final = 300
"""For everything but connections, each of which has two: listeners, the log,
the control socket and its clients, sockets kept ready (`Privileges`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All numbers of a host.  Times are in seconds.  By default, of one that has not begun."""

    backend: str = ""
    steering: str = ""
    started: float = 0.0
    """Unix time."""
    cpu: float = 0.0
    """Processor time of this process."""
    policies: int = 0
    key_log: bool = False
    tally: Tally = field(default_factory=Tally)
    connections: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Live ones, by state and direction."""
    tcps: Mapping[str, int] = field(default_factory=dict)
    """Live connections of profile `tcps`, by state; nothing else here counts them."""
    slots: int = 0
    """Connections for which there are descriptors."""
    moved: Mapping[tuple[bool, str], int] = field(default_factory=dict)
    """As `Tally.moved`, live connections included."""
    frames: int = 0
    """As `Tally.frames`, live connections included, but for what they sealed since
    they were lent to the pump."""
    rekeys: int = 0
    cached: int = 0
    """Session secrets kept for resumption."""
    cache_capacity: int = 0
    overruns: int = 0
    """Times at which the kernel had no room for a packet that was for us."""
    evicted: int = 0
    """Handshakes that had to make room for others."""
    held: int = 0
    """SYNs of applications that wait for the peer's answer."""
    held_overflowed: int = 0
    """SYNs for which there was no room to wait."""
    identities: Mapping[TrustLevel, int] = field(default_factory=dict)
    """Lines of known peers, by how far their keys are trusted; empty: none are kept."""


def connection_slots() -> int:
    """For how many connections this process may have descriptors, two for each.

    Without this those that have one side only could keep the others from
    getting their second.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(0, (limit - _SPARE_DESCRIPTORS) // 2)
