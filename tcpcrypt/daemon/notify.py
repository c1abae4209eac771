"""The service manager's side of the daemon: sd_notify(3), and its watchdog.

Datagrams of `KEY=value` lines to the socket that NOTIFY_SOCKET names, a path
or, with a leading @, an abstract name.  Without the variable nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from tcpcrypt.runtime.loop import Loop, Timer

__all__ = ["ServiceManager", "Watchdog"]

_MICROSECONDS: Final = 1_000_000


class ServiceManager:
    """Tells systemd, or whoever takes its place, how the service does."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self.watchdog = _watchdog_seconds(environment)
        """Seconds within which `WATCHDOG=1` has to come again; 0: there is none."""

    def ready(self, status: str) -> None:
        """Up, or up again after `reloading`."""
        self._send(READY=1, STATUS=status)

    def reloading(self) -> None:
        stamp = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(RELOADING=1, MONOTONIC_USEC=stamp)

    def stopping(self, status: str) -> None:
        self._send(STOPPING=1, STATUS=status)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(STATUS=text)

    def alive(self) -> None:
        self._send(WATCHDOG=1)

    def extend(self, seconds: float) -> None:
        """What goes on now, a start or a stop, may take so long from now."""
        self._send(EXTEND_TIMEOUT_USEC=int(seconds * _MICROSECONDS))

    def close(self) -> None:
        """Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, **fields: object) -> None:
        if self._socket is None:
            return
        lines = "\n".join(
            f"{name}={' '.join(str(value).splitlines())}" for name, value in fields.items()
        )
        # A manager that does not listen must not stop the service.
        with contextlib.suppress(OSError):
            self._socket.sendto(lines.encode(), self._address)


class Watchdog:
    """Pings the manager for as long as the worker answers.

    Call `answered` when it does.  When it has been silent for half of the
    manager's period the pings end, and the manager restarts the service.
    """

    def __init__(
        self, loop: Loop, manager: ServiceManager, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._loop = loop
        self._manager = manager
        self._clock = clock
        self._heard = clock()
        self._timer: Timer | None = None
        if manager.watchdog:
            self._tick()

    def answered(self) -> None:
        self._heard = self._clock()

    def close(self) -> None:
        """No more pings.  Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        period = self._manager.watchdog
        if self._clock() - self._heard <= period / 2:
            self._manager.alive()
        self._timer = self._loop.call_later(period / 4, self._tick)


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """WATCHDOG_USEC, unless WATCHDOG_PID says that it is meant for another process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(0, int(environment.get("WATCHDOG_USEC", "0"))) / _MICROSECONDS
    except ValueError:
        return 0.0
