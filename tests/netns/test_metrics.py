"""What Prometheus would read of two hosts while real programs talk.

client ---- veth1 ---- server            10.99.1.1    10.99.1.2
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from daemon.separated import Daemon, status
from netns.network import Network
from prometheus_client.parser import text_string_to_metric_families

from tcpcrypt.daemon.confinement import capabilities
from tcpcrypt.tools.netns import Host, wait_until

SIZE = 3_000_000
TCP = "http://127.0.0.1:9469/metrics"


class Scrape:
    """One, by a real curl."""

    def __init__(self, host: Host, *where: str) -> None:
        text = host.run("curl", "--silent", "--show-error", "--fail", *where).stdout
        self._found = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._found[f"tcpcrypt_{name}", frozenset(labels.items())]

    def sum(self, name: str) -> float:
        return sum(
            value for (found, _), value in self._found.items() if found == f"tcpcrypt_{name}"
        )


@pytest.fixture
def both(pair: Network, tmp_path: Path) -> tuple[Daemon, Daemon]:
    tmp_path.chmod(0o755)
    path = tmp_path / "metrics.sock"
    one = Daemon(pair.client, tmp_path, daemon='metrics = "127.0.0.1:9469"')
    other = Daemon(pair.server, tmp_path, daemon=f'metrics = "unix:{path}"')
    return one.started(), other.started()


def test_the_numbers_of_encrypted_downloads(
    pair: Network, both: tuple[Daemon, Daemon], tmp_path: Path
) -> None:
    client, _server = both
    unix = ("--unix-socket", str(tmp_path / "metrics.sock"), "http://localhost/metrics")
    (tmp_path / "file").write_bytes(b"x" * SIZE)
    pair.spare_room()
    pair.web(tmp_path)
    before = Scrape(pair.client, TCP)
    assert before.sum("connections_encrypted_total") == 0
    for _ in range(2):
        assert len(pair.curl("/file")) == SIZE

    def ended() -> list[Scrape]:
        found = [Scrape(pair.client, TCP), Scrape(pair.server, *unix)]
        return found if all(one.sum("connections_closed_total") == 2 for one in found) else []

    here, there = wait_until(ended, "the end of both connections")
    for host, direction, moved in ((here, "outgoing", "received"), (there, "incoming", "sent")):
        for start in ("fresh", "resumed"):
            assert host("connections_encrypted_total", start=start) == 1
            labels = {"direction": direction, "start": start}
            assert host("setup_seconds_count", **labels) == 1
            assert 0 < host("setup_seconds_sum", **labels) < 60
        bytes_ = host("application_bytes_total", protection="encrypted", direction=moved)
        assert 2 * SIZE < bytes_ < 2 * SIZE + 4000  # with the heads of two answers
        assert host("application_bytes_total", protection="plain", direction=moved) == 0
        assert host("resumption_cache_entries") >= 1
        assert host.sum("connections_plain_total") == host.sum("connections_aborted_total") == 0
    # The counters are those that `tcpcrypt status` shows.
    counters = client.ask("status")["result"]["counters"]  # type: ignore[index]
    assert counters["fresh"] == here("connections_encrypted_total", start="fresh")
    assert counters["closed"] == here.sum("connections_closed_total")
    # 3 MB take many frames, the question for them one or two.
    assert there("frames_sealed_total") > 2 * SIZE / 65536 > here("frames_sealed_total") >= 2
    # Who answers has no privilege, and nobody else's socket.
    assert set(capabilities(client.worker).values()) == {0}
    assert status(client.worker, "NoNewPrivs") == "1"


def test_live_connections_and_why_others_are_plain(
    pair: Network, both: tuple[Daemon, Daemon]
) -> None:
    _client, server = both
    with pair.conversation() as (one, other):
        other.sendall(b"x" * 1000)
        assert len(one.recv(1000, 0x100)) == 1000  # MSG_WAITALL
        live = Scrape(pair.client, TCP)
        assert live("connections", state="encrypted", direction="outgoing") == 1
        assert live("application_bytes_total", protection="encrypted", direction="received") == 1001
    server.process.terminate()
    server.process.wait(30)
    with pair.conversation():
        plain = Scrape(pair.client, TCP)
    assert plain.sum("connections_plain_total") == 1
    assert plain("connections", state="plain", direction="outgoing") == 1
    assert plain("setup_seconds_count", direction="outgoing", start="plain") == 1
    assert plain("connections_plain_total", how="fallback", reason="no_eno_in_syn_ack") == 1


@pytest.mark.parametrize("words", [(), ("--single-process",)], ids=["separated", "alone"])
def test_what_policy_refuses_is_counted_with_its_reason(
    pair: Network, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """The server has no daemon, and the policy says `require`."""
    tmp_path.chmod(0o755)
    daemon = Daemon(pair.client, tmp_path, "require", 'metrics = "127.0.0.1:9469"', *words)
    daemon.wait_for("started")
    with pair.listen(), pytest.raises(ConnectionRefusedError):
        pair.connect()
    found = Scrape(pair.client, TCP)
    assert found("connections_refused_total", reason="no_eno_in_syn_ack") == 1
    assert found.sum("connections_refused_total") == 1
    assert found.sum("connections_plain_total") == found.sum("connections_failed_total") == 0


def test_nobody_serves_metrics_where_none_are_asked_for(pair: Network, tmp_path: Path) -> None:
    """And the library for them is not even loaded."""
    tmp_path.chmod(0o755)
    daemon = Daemon(pair.client, tmp_path).started()
    done = pair.client.run("curl", "--silent", "--max-time", "5", TCP, check=False)
    assert done.returncode == 7  # refused
    code = (
        "import sys, tcpcrypt.daemon.app, tcpcrypt.daemon.alone\n"
        "print([name for name in sys.modules if 'prometheus' in name])\n"
    )
    assert pair.client.run(sys.executable, "-c", code, cwd="/").stdout == "[]\n"
    assert daemon.process.poll() is None
