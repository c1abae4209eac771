"""Which connections are to be encrypted, and how firmly: first match wins."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tcpcrypt.core.config import Config
from tcpcrypt.wire.profile import PROFILES, RFC8548, WireProfile

__all__ = [
    "BOTH",
    "RELAY",
    "SEGMENT",
    "TCPS",
    "Flow",
    "FlowDirection",
    "Match",
    "Mode",
    "Policy",
    "select",
]

BOTH = "both"
"""Any dialect: what a peer speaks decides."""
TCPS = "tcps"
"""No dialect, but another protocol, of which the core knows nothing (`tcpcrypt.tcps`)."""
RELAY = "relay"
"""The plane that ends a connection on this host and makes another one to the peer."""
SEGMENT = "segment"
"""The plane that changes the segments of a connection of two other TCPs (`tcpcrypt.segment`)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Mode(enum.Enum):
    """How firmly a connection is to be encrypted."""

    NEVER = "never"
    """Left alone: no ENO option is sent."""
    OPPORTUNISTIC = "opportunistic"
    """Encrypted where the peer and the path allow, plain otherwise."""
    REQUIRE = "require"
    """Encrypted or refused."""


class FlowDirection(enum.Enum):
    """Who opened the connection, seen from this host."""

    OUTGOING = "outgoing"
    INCOMING = "incoming"


@dataclass(frozen=True, slots=True)
class Flow:
    """What is known of a connection before its SYN leaves or is answered."""

    direction: FlowDirection
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    uid: int | None = None
    """Owner of the socket that opened it on this host; None: not known."""
    cgroup: str | None = None
    """Control group of that socket, as a path below the root of cgroup v2."""
    forwarded: bool = False
    """This host only forwards it; `local` is the host behind the inner interface."""

    @property
    def service_port(self) -> int:
        """The port that names the service: the listener's."""
        return self.remote_port if self.direction is FlowDirection.OUTGOING else self.local_port


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions on a flow; an empty one matches everything."""

    direction: FlowDirection | None = None
    local: tuple[Network, ...] = ()
    remote: tuple[Network, ...] = ()
    ports: tuple[range, ...] = ()
    """Service ports."""
    uids: tuple[range, ...] = ()
    """Users of this host, for connections that they open."""
    cgroups: tuple[str, ...] = ()
    """Control groups (paths below the root of cgroup v2, their descendants
    included), for connections that their processes open."""
    inner: tuple[str, ...] = ()
    """Interfaces behind which the hosts are whose connections this one forwards; then
    `local` are their addresses.  Empty: connections of this host."""

    def covers(self, flow: Flow) -> bool:
        """Whether every condition holds."""
        return (
            bool(self.inner) is flow.forwarded
            and (self.direction is None or self.direction is flow.direction)
            and (not self.local or _within(flow.local, self.local))
            and (not self.remote or _within(flow.remote, self.remote))
            and (not self.ports or any(flow.service_port in ports for ports in self.ports))
            and (not self.uids or any(flow.uid in uids for uids in self.uids))
            and (not self.cgroups or any(_below(flow.cgroup, path) for path in self.cgroups))
        )


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    """An IPv4 address in IPv6 clothes is still that IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _below(path: str | None, ancestor: str) -> bool:
    if path is None:
        return False
    path, ancestor = path.strip("/"), ancestor.strip("/")
    return not ancestor or path == ancestor or path.startswith(ancestor + "/")


@dataclass(frozen=True, slots=True)
class Policy:
    """One rule: what it matches, and what is to be done."""

    mode: Mode
    match: Match = Match()
    auth: str = "none"
    """What the peer has to prove: none, tofu, pinned or psk.  RFC 8548 alone proves nothing."""
    pq: str = "off"
    """Post-quantum key agreement: off, prefer or require."""
    psk: str = ""
    """Name of the pre-shared key that both hosts have to have, with `auth` psk."""
    profile: str = RFC8548.name
    """The dialect: one of `PROFILES`, or BOTH of them, one a connection; or TCPS."""

    application_aware: bool = False
    """The application knows of encryption and asks for session IDs: bit `a` of TCP-ENO
    (RFC 8547 section 4.2) is set."""
    plane: str = RELAY
    """How data passes: RELAY or SEGMENT."""
    active_b: bool = False
    """This host has role B where it opens a connection (RFC 8547 section 4.2)."""

    @property
    def by_packets(self) -> bool:
        """Whether every packet is looked at, and the connection stays that of the programs."""
        return self.profile == TCPS or self.plane == SEGMENT

    @property
    def profiles(self) -> tuple[WireProfile, ...]:
        """The dialects, the one to try first in front; none with TCPS."""
        if self.profile == TCPS:
            return ()
        return tuple(PROFILES.values()) if self.profile == BOTH else (PROFILES[self.profile],)

    def configure(self, base: Config, profile: WireProfile | None = None) -> Config:
        """`base` with this policy's demands, in its (first) dialect or the one given.

        Raises `LocalError` if `base` has nothing that the dialect knows.
        """
        return replace(
            base.in_profile(profile or self.profiles[0]),
            enabled=self.mode is not Mode.NEVER,
            require_encryption=self.mode is Mode.REQUIRE,
            application_aware=base.application_aware or self.application_aware,
            active_b=base.active_b or self.active_b,
        )


NOTHING_NAMED = Policy(Mode.NEVER)
"""What applies where no policy matches: nothing is touched unless named."""


def select(policies: Sequence[Policy], flow: Flow) -> Policy:
    """The first policy that covers `flow`."""
    return next((policy for policy in policies if policy.match.covers(flow)), NOTHING_NAMED)
