"""Turns: so many connections are opened to one service at a time, and others wait.

For peers that take up only a few at once, and fail those that come beside them
(`WireProfile.openings_at_once`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

from tcpcrypt.runtime.loop import Loop, Timer

__all__ = ["TURN_SECONDS", "Turn", "Turns"]

TURN_SECONDS: Final = 10.0
"""Then another one begins, too: a service that does not answer some connections
shall not keep others back for as long as those try."""


class Turn:
    """The turn of one connection."""

    __slots__ = ("begin", "service", "timer")

    def __init__(self, service: Hashable, begin: Callable[[], None]) -> None:
        self.service = service
        self.begin = begin
        self.timer: Timer | None = None


@dataclass(slots=True)
class _Service:
    going: set[Turn] = field(default_factory=set)
    waiting: dict[Turn, None] = field(default_factory=dict)
    """In their order."""


class Turns:
    """Those of all services.  A service without any takes no room."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._services: dict[Hashable, _Service] = {}

    def take(self, service: Hashable, at_once: int, begin: Callable[[], None]) -> Turn:
        """Have `begin` called by the loop when fewer than `at_once` are under way."""
        turn = Turn(service, begin)
        found = self._services.setdefault(service, _Service())
        if len(found.going) < at_once:
            self._go(found, turn)
        else:
            found.waiting[turn] = None
        return turn

    def _go(self, service: _Service, turn: Turn) -> None:
        # Not from here: who ends may have been called by who begins.
        turn.timer = self._loop.call_later(0, lambda: self._begin(turn))
        service.going.add(turn)

    def _begin(self, turn: Turn) -> None:
        turn.timer = self._loop.call_later(TURN_SECONDS, lambda: self.over(turn))
        turn.begin()

    def over(self, turn: Turn) -> None:
        """It is up, or has failed, or is not wanted any more: the next may begin.  Idempotent."""
        service = self._services.get(turn.service)
        if service is None:
            return
        if turn.timer is not None:
            turn.timer.cancel()
        service.waiting.pop(turn, None)
        if turn in service.going:
            service.going.remove(turn)
            if service.waiting:
                following = next(iter(service.waiting))
                del service.waiting[following]
                self._go(service, following)
        if not service.going:
            del self._services[turn.service]
