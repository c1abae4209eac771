"""TCP/S by diverting every packet of a connection through a netfilter queue.

Connections stay those of the kernel's TCP: nothing is steered, and no number is
translated, for TCP/S changes no payload's length.  Its tag goes with a segment,
so that segments have to be apart: the queue is asked for no super-packets, and
the kernel cuts those that it has before they come here.  What comes in was put
together by nobody, as segments whose options differ are not (GRO).

Packets are seen in OUTPUT, before fragmentation, and in INPUT, behind it, so
that fragments carry nothing past this (docs/tcps.md, A1).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from tcpcrypt.core.policy import TCPS, FlowDirection, Mode, Policy, select
from tcpcrypt.core.policy import Flow as PolicyFlow
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.older import OlderConnection
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.rules import MARK_DONE, MARK_MASK, MARK_PASSED, Rule
from tcpcrypt.runtime.ruleset import selectors
from tcpcrypt.tcps.connection import Connection, Fate, Terms
from tcpcrypt.tcps.gate import Flow, Gate
from tcpcrypt.tcps.known_hosts import KnownHosts
from tcpcrypt.tcps.states import State
from tcpcrypt.tcps.weaknesses import LACKS

__all__ = ["TCPS_QUEUE", "TcpsDivert", "may_be_plain", "tcps_rules"]

TCPS_QUEUE: Final = 29797
_TCP: Final = ("-p", "tcp")
_STATES: Final = {
    State.ENCRYPTED: "encrypted",
    State.AUTHENTICATED: "encrypted",
    State.PLAIN: "plain",
    State.CLOSED: "closed",
    State.REFUSED: "refused",
}


class TcpsDivert:
    """Gives the packets of TCPS_QUEUE to a `Gate`, which decides on them.

    `policies` are those in force at the moment; `tell` takes events and their
    facts.  Whoever receives from `queue` gives the packets to `take`.
    """

    def __init__(
        self,
        queue: PacketQueue,
        policies: Callable[[], Sequence[Policy]],
        tell: Callable[[str, Mapping[str, object]], None],
        next_number: Callable[[], int],
    ) -> None:
        self._queue = queue
        self._policies = policies
        self._tell = tell
        self._next_number = next_number
        self._numbers: dict[Connection, tuple[int, float]] = {}
        """Number and time of those that are there."""
        self.hosts = KnownHosts()
        self.gate = Gate(self.hosts, self._terms, self._changed)

    def take(self, packet: QueuedPacket) -> None:
        """Decide on a packet of TCPS_QUEUE."""
        outgoing = packet.hook is Hook.OUTPUT
        made: bytes | Fate = Fate.DROP
        try:
            made = (self.gate.outgoing if outgoing else self.gate.incoming)(packet.payload)
        finally:
            # In any case: no packet may wait for ever, or pass unseen.
            if made is Fate.DROP:
                self._queue.verdict(packet, Verdict.DROP)
            else:
                mark = (MARK_DONE if outgoing else MARK_PASSED) | packet.mark & ~MARK_MASK
                changed = made if isinstance(made, bytes) else None
                self._queue.verdict(packet, Verdict.ACCEPT, changed, mark)

    def warn(self) -> None:
        """Tell loudly, at each start, what the policies in force allow."""
        numbers = [i for i, p in enumerate(self._policies(), 1) if p.profile == TCPS]
        for number in numbers:
            self._tell("tcps", {"policy": number, "lacks": "; ".join(LACKS)})

    def expire(self) -> None:
        """Forget connections that have ended; to be called now and then."""
        self.gate.expire()
        there = {connection for _flow, connection in self.gate}
        self._numbers = {c: number for c, number in self._numbers.items() if c in there}

    def close(self) -> None:
        """Forget all connections."""
        self.gate.close()

    def sessions(self) -> list[dict[str, object]]:
        """One entry a live connection, as `Connection.entry` of the relay has it."""
        policies = self._policies()
        found = []
        for flow, connection in self.gate:
            state = _STATES.get(connection.state, "connecting")
            if state in {"closed", "refused"} or connection.ended:
                continue
            number, since = self._number(connection)
            policy = self._policy(flow, connection.active)
            entry = {
                **self._facts(flow, connection),
                "id": number,
                "state": state,
                "policy": policies.index(policy) + 1 if policy in policies else None,
                "since": round(since, 3),
                "sent": connection.sent,
                "received": connection.received,
            }
            if state == "encrypted":
                entry |= {"profile": TCPS, "lacks": list(LACKS)}
            found.append(entry)
        return found

    # --- what the gate asks and tells ----------------------------------------------

    def _terms(self, flow: Flow, opens: bool) -> Terms | Fate:
        policy = self._policy(flow, opens)
        if policy.profile == TCPS and policy.mode is not Mode.NEVER:
            return Terms(require=policy.mode is Mode.REQUIRE, enforce=policy.auth == "tofu")
        # It came by for its other port, and what passes here no other rule looks at.
        named = self._flow(flow, opens)
        return Fate.PASS if may_be_plain(self._policies(), named) else Fate.DROP

    def _policy(self, flow: Flow, opens: bool) -> Policy:
        return select(self._policies(), self._flow(flow, opens))

    @staticmethod
    def _flow(flow: Flow, opens: bool) -> PolicyFlow:
        direction = FlowDirection.OUTGOING if opens else FlowDirection.INCOMING
        local, remote = (ipaddress.IPv4Address(packed) for packed in (flow[0], flow[2]))
        return PolicyFlow(direction, local, flow[1], remote, flow[3])

    def _changed(self, flow: Flow, connection: Connection) -> None:
        state = _STATES.get(connection.state)
        if state is None:
            return
        number, _since = self._number(connection)
        event = "identified" if connection.state is State.AUTHENTICATED else state
        facts: dict[str, object] = {"id": number, **self._facts(flow, connection)}
        if connection.judgement is not None:
            facts["identity"] = connection.judgement.value
        self._tell(f"tcps_{event}", facts)

    def _number(self, connection: Connection) -> tuple[int, float]:
        known = self._numbers.get(connection)
        if known is None:
            known = self._numbers[connection] = self._next_number(), time.time()
        return known

    @staticmethod
    def _facts(flow: Flow, connection: Connection) -> dict[str, object]:
        local, remote = (
            f"{ipaddress.IPv4Address(address)}:{port}"
            for address, port in ((flow[0], flow[1]), (flow[2], flow[3]))
        )
        client, service = (local, remote) if connection.active else (remote, local)
        return {
            "direction": "outgoing" if connection.active else "incoming",
            "client": client,
            "service": service,
        }


def tcps_rules(policies: Sequence[Policy], older: Iterable[OlderConnection] = ()) -> list[Rule]:
    """What diverts packets of TCP/S; to stand before all other rules.

    Those of `older` connections are left alone.  IPv4 alone: where a policy
    requires encryption the guard refuses what comes by IPv6.
    """
    named = [p for p in policies if p.profile == TCPS and p.mode is not Mode.NEVER]
    rules = []
    for old in older if named else ():
        if old.local.version == 4:
            here, there = (
                (str(old.local), str(old.local_port)),
                (
                    str(old.remote),
                    str(old.remote_port),
                ),
            )
            for hook, one, other in (("OUTPUT", here, there), ("INPUT", there, here)):
                ends = ("-s", one[0], "--sport", one[1], "-d", other[0], "--dport", other[1])
                rules.append(Rule("mangle", hook, (*_TCP, *ends, "-j", "RETURN"), (4,)))
    for policy in named:
        for direction in FlowDirection:
            if policy.match.direction not in {None, direction}:
                continue
            opens = direction is FlowDirection.OUTGOING
            for hook, device, answers in (
                ("OUTPUT", ("!", "-o", "lo"), not opens),
                ("INPUT", ("!", "-i", "lo"), opens),
            ):
                for family, where in selectors(policy.match, outgoing=opens, answers=answers):
                    if family == 4:
                        words = (*device, *_TCP, *where)
                        target = ("-j", "NFQUEUE", "--queue-num", str(TCPS_QUEUE))
                        rules.append(Rule("mangle", hook, (*words, *target), (4,)))
    return rules


def may_be_plain(policies: Sequence[Policy], flow: PolicyFlow) -> bool:
    """Whether `flow` may go in the clear whoever owns it, which packets do not say."""
    for policy in policies:
        anybody = dataclasses.replace(policy.match, uids=(), cgroups=())
        if not anybody.covers(flow):
            continue
        insists = policy.mode is Mode.OPPORTUNISTIC and policy.auth != "none"
        if policy.mode is Mode.REQUIRE or insists:
            return False
        if anybody == policy.match:
            return True
    return True
