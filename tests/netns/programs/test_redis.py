"""redis-cli, redis-benchmark and redis-server, unmodified, through two daemons."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.network import Network
from netns.programs.server import ordinary, program, running
from netns.programs.watch import daemon, watched

from tcpcrypt.tools.netns import Capture, free_of, wait_until

PORT = 6379
SECRET = "a value that nobody else may read"
NEEDLES = (b"SET\r\n", b"$3\r\nGET", SECRET.encode(), b"*3\r\n")


@pytest.fixture(scope="module", autouse=True)
def _redis(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    place = tmp_path_factory.mktemp("redis")
    argv = ordinary(
        program("redis-server", "redis-server"),
        *("--port", str(PORT), "--bind", "*", "-::*", "--protected-mode", "no"),
        *("--save", "", "--appendonly", "no", "--dir", str(place)),
    )
    with running(hosts.server, PORT, place / "log", argv):
        yield


def command(hosts: Network, *arguments: str, name: str = "redis-cli", family: int = 4) -> list[str]:
    host = hosts.server_end.v4 if family == 4 else hosts.server_end.v6
    return [program(name, "redis-tools"), "-h", host, "-p", str(PORT), *arguments]


def redis(hosts: Network, *arguments: str, family: int = 4) -> str:
    return hosts.client.run(*command(hosts, *arguments, family=family), timeout=30).stdout.strip()


def test_without_the_daemon_the_wire_shows_it(hosts: Network) -> None:
    """What the other tests look for in vain would have been found."""
    with Capture(hosts.client_end) as capture:
        assert redis(hosts, "SET", "key", SECRET) == "OK"
        assert redis(hosts, "GET", "key") == SECRET
    assert free_of(capture.packets, *NEEDLES) == []


@pytest.mark.parametrize("family", [4, 6])
def test_set_get_and_the_clients_address(hosts: Network, family: int) -> None:
    address = hosts.client_end.v4 if family == 4 else f"[{hosts.client_end.v6}]"
    with watched(hosts, PORT, *NEEDLES) as seen:
        assert redis(hosts, "SET", "name", SECRET, family=family) == "OK"
        assert redis(hosts, "GET", "name", family=family) == SECRET
        assert f" addr={address}:" in redis(hosts, "CLIENT", "LIST", family=family)
        seen.enabled(3)


def test_a_pipeline_of_ten_thousand(hosts: Network, tmp_path: Path) -> None:
    lines = "".join(f"SET key:{i} {i}-{SECRET.replace(' ', '_')}\r\n" for i in range(10_000))
    (tmp_path / "commands").write_text(lines)
    with watched(hosts, PORT, b"nobody_else", *NEEDLES), (tmp_path / "commands").open() as source:
        done = hosts.client.run(*command(hosts, "--pipe"), stdin=source)
        assert "errors: 0, replies: 10000" in done.stdout
        assert redis(hosts, "GET", "key:9999").startswith("9999-a_value")


def test_a_benchmark_with_fifty_clients(hosts: Network) -> None:
    argv = command(hosts, "-n", "20000", "-q", "-t", "get,set", name="redis-benchmark")
    with watched(hosts, PORT, *NEEDLES) as seen:
        done = hosts.client.run(*argv, timeout=60)
        assert done.stdout.count("requests per second") == 2
        assert len(seen.enabled(100)) >= 100


def test_publish_and_subscribe(hosts: Network, tmp_path: Path) -> None:
    got = tmp_path / "got"
    with watched(hosts, PORT, b"news", *NEEDLES) as seen:
        with got.open("w") as output:
            argv = command(hosts, "--csv", "SUBSCRIBE", "news")
            subscriber = hosts.client.start(*argv, stdout=output, stderr=subprocess.STDOUT)
        wait_until(lambda: '"subscribe","news"' in got.read_text(), "subscription")
        for number in range(100):
            assert redis(hosts, "PUBLISH", "news", f"{number} {SECRET}") == "1"
        last = f'"message","news","99 {SECRET}"'
        wait_until(lambda: last in got.read_text(), "the last message")
        assert got.read_text().count('"message","news"') == 100
        hosts.client.stop(subscriber)
        seen.enabled(101)


def test_where_encryption_is_required(hosts: Network) -> None:
    with watched(hosts, PORT, *NEEDLES, arguments=("--mode", "require")):
        assert redis(hosts, "SET", "name", SECRET) == "OK"


def test_a_client_without_the_daemon_is_refused(hosts: Network) -> None:
    with daemon(hosts.server, PORT, "--mode", "require"):
        argv = ("timeout", "3", *command(hosts, "GET", "name"))
        done = hosts.client.run(*argv, check=False)
    assert done.returncode != 0
    assert SECRET not in done.stdout
