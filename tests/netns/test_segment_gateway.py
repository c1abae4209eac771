"""Gateways: connections of hosts that know nothing are encrypted on their way."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.road import Road, make_road
from netns.segmenting import SegmentHost

from tcpcrypt.tools.netns import Capture, free_of

LINE = b"nobody between the two is to read this line\n"


@pytest.fixture
def road() -> Iterator[Road]:
    with make_road() as road:
        yield road


@pytest.mark.parametrize("family", [4, 6])
def test_two_gateways(road: Road, tmp_path: Path, family: int) -> None:
    content = LINE * 20_000
    (tmp_path / "page").write_bytes(content)
    road.network.web(tmp_path)
    west, east = road.gateways()
    with Capture(road.between[0]) as wire:
        assert road.network.curl("/page", family).encode() == content
        packets = wire.settled()
    assert free_of(packets, LINE, b"GET /page") == [LINE, b"GET /page"]
    sessions = [gateway.wait_for("encrypted")[0]["session"] for gateway in (west, east)]
    assert sessions[0] == sessions[1]
    assert west.errors() == east.errors() == ""


def test_a_gateway_and_a_host(road: Road, tmp_path: Path) -> None:
    content = LINE * 20_000
    (tmp_path / "page").write_bytes(content)
    road.network.web(tmp_path)
    west = SegmentHost(road.west, inner=road.inside[0].device)
    server = SegmentHost(road.network.server)
    with Capture(road.network.server_end) as wire:
        assert road.network.curl("/page").encode() == content
        packets = wire.settled()
    assert free_of(packets, LINE, b"GET /page") == [LINE, b"GET /page"]
    sessions = [each.wait_for("encrypted")[0]["session"] for each in (west, server)]
    assert sessions[0] == sessions[1]
    assert west.errors() == server.errors() == ""


@pytest.mark.parametrize("family", [4, 6])
def test_an_icmp_error_tells_the_wire_nothing(road: Road, family: int) -> None:
    """A host behind the gateway refuses an opened packet, and would quote it to the peer."""
    west, east = road.gateways()
    network = road.network
    refuse, kind = {
        4: ("iptables", "icmp-port-unreachable"),
        6: ("ip6tables", "icmp6-port-unreachable"),
    }[family]
    where = ("INPUT", "-p", "tcp", "--dport", "80", "-j", "REJECT", "--reject-with", kind)
    with network.conversation(family) as (sock, _):
        with Capture(road.between[0]) as wire, Capture(network.server_end) as inside:
            network.server.run(refuse, "-A", *where)
            sock.sendall(LINE)
            time.sleep(0.3)
            within, packets = inside.settled(), wire.settled()
        errors = [packet for packet in within if packet[9 if family == 4 else 6] in (1, 58)]
        assert free_of(errors, LINE) == []  # it did quote
        assert free_of(packets, LINE) == [LINE]
        network.server.run(refuse, "-D", *where)
    # Those about others pass.
    with network.client.socket(
        socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM
    ) as datagrams:
        datagrams.settimeout(10)
        end = network.server_end
        datagrams.connect((end.v4 if family == 4 else end.v6, 9))
        datagrams.send(b"is anybody there?")
        with pytest.raises(ConnectionRefusedError):
            datagrams.recv(1)
    assert west.errors() == east.errors() == ""
