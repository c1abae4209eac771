"""What the connections of a host share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tcpcrypt.core.config import Config
from tcpcrypt.core.policy import Mode
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.runtime.eno_backend import EnoBackend, PortRange
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.steering import Steering

__all__ = ["Context", "Counters", "Report", "Settings"]

Report = Callable[[str, dict[str, object]], None]
"""Takes an event's name and its fields; never a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a host is to do."""

    ports: tuple[PortRange, ...]
    """Service ports, both of services here and of services that applications here use."""
    mode: Mode = Mode.OPPORTUNISTIC
    config: Config = field(default_factory=Config)
    families: tuple[int, ...] = (4, 6)


@dataclass(slots=True)
class Counters:
    """Connections since the start, by what became of them."""

    fresh: int = 0
    resumed: int = 0
    fallback: int = 0
    refused: int = 0
    aborted: int = 0
    closed: int = 0


@dataclass(slots=True)
class Context:
    """Handed to every connection."""

    settings: Settings
    config: Config
    """Of `settings`, with the demands of its mode."""
    loop: Loop
    backend: EnoBackend
    steering: Steering
    resumption: ResumptionCache
    counters: Counters
    report: Report
    resuming: set[bytes] = field(default_factory=set)
    """Peers with which a handshake that may resume is under way.  Secrets form a
    chain; were two handshakes to spend links of it at once, the one that comes
    second to the peer could find its secret void.  The others start afresh."""
    numbers: int = 0

    def next_number(self) -> int:
        """A number for a connection, counted from 1."""
        self.numbers += 1
        return self.numbers
