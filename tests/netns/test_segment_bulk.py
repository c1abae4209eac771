"""Much data by the segment plane, between hosts and between gateways."""

import hashlib
import random
import socket
import threading
from collections.abc import Iterator

import pytest
from netns.network import Network
from netns.road import Road, make_road
from netns.segmenting import SegmentHost

BLOCK = random.Random(9).randbytes(1 << 20)
LOSS = ("-m", "statistic", "--mode", "random", "--probability")


@pytest.fixture(params=["hosts", "gateways"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Road, list[SegmentHost]]]:
    """Engines at both hosts, or on the gateways in front of them."""
    with make_road() as road:
        if request.param == "gateways":
            yield road, list(road.gateways())
        else:
            both = (road.network.client, road.network.server)
            yield road, [SegmentHost(host, mode="require") for host in both]


def lose(road: Road, probability: str) -> None:
    """On the wire between the gateways, before anybody there has looked."""
    for host, end in zip((road.west, road.east), road.between, strict=True):
        where = ("-t", "mangle", "-A", "PREROUTING", "-i", end.device, "-p", "tcp")
        host.run("iptables", *where, *LOSS, probability, "-j", "DROP")


def send(
    network: Network, streams: int, blocks: int, timeout: float = 60, *, block: bytes = BLOCK
) -> None:
    """`blocks` MiB over each of `streams` connections at once, every byte compared."""
    wanted = hashlib.sha256()
    for _ in range(blocks):
        wanted.update(block)
    found: list[bytes] = []

    def receive(sock: socket.socket) -> None:
        digest = hashlib.sha256()
        with sock:
            sock.settimeout(timeout)
            while piece := sock.recv(1 << 18):
                digest.update(piece)
            found.append(digest.digest())
            sock.sendall(b"done")

    def transmit(sock: socket.socket) -> None:
        for _ in range(blocks):
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)

    with network.listen() as listener:
        socks, threads = [], []
        for _ in range(streams):
            socks.append(network.connect(timeout=timeout))
            threads.append(threading.Thread(target=receive, args=(listener.accept()[0],)))
        threads += [threading.Thread(target=transmit, args=(sock,)) for sock in socks]
        for thread in threads:
            thread.start()
        for sock in socks:
            with sock:
                assert sock.recv(4) == b"done"
        for thread in threads:
            thread.join()
    assert found == [wanted.digest()] * streams


def test_four_streams_at_once(ends: tuple[Road, list[SegmentHost]]) -> None:
    road, planes = ends
    send(road.network, 4, 6)
    for plane in planes:
        assert len(plane.wait_for("encrypted", 4)) == 4
        assert plane.errors() == ""


def test_a_stream_with_loss(ends: tuple[Road, list[SegmentHost]]) -> None:
    road, planes = ends
    lose(road, "0.005")
    send(road.network, 1, 8)
    assert planes[0].errors() == planes[1].errors() == ""


@pytest.mark.long
def test_a_gibibyte_with_loss(ends: tuple[Road, list[SegmentHost]]) -> None:
    road, planes = ends
    lose(road, "0.001")
    send(road.network, 1, 1024, timeout=600)
    assert planes[0].errors() == planes[1].errors() == ""
