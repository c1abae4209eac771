"""Servers of others, run as they are in a lab's host by an ordinary user."""

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpcrypt.tools.netns import Host, wait_until

_PLACES = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_LISTEN = "0A"
USER = 1000


def program(name: str, package: str, places: str = _PLACES) -> str:
    """Path of a program.  The test fails, naming Debian's package, if there is none."""
    found = shutil.which(name, path=places)
    if found is None:
        pytest.fail(f"{name} is missing; as root: apt-get install {package}", pytrace=False)
    return found


def ordinary(*argv: str, group: int = USER) -> list[str]:
    """`argv` as a user that is not root and has no capability.

    The user is one of a user namespace, where root's files are its own, so that
    a server which refuses root runs whoever runs the tests, and reaches files
    in directories that nobody else may enter.
    """
    become = ["unshare", "--user", f"--map-user={USER}", f"--map-group={group}", "--"]
    # A new user forgets what was to end it.
    return [*become, "setpriv", "--pdeathsig", "KILL", "--bounding-set", "-all", "--", *argv]


def listening(host: Host, port: int) -> bool:
    """Whether something on `host` listens on `port`."""
    with host.entered():
        lines = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]
        ]
    return any(line[1].endswith(f":{port:04X}") and line[3] == _LISTEN for line in lines)


@contextlib.contextmanager
def running(
    host: Host, port: int, log: Path, argv: list[str], sig: int = signal.SIGTERM
) -> Iterator[subprocess.Popen]:
    """A server, listening on `port` when the block begins and ended by `sig` after it."""
    with log.open("w") as output:
        process = host.start(*argv, stdout=output, stderr=subprocess.STDOUT, cwd="/")
    try:
        wait_until(lambda: listening(host, port) or process.poll() is not None, argv[0], 20)
        if process.poll() is not None:
            pytest.fail(f"{' '.join(argv)}: {log.read_text()}", pytrace=False)
        yield process
    finally:
        host.stop(process, sig)
