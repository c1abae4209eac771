"""Right bytes over a slow path that harms segments; `bench/faults.py` measures how fast."""

import random
import socket
import threading
from collections.abc import Iterator

import pytest
from middlebox.slow_path import FAULTS, Line, SlowPath, compiled
from netns.network import Network
from netns.segmenting import SegmentHost

from tcpcrypt.tools.netns import Capture, Lab, free_of

LINE = b"nobody between the two is to read this line\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SlowPath, Network]]:
    """Engines at both ends of 50 Mbit/s and 4 ms there and back."""
    program = compiled(tmp_path_factory.mktemp("slow_path"))
    with Lab() as lab:
        slow = SlowPath(lab, program, line=Line(megabits=50, milliseconds=2, seed=3))
        ends = (slow.client_end, slow.server_end)
        network = Network(lab, slow.client, slow.server, *ends)
        planes = [SegmentHost(host, mode="require") for host in (slow.client, slow.server)]
        yield slow, network
        for plane in planes:
            assert plane.errors() == ""
            assert not plane.events("aborted", "failed")


def both_ways(network: Network, family: int, up: bytes, down: bytes) -> None:
    """Both sides send, say that it is the end, and have all of it."""
    found: dict[bool, bytes] = {}

    def talk(sock: socket.socket, data: bytes, ours: bool) -> None:
        with sock:
            sock.settimeout(60)
            sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(1)))
            sender.start()
            came = bytearray()
            while piece := sock.recv(1 << 16):
                came += piece
            sender.join()
            found[ours] = bytes(came)

    with network.listen(family) as listener:
        mine = network.connect(family, timeout=60)
        listener.settimeout(60)
        theirs = listener.accept()[0]
        threads = [
            threading.Thread(target=talk, args=given)
            for given in ((mine, up, True), (theirs, down, False))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {True: down, False: up}


def harm(path: tuple[SlowPath, Network], fault: str, share: float, family: int, size: int) -> None:
    slow, network = path
    content = LINE * (size // len(LINE))
    up, down = content + b"up", random.Random(7).randbytes(size // 3)
    slow.harm(fault, share)
    with Capture(slow.client_end) as wire:
        both_ways(network, family, up, down)
        packets = wire.settled()
    _seen, harmed = slow.harm()
    assert harmed > 0
    assert free_of(packets, LINE) == [LINE]


@pytest.mark.parametrize(
    ("fault", "share", "family"),
    [("drop", 0.03, 4), ("corrupt", 0.05, 6), ("reorder", 0.1, 4), ("cut", 0.3, 6)],
)
def test_harm(path: tuple[SlowPath, Network], fault: str, share: float, family: int) -> None:
    harm(path, fault, share, family, 1 << 20)


@pytest.mark.long
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("fault", FAULTS)
def test_harm_to_much_data(
    path: tuple[SlowPath, Network], fault: str, share: float, family: int
) -> None:
    harm(path, fault, share, family, 8 << 20)
