"""The segment plane by policies, in tcpcryptd."""

import os
import signal
import socket
from pathlib import Path

import pytest
from netns.kernel_programs import needed_by
from netns.network import Network
from netns.trusting import Pair, Trusting, pair_of, policy

from tcpcrypt.daemon.client import Client
from tcpcrypt.tools.netns import Capture, free_of, wait_until

LINE = b"nobody between the two is to read this line\n"
REQUIRE = policy("none", plane="segment")
OPPORTUNISTIC = policy("none", "opportunistic", plane="segment")
OTHERWISE = OPPORTUNISTIC.replace("= 80", "= [80, 90]") + policy("none", ports=81)


@pytest.fixture
def ends(pair: Network, tmp_path: Path) -> Pair:
    return pair_of(pair, tmp_path)


@pytest.mark.parametrize("family", [pytest.param(4, marks=pytest.mark.long), 6])
def test_curl_between_two_hosts(ends: Pair, tmp_path: Path, family: int) -> None:
    network = ends.network
    content = LINE * 20_000
    (tmp_path / "page").write_bytes(content)
    network.web(tmp_path)
    ends.start(REQUIRE)
    with Capture(network.client_end) as wire:
        for _ in range(2):
            assert network.curl("/page", family).encode() == content
        packets = wire.settled()
    assert free_of(packets, LINE, b"GET /page") == [LINE, b"GET /page"]
    mine, its = (side.daemon.wait_for("enabled", count=2) for side in (ends.client, ends.server))
    assert [event["session"] for event in mine] == [event["session"] for event in its]
    assert [event["start"] for event in mine] == ["fresh", "resumed"]
    for side in (ends.client, ends.server):
        side.daemon.wait_for("closed", count=2)
        assert not side.daemon.events("bug", "failed")
        assert side.counters()["closed"] == 2


def test_a_session_is_shown_found_and_ends_in_a_reset(ends: Pair) -> None:
    network = ends.network
    ends.start(REQUIRE)
    with network.conversation() as (one, other), Capture(network.client_end) as wire:
        (mine,), (its,) = (side.sessions() for side in (ends.client, ends.server))
        assert mine.session_id == its.session_id is not None
        assert mine.transcript == its.transcript is not None
        assert (mine.direction, its.direction) == ("outgoing", "incoming")
        assert (mine.state, mine.policy, mine.sent, mine.received) == ("encrypted", 1, 1, 1)
        with Client(ends.client.control) as client:
            assert client.status()["connections"] == 1
            asked = client.call("find", local=[*one.getsockname()], remote=[*one.getpeername()])
        assert asked["session"]["plane"] == "segment"
        assert (asked["session"]["id"], asked["session"]["forwarded"]) == (mine.id, False)
        ends.client.stop()
        for sock in (one, other):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            with pytest.raises(BrokenPipeError):
                sock.sendall(LINE)
        packets = wire.settled()
    assert free_of(packets, LINE) == [LINE]
    rules = ends.client.host.run("iptables-save").stdout
    assert "NFQUEUE" not in rules
    # `require` outlives the daemon.
    with network.listen(), pytest.raises(ConnectionRefusedError):
        network.connect()


def test_a_peer_without_tcpcrypt_is_refused_or_plain(ends: Pair) -> None:
    network = ends.network
    for one in (ends.client, ends.server):
        one.start(REQUIRE)
        with network.listen(), pytest.raises(ConnectionRefusedError):
            network.connect()
        one.reload(OPPORTUNISTIC)
        with network.conversation():
            (session,) = one.sessions()
            assert (session.state, session.session_id) == ("plain", None)
        one.daemon.wait_for("fallback")
        assert one.counters()["refused"] > 0
        one.stop()


@pytest.mark.long
@pytest.mark.parametrize("relay_opens", [True, False])
def test_the_relay_at_the_other_end(ends: Pair, *, relay_opens: bool) -> None:
    relay, segment = (ends.client, ends.server) if relay_opens else (ends.server, ends.client)
    relay.start(policy("none"))
    segment.start(REQUIRE)
    with ends.network.conversation() as (one, other):
        other.sendall(LINE)
        assert one.recv(len(LINE)) == LINE
        (mine,), (its,) = relay.sessions(), segment.sessions()
        assert mine.session_id == its.session_id is not None


