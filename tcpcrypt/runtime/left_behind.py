"""Connections that only the rules of a process which is gone keep from going on in the clear.

The relay's connections are its own, and end with it.  TCP/S and the segment plane
change the segments of connections that belong to programs: without the rules
their kernels would go on, and nobody would encrypt what they send.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from tcpcrypt.runtime.firewall import Firewall
from tcpcrypt.runtime.older import connections_by_port, diverted_connections
from tcpcrypt.runtime.rules import SEGMENT_INNER_QUEUE
from tcpcrypt.runtime.sock_diag import destroy
from tcpcrypt.runtime.tcps import diverted_by

__all__ = ["end_left_behind", "segment_ports"]

_QUEUED: Final = re.compile(
    rf"output.*(?:--queue-num|queue num|queue to) {SEGMENT_INNER_QUEUE}\b", re.I
)
"""A rule of the segment plane in OUTPUT, as iptables or nft tells it."""
_PORT: Final = re.compile(r"(?:--|tcp )[sd]port (\d+)(?:[:-](\d+))?")


def end_left_behind(firewall: Firewall) -> None:
    """End those of this host's programs; to be called before the rules go or are replaced.

    What a gateway forwarded are connections of others, which are not ended.
    Raises `LocalError` where the kernel cannot or this process may not.
    """
    lines = firewall.listed()
    connections = diverted_connections(diverted_by(lines), ())
    if ports := segment_ports(lines):
        connections += connections_by_port(ports)
    if connections:
        destroy(connections)


def segment_ports(lines: Iterable[str]) -> list[range]:
    """The ports of services whose segments the plane had in hand on this host."""
    found: dict[range, None] = {}
    for line in lines:
        if _QUEUED.search(line) and (told := _PORT.search(line)):
            first, last = told.groups()
            found[range(int(first), int(last or first) + 1)] = None
    return list(found)
