"""Gateways: connections of hosts that know nothing are encrypted on their way.

client -- veth1 -- west -- veth2 -- east -- veth3 -- server
                   gateway          gateway
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.network import Network
from netns.segmenting import SegmentHost

from tcpcrypt.tools.netns import Capture, Host, Lab, Link, free_of

LINE = b"nobody between the two is to read this line\n"


@dataclasses.dataclass
class Road:
    network: Network
    west: Host
    east: Host
    inside: tuple[Link, Link]
    """The gateways' ends towards client and server."""
    between: tuple[Link, Link]


@pytest.fixture
def road() -> Iterator[Road]:
    with Lab() as lab:
        client, west, east, server = (lab.host(n) for n in ("client", "west", "east", "server"))
        client_end, west_in = lab.join(client, west)
        west_out, east_out = lab.join(west, east)
        east_in, server_end = lab.join(east, server)
        for gateway in (west, east):
            gateway.sysctl("net.ipv4.ip_forward", "1")
            gateway.sysctl("net.ipv6.conf.all.forwarding", "1")
        ways = ((client, west_in), (server, east_in), (west, east_out), (east, west_out))
        for host, via in ways:
            host.run("ip", "-4", "route", "add", "default", "via", via.v4)
            host.run("ip", "-6", "route", "add", "default", "via", via.v6)
        network = Network(lab, client, server, client_end, server_end)
        yield Road(network, west, east, (west_in, east_in), (west_out, east_out))


@pytest.mark.parametrize("family", [4, 6])
def test_two_gateways(road: Road, tmp_path: Path, family: int) -> None:
    content = LINE * 20_000
    (tmp_path / "page").write_bytes(content)
    road.network.web(tmp_path)
    west = SegmentHost(road.west, inner=road.inside[0].device)
    east = SegmentHost(road.east, inner=road.inside[1].device)
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
