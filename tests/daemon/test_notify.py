"""What the service manager is told, on sockets that stand in for systemd's."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpcrypt.daemon.notify import ServiceManager, Watchdog
from tcpcrypt.runtime.loop import Loop


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify")
    address = name
    if request.param == "abstract":
        name, address = f"@tcpcrypt-test-{os.getpid()}", f"\0tcpcrypt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(5)
        yield sock, name


def heard(sock: socket.socket) -> dict[str, str]:
    lines = sock.recv(4096).decode().split("\n")
    return dict(line.partition("=")[::2] for line in lines)


def test_every_state(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    service = ServiceManager({"NOTIFY_SOCKET": name})
    service.ready("two policies\nand a line that must not become a field")
    assert heard(sock) == {
        "READY": "1",
        "STATUS": "two policies and a line that must not become a field",
    }
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service.reloading()
    found = heard(sock)
    assert found["RELOADING"] == "1"
    assert before <= int(found["MONOTONIC_USEC"]) <= time.clock_gettime_ns(1) // 1000
    service.stopping("bye")
    assert heard(sock) == {"STOPPING": "1", "STATUS": "bye"}
    service.status("")
    assert heard(sock) == {"STATUS": ""}
    service.extend(1.5)
    assert heard(sock) == {"EXTEND_TIMEOUT_USEC": "1500000"}
    service.alive()
    assert heard(sock) == {"WATCHDOG": "1"}
    service.close()
    service.close()


def test_without_a_manager_nothing_is_sent() -> None:
    service = ServiceManager({})
    service.ready("x")
    assert service.watchdog == 0
    gone = ServiceManager({"NOTIFY_SOCKET": "/nowhere/notify"})
    gone.ready("a manager that is gone does not stop the service")
    gone.close()


def test_a_manager_that_does_not_listen_holds_nothing_up(
    manager: tuple[socket.socket, str],
) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager[1]})
    for _ in range(5000):
        service.alive()
    service.close()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "x"}, 0),
        ({"WATCHDOG_USEC": "-1"}, 0),
    ],
)
def test_the_period_of_the_watchdog(environment: dict[str, str], seconds: float) -> None:
    assert ServiceManager(environment).watchdog == seconds


def pass_time(loop: Loop) -> None:
    """A quarter of the period, in which the watchdog looks once at least."""
    end = time.monotonic() + 0.15
    while (left := end - time.monotonic()) > 0:
        loop.step(left)


def test_the_watchdog_is_fed_while_the_worker_answers(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    service = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "400000"})
    loop, clock = Loop(), [100.0]
    watchdog = Watchdog(loop, service, lambda: clock[0])
    assert heard(sock) == {"WATCHDOG": "1"}, "at once"
    clock[0] += 0.1
    watchdog.answered()
    clock[0] += 0.15
    pass_time(loop)
    assert heard(sock) == {"WATCHDOG": "1"}
    clock[0] += 0.06  # half of the period and more since it answered
    while select.select([sock], [], [], 0)[0]:
        sock.recv(100)
    pass_time(loop)
    assert not select.select([sock], [], [], 0)[0]
    watchdog.answered()
    pass_time(loop)
    assert heard(sock) == {"WATCHDOG": "1"}, "it was slow, but is there again"
    watchdog.close()
    watchdog.close()
    service.close()
    loop.close()
