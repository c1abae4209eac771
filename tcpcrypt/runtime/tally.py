"""What a host counts: connections by what became of them and why, times, frames.

Everything that is told of a host in numbers comes from here: `tcpcrypt status`,
the status file and the metrics.  A reason is one of a fixed few words, never a
text that a peer could have a part in.
"""

from __future__ import annotations

import bisect
import collections
import errno
from dataclasses import dataclass, field
from typing import Final

from tcpcrypt.core.policy import FlowDirection
from tcpcrypt.errors import FallbackReason, PeerReason

__all__ = ["BOUNDS", "Counters", "Durations", "Tally", "errno_word", "word"]

BOUNDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Seconds; the upper bounds of the classes of a duration, beside the one without."""
STARTS: Final = ("fresh", "resumed", "plain")


@dataclass(slots=True)
class Counters:
    """Connections since the start, by what became of them."""

    fresh: int = 0
    resumed: int = 0
    fallback: int = 0
    """Plain, through the daemon."""
    direct: int = 0
    """Plain, left alone because the peer or path is known not to encrypt."""
    refused: int = 0
    aborted: int = 0
    failed: int = 0
    """Never came about: the peer refused, could not be reached, or gave up."""
    exhausted: int = 0
    """For which there was no room: tried later, or plain where that is allowed."""
    closed: int = 0


class Durations:
    """How long something took, in classes; times in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """By class; each is of those that are in no class before it."""
        self.total = 0.0
        """Of all together."""

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Tally:
    """Counts since the start.  What live connections have moved is not in it yet."""

    counters: Counters = field(default_factory=Counters)
    reasons: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    """By a name of `Counters` and a reason; of one name they add up to its counter."""
    setups: dict[tuple[str, str], Durations] = field(
        default_factory=lambda: {
            (direction.value, start): Durations() for direction in FlowDirection for start in STARTS
        }
    )
    """From the arrival of a connection until its data can pass, by direction and start."""
    moved: collections.Counter[tuple[bool, str]] = field(default_factory=collections.Counter)
    """Bytes of applications, by whether they were encrypted between the hosts, and
    `sent` or `received`."""
    frames: int = 0
    """Sealed by this host."""
    rekeys: int = 0
    """Of both directions."""
    bugs: int = 0
    """Mistakes of this program, each of which cost one connection at most."""

    def count(self, name: str, reason: str = "") -> None:
        """One more of those that `Counters` calls `name`."""
        setattr(self.counters, name, getattr(self.counters, name) + 1)
        self.reasons[name, reason] += 1


def word(reason: FallbackReason | PeerReason) -> str:
    """The reason as a label: the name of the member, in small letters."""
    return reason.name.lower()


def errno_word(number: int) -> str:
    """An errno as a label, such as `econnrefused`."""
    return errno.errorcode.get(number, "unknown").lower()
