"""Starting and stopping the daemon of this network namespace, from outside of it.

Which process it is, is told by the lock that it holds (an abstract socket
name, of which there is one in a network namespace), not by a file with a
number in it that may be another's by now.  Anybody may take that name, and hand
the socket to a process of root: what counts is who made it, which the kernel keeps.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.installation import LOCK, remove_everything
from tcpcrypt.runtime.sock_diag import listeners

__all__ = [
    "UNIT",
    "Started",
    "find_daemon",
    "lock_holders",
    "remove_left_over",
    "start",
    "stop",
    "systemctl",
    "unit_is_there",
]

UNIT: Final = "tcpcryptd.service"
START_SECONDS: Final = 40.0
"""How long a daemon may take until it is ready."""
STOP_SECONDS: Final = 60.0
"""How long it may take to end, beside the time for which its connections may drain."""
_HELPERS: Final = ("tcpcrypt-worker", "tcpcrypt-janit")
_LOOKS: Final = 10
_PROGRESS: Final = 5.0
_ERROR_LINES: Final = 8
_ERROR_BYTES: Final = 8192
_SERVICE_MANAGERS: Final = ("JOURNAL_STREAM", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS")
"""Variables by which a manager speaks to its own service, which is not the daemon."""

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Started:
    """A daemon that is ready."""

    pid: int
    pidfd: int
    """Readable when it has ended; the caller closes it."""
    status: str
    """What it told its manager, one line."""
    seconds: float


def lock_holders(proc: Path = Path("/proc")) -> list[int]:
    """The processes that hold the lock, as far as one may see them.

    An empty list means that no daemon runs, or one that had to do without the
    lock.  Raises `LocalError` if one does and cannot be seen from here.
    """
    believed = {0, os.geteuid()}
    for _ in range(_LOOKS):
        inodes = _locks()
        if not inodes:
            return []
        makers = {
            int(directory.name): _makers(directory, inodes)
            for directory in proc.iterdir()
            if directory.name.isdecimal()
        }
        holders = [pid for pid, found in makers.items() if found & believed]
        if holders:
            return sorted(holders)
        time.sleep(0.05)  # the last one may have ended while we looked
    if any(makers.values()):
        return []
    raise LocalError(
        "a tcpcryptd serves this network namespace, but its process is out of sight: stop it"
        " where it was started, as root"
    )


def _locks() -> set[str]:
    """The lock as it stands among the descriptors of a process."""
    with contextlib.suppress(OSError):
        return {f"socket:[{inode}]" for inode in listeners(LOCK)}
    return set()


def _makers(process: Path, sockets: Collection[str]) -> set[int]:
    """The users who made those of `sockets` that are among the descriptors of a process."""
    found = set()
    with contextlib.suppress(OSError):  # gone meanwhile, or not ours to look at
        for name in os.listdir(process / "fd"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "fd" / name) in sockets:
                    found.add(os.stat(process / "fd" / name).st_uid)
    return found


def find_daemon() -> int | None:
    """The process of the daemon, or None if there is none.

    None too while a janitor puts things in order after a daemon that was
    killed.  Raises `LocalError` if there is one that cannot be seen.
    """
    holders = lock_holders()
    parents = [pid for pid in holders if _name(pid) not in _HELPERS]
    return parents[0] if parents else None


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


# --- with systemd ---------------------------------------------------------------------


def unit_is_there() -> bool:
    """Whether systemd runs this machine, knows the unit, and would start it in our network."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return False
    with contextlib.suppress(OSError):
        if os.stat("/proc/1/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino:
            return False
    done = subprocess.run(("systemctl", "cat", UNIT), capture_output=True, check=False)
    return done.returncode == 0


def systemctl(verb: str) -> None:
    """`start` or `stop` the unit, and wait for it.  Raises `LocalError` with what systemd says."""
    done = subprocess.run(
        ("systemctl", verb, UNIT), capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        why = done.stderr.strip() or f"exit {done.returncode}"
        raise LocalError(f"systemctl {verb} {UNIT}: {why}")


# --- by hand ----------------------------------------------------------------------------


def start(
    config: Path, log: Path, *, confirm: float = 0.0, timeout: float = START_SECONDS
) -> Started:
    """Start a daemon in a session of its own and return when it is ready.

    What it writes to stderr is appended to `log`.  Raises `LocalError` with
    what it wrote, if it does not come up.
    """
    _wait_for_janitor(timeout)
    began = time.monotonic()
    # As isolated from the variables and directories of who calls as this process is.
    python = [sys.executable, *(["-I"] if sys.flags.isolated else [])]
    argv = [*python, "-m", "tcpcrypt.cli.tcpcryptd", "--config", str(config.resolve())]
    if confirm:
        argv += ["--confirm", f"{confirm:g}"]
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise LocalError(f"{log}: {error.strerror}") from error
    with (
        open(descriptor, "ab") as stderr,
        tempfile.TemporaryDirectory(prefix="tcpcrypt-up-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        written = os.fstat(stderr.fileno()).st_size
        manager.bind(f"{directory}/notify")
        environment = {k: v for k, v in os.environ.items() if k not in _SERVICE_MANAGERS}
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env={**environment, "NOTIFY_SOCKET": f"{directory}/notify"},
            cwd="/",
            start_new_session=True,
        )
        pidfd = os.pidfd_open(process.pid)
        try:
            status = _wait_until_ready(manager, process, pidfd, began + timeout)
        except BaseException as error:
            # An interrupted start is taken back; so is one that takes too long.
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
            os.close(pidfd)
            if not isinstance(error, TimeoutError | ChildProcessError):
                raise
            raise LocalError(f"{error}{_said(log, written)}") from None
    return Started(process.pid, pidfd, status, time.monotonic() - began)


def _wait_until_ready(
    manager: socket.socket, process: subprocess.Popen[bytes], pidfd: int, deadline: float
) -> str:
    """The status line that comes with READY=1."""
    poll = select.poll()
    poll.register(manager, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        ready = {fd for fd, _events in poll.poll(left * 1000)}
        if manager.fileno() in ready:
            words = dict(
                line.partition("=")[::2]
                for line in manager.recv(4096).decode(errors="replace").splitlines()
            )
            if words.get("READY") == "1":
                return words.get("STATUS", "")
        elif pidfd in ready:
            raise ChildProcessError(f"tcpcryptd ended with status {process.wait()}")
    raise TimeoutError("tcpcryptd does not get ready")


def _said(log: Path, start_at: int) -> str:
    """What was appended to the log since: the daemon's own words."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(start_at)
        lines = file.read(_ERROR_BYTES).decode(errors="replace").splitlines()
        own = [line.removeprefix("tcpcryptd: ") for line in lines if line.startswith("tcpcryptd:")]
        said = own or lines[-_ERROR_LINES:]
        if said:
            return ": " + "\n".join(said)
    return f"; {log} may tell more"


def stop(told: Told = lambda _text: None, *, timeout: float, now: bool = False) -> int | None:
    """End the daemon if there is one; returns which process it was.

    It is asked once, and a second time when `timeout` is over, which ends its
    draining; at once with `now`.  `told` gets a line now and then.  Raises
    `LocalError` if it does not end.
    """
    pid = find_daemon()
    if pid is None:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return pid
    try:
        if pid not in lock_holders():
            return pid  # gone, and its number with it
        _ask(pidfd)
        if not now and _ended(pidfd, timeout, told):
            return pid
        _ask(pidfd)
        if not _ended(pidfd, STOP_SECONDS, told):
            raise LocalError(
                f"process {pid} does not end.  `kill -9 {pid}` ends it and cuts its connections;"
                " then `tcpcrypt down` again"
            )
    finally:
        os.close(pidfd)
    return pid


def _ask(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise LocalError("stopping the daemon takes root") from None


def _ended(pidfd: int, timeout: float, told: Told) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < timeout:
        if poll.poll(min(_PROGRESS, timeout - passed) * 1000):
            return True
        told(f"still ending after {time.monotonic() - began:.0f} s")
    return False


def remove_left_over(timeout: float = 20.0) -> int:
    """Take out all rules, guard and policy routes that no daemon needs; returns how many.

    A janitor that is at it still is waited for.  Raises `LocalError`.
    """
    _wait_for_janitor(timeout)
    return remove_everything()


def _wait_for_janitor(timeout: float) -> None:
    """While the lock is held, and not by a daemon, somebody puts things in order."""
    end = time.monotonic() + timeout
    while lock_holders() and find_daemon() is None and time.monotonic() < end:
        time.sleep(0.1)
