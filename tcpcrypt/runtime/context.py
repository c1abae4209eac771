"""What the connections of a host share."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tcpcrypt.core.config import Config
from tcpcrypt.core.key_log import KeyLog
from tcpcrypt.core.policy import SEGMENT, TCPS, Flow, FlowDirection, Mode, Policy, select
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.crypto.groups import GROUPS, KEYS_READY
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import Tep
from tcpcrypt.runtime.authentication import Authentication
from tcpcrypt.runtime.eno_backend import EnoBackend, Tuple4
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.path_memory import PathMemory
from tcpcrypt.runtime.privileges import Privileges
from tcpcrypt.runtime.pump import Pumping
from tcpcrypt.runtime.steering import Steering
from tcpcrypt.runtime.tally import Tally
from tcpcrypt.runtime.turns import Turns
from tcpcrypt.wire.profile import PROFILES, RFC8548, WireProfile

__all__ = ["Context", "Report", "Settings"]

Report = Callable[[str, Mapping[str, object]], None]
"""Takes an event's name and its fields, which it reads at once or never; no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a host is to do."""

    policies: tuple[Policy, ...]
    """In order; the first that matches a connection decides."""
    config: Config = field(default_factory=Config)
    families: tuple[int, ...] = (4, 6)
    backend: str = "auto"
    """What carries the option: `auto`, `nfqueue`, `sockops` or `mixed`."""
    path_memory: float = 600.0
    """Seconds for which a peer or path without TCP-ENO is left alone; 0: never."""
    key_log: KeyLog | None = None
    """Takes the secret of each session; None, as a rule."""

    def __post_init__(self) -> None:
        """Raises `LocalError` for policies that the backend cannot serve."""
        # Its answers to SYNs are the same for all policies.  Of the segment plane it knows nothing.
        relayed = [policy for policy in self.policies if policy.plane != SEGMENT]
        if self.backend == "sockops" and any(
            policy.auth != "none" or policy.pq != "off" for policy in relayed
        ):
            raise LocalError(
                'backend "sockops" serves no policy with `auth` or `pq`; "nfqueue" serves all'
            )
        if self.backend == "sockops" and any(policy.application_aware for policy in relayed):
            raise LocalError(
                'backend "sockops" serves no policy with `application_aware`; "nfqueue" serves all'
            )
        if self.backend == "sockops" and any(
            policy.profiles != (self.config.profile,) for policy in relayed
        ):
            raise LocalError(
                'backend "sockops" serves profile "rfc8548" alone; "nfqueue" serves all'
            )
        for policy in self.policies:
            if policy.profile not in {RFC8548.name, TCPS} and (
                policy.auth != "none" or policy.pq != "off"
            ):
                raise LocalError(f'profile "{policy.profile}" serves no policy with `auth` or `pq`')
            for profile in policy.profiles:
                policy.configure(self.config, profile)  # says what it does not have


_address = functools.lru_cache(1024)(ipaddress.ip_address)


@dataclass(slots=True)
class Context:
    """Handed to every connection."""

    config: Config
    """Of the host, without the demands of a policy."""
    policies: tuple[Policy, ...]
    loop: Loop
    backend: EnoBackend
    steering: Steering
    privileges: Privileges
    resumption: ResumptionCache
    paths: PathMemory
    tally: Tally
    report: Report
    authentication: Authentication
    take_packets: Callable[[], None] = lambda: None
    """Take the packets that wait in the queue in this turn of the loop, and not in the next."""
    pump: Pumping | None = None
    key_log: KeyLog | None = None
    numbers: int = 0
    turns: Turns = field(init=False)
    """Of connections to peers that take up only so many at once."""
    _configured: dict[tuple[int, str], tuple[Policy, Config, Config]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.turns = Turns(self.loop)

    def policy_of_service(self, connection: Tuple4) -> Policy:
        """The policy for a connection that a peer opens to a service here."""
        remote, local = _address(connection.remote), _address(connection.local)
        ports = connection.local_port, connection.remote_port
        flow = Flow(FlowDirection.INCOMING, local, ports[0], remote, ports[1])
        return select(self.policies, flow)

    def configured(self, policy: Policy, profile: WireProfile | None = None) -> Config:
        """The configuration with the demands of `policy`, made once for each dialect."""
        profile = profile or policy.profiles[0]
        key = id(policy), profile.name
        known = self._configured.get(key)
        if known is None or known[0] is not policy or known[1] is not self.config:
            if len(self._configured) > len(PROFILES) * len(self.policies):
                self._configured.clear()  # those of an earlier configuration
            known = (policy, self.config, policy.configure(self.config, profile))
            self._configured[key] = known
        return known[2]

    def may_be_plain(self, policy: Policy, to: Tuple4) -> bool:
        """Whether a connection of an application may go in the clear."""
        trust, outgoing = self.authentication, FlowDirection.OUTGOING
        scope = trust.scope(policy, outgoing, to.remote, to.remote_port)
        return policy.mode is Mode.OPPORTUNISTIC and not trust.insists(policy, outgoing, scope)

    def leaves_alone(self, policy: Policy, to: Tuple4) -> bool:
        """Whether one is to, for its path is known to be plain; counts it there if so."""
        return self.may_be_plain(policy, to) and self.paths.is_plain(
            to.remote, to.remote_port, policy.profile
        )

    def keep_keys_ready(self) -> None:
        """A fresh exchange has begun: make key pairs for others, once there is time."""
        group = GROUPS[Tep.ECDHE_CURVE25519]
        if group.ready < KEYS_READY // 2:
            self.loop.when_idle(group.prepare)

    def next_number(self) -> int:
        """A number for a connection, counted from 1."""
        self.numbers += 1
        return self.numbers
