"""iperf3, unmodified, through two daemons."""

import json
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from netns.network import Network
from netns.processes import processor_time
from netns.programs.server import ordinary, program, running
from netns.programs.watch import daemon, watched

from tcpcrypt.tools.netns import Capture, free_of, wait_until

PORT = 5201
# Its parameters, its results, and the data that it sends when told to repeat them.
NEEDLES = (b'{"tcp":true', b'"cpu_util_total"', b"0123456789" * 3)
HEADERS = 512
"""Bytes of each captured packet that are kept."""


@pytest.fixture(scope="module")
def log(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Log of a running server."""
    log = tmp_path_factory.mktemp("iperf3") / "log"
    server = ordinary(program("iperf3", "iperf3"), "-s", "-p", str(PORT), "--forceflush")
    with running(hosts.server, PORT, log, server):
        yield log


def measure(hosts: Network, *arguments: str, time: str = "3", family: int = 4) -> dict[str, Any]:
    """What the client reports at the end."""
    host = hosts.server_end.v4 if family == 4 else hosts.server_end.v6
    argv = ("-c", host, "-p", str(PORT), "-t", time, "-J", "--repeating-payload")
    done = hosts.client.run(program("iperf3", "iperf3"), *argv, *arguments, timeout=60, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    assert "error" not in found, found["error"]
    assert done.returncode == 0
    return found


def test_without_the_daemon_the_wire_shows_it(hosts: Network, log: Path) -> None:
    """What the other tests look for in vain would have been found."""
    with Capture(hosts.client_end, HEADERS) as capture:
        measure(hosts, time="1")
    assert free_of(capture.packets, *NEEDLES) == []


@pytest.mark.parametrize("direction", ["there", "back"])
def test_one_direction(hosts: Network, log: Path, direction: str) -> None:
    with watched(hosts, PORT, *NEEDLES, keep=HEADERS) as seen:
        found = measure(hosts, *(["-R"] if direction == "back" else []))
        assert len(seen.enabled(2)) == 2
    sent, received = found["end"]["sum_sent"], found["end"]["sum_received"]
    assert received["bytes"] > 10_000_000
    assert received["bytes"] <= sent["bytes"]
    # Every interval moved something: no stall of a second.
    assert all(interval["sum"]["bytes"] for interval in found["intervals"][:3])


def test_four_streams_and_the_clients_address(hosts: Network, log: Path) -> None:
    before = log.read_text().count("Accepted connection from")
    with watched(hosts, PORT, *NEEDLES, keep=HEADERS) as seen:
        found = measure(hosts, "-P", "4", family=6)
        assert len(seen.enabled(5)) == 5
    streams = found["end"]["streams"]
    assert len(streams) == 4
    assert all(stream["receiver"]["bytes"] > 0 for stream in streams)
    came = f"Accepted connection from {hosts.client_end.v6},"
    wait_until(lambda: log.read_text().count("Accepted connection from") > before, "log line")
    assert came in log.read_text()


def test_both_directions_at_once(hosts: Network, log: Path) -> None:
    with watched(hosts, PORT, *NEEDLES, keep=HEADERS):
        found = measure(hosts, "--bidir")
    assert found["end"]["sum_received"]["bytes"] > 1_000_000
    assert found["end"]["sum_received_bidir_reverse"]["bytes"] > 1_000_000


def test_the_daemons_are_idle_afterwards(hosts: Network, log: Path) -> None:
    """No timer or descriptor keeps them busy once the traffic is over."""
    with watched(hosts, PORT, *NEEDLES, keep=HEADERS) as seen:
        measure(hosts, time="1")
        for end in (seen.ours, seen.theirs):
            end.wait_for("closed", count=2)
            before = processor_time(end.process.pid)
            sleep(1)
            assert processor_time(end.process.pid) - before <= 0.1


def test_where_encryption_is_required(hosts: Network, log: Path) -> None:
    with watched(hosts, PORT, *NEEDLES, arguments=("--mode", "require"), keep=HEADERS):
        assert measure(hosts, time="1")["end"]["sum_received"]["bytes"] > 0


def test_a_client_without_the_daemon_is_refused(hosts: Network, log: Path) -> None:
    with daemon(hosts.server, PORT, "--mode", "require"):
        argv = ("-c", hosts.server_end.v4, "-p", str(PORT), "-t", "1", "--connect-timeout", "2000")
        iperf3 = ("timeout", "5", program("iperf3", "iperf3"), *argv)
        done = hosts.client.run(*iperf3, check=False)
    assert done.returncode != 0
    assert "sender" not in done.stdout
