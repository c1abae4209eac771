"""What the two applications see of each other's addresses."""

import socket

import pytest
from netns.network import PORT, Network
from netns.observed import segments

from tcpcrypt.tools.netns import Capture


@pytest.mark.parametrize("family", [4, 6])
def test_each_side_sees_the_other_as_without_us(pair: Network, family: int) -> None:
    ours, _theirs = pair.both()
    client, server = (
        (pair.client_end.v4, pair.server_end.v4)
        if family == 4
        else (pair.client_end.v6, pair.server_end.v6)
    )
    with Capture(pair.client_end) as capture, pair.conversation(family) as (one, other):
        assert one.getpeername()[:2] == (server, PORT)
        assert one.getsockname()[0] == client
        assert other.getsockname()[:2] == (server, PORT)
        assert other.getpeername()[0] == client
        seen = other.getpeername()[1]
    # The service sees the client's address, and a port that clients hardly ever have.
    on_the_wire = {s.source_port for s in segments(capture.packets) if s.source_port != PORT}
    assert len(on_the_wire) == 1
    assert seen not in on_the_wire
    assert 1024 <= seen < 16384
    assert ours.events("enabled")


def test_a_second_address_of_the_server_is_kept(pair: Network) -> None:
    pair.server.run("ip", "address", "add", "10.99.1.77/24", "dev", pair.server_end.device)
    ours, _theirs = pair.both()
    with pair.listen() as listener, pair.client.socket(socket.AF_INET) as one:
        one.settimeout(10)
        one.connect(("10.99.1.77", PORT))
        one.sendall(b"?")
        other, _address = listener.accept()
        with other:
            assert other.getsockname() == ("10.99.1.77", PORT)
            assert one.getpeername() == ("10.99.1.77", PORT)
    assert ours.wait_for("enabled")[0]["service"] == "10.99.1.77:80"


def test_a_bound_source_address_is_kept(pair: Network) -> None:
    pair.client.run("ip", "address", "add", "10.99.1.78/24", "dev", pair.client_end.device)
    ours, _theirs = pair.both()
    with pair.listen() as listener, pair.client.socket(socket.AF_INET) as one:
        one.settimeout(10)
        one.bind(("10.99.1.78", 0))
        one.connect((pair.server_end.v4, PORT))
        one.sendall(b"?")
        other, address = listener.accept()
        other.close()
        assert address[0] == "10.99.1.78"
    assert ours.wait_for("enabled")


def test_a_client_port_that_is_taken_on_the_server_does_no_harm(pair: Network) -> None:
    """The connection to the service cannot have that port; it is served all the same."""
    _ours, theirs = pair.both()
    with pair.listen() as listener, pair.connect() as first:
        first.sendall(b"?")
        accepted, address = listener.accept()
        accepted.close()
        first.close()
        theirs.wait_for("closed")
        # A service of the server takes every port the client may come from next.
        taken = []
        for port in range(40000, 40010):
            sock = pair.server.socket(socket.AF_INET)
            sock.bind(("0.0.0.0", port))
            sock.listen()
            taken.append(sock)
        pair.client.sysctl("net.ipv4.ip_local_port_range", "40000 40009")
        with pair.connect() as second:
            second.sendall(b"?")
            other, address = listener.accept()
            with other:
                assert other.recv(1) == b"?"
                assert address[0] == pair.client_end.v4
                assert address[1] not in range(40000, 40010)
        for sock in taken:
            sock.close()
    assert len(theirs.wait_for("enabled", count=2)) == 2