def test_both_planes_side_by_side_and_a_reload_keeps_what_it_can(ends: Pair) -> None:
    network = ends.network
    both = REQUIRE + policy("none", ports=81)
    ends.start(both)
    with (
        network.conversation() as (one, other),
        network.listen(port=81) as listener,
        network.connect(port=81) as relayed,
    ):
        third, _ = listener.accept()
        with third, Capture(network.client_end) as wire:
            relayed.sendall(b"?")
            assert third.recv(1) == b"?"
            planes = [entry.get("plane", "relay") for entry in entries(ends.client)]
            assert sorted(planes) == ["relay", "segment"]
            # Another mode and other ports beside: both go on.
            ends.client.reload(OTHERWISE)
            for sock, peer in ((one, other), (relayed, third)):
                sock.sendall(LINE)
                assert peer.recv(len(LINE)) == LINE
            # The planes change: what was open is reset, and nothing of it leaves in clear.
            ends.client.reload(policy("none", ports=81, plane="segment") + policy("none"))
            for sock in (one, relayed):
                wait_until(lambda sock=sock: is_reset(sock), "reset")
            packets = wire.settled()
    assert free_of(packets, LINE) == [LINE]
    with network.conversation():
        assert [entry.get("plane", "relay") for entry in entries(ends.client)] == ["relay"]
    assert not ends.client.daemon.events("bug")


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        pytest.param(("--single-process",), {}, marks=pytest.mark.long),
        ((), {"backend": '"sockops"'}),
    ],
    ids=["one process", "beside sockops"],
)
def test_however_the_daemon_runs(
    ends: Pair, arguments: tuple[str, ...], keys: dict[str, str]
) -> None:
    if keys:
        needed_by("sockops")
    for side in (ends.client, ends.server):
        side.start(REQUIRE + policy("none", ports=81), *arguments, **keys)
    with ends.network.conversation() as (one, _other):
        assert [session.state for session in ends.client.sessions()] == ["encrypted"]
        ends.client.stop()
        with pytest.raises(ConnectionResetError):
            one.recv(1)


@pytest.mark.long
def test_tracking_is_told_again_what_somebody_has_changed(ends: Pair) -> None:
    """As it is where it is loaded after the daemon has started."""
    ends.client.start(REQUIRE)
    host, name = ends.client.host, "net.netfilter.nf_conntrack_tcp_be_liberal"
    host.sysctl(name, "0")
    ends.client.daemon.wait_for("restored", timeout=25)
    assert host.run("sysctl", "-n", name).stdout.strip() == "1"
    ends.client.stop()
    assert host.run("sysctl", "-n", name).stdout.strip() == "0"


@pytest.mark.parametrize("who", [pytest.param("worker", marks=pytest.mark.long), "parent"])
def test_a_killed_daemon_leaves_nothing_in_the_clear(ends: Pair, who: str) -> None:
    network = ends.network
    ends.start(REQUIRE)
    with network.conversation() as (one, _other), Capture(network.client_end) as wire:
        daemon = ends.client.daemon
        os.kill(daemon.worker if who == "worker" else daemon.process.pid, signal.SIGKILL)
        daemon.process.wait(10)
        wait_until(lambda: is_reset(one), "reset")
        packets = wire.settled()
    assert free_of(packets, LINE) == [LINE]
    wait_until(lambda: "NFQUEUE" not in network.client.run("iptables-save").stdout, "janitor")
    with network.listen(), pytest.raises(ConnectionRefusedError):
        network.connect()
    # And who comes next serves.
    ends.client.start(REQUIRE)
    with network.conversation():
        assert [session.state for session in ends.client.sessions()] == ["encrypted"]


def test_the_worker_has_no_raw_socket(ends: Pair) -> None:
    """It has packets added by the parent, which looks at each (`tests/daemon/test_added.py`)."""
    ends.client.start(REQUIRE)
    daemon, host = ends.client.daemon, ends.client.host
    tables = [host.run("cat", f"/proc/net/{name}").stdout for name in ("raw", "raw6")]
    inodes = {line.split()[9] for table in tables for line in table.splitlines()[1:]}
    assert len(inodes) == 2

    def held(pid: int) -> set[str]:
        places = [os.readlink(place) for place in Path(f"/proc/{pid}/fd").iterdir()]
        return {inode for inode in inodes if f"socket:[{inode}]" in places}

    assert held(daemon.process.pid) == inodes
    assert held(daemon.worker) == set()


def is_reset(sock: socket.socket) -> bool:
    try:
        sock.sendall(LINE)
    except ConnectionError:
        return True
    return False


def entries(side: Trusting) -> list[dict[str, object]]:
    """What the control socket tells of connections."""
    with Client(side.control) as client:
        found: list[dict[str, object]] = client.call("sessions")["sessions"]
    return found
