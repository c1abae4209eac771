"""How long a connection to a peer waits for silence: as the host says, not the application.

`docs/dataplane.md`, "What differs from a direct connection": keepalive and TCP_USER_TIMEOUT.
"""

import socket
import time

import pytest
from netns.network import Network

SILENCE = ("-j", "DROP")


def heal(path: Network) -> None:
    assert path.middle is not None
    for command in ("iptables", "ip6tables"):
        path.middle.run(command, "-t", "mangle", "-D", "FORWARD", *SILENCE)


def ask_often(sock: socket.socket) -> None:
    """Keepalive as impatient as can be."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def test_keepalive_goes_by_the_sysctls_of_the_host(path: Network) -> None:
    """Of the two that hear nothing any more, that of the host with short times ends."""
    for name, value in (("time", 1), ("intvl", 1), ("probes", 2)):
        path.client.sysctl(f"net.ipv4.tcp_keepalive_{name}", str(value))
    path.both()
    with path.conversation() as (one, other):
        ask_often(other)  # which it gets on `lo`, where somebody answers
        path.meddle(*SILENCE)
        one.settimeout(60)
        with pytest.raises(ConnectionResetError):
            one.recv(1)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)


def test_user_timeout_acts_within_the_host_alone(path: Network) -> None:
    path.both()
    with path.conversation() as (one, other):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
        path.meddle(*SILENCE)
        one.sendall(b"late")
        time.sleep(1)
        heal(path)
        other.settimeout(60)
        assert other.recv(4) == b"late"


def test_retries_of_the_host_decide_for_data_that_nobody_takes(path: Network) -> None:
    path.client.sysctl("net.ipv4.tcp_retries2", "2")
    path.both()
    with path.conversation() as (one, _other):
        path.meddle(*SILENCE)
        one.sendall(b"never")
        one.settimeout(60)
        with pytest.raises(ConnectionResetError):
            one.recv(1)
