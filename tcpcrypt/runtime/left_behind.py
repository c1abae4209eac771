"""Connections that only the rules of a process which is gone keep from going on in the clear.

The relay's connections are its own, and end with it.  TCP/S and the segment plane
change the segments of connections that belong to programs: without the rules
their kernels would go on, and nobody would encrypt what they send.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from tcpcrypt.core.policy import RELAY, SEGMENT, TCPS, FlowDirection, Match, Mode, Policy
from tcpcrypt.runtime.firewall import Firewall
from tcpcrypt.runtime.older import diverted_connections
from tcpcrypt.runtime.rules import SEGMENT_INNER_QUEUE
from tcpcrypt.runtime.sock_diag import destroy
from tcpcrypt.runtime.tcps import TCPS_QUEUE
from tcpcrypt.wire.profile import RFC8548

__all__ = ["diverted_by", "end_left_behind"]

_QUEUED: Final = re.compile(
    rf"output.*(?:--queue-num|queue num|queue to) ({TCPS_QUEUE}|{SEGMENT_INNER_QUEUE})\b", re.I
)
"""A rule in OUTPUT that sends packets of such connections, as iptables or nft tells it."""
_ENDS: Final = re.compile(r"(?:-s|saddr) (\S+)"), re.compile(r"(?:-d|daddr) (\S+)")
"""The local and the remote address in one."""
_PORTS: Final = re.compile(r"(?:--|tcp )([sd])ports? (\{[^}]*\}|\S+)")


def end_left_behind(firewall: Firewall) -> None:
    """End those of this host's programs; to be called before the rules go or are replaced.

    What a gateway forwarded are connections of others, which are not ended.
    Raises `LocalError` where the kernel cannot or this process may not.
    """
    connections = diverted_connections(diverted_by(firewall.listed()), ())
    if connections:
        destroy(connections)


def diverted_by(lines: Iterable[str]) -> list[Policy]:
    """Policies for what the rules of a former process divert, which nobody else remembers.

    `lines` are all of its rules, as iptables or nft tells them.
    """
    found = []
    for line in lines:
        queued = _QUEUED.search(line)
        if queued is None:
            continue
        local, remote = (
            tuple(ipaddress.ip_network(text) for text in pattern.findall(line)) for pattern in _ENDS
        )
        direction: FlowDirection | None = None
        ports: tuple[range, ...] = ()
        told = _PORTS.search(line)
        if told is not None:
            side, text = told.groups()
            direction = FlowDirection.OUTGOING if side == "d" else FlowDirection.INCOMING
            ports = tuple(_ports(text))
        match = Match(direction, local, remote, ports)
        tcps = queued[1] == str(TCPS_QUEUE)
        profile, plane = (TCPS, RELAY) if tcps else (RFC8548.name, SEGMENT)
        found.append(Policy(Mode.REQUIRE, match, profile=profile, plane=plane))
    return found


def _ports(text: str) -> Iterable[range]:
    for part in text.strip("{} ").split(","):
        first, *last = re.split("[:-]", part.strip())
        yield range(int(first), int(last[0] if last else first) + 1)
