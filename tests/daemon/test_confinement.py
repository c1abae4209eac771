"""What a confined process has lost; each case in a process of its own."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tcpcrypt.daemon import confinement
from tcpcrypt.daemon.confinement import (
    Capability,
    bound,
    capabilities,
    close_others,
    confine,
    find_account,
    name_process,
    open_descriptors,
)
from tcpcrypt.daemon.process import fork
from tcpcrypt.errors import LocalError
from tcpcrypt.tools.netns import become_root

ROOTLESS = Path("/proc/self/uid_map").read_text().split()[2] == "1" or os.geteuid() != 0


@pytest.fixture(scope="module", autouse=True)
def _root() -> None:
    become_root()


def in_child(body: Callable[[], object]) -> None:
    """Run `body` in a child; what it raises fails the test."""

    def run() -> int:
        body()
        return 0

    assert fork(run).wait(20) == 0


def status(name: str, pid: int | str = "self") -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    raise KeyError(name)


def test_a_confined_process_may_nothing() -> None:
    parent, account = os.getpid(), find_account("nobody")
    secret = Path("/etc/shadow")

    def body() -> None:
        kept, lost = os.pipe()
        confine(account, parent, [kept])
        assert set(capabilities().values()) == {0}
        assert set(capabilities()) == {"Inh", "Prm", "Eff", "Bnd", "Amb"}
        assert status("NoNewPrivs") == "1"
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0, "dumpable"
        assert os.umask(0) == 0o077
        os.fstat(kept)
        with pytest.raises(OSError):
            os.fstat(lost)
        with pytest.raises(PermissionError):
            socket.socket(socket.AF_INET).setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)
        with pytest.raises(PermissionError):
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        if account is not None:
            assert os.getresuid() == (account.uid,) * 3
            assert os.getresgid() == (account.gid,) * 3
            assert os.getgroups() == []
            with pytest.raises(PermissionError):
                secret.read_bytes()
            with pytest.raises(PermissionError):
                os.setuid(0)
            with pytest.raises(PermissionError):
                os.kill(parent, 0)

    in_child(body)


def test_a_program_with_privileges_of_its_own_gains_none() -> None:
    """As root of a user namespace the worker keeps number 0; exec would give it everything."""
    parent, account = os.getpid(), find_account("nobody")

    def body() -> None:
        confine(account, parent)
        with os.popen("grep -E '^Cap(Prm|Eff):' /proc/self/status") as pipe:
            assert set(pipe.read().split()[1::2]) == {"0" * 16}

    in_child(body)


def test_it_dies_with_its_parent() -> None:
    account = find_account("nobody")
    reading, writing = os.pipe()

    def body() -> int:
        parent = os.getpid()

        def rest() -> int:
            confine(account, parent, [writing])
            os.write(writing, b"%d" % os.getpid())
            time.sleep(60)
            return 0

        fork(rest)
        time.sleep(60)
        return 0

    child = fork(body)
    pid = int(os.read(reading, 20))
    pidfd = os.pidfd_open(pid)
    child.kill()
    child.wait(5)
    os.close(writing)
    assert os.read(reading, 1) == b"", "nobody has the pipe any more"
    os.close(pidfd)
    os.close(reading)


def test_a_parent_that_died_before_is_noticed() -> None:
    account = find_account("nobody")

    def body() -> int:
        confine(account, 1 << 22)  # no such process
        return 0

    assert fork(body).wait(5) == 1


@pytest.mark.parametrize("name", ["root", "no-such-user-here"])
def test_accounts_that_will_not_do(name: str) -> None:
    if ROOTLESS:
        assert find_account(name) is None, "there is one user alone"
        return
    with pytest.raises(LocalError, match=name):
        find_account(name)


def test_the_default_account_has_a_substitute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "_DEFAULT_USER", "no-such-user-here")
    account = find_account("no-such-user-here")
    assert ROOTLESS if account is None else account.name == "nobody"


def test_what_cannot_be_given_up_ends_it() -> None:
    """Without SETPCAP the bounding set stays; then the worker must not go on."""

    def body() -> None:
        bound([Capability.NET_ADMIN])
        with pytest.raises(LocalError, match="cannot be confined"):
            confine(None, os.getppid())

    in_child(body)


def test_the_parent_is_bounded_and_can_still_work() -> None:
    keep = [Capability.NET_ADMIN, Capability.NET_RAW]
    bits = (1 << Capability.NET_ADMIN | 1 << Capability.NET_RAW) & capabilities()["Prm"]

    def body() -> None:
        bound(keep)
        found = capabilities()
        assert (found["Prm"], found["Eff"], found["Inh"], found["Amb"]) == (bits, bits, 0, 0)
        assert found["Bnd"] == bits
        assert status("NoNewPrivs") == "1"
        socket.socket(socket.AF_INET).setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)
        with pytest.raises(PermissionError):
            os.chroot("/")
        # A program that root starts has what root may have: no more than that.
        with os.popen("grep ^CapEff: /proc/self/status") as pipe:
            assert int(pipe.read().split()[1], 16) == bits

    in_child(body)


def test_descriptors() -> None:
    def body() -> None:
        one, other = os.pipe()
        assert {0, 1, 2, one, other} <= open_descriptors()
        close_others([one])
        assert open_descriptors() <= {0, 1, 2, one}
        assert one in open_descriptors()

    in_child(body)


def test_a_name_for_ps() -> None:
    def body() -> None:
        name_process("tcpcrypt-worker")
        assert Path("/proc/self/comm").read_text() == "tcpcrypt-worker\n"

    in_child(body)


def test_a_child_leaves_the_signals_to_its_parent() -> None:
    def body() -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
        return 7

    assert fork(body).wait(5) == 7


def test_the_end_of_a_child(capfd: pytest.CaptureFixture[str]) -> None:
    def raise_(error: BaseException) -> int:
        raise error

    for error, expected in (
        (LocalError("it could not"), 1),
        (SystemExit(3), 3),
        (SystemExit("for a reason"), 1),
        (ValueError("a mistake"), 70),
    ):
        child = fork(lambda error=error: raise_(error))
        assert child.wait(5) == expected
        assert child.wait(0) == expected, "told again"
        child.kill()
        child.close()
        child.close()
    said = capfd.readouterr().err
    for text in ("tcpcryptd: it could not", "for a reason", "ValueError: a mistake"):
        assert text in said
    sleeper = fork(lambda: time.sleep(60) or 0)
    assert sleeper.wait(0) is None
    sleeper.kill()
    assert sleeper.wait(5) == -signal.SIGKILL
    sleeper.close()
