"""Which packets the worker may have added: what the parent asks before it sends one.

The raw socket stays the parent's.  A worker that somebody has taken over can
send TCP segments of connections that policies of the segment plane name, in
either direction, and no other packet: none with another protocol, no fragment, none
with other options of IP, none between other hosts or ports.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

from tcpcrypt.core.policy import Flow, FlowDirection, Policy
from tcpcrypt.daemon.words import NonsenseError
from tcpcrypt.errors import PeerError
from tcpcrypt.runtime.segment_rules import is_segment
from tcpcrypt.wire.segment import Segment

__all__ = ["Added"]

_KNOWN_MAX: Final = 4096

Ends = tuple[bytes, int, bytes, int]


class Added:
    """Sends by `send` what `policies`, those in force and those before, name."""

    def __init__(
        self, policies: Callable[[], Sequence[Policy]], send: Callable[[memoryview], None]
    ) -> None:
        self._policies = policies
        self._send = send
        self._known: dict[Ends, bool] = {}
        self._known_by: Sequence[Policy] = ()

    def __call__(self, packet: memoryview) -> None:
        """Send it, or not: of a connection that is named no more, or with options of IP.

        Raises `NonsenseError` for a packet that no worker of ours asks for.
        """
        try:
            segment = Segment.parse(packet)
        except PeerError as error:
            raise NonsenseError(f"a packet to be added is no TCP segment: {error}") from error
        plain, length = 20, int.from_bytes(packet[2:4], "big")
        if segment.version == 6:
            plain, length = 40, int.from_bytes(packet[4:6], "big") + 40
        if length != len(packet):
            raise NonsenseError("a packet to be added has another length than it says")
        if segment.flags.syn:
            raise NonsenseError("a packet to be added begins a connection")
        if segment.header_at == plain and self._named(segment.flow):
            self._send(packet)

    def _named(self, ends: Ends) -> bool:
        policies = self._policies()
        if policies is not self._known_by or len(self._known) >= _KNOWN_MAX:
            self._known.clear()
            self._known_by = policies
        known = self._known.get(ends)
        if known is None:
            known = self._known[ends] = _is_named(policies, ends)
        return known


def _is_named(policies: Sequence[Policy], ends: Ends) -> bool:
    one, other = ((ipaddress.ip_address(address), port) for address, port in (ends[:2], ends[2:]))
    if one[0].is_loopback or other[0].is_loopback:
        return False  # no packet of `lo` comes to the queues, whatever its ports
    return any(
        policy.match.covers(Flow(direction, *local, *remote, forwarded=bool(policy.match.inner)))
        for policy in policies
        if is_segment(policy)
        for local, remote in ((one, other), (other, one))
        for direction in FlowDirection
    )
