"""What is remembered for a while of peers: whether they, and the path to them, encrypt.

A peer that answered without ENO, or a path that swallows option 69, is left
alone for a time where policy is opportunistic, so that its connections neither
wait nor go through the daemon.  RFC 8547 section 4.6 lets an active opener
leave the option out.  Whoever can strip an option once can so keep a peer
plain for that time, which he could do to each connection anyway; `require`
never asks this memory.  He can so bring a policy that allows a weaker dialect
to speak that one, too, for a day at most: then the first is tried again.

What merely was not answered, a SYN with the option, may as well have been lost, or
have come to a peer that was stopped for a while.  So that is remembered for a tenth
of the time, and for all of it if the next try ends the same way.

Policies that allow other dialects learn nothing from one another: that a service
does not answer in one dialect tells nothing of those that it was not offered,
and the connections of one user must not make those of another go in the clear.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tcpcrypt.core.config import Clock

__all__ = ["PathMemory", "Remembered"]

_CAPACITY: Final = 8192
_DIALECT_SECONDS: Final = 86_400.0
"""For which a dialect that is not the first is spoken; each try of the first costs
those that speak the other alone a connection in the clear, or refused."""
_DOUBTFUL_SHARE: Final = 0.1
"""Of the time: for which silence is taken for a path that swallows the option."""


@dataclass(slots=True)
class Remembered:
    """One service of a peer."""

    last: str
    """How its latest connection ended up: encrypted, plain or refused."""
    reason: str
    plain_until: float | None
    """Until then (by the clock) connections are left alone; None: they are not."""
    connections: int
    profile: str
    """The dialect to speak next; empty: the first that policy allows."""
    profile_until: float
    """By the clock: then the first is spoken again."""
    failures: int = 0
    """Dialects tried in a row without success."""
    doubtful: bool = False
    """Whether it was left alone for nothing but silence, once."""
    unanswered: bool = False
    """Whether a connection since then had no answer at all."""


class PathMemory:
    """Bounded; the service seen longest ago is forgotten first.

    `allowed` is what the policy says of dialects (`Policy.profile`).
    """

    def __init__(self, seconds: float, *, clock: Clock = time.monotonic) -> None:
        self.seconds = seconds
        """For what is noted from now on."""
        self._clock = clock
        self._peers: OrderedDict[tuple[bytes, int, str], Remembered] = OrderedDict()

    def is_plain(self, address: bytes, port: int, allowed: str = "") -> bool:
        """Whether a connection to this service is to be left alone; counts it if so."""
        known = self._peers.get((address, port, allowed))
        if known is None or known.plain_until is None or known.plain_until <= self._clock():
            return False
        known.connections += 1
        return True

    def encrypts(self, address: bytes, port: int, profile: str, allowed: str = "") -> bool:
        """Whether the latest connection to this service was encrypted, in that dialect."""
        known = self._peers.get((address, port, allowed))
        if known is None or known.unanswered:
            return False
        return (known.last, known.profile) == ("encrypted", profile)

    def unanswered(self, address: bytes, port: int, allowed: str = "") -> None:
        """A connection to this service had no answer: its path may carry the option no more.

        A system that sends fewer SYNs than are to carry it would never find out.
        """
        known = self._peers.get((address, port, allowed))
        if known is not None:
            known.unanswered = True

    def profile(self, address: bytes, port: int, allowed: str = "") -> str:
        """The dialect to speak to this service; empty: nothing is known of it."""
        known = self._peers.get((address, port, allowed))
        if known is None or known.profile_until <= self._clock():
            return ""
        return known.profile

    def note(
        self,
        address: bytes,
        port: int,
        last: str,
        reason: str = "",
        *,
        profile: str = "",
        silent: bool = False,
        others: tuple[str, ...] = (),
        allowed: str = "",
    ) -> bool:
        """A connection to this service ended up as `last`; whether it is now left alone.

        It spoke `profile`.  Where it was not encrypted the next one speaks one of
        `others`, and no service is left alone before it was offered all of them.
        `silent`: it is plain because SYNs with the option were not answered.
        """
        before = self._peers.pop((address, port, allowed), None)
        failures = 0 if last == "encrypted" else 1 + (before.failures if before is not None else 0)
        exhausted = failures > len(others)
        plain = last == "plain" and self.seconds > 0 and exhausted
        now = self._clock()
        following = others[0] if failures and others else profile
        until = now + _DIALECT_SECONDS
        if before is not None and before.profile == following and before.profile_until > now:
            until = before.profile_until  # however often it is spoken
        doubtful, plain_until = False, now + self.seconds if plain else None
        if plain and silent:
            doubtful, plain_until = self._doubt(before, now)
        self._peers[address, port, allowed] = Remembered(
            last,
            reason,
            plain_until,
            1 + (before.connections if before is not None else 0),
            following,
            until,
            0 if exhausted else failures,
            doubtful,
        )
        if len(self._peers) > _CAPACITY:
            self._peers.popitem(last=False)
        return plain

    def _doubt(self, before: Remembered | None, now: float) -> tuple[bool, float]:
        """Whether silence may have been chance, and until when it counts."""
        if before is None or before.plain_until is None:
            return True, now + self.seconds * _DOUBTFUL_SHARE
        if before.plain_until > now:
            return before.doubtful, before.plain_until  # tried before that was known
        return False, now + self.seconds

    def forget(self, address: bytes | None = None) -> int:
        """Forget a peer, or all; how many services that were."""
        gone = [key for key in self._peers if address is None or key[0] == address]
        for key in gone:
            del self._peers[key]
        return len(gone)

    def __iter__(self) -> Iterator[tuple[bytes, int, Remembered]]:
        for (address, port, _allowed), known in self._peers.items():
            yield address, port, known

    def seconds_left(self, known: Remembered) -> float | None:
        """How long the service is still left alone; None: it is not."""
        if known.plain_until is None:
            return None
        return max(0.0, known.plain_until - self._clock())
