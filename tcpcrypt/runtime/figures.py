"""A host in numbers at one moment, for whoever draws curves of them."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass
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
    """All numbers of a host.  Times are in seconds."""

    backend: str
    steering: str
    started: float
    """Unix time."""
    cpu: float
    """Processor time of this process."""
    policies: int
    key_log: bool
    tally: Tally
    connections: Mapping[tuple[str, str], int]
    """Live ones, by state and direction."""
    slots: int
    """Connections for which there are descriptors."""
    moved: Mapping[tuple[bool, str], int]
    """As `Tally.moved`, live connections included."""
    frames: int
    """As `Tally.frames`, live connections included, but for what they sealed since
    they were lent to the pump."""
    rekeys: int
    cached: int
    """Session secrets kept for resumption."""
    cache_capacity: int
    overruns: int
    """Times at which the kernel had no room for a packet that was for us."""
    evicted: int
    """Handshakes that had to make room for others."""
    held: int
    """SYNs of applications that wait for the peer's answer."""
    held_overflowed: int
    """SYNs for which there was no room to wait."""
    identities: Mapping[TrustLevel, int]
    """Lines of known peers, by how far their keys are trusted; empty: none are kept."""


def connection_slots() -> int:
    """For how many connections this process may have descriptors, two for each.

    Without this those that have one side only could keep the others from
    getting their second.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(0, (limit - _SPARE_DESCRIPTORS) // 2)
