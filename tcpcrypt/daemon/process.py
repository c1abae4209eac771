"""Children that share this program: forked, watched by descriptor, ended for certain."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Final

from tcpcrypt.errors import LocalError

__all__ = ["Process", "fork"]

_FAULT: Final = 70
"""Exit status after a mistake of ours (EX_SOFTWARE of sysexits.h)."""
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Process:
    """A child.  Its `fileno` becomes readable when it has ended, all its descriptors closed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._status: int | None = None

    def fileno(self) -> int:
        return self._pidfd

    def wait(self, timeout: float) -> int | None:
        """Its exit status, minus the signal that killed it; None if it goes on for `timeout` s."""
        if self._status is None and select.select([self._pidfd], [], [], timeout)[0]:
            _pid, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def kill(self) -> None:
        """End it at once; to be followed by `wait`.  Idempotent."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Forget it.  Idempotent."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def fork(body: Callable[[], int]) -> Process:
    """Run `body` in a child; what it returns is the exit status.

    The child ignores the signals that end or reload a daemon: those are for
    the parent, who tells its children, though a terminal or systemd sends them
    to all.  To be called while this process has one thread.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that comes between must not run the parent's handler in the child.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        pid = os.fork()
        if pid == 0:
            for number in _HANDLED:
                signal.signal(number, signal.SIG_IGN)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if pid:
        return Process(pid)
    status = _FAULT
    try:
        status = body()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = error.code if isinstance(error.code, int) else 1
    except LocalError as error:
        print(f"tcpcryptd: {error}", file=sys.stderr)
        status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        # Nothing of the parent's may run here: no exit handler, no `finally`.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
