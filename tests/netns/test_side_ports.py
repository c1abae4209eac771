"""The ports from which the daemon connects to services: there are some 15,000 for each client.

Where the client closes first, the daemon does on its side, too, and the port is in TIME_WAIT
for a minute.  Linux lets a socket that is bound to it connect all the same, where both ends
use timestamps (RFC 6191), so that they do not run out at 250 connections a second.
"""

import socket
import struct

import pytest
from netns.network import PORT, Network

from tcpcrypt.runtime.privileges import DirectPrivileges

SIDE_PORT = 2000


def converse(pair: Network, listener: socket.socket, family: int) -> None:
    """One connection as the daemon makes them, which ends it first."""
    near = pair.client_end.v4 if family == 4 else pair.client_end.v6
    with pair.server.entered():
        inner = DirectPrivileges().service(family)
    with inner:
        inner.settimeout(10)
        inner.bind((near, SIDE_PORT))
        inner.connect(listener.getsockname())
        outer, address = listener.accept()
        assert address[:2] == (near, SIDE_PORT)
        with outer:
            inner.shutdown(socket.SHUT_WR)
            assert outer.recv(1) == b""
        assert inner.recv(1) == b""


def listening(pair: Network, family: int) -> socket.socket:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    far = pair.server_end.v4 if family == 4 else pair.server_end.v6
    with pair.server.entered():
        return socket.create_server((far, PORT), family=kind)


def in_time_wait(pair: Network) -> int:
    return pair.server.run("ss", "-tanH", "state", "time-wait").stdout.count(f":{SIDE_PORT}")


@pytest.mark.parametrize("family", [4, 6])
def test_a_port_is_free_as_soon_as_its_connection_has_ended(pair: Network, family: int) -> None:
    pair.daemon(pair.server)
    assert pair.server.run("cat", "/proc/sys/net/ipv4/tcp_tw_reuse").stdout.strip() != "1"
    with listening(pair, family) as listener:
        for _ in range(3):
            converse(pair, listener, family)
            assert in_time_wait(pair) == 1


@pytest.mark.parametrize("backend", ["nfqueue", "sockops", "mixed"])
def test_a_port_that_an_application_has_left_is_the_daemons(
    pair: Network, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connection tracking still has the application's connection, which was steered; it takes
    the daemon's for the same where the service has reset it (for ten seconds)."""
    monkeypatch.setenv("TCPCRYPT_TEST_BACKEND", backend)
    pair.daemon(pair.client)
    pair.daemon(pair.server)

    def asked(port: int = 0) -> int:
        with pair.client.entered():
            sock = socket.socket()
        with sock:
            sock.settimeout(20)
            if port:
                sock.bind((pair.client_end.v4, port))
            sock.connect((pair.server_end.v4, PORT))
            used: int = sock.getsockname()[1]
            served, _address = listener.accept()
            served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            served.close()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        return used

    with listening(pair, 4) as listener:
        listener.settimeout(20)
        # One for the application, one for the daemon.
        pair.client.sysctl("net.ipv4.ip_local_port_range", "2002 2003")
        left = asked()
        # From now on the daemon has what the application had.
        pair.client.sysctl("net.ipv4.ip_local_port_range", f"{left} {left}")
        asked(2001)
    assert len(pair.daemons[0].wait_for("enabled", count=2)) == 2


def test_without_timestamps_it_is_not(pair: Network) -> None:
    """Then there are 250 connections a second for each pair of client and service."""
    pair.server.sysctl("net.ipv4.tcp_timestamps", "0")
    pair.daemon(pair.server)
    with listening(pair, 4) as listener:
        converse(pair, listener, 4)
        assert in_time_wait(pair) == 1
        with pytest.raises(OSError, match="Cannot assign requested address"):
            converse(pair, listener, 4)
