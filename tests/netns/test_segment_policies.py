"""Policies of the segment plane in tcpcryptd: gateways, and who the other host is."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.network import Network
from netns.road import Road, make_road
from netns.trusting import Pair, Trusting, pair_of, policy

from tcpcrypt.daemon.client import Client
from tcpcrypt.tools.netns import Capture, Host, free_of, wait_until

LINE = b"nobody between the two is to read this line\n"


@pytest.fixture
def road() -> Iterator[Road]:
    with make_road() as road:
        yield road


def behind(device: str, mode: str = "require", **keys: object) -> str:
    return policy("none", mode, plane="segment", match_inner=device, **keys)


def gateways(road: Road, directory: Path, mode: str = "require") -> tuple[Trusting, Trusting]:
    sides = []
    for host, inside in ((road.west, road.inside[0]), (road.east, road.inside[1])):
        side = Trusting(road.network, host, directory / host.name)
        side.start(behind(inside.device, mode))
        sides.append(side)
    return sides[0], sides[1]


@pytest.mark.parametrize("family", [pytest.param(4, marks=pytest.mark.long), 6])
def test_two_gateways(road: Road, tmp_path: Path, family: int) -> None:
    content = LINE * 20_000
    (tmp_path / "page").write_bytes(content)
    network = road.network
    west, east = gateways(road, tmp_path)
    with Capture(road.between[0]) as wire:
        with network.conversation(family):
            (mine,), (its,) = west.sessions(), east.sessions()
            assert mine.session_id == its.session_id is not None
            assert (mine.direction, its.direction) == ("outgoing", "incoming")
            with Client(west.control) as client:
                [entry] = client.call("sessions")["sessions"]
            assert entry["forwarded"] is True
        network.web(tmp_path)
        assert network.curl("/page", family).encode() == content
        packets = wire.settled()
    assert free_of(packets, LINE, b"GET /page") == [LINE, b"GET /page"]
    assert not west.daemon.events("bug") + east.daemon.events("bug")


@pytest.mark.long
def test_a_gateway_and_a_host_with_the_relay_and_the_gateways_own(
    road: Road, tmp_path: Path
) -> None:
    """What the gateway itself opens goes by another policy, side by side."""
    network = road.network
    west = Trusting(network, road.west, tmp_path / "west")
    server = Trusting(network, network.server, tmp_path / "server")
    west.start(behind(road.inside[0].device) + policy("none"))
    server.start(policy("none"))
    with network.conversation():
        (mine,), (its,) = west.sessions(), server.sessions()
        assert mine.session_id == its.session_id is not None
    with network.listen() as listener, tcp_of(road.west) as one:
        one.settimeout(10)
        one.connect((network.server_end.v4, 80))
        one.sendall(LINE)
        other, _ = listener.accept()
        with other:
            assert other.recv(len(LINE)) == LINE
            with Client(west.control) as client:
                planes = [s.get("plane", "relay") for s in client.call("sessions")["sessions"]]
            assert "relay" in planes


@pytest.mark.parametrize("mode", [pytest.param("require", marks=pytest.mark.long), "opportunistic"])
def test_a_gateway_that_is_killed_forwards_nothing_in_clear(
    road: Road, tmp_path: Path, mode: str
) -> None:
    network = road.network
    west, _east = gateways(road, tmp_path, mode)
    with network.conversation() as (one, _other), Capture(road.between[0]) as wire:
        assert [session.state for session in west.sessions()] == ["encrypted"]
        os.kill(west.daemon.process.pid, signal.SIGKILL)
        west.daemon.process.wait(10)
        rules = ("iptables-save", "-t", "mangle")
        wait_until(lambda: "NFQUEUE" not in road.west.run(*rules).stdout, "janitor")
        # The rule that is left resets what may have been encrypted.
        wait_until(lambda: is_reset(one), "reset")
        packets = wire.settled()
    assert free_of(packets, LINE) == [LINE]
    if mode == "require":
        with network.listen(), pytest.raises(ConnectionRefusedError):
            network.connect()
    else:
        with network.conversation():
            pass


def test_a_reload_that_leaves_a_gateway_out_lets_nothing_go_on_in_clear(
    road: Road, tmp_path: Path
) -> None:
    network = road.network
    west, _east = gateways(road, tmp_path)
    deaf = ("INPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP")
    with network.conversation() as (one, _other), Capture(road.between[0]) as wire:
        network.client.run("iptables", "-A", *deaf)  # it believes no reset for now
        west.reload(policy("none", ports=81))
        one.sendall(LINE)
        time.sleep(0.5)
        network.client.run("iptables", "-D", *deaf)
        wait_until(lambda: is_reset(one), "reset")
        packets = wire.settled()
    assert free_of(packets, LINE) == [LINE]


def tcp_of(host: Host) -> socket.socket:
    return host.socket(socket.AF_INET, socket.SOCK_STREAM)


def is_refused(network: Network) -> bool:
    """Whether a program of the client is reset, if not at once before any data has passed."""
    with network.listen():
        try:
            sock = network.connect()
        except ConnectionError:
            return True
        with sock:
            return bool(wait_until(lambda: is_reset(sock), "refusal"))


def is_reset(sock: socket.socket) -> bool:
    try:
        sock.sendall(LINE)
    except ConnectionError:
        return True
    return False


@pytest.fixture
def ends(pair: Network, tmp_path: Path) -> Pair:
    return pair_of(pair, tmp_path)


def test_tofu_remembers_a_key_and_refuses_another(ends: Pair) -> None:
    ends.start(policy("tofu", plane="segment"))
    with ends.network.conversation():
        (mine,), (its,) = ends.client.sessions(), ends.server.sessions()
        assert mine.kex == "X25519MLKEM768"
        assert (mine.proved, mine.trust) == (True, "tofu")
        assert its.fingerprint == ends.client.fingerprint()
    ends.client.daemon.wait_for("first_contact")
    wait_until(lambda: ends.client.keys(ends.scope), "key on disk")
    with ends.network.conversation():  # resumed, and proved again
        wait_until(lambda: all(s.proved and s.resumed for s in ends.client.sessions()), "proof")
    ends.server.stop()
    ends.server.new_identity()
    ends.server.start(policy("tofu", plane="segment"))
    assert is_refused(ends.network)
    assert "remembered" in ends.client.daemon.wait_for("refused")[-1]["reason"]


@pytest.mark.long
def test_a_key_that_is_revoked_ends_what_is_open(ends: Pair) -> None:
    ends.start(policy("tofu", plane="segment"))
    with ends.network.conversation() as (one, _other):
        wait_until(lambda: ends.client.keys(ends.scope), "key on disk")
        key = ends.server.fingerprint()
        state = ("--state", str(ends.client.state))
        argv = ("-m", "tcpcrypt.cli.tcpcrypt", "peers", "revoke", *state, key)
        ends.network.client.run(sys.executable, *argv, cwd="/")
        ends.client.told()
        ends.client.daemon.wait_for("distrusted")
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    assert is_refused(ends.network)


@pytest.mark.long
def test_secrets_are_logged_where_asked_and_forgotten_when_told(ends: Pair, tmp_path: Path) -> None:
    log = tmp_path / "keys.log"
    ends.client.start(policy("none", plane="segment"), keylog=f'"{log}"')
    ends.server.start(policy("none", plane="segment"))
    for expected in (False, True):
        with ends.network.conversation():
            (session,) = ends.client.sessions()
            assert session.resumed is expected
    with Client(ends.client.control) as client:
        assert client.flush(ends.network.server_end.v4) > 0
    with ends.network.conversation():
        (session,) = ends.client.sessions()
        assert session.resumed is False
    assert session.session_id is not None
    assert session.session_id.hex() in log.read_text()
