"""The segment plane and others: the relay of the daemon, plain hosts, bad paths, many at once."""

import hashlib
import random
import socket
import threading
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.segmenting import SegmentHost

from tcpcrypt.tools.netns import Capture, free_of

LINE = b"nobody between the two is to read this line\n"


def swapped(sock: socket.socket, mine: bytes, theirs: int) -> bytes:
    """Send `mine` and close, receive `theirs` bytes at the same time and the end."""
    found = bytearray()

    def read() -> None:
        while piece := sock.recv(1 << 16):
            found.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    sock.sendall(mine)
    sock.shutdown(socket.SHUT_WR)
    reader.join(60)
    assert len(found) == theirs
    return bytes(found)


def exchange(network: Network, up: bytes, down: bytes) -> None:
    """A connection, both directions at once, every byte compared."""
    got: list[bytes] = []
    with network.listen() as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(60)
                got.append(swapped(sock, down, len(up)))

        server = threading.Thread(target=serve)
        server.start()
        with network.connect() as sock:
            sock.settimeout(60)
            assert swapped(sock, up, len(down)) == down
        server.join(60)
    assert got == [up]


@pytest.mark.parametrize("segments_at", ["client", "server"])
def test_the_other_host_has_the_relay(pair: Network, segments_at: str) -> None:
    rng = random.Random(1)
    one, other = (
        (pair.client, pair.server) if segments_at == "client" else (pair.server, pair.client)
    )
    daemon = pair.daemon(other, "--mode", "require")
    plane = SegmentHost(one, mode="require")
    up, down = LINE * 30_000 + rng.randbytes(1_000_000), LINE[::-1] * 40_000
    with Capture(pair.client_end) as wire:
        exchange(pair, up, down)
        packets = wire.settled()
    assert free_of(packets, LINE, LINE[::-1]) == [LINE, LINE[::-1]]
    sessions = plane.wait_for("encrypted")[0]["session"], daemon.wait_for("enabled")[0]["session"]
    assert sessions[0] == sessions[1]
    assert plane.errors() == ""


def test_a_host_without_it_is_spoken_to_in_the_clear_or_not_at_all(
    pair: Network, tmp_path: Path
) -> None:
    (tmp_path / "page").write_bytes(LINE)
    pair.web(tmp_path)
    plane = SegmentHost(pair.client)
    assert pair.curl("/page").encode() == LINE
    assert plane.wait_for("fallback")[0]["reason"]
    plane.stop()
    strict = SegmentHost(pair.client, mode="require")
    with pytest.raises(ConnectionRefusedError):
        pair.connect()
    assert strict.wait_for("refused")
    assert strict.errors() == ""


@pytest.mark.parametrize("probability", ["0.01", "0.1"])
def test_a_path_that_loses(path: Network, probability: str) -> None:
    content = random.Random(2).randbytes(600_000 if probability == "0.01" else 150_000)
    ours, theirs = (
        SegmentHost(path.client, mode="require"),
        SegmentHost(path.server, mode="require"),
    )
    for end in (path.client_end, path.server_end, *path.middle_ends):
        end.host.run("ip", "link", "set", end.device, "gso_max_segs", "1")
    path.meddle("-m", "statistic", "--mode", "random", "--probability", probability, "-j", "DROP")
    exchange(path, content, content[::-1])
    assert ours.errors() == theirs.errors() == ""
    assert not ours.events("aborted", "refused")


def test_two_hundred_connections_at_once(pair: Network) -> None:
    ours, theirs = (
        SegmentHost(pair.client, mode="require"),
        SegmentHost(pair.server, mode="require"),
    )
    count, digests = 200, set()
    content = {n: random.Random(n).randbytes(20_000) for n in range(count)}
    with pair.listen() as listener:
        listener.listen(count)

        def serve() -> None:
            for _ in range(count):
                sock, _address = listener.accept()
                threading.Thread(target=echo, args=(sock,)).start()

        def echo(sock: socket.socket) -> None:
            with sock:
                sock.settimeout(60)
                while piece := sock.recv(1 << 16):
                    sock.sendall(piece)

        server = threading.Thread(target=serve)
        server.start()
        socks = [pair.connect(timeout=60) for _ in range(count)]
        for number, sock in enumerate(socks):
            sock.sendall(content[number])
            sock.shutdown(socket.SHUT_WR)
        for number, sock in enumerate(socks):
            with sock:
                got = bytearray()
                while piece := sock.recv(1 << 16):
                    got += piece
                assert bytes(got) == content[number]
                digests.add(hashlib.sha256(got).digest())
        server.join(60)
    assert len(digests) == count
    assert len(ours.wait_for("encrypted", count)) == count
    assert ours.errors() == theirs.errors() == ""


def test_the_port_is_that_of_the_service(pair: Network) -> None:
    """What the plane is not told of passes as it is."""
    SegmentHost(pair.client, mode="require")
    assert PORT == 80
    with pair.listen(port=81) as listener, pair.connect(port=81) as sock:
        other, _ = listener.accept()
        with other:
            sock.sendall(b"plain")
            assert other.recv(5) == b"plain"
