"""Both hosts open at once (RFC 9293 section 3.5): kernels and engines, on a path of 60 ms."""

import contextlib
import select
import socket
from collections.abc import Iterator

import pytest
from middlebox.slow_path import Line, SlowPath, compiled
from netns.network import PORT
from netns.segmenting import SegmentHost

from tcpcrypt.tools.netns import Capture, Host, Lab, Link, free_of

LINE = b"nobody between the two is to read this line\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowPath]:
    program = compiled(tmp_path_factory.mktemp("slow_path"))
    with Lab() as lab:
        yield SlowPath(lab, program, line=Line(megabits=50, milliseconds=60, seed=3))


def opening(host: Host, own: Link, peer: Link, family: int) -> socket.socket:
    """A program that connects to the other's port, from the same one of its own."""
    kind, here, there = (
        (socket.AF_INET, own.v4, peer.v4) if family == 4 else (socket.AF_INET6, own.v6, peer.v6)
    )
    sock = host.socket(kind, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((here, PORT))
    with contextlib.suppress(BlockingIOError):
        sock.connect((there, PORT))
    return sock


def error_of(sock: socket.socket) -> int:
    """0 once it is connected."""
    assert select.select([], [sock], [], 20)[1]
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@contextlib.contextmanager
def crossing(path: SlowPath, family: int = 4) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both connect within the time that a packet takes from one to the other."""
    with (
        opening(path.client, path.client_end, path.server_end, family) as one,
        opening(path.server, path.server_end, path.client_end, family) as other,
    ):
        yield one, other


def talk(one: socket.socket, other: socket.socket) -> None:
    for sock in (one, other):
        assert error_of(sock) == 0
        sock.settimeout(20)
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(LINE)
        assert receiver.recv(len(LINE), socket.MSG_WAITALL) == LINE
    for sender, receiver in ((one, other), (other, one)):
        sender.shutdown(socket.SHUT_WR)
        assert receiver.recv(1) == b""


@contextlib.contextmanager
def planes(path: SlowPath, *ends: tuple[str, ...]) -> Iterator[list[SegmentHost]]:
    hosts = (path.client, path.server)
    found = [SegmentHost(host, *more) for host, more in zip(hosts, ends, strict=True)]
    yield found
    for plane in found:
        assert plane.stop() == 0
        assert plane.errors() == ""


@pytest.mark.parametrize("family", [4, pytest.param(6, marks=pytest.mark.long)])
def test_rfc8547_4_4_encrypted_where_one_is_told_to_be_b(path: SlowPath, family: int) -> None:
    with planes(path, (), ("--active-b",)) as (ours, theirs), Capture(path.client_end) as wire:
        with crossing(path, family) as (one, other):
            talk(one, other)
            packets = wire.settled()
        (mine,), (its,) = ours.wait_for("encrypted"), theirs.wait_for("encrypted")
        assert mine["session"] == its["session"]
        assert (mine["role"], its["role"]) == ("A", "B")
    assert free_of(packets, LINE) == [LINE]


def test_rfc8547_4_3_plain_where_nobody_knows_who_is_b(path: SlowPath) -> None:
    with planes(path, (), ()) as (ours, theirs):
        with crossing(path) as (one, other):
            talk(one, other)
        for plane in (ours, theirs):
            assert plane.wait_for("fallback")
            assert not plane.events("encrypted", "aborted", "failed")


def test_or_refused_where_encryption_is_required(path: SlowPath) -> None:
    strict = ("--mode", "require")
    with planes(path, strict, strict) as found:
        with crossing(path) as (one, other):
            assert error_of(one) != 0
            assert error_of(other) != 0
        for plane in found:
            assert plane.wait_for("refused")
            assert not plane.events("fallback", "failed")
