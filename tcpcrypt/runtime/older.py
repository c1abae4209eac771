"""Connections that were there before the rules."""

from __future__ import annotations

import dataclasses
import ipaddress
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tcpcrypt.core.policy import TCPS, Flow, FlowDirection, Mode, Policy

__all__ = [
    "OlderConnection",
    "diverted_connections",
    "older_connections",
    "still_there",
]

_PROC: Final = Path("/proc/net")
_LISTENING: Final = "0A"
_TIME_WAIT: Final = "06"


@dataclasses.dataclass(frozen=True, slots=True)
class OlderConnection:
    """A connection of this host whose packets the rules would take for another's."""

    local: ipaddress.IPv4Address | ipaddress.IPv6Address
    local_port: int
    remote: ipaddress.IPv4Address | ipaddress.IPv6Address
    remote_port: int


def older_connections(
    policies: Sequence[Policy],
    before: Sequence[Policy] = (),
    directory: Path = _PROC,
) -> list[OlderConnection]:
    """Those that `policies` name and `before`, which were in force until now, did not.

    From /proc/net/tcp and tcp6.  Connections that came from elsewhere are among
    them where a policy names what looks like their client's port.
    """
    found = []
    for connection in _connections(directory):
        if connection.remote.is_loopback or connection.local == connection.remote:
            continue
        flow = Flow(FlowDirection.OUTGOING, *dataclasses.astuple(connection))
        # What was steered until now is none of these: its packets never left as they were.
        if _named(before, flow) or _diverted(before, connection):
            continue
        if _named(policies, flow) or _diverted(policies, connection):
            found.append(connection)
    return found


def diverted_connections(
    policies: Sequence[Policy], older: Iterable[OlderConnection], directory: Path = _PROC
) -> list[OlderConnection]:
    """Those whose packets a policy has in hand, one by one: opened by either side, not `older`.

    In TIME-WAIT nothing of an application is left, and not every kernel ends such ones.
    """
    left_alone = set(older)
    return [
        connection
        for connection in _connections(directory, (_LISTENING, _TIME_WAIT))
        if connection not in left_alone and _diverted(policies, connection)
    ]


def still_there(older: Iterable[OlderConnection], directory: Path = _PROC) -> list[OlderConnection]:
    """Those of `older` that have not ended since."""
    now = set(_connections(directory))
    return [connection for connection in older if connection in now]


def _connections(
    directory: Path, left_out: tuple[str, ...] = (_LISTENING,)
) -> Iterator[OlderConnection]:
    for name in ("tcp", "tcp6"):
        try:
            lines = (directory / name).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # no IPv6 in this kernel
        for line in lines:
            _number, local, remote, state = line.split()[:4]
            if state not in left_out:
                yield OlderConnection(*_parse_endpoint(local), *_parse_endpoint(remote))


def _diverted(policies: Sequence[Policy], connection: OlderConnection) -> bool:
    if connection.remote.is_loopback:
        return False
    flows = [Flow(direction, *dataclasses.astuple(connection)) for direction in FlowDirection]
    return any(
        policy.by_packets
        and (policy.profile != TCPS or connection.local.version == 4)
        and policy.mode is not Mode.NEVER
        and any(policy.match.covers(flow) for flow in flows)
        for policy in policies
    )


def _named(policies: Sequence[Policy], flow: Flow) -> bool:
    """Whether a policy could want the flow; its owner is not asked for."""
    for policy in policies:
        anybody = dataclasses.replace(policy.match, uids=(), cgroups=())
        if anybody.covers(flow) and (policy.mode is not Mode.NEVER or anybody == policy.match):
            return policy.mode is not Mode.NEVER
    return False


def _parse_endpoint(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """`0100007F:0050`: words in host byte order, then the port."""
    words, port = text.split(":")
    packed = b"".join(
        struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8)
    )
    if len(packed) == 4:
        return ipaddress.IPv4Address(packed), int(port, 16)
    address = ipaddress.IPv6Address(packed)
    return address.ipv4_mapped or address, int(port, 16)
