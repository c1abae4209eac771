"""Much data, and many connections, by policies of the segment plane in tcpcryptd.

`test_segment_bulk.py` has the same for `tcpcrypt segment`.
"""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.road import Road, make_road
from netns.test_segment_bulk import BLOCK, lose, send
from netns.trusting import Trusting, policy

LONG = pytest.mark.long


@pytest.fixture
def road() -> Iterator[Road]:
    with make_road() as road:
        yield road


def daemons(road: Road, directory: Path, where: str) -> tuple[Trusting, Trusting]:
    """At both hosts, or on the gateways in front of them; nothing in clear between them."""
    network = road.network
    places = {
        "hosts": ((network.client, {}), (network.server, {})),
        "gateways": tuple(
            (host, {"match_inner": inside.device})
            for host, inside in zip((road.west, road.east), road.inside, strict=True)
        ),
    }[where]
    sides = []
    for host, keys in places:
        sides.append(Trusting(network, host, directory / host.name))
        sides[-1].start(policy("none", plane="segment", **keys))
    return sides[0], sides[1]


def judge(sides: tuple[Trusting, Trusting], count: int) -> None:
    """As many connections were encrypted and ended in order, and none otherwise."""
    told = []
    for side in sides:
        told.append({event["session"] for event in side.daemon.wait_for("enabled", count=count)})
        side.daemon.wait_for("closed", count=count)
        assert not side.daemon.events("bug", "failed", "aborted", "refused")
        counters = side.counters()
        assert (counters["closed"], counters["aborted"]) == (count, 0)
    assert told[0] == told[1]
    assert len(told[0]) == count


@pytest.mark.parametrize("where", [pytest.param("hosts", marks=LONG), "gateways"])
def test_four_streams_at_once_with_loss(road: Road, tmp_path: Path, where: str) -> None:
    sides = daemons(road, tmp_path, where)
    lose(road, "0.002")
    send(road.network, 4, 2)
    judge(sides, 4)


@pytest.mark.parametrize("where", [pytest.param("hosts", marks=LONG), "gateways"])
def test_two_hundred_connections_at_once(road: Road, tmp_path: Path, where: str) -> None:
    sides = daemons(road, tmp_path, where)
    send(road.network, 200, 1, 120, block=BLOCK[:20_000])
    judge(sides, 200)


@LONG
@pytest.mark.parametrize("where", ["hosts", "gateways"])
def test_two_hundred_connections_with_much_data(road: Road, tmp_path: Path, where: str) -> None:
    sides = daemons(road, tmp_path, where)
    lose(road, "0.001")
    send(road.network, 200, 1, 300)
    judge(sides, 200)


@LONG
@pytest.mark.parametrize("where", ["hosts", "gateways"])
def test_four_streams_of_much_data(road: Road, tmp_path: Path, where: str) -> None:
    sides = daemons(road, tmp_path, where)
    send(road.network, 4, 128, 300)
    judge(sides, 4)


@LONG
@pytest.mark.parametrize("where", ["hosts", "gateways"])
def test_a_gibibyte_with_loss(road: Road, tmp_path: Path, where: str) -> None:
    sides = daemons(road, tmp_path, where)
    lose(road, "0.001")
    send(road.network, 1, 1024, 600)
    judge(sides, 1)


@pytest.mark.parametrize("where", ["hosts", pytest.param("gateways", marks=LONG)])
def test_both_end_at_the_same_moment_and_nobody_sees_a_reset(
    road: Road, tmp_path: Path, where: str
) -> None:
    sides = daemons(road, tmp_path, where)
    network, count = road.network, 60
    gate = threading.Barrier(2)
    found: list[bytes] = []

    def end(sock: socket.socket) -> None:
        with sock:
            sock.settimeout(30)
            gate.wait(30)
            sock.sendall(b"the last")
            sock.shutdown(socket.SHUT_WR)
            came = bytearray()
            while piece := sock.recv(100):
                came += piece
            found.append(bytes(came))

    with network.listen() as listener:
        for _ in range(count):
            both = (network.connect(timeout=30), listener.accept()[0])
            threads = [threading.Thread(target=end, args=(sock,)) for sock in both]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
    assert found == [b"the last"] * 2 * count
    judge(sides, count)
