"""A road with a gateway at either end.

client -- veth1 -- west -- veth2 -- east -- veth3 -- server
                   gateway          gateway
"""

import contextlib
import dataclasses
from collections.abc import Iterator

from netns.network import Network
from netns.segmenting import SegmentHost

from tcpcrypt.tools.netns import Host, Lab, Link


@dataclasses.dataclass
class Road:
    """The hosts at its ends, and what stands between them."""

    network: Network
    west: Host
    east: Host
    inside: tuple[Link, Link]
    """The gateways' ends towards client and server."""
    between: tuple[Link, Link]

    def gateways(self) -> tuple[SegmentHost, SegmentHost]:
        """Both gateways at work, and nothing in clear between them."""
        return (
            SegmentHost(self.west, mode="require", inner=self.inside[0].device),
            SegmentHost(self.east, mode="require", inner=self.inside[1].device),
        )


@contextlib.contextmanager
def make_road() -> Iterator[Road]:
    """Four hosts in a line, gone again afterwards."""
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
