"""The process that puts things in order when the daemon could not do it itself.

It is a copy of the parent, with its capabilities; it does nothing but wait,
and it outlives whatever is killed.  The parent holds the other end of a
pipe.  If that closes without a goodbye, the parent is dead: the janitor sees
to it that the worker is too, so that no connection is left that its rules
protect, and takes out what the parent would have taken out.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from tcpcrypt.daemon.confinement import name_process
from tcpcrypt.daemon.process import fork
from tcpcrypt.errors import LocalError

__all__ = ["Janitor"]

_GOODBYE: Final = b"goodbye\n"
_PATIENCE: Final = 10.0
"""Seconds that a killed worker has; it can only be late if the kernel hangs."""
_TRIES: Final = 5
_PAUSE: Final = 1.0
"""Seconds between tries: someone else may hold the lock of iptables."""


class Janitor:
    """The parent's view of the janitor.

    `clean` is called in the janitor's process if the parent dies before
    `dismiss`, and again if it raises `LocalError`.  `worker` is the descriptor
    (pidfd) of a process that has to be dead by then.  It keeps the parent's
    descriptors, the daemon's lock among them: no other daemon can start before
    it is done.
    """

    def __init__(self, clean: Callable[[], object], *, worker: int | None = None) -> None:
        reading, self._pipe = os.pipe()

        def body() -> int:
            os.close(self._pipe)
            name_process("tcpcrypt-janit")
            return _serve(reading, clean, worker)

        try:
            self._process = fork(body)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(reading)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Readable when the janitor has ended."""
        return self._process.fileno()

    def dismiss(self) -> None:
        """Say goodbye: this process has put things in order itself.  Idempotent."""
        if self._pipe >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, _GOODBYE)
            os.close(self._pipe)
            self._pipe = -1
            if self._process.wait(_PATIENCE) is None:
                self._process.kill()
                self._process.wait(_PATIENCE)
            self._process.close()


def _serve(pipe: int, clean: Callable[[], object], worker: int | None) -> int:
    # Not of the session that is being ended, if a terminal hangs up.
    with contextlib.suppress(OSError):
        os.setsid()
    heard = b""
    while text := os.read(pipe, len(_GOODBYE)):
        heard += text
        if heard == _GOODBYE:
            return 0
    if worker is not None:
        _see_dead(worker)
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE)
        try:
            clean()
        except LocalError as error:
            print(f"tcpcryptd: {error}", file=sys.stderr)
        else:
            return 0
    return 1


def _see_dead(pidfd: int) -> None:
    """It has asked to die with its parent; but perhaps it was killed before it could ask."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    select.select([pidfd], [], [], _PATIENCE)
