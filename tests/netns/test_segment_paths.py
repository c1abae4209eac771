"""Paths that take less than both ends think, with the segment plane on the way."""

import socket
import struct
from collections.abc import Iterator

import pytest
from netns.network import Network
from netns.road import Road, make_road
from netns.segmenting import SegmentHost

from tcpcrypt.tools.netns import Host

LINE = b"nobody between the two is to read this line\n"
NARROW = 1300
FRAME = 24
"""What a frame needs of a segment, and an ACK's ENO."""


@pytest.fixture
def road() -> Iterator[Road]:
    with make_road() as road:
        yield road


def plane(road: Road, where: str) -> list[SegmentHost]:
    """Engines at both hosts, on both gateways, or on the one in front of the client."""
    if where == "hosts":
        hosts = (road.network.client, road.network.server)
        return [SegmentHost(host, mode="require") for host in hosts]
    if where == "gateways":
        return list(road.gateways())
    west = SegmentHost(road.west, mode="require", inner=road.inside[0].device)
    return [west, SegmentHost(road.network.server, mode="require")]


def narrow(road: Road, family: int, *, behind: bool) -> None:
    """A router's next link takes less: that of the client's, or the one `behind` it."""
    version = f"-{family}"
    server = (road.network.server_end.v4, road.network.server_end.v6)[family == 6]
    far = (road.between[1].v4, road.between[1].v6)[family == 6]
    prefix = 32 if family == 4 else 128
    router = road.east if behind else road.west
    way = ("dev", road.inside[1].device) if behind else ("via", far)
    where = (f"{server}/{prefix}", *way, "mtu", str(NARROW))
    router.run("ip", version, "route", "replace", *where)


def segment_size(sock: socket.socket) -> int:
    """What the kernel takes for the MSS of the path (tcpi_snd_mss)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 24)
    found: int = struct.unpack_from("I", info, 16)[0]
    return found


def upload(network: Network, family: int, size: int) -> int:
    """Send so much; returns the size of the client's segments in the end."""
    content = LINE * (size // len(LINE))
    with network.conversation(family) as (one, other):
        assert segment_size(one) > NARROW
        one.settimeout(60)
        other.settimeout(60)
        one.sendall(content[: size // 2])
        came = bytearray()
        while len(came) < size // 2:
            came += other.recv(1 << 16)
        one.sendall(content[size // 2 :])
        while len(came) < len(content):
            came += other.recv(1 << 16)
        assert bytes(came) == content
        return segment_size(one)


@pytest.mark.parametrize(
    ("where", "family"),
    [
        ("hosts", 4),
        pytest.param("hosts", 6, marks=pytest.mark.long),
        pytest.param("gateways", 4, marks=pytest.mark.long),
        ("gateways", 6),
        pytest.param("gateway and host", 4, marks=pytest.mark.long),
        pytest.param("gateway and host", 6, marks=pytest.mark.long),
    ],
)
def test_rfc1191_a_path_that_turns_out_narrower(road: Road, where: str, family: int) -> None:
    """A router says so of a segment that was sealed; its sender believes it, and sends less."""
    planes = plane(road, where)
    narrow(road, family, behind=where == "gateway and host")
    found = upload(road.network, family, 400_000)
    headers = (20 if family == 4 else 40) + 32
    room = 0 if where == "hosts" else FRAME if family == 4 else NARROW - 1280
    assert found <= NARROW - headers - room
    assert planes[0].errors() == planes[1].errors() == ""


@pytest.mark.long
@pytest.mark.parametrize("where", ["hosts", "gateways"])
def test_rfc4821_a_path_that_swallows_what_is_too_long(road: Road, where: str) -> None:
    """No router says anything: the host that sends finds out by `tcp_mtu_probing`."""
    planes = plane(road, where)
    road.network.client.sysctl("net.ipv4.tcp_mtu_probing", "1")
    narrow(road, 4, behind=where == "gateways")
    silent = ("-p", "icmp", "--icmp-type", "3/4", "-j", "DROP")
    for router in (road.west, road.east):
        for chain in ("OUTPUT", "FORWARD"):
            router.run("iptables", "-I", chain, *silent)
    assert upload(road.network, 4, 400_000) < NARROW
    assert planes[0].errors() == planes[1].errors() == ""


@pytest.mark.parametrize("where", ["hosts", "gateways"])
def test_rfc791_what_a_router_cuts_into_fragments_comes_as_it_was_sent(
    road: Road, where: str
) -> None:
    """Hosts that do not look for the path's MTU let routers cut; whole segments are opened."""
    planes = plane(road, where)
    for host in (road.network.client, road.network.server):
        host.sysctl("net.ipv4.ip_no_pmtu_disc", "1")
    narrow(road, 4, behind=where == "hosts")
    if where == "gateways":
        road.between[0].host.run("ip", "link", "set", road.between[0].device, "mtu", str(NARROW))
    content = LINE * 5000
    with road.network.conversation() as (one, other):
        one.settimeout(30)
        other.settimeout(30)
        one.sendall(content)
        came = bytearray()
        while len(came) < len(content):
            came += other.recv(1 << 16)
    assert bytes(came) == content
    router, host = (road.east, road.network.server) if where == "hosts" else (road.west, road.east)
    assert counter(router, "FragCreates") > 100
    assert counter(host, "ReasmOKs") > 50
    assert planes[0].errors() == planes[1].errors() == ""
    assert len(planes[0].events("encrypted")) == 1


def counter(host: Host, name: str) -> int:
    """One of the kernel's `Ip` counters."""
    lines = host.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    return int(values[names.index(name)])
