"""psql, pgbench and PostgreSQL, unmodified, through two daemons."""

import hashlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.network import Network
from netns.programs.server import ordinary, program, running
from netns.programs.watch import daemon, watched

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.netns import Capture, free_of, wait_until

PORT = 5432
USER = "postgres"
SECRET = "a row that nobody else may read"
NEEDLES = (b"SELECT ", b"server_version", b"application_name", SECRET.encode())


def newest() -> str:
    """PATH of the programs that Debian keeps out of PATH, one directory a version."""
    found = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda p: int(p.parts[-2]))
    return ":".join([*(str(path) for path in reversed(found)), "/usr/bin", "/usr/local/bin"])


@pytest.fixture(scope="module", autouse=True)
def _postgresql(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    place = tmp_path_factory.mktemp("postgresql")
    data = str(place / "data")
    initdb = program("initdb", "postgresql", newest())
    argv = (initdb, "--pgdata", data, "--username", USER, "--auth", "trust", "--no-sync")
    made = subprocess.run(
        ordinary(*argv, "--locale", "C", "--encoding", "UTF8"),
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert made.returncode == 0, made.stderr
    with (place / "data/pg_hba.conf").open("a") as rules:
        rules.write("host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n")
    settings = {
        "port": PORT,
        "listen_addresses": "*",
        "unix_socket_directories": "",
        "fsync": "off",
        "logging_collector": "off",
        "shared_buffers": "16MB",
        "dynamic_shared_memory_type": "mmap",
        "max_connections": "30",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    server = ordinary(program("postgres", "postgresql", newest()), "-D", data, *options)
    # SIGINT: do not wait for clients.
    with running(hosts.server, PORT, place / "log", server, signal.SIGINT):
        ready = (program("pg_isready", "postgresql", newest()), "-h", hosts.server_end.v4)
        wait_until(lambda: hosts.server.run(*ready, check=False).returncode == 0, "PostgreSQL", 20)
        yield


def command(hosts: Network, name: str = "psql", family: int = 4) -> list[str]:
    host = hosts.server_end.v4 if family == 4 else hosts.server_end.v6
    return [program(name, "postgresql", newest()), "-h", host, "-p", str(PORT), "-U", USER]


def psql(hosts: Network, *statements: str, family: int = 4) -> str:
    """What one connection answers, a line for each row."""
    words = [word for statement in statements for word in ("-c", statement)]
    argv = (*command(hosts, family=family), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
    return hosts.client.run(*argv, *words).stdout.strip()


def test_without_the_daemon_the_wire_shows_it(hosts: Network) -> None:
    """What the other tests look for in vain would have been found."""
    with Capture(hosts.client_end) as capture:
        assert psql(hosts, f"SELECT '{SECRET}'") == SECRET
    assert free_of(capture.packets, *NEEDLES) == []


@pytest.mark.parametrize("family", [4, 6])
def test_queries_and_the_clients_address(hosts: Network, family: int) -> None:
    address = hosts.client_end.v4 if family == 4 else hosts.client_end.v6
    with watched(hosts, PORT, *NEEDLES):
        answer = psql(
            hosts,
            f"SELECT '{SECRET}'",
            "SELECT client_addr FROM pg_stat_activity WHERE pid = pg_backend_pid()",
            "SELECT count(*) FROM generate_series(1, 100000)",
            family=family,
        )
        assert answer.splitlines() == [SECRET, address, "100000"]


def test_a_hundred_thousand_rows_there_and_back(hosts: Network, tmp_path: Path) -> None:
    rows = "".join(f"{i}\t{SECRET} {i * i}\n" for i in range(100_000))
    (tmp_path / "rows").write_text(rows)
    with watched(hosts, PORT, *NEEDLES, b"99999\ta row"):
        psql(
            hosts,
            "CREATE TABLE notes (number integer PRIMARY KEY, text text)",
            rf"\copy notes FROM '{tmp_path}/rows'",
            rf"\copy (SELECT * FROM notes ORDER BY number) TO '{tmp_path}/back'",
        )
    digests = [hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in ("rows", "back")]
    assert digests[0] == digests[1]


def test_listen_and_notify(hosts: Network, tmp_path: Path) -> None:
    got = tmp_path / "got"
    with watched(hosts, PORT, *NEEDLES, b"LISTEN ") as seen:
        with got.open("w") as output:
            listener = hosts.client.start(
                *command(hosts), "-X", stdin=subprocess.PIPE, stdout=output, text=True
            )
        assert listener.stdin is not None
        print("LISTEN news;", file=listener.stdin, flush=True)
        wait_until(lambda: "LISTEN" in got.read_text(), "LISTEN")
        psql(hosts, f"NOTIFY news, '{SECRET}'")
        print("SELECT 1;", file=listener.stdin, flush=True)
        told = f'Asynchronous notification "news" with payload "{SECRET}"'
        wait_until(lambda: told in got.read_text(), "notification")
        listener.stdin.close()
        assert listener.wait(10) == 0
        assert len(seen.enabled(2)) == 2


def test_a_query_is_cancelled_over_a_second_connection(hosts: Network, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with watched(hosts, PORT, *NEEDLES) as seen:
        with errors.open("w") as output:
            argv = (*command(hosts), "-X", "-c", "SELECT pg_sleep(60)")
            sleeper = hosts.client.start(*argv, stderr=output)
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        wait_until(lambda: psql(hosts, asleep) == "1", "sleeper")
        sleeper.send_signal(signal.SIGINT)
        assert sleeper.wait(10) == 1
        assert "canceling statement due to user request" in errors.read_text()
        assert len(seen.enabled(3)) >= 3


def test_a_session_that_was_idle_goes_on(hosts: Network, tmp_path: Path) -> None:
    got = tmp_path / "got"
    with watched(hosts, PORT, *NEEDLES) as seen:
        with got.open("w") as output:
            session = hosts.client.start(
                *command(hosts), "-XqAt", stdin=subprocess.PIPE, stdout=output, text=True
            )
        assert session.stdin is not None
        for number in range(2):
            print(f"SELECT {number}, '{SECRET}';", file=session.stdin, flush=True)
            line = f"{number}|{SECRET}"
            wait_until(lambda line=line: line in got.read_text(), line)
            time.sleep(1.5)
        session.stdin.close()
        assert session.wait(10) == 0
        assert len(seen.enabled()) == 1


def test_pgbench_with_four_clients(hosts: Network) -> None:
    argv = command(hosts, "pgbench")
    with watched(hosts, PORT, *NEEDLES, b"pgbench_accounts") as seen:
        hosts.client.run(*argv, "-i", "-s", "1", "-q", USER)
        done = hosts.client.run(*argv, "-n", "-c", "4", "-j", "2", "-T", "3", USER)
        assert "number of failed transactions: 0 (" in done.stdout
        processed = done.stdout.split("transactions actually processed: ")[1].split()[0]
        assert int(processed) > 50
        seen.enabled(5)


def test_where_encryption_is_required(hosts: Network) -> None:
    with watched(hosts, PORT, *NEEDLES, arguments=("--mode", "require")):
        assert psql(hosts, f"SELECT '{SECRET}'") == SECRET


def test_a_client_without_the_daemon_is_refused(
    hosts: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")
    refused = pytest.raises(LocalError, match=f"connection to server at .* port {PORT} failed")
    with daemon(hosts.server, PORT, "--mode", "require"), refused:
        psql(hosts, f"SELECT '{SECRET}'")
