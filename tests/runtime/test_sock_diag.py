"""Who listens at an abstract name, by the kernel's word."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tcpcrypt.runtime import sock_diag
from tcpcrypt.runtime.sock_diag import listeners

NAME = b"tcpcrypt-test-%d" % os.getpid()


def listening(name: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(name)
    sock.listen(1)
    return sock


@pytest.mark.parametrize("look", [listeners, sock_diag._listed])
def test_who_listens(look: Callable[[bytes], set[int]]) -> None:
    assert look(NAME) == set()
    # What anybody may call a socket stops nobody.
    others = (b"\0" + NAME + b"2", b"\0 " + NAME, b"\0x @" + NAME, b"\0\xff\xfe\x85\x0c" + NAME)
    socks = [listening(name) for name in others]
    with listening(b"\0" + NAME) as sock:
        assert look(NAME) == {os.fstat(sock.fileno()).st_ino}
    for sock in socks:
        sock.close()


def test_what_is_listed_alike_is_not_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = b"\n0000000000000000: 00000002 00000000 00010000 0001 01 77 @" + NAME
    monkeypatch.chdir(tmp_path)
    with listening(b"\0x" + line), listening(b"@" + NAME):
        assert NAME in Path("/proc/net/unix").read_bytes()
        assert listeners(NAME) == set()


def test_many_of_them() -> None:
    """More than one datagram has room for."""
    socks = [listening(b"\0%s-%060d" % (NAME, n)) for n in range(600)]
    with listening(b"\0" + NAME) as sock:
        assert listeners(NAME) == {os.fstat(sock.fileno()).st_ino}
    for sock in socks:
        sock.close()


def test_a_kernel_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "_SOCK_DIAG_BY_FAMILY", 99)
    with listening(b"\0" + NAME), pytest.raises(OSError, match="Invalid argument"):
        listeners(NAME)

    def missing(_diag: socket.socket) -> None:
        raise FileNotFoundError

    monkeypatch.undo()
    monkeypatch.setattr(sock_diag, "_named", missing)
    with listening(b"\0" + NAME) as sock:
        assert listeners(NAME) == {os.fstat(sock.fileno()).st_ino}
