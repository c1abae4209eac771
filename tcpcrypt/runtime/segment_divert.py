"""The segment plane by policies: what each of its connections asks and shows, and what is told.

`SegmentPlane` brings packets to the engine; here policies, identities and
counters meet them.  It begins when a policy first names it: until then packets of
its queues wait for nobody, for no rule sends any.
"""

from __future__ import annotations

import collections
import functools
import ipaddress
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.terms import PeerProof
from tcpcrypt.auth.trust import TrustTerms
from tcpcrypt.core.config import Config
from tcpcrypt.core.policy import SEGMENT, FlowDirection, Mode, Policy, select
from tcpcrypt.core.policy import Flow as PolicyFlow
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.errors import AuthenticationError, FallbackReason, LocalError, PeerReason
from tcpcrypt.runtime.authentication import Change, key_exchange
from tcpcrypt.runtime.connection import TOLD, address_text
from tcpcrypt.runtime.context import Context
from tcpcrypt.runtime.facts import Facts
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.segment_queue import Adding
from tcpcrypt.runtime.segment_rules import is_segment
from tcpcrypt.runtime.segments import SegmentPlane
from tcpcrypt.runtime.tally import word
from tcpcrypt.runtime.tcps import may_be_plain
from tcpcrypt.segment.flow import Flow
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.table import Key
from tcpcrypt.wire.profile import RFC8548

__all__ = ["SegmentDivert"]

_RESET_BY: Final = {"inner": "reset by application", "outer": "reset by peer"}
_RECORDS_SPARE: Final = 1024
_REFUSED: Final = Config(enabled=False, require_encryption=True)

Endpoint = tuple[str, int]


@dataclass(slots=True, kw_only=True)
class _Record:
    """What the engine does not know of a connection."""

    number: int
    policy: Policy
    direction: FlowDirection
    scope: str
    terms: TrustTerms | None
    forwarded: bool
    since: float
    began: float
    proof: PeerProof | None = None
    judged: bool = False
    """It was reset for what has become known of its peer's key."""


class SegmentDivert:
    """The plane of one host; `context` is shared with its relay."""

    def __init__(self, context: Context, queue: PacketQueue, adding: Adding) -> None:
        self._context = context
        self._queue = queue
        self._adding = adding
        self._plane: SegmentPlane | None = None
        self._records: dict[Key, _Record] = {}
        self._draining = False
        self._resumption = ResumptionCache(context.config)

    def obey(self) -> None:
        """Policies are in force, for the first time or others than before.

        What was encrypted by one and is named by none is reset, before the rules go.
        """
        if self._plane is None and any(is_segment(policy) for policy in self._context.policies):
            self._plane = SegmentPlane(
                self._context.loop,
                self._queue,
                self._adding,
                self._configure,
                resumption=self._resumption,
                key_log=self._context.key_log,
                report=self._on_event,
                swept=self._forget,
                exhausted=self._tell_exhausted,
            )
        elif self._plane is not None:
            for key, flow, record in tuple(self._live()):
                if flow.state != "plain" and self._is_named_no_more(key):
                    self._stop(key, record)
            self._plane.abort(self._is_named_no_more)

    def _stop(self, key: Key, record: _Record) -> None:
        tally = self._context.tally
        tally.count("closed", "stopped")
        self._add_to(key, tally.moved)
        facts = {**self._describe(key, record), **self._moved(key), "how": "stopped"}
        self._context.report("closed", facts)

    def drain(self) -> None:
        """Let what comes go in the clear, unless policy requires more."""
        self._draining = True

    def close(self) -> None:
        """Reset what is encrypted, forget all secrets.  Idempotent."""
        if self._plane is not None:
            self._plane.close()
        self._resumption.flush()

    # --- what a connection is to be --------------------------------------------------------

    def _configure(self, key: Key, side: Side, forwarded: bool) -> Config | None:
        context, opens = self._context, side is Side.INNER
        direction = FlowDirection.OUTGOING if opens else FlowDirection.INCOMING
        flow = _policy_flow(key, direction, forwarded=forwarded)
        policy = select(context.policies, flow)
        if not is_segment(policy):
            # It came by for its other port, and what passes here no other rule looks at.
            plain = policy.mode is Mode.NEVER or may_be_plain(context.policies, flow)
            return None if plain else _REFUSED
        if self._draining and policy.mode is Mode.OPPORTUNISTIC:
            return None
        trust = context.authentication
        scope = trust.scope(policy, direction, key[2], key[3])
        try:
            config, terms = trust.configure(context.configured(policy), policy, direction, scope)
        except LocalError as error:
            context.tally.count("failed", "configuration")
            context.report("failed", {**_ends(key, direction), "reason": str(error)})
            return _REFUSED
        if len(self._records) > _RECORDS_SPARE + 2 * self._remembered:
            self._forget()  # a flood of SYNs does not wait for the next sweep
        self._records[key] = _Record(
            number=context.next_number(),
            policy=policy,
            direction=direction,
            scope=scope,
            terms=terms,
            forwarded=forwarded,
            since=time.time(),
            began=time.monotonic(),
        )
        return config

    @property
    def _remembered(self) -> int:
        return 0 if self._plane is None else len(self._plane.table.flows)

    def _is_named_no_more(self, key: Key) -> bool:
        record = self._records.get(key)
        if record is None:
            return False
        flow = _policy_flow(key, record.direction, forwarded=record.forwarded)
        return not is_segment(select(self._context.policies, flow))

    def reconsider(self, change: Change) -> int:
        """Trust has changed: reset those whose peers are not believed any more.

        Returns how many cached sessions were forgotten.
        """
        for key, _flow, record in tuple(self._live()):
            why = _distrust(record, change)
            if why and not record.judged:
                record.judged = True
                facts = {**self._describe(key, record), "reason": why}
                self._context.tally.count("closed", "distrusted")
                self._context.report("distrusted", facts)
        if self._plane is not None:
            self._plane.abort(lambda key: key in self._records and self._records[key].judged)
        return self._resumption.flush_identity(change.concerns)

    # --- what the engine tells ---------------------------------------------------------------

    def _on_event(self, key: Key, event: str, fields: dict[str, object]) -> None:
        record = self._records.get(key)
        if record is None:
            return  # of no policy of ours
        context, tally = self._context, self._context.tally
        reason = fields.get("reason")

        def facts(**more: object) -> Facts:
            return Facts(lambda: {**self._describe(key, record), **self._moved(key), **more})

        if event == "encrypted":
            self._on_keys(key, record)
        elif event == "proved":
            self._on_proved(key, record)
        elif event in {"fallback", "refused"}:
            tally.count(event, word(FallbackReason(reason)))
            context.report(event, facts(reason=reason))
            if event == "fallback":
                self._set_up(record, "plain")
        elif event == "aborted":
            fault = PeerReason(reason)
            refused = fault in {PeerReason.AUTHENTICATION, PeerReason.IDENTITY_CHANGED}
            name = "refused" if refused else "aborted"
            tally.count(name, word(fault))
            told = ": ".join(str(fields[n]) for n in ("reason", "detail") if n in fields)
            context.report(name, facts(reason=told))
        elif event == "failed":
            tally.bugs += 1
            tally.count("aborted", "internal")
            context.report("bug", facts(error=fields["error"], at="segment"))
        else:
            how = _RESET_BY[str(fields["by"])] if event == "reset" else "closed"
            tally.count("closed", how.replace(" ", "_"))
            context.report("closed", facts(how=how))
        if event in {"closed", "reset", "aborted"}:
            self._add_to(key, tally.moved)

    def _on_keys(self, key: Key, record: _Record) -> None:
        flow = self._flow(key)
        established = None if flow is None else flow.established
        if flow is None or established is None:
            return
        if not established.resumed:
            self._context.keep_keys_ready()
        if established.peer_identity is not None:
            record.proof = PeerProof.unpack(established.peer_identity)
        start = "resumed" if established.resumed else "fresh"
        self._context.tally.count(start)
        self._set_up(record, start)
        self._context.report("enabled", Facts(lambda: self._describe(key, record)))

    def _set_up(self, record: _Record, start: str) -> None:
        setup = self._context.tally.setups[record.direction.value, start]
        setup.add(time.monotonic() - record.began)

    def _on_proved(self, key: Key, record: _Record) -> None:
        context, flow = self._context, self._flow(key)
        established = None if flow is None else flow.established
        if established is None or established.peer_identity is None:
            return
        record.proof = PeerProof.unpack(established.peer_identity)
        learned = None
        if record.terms is not None:
            learned = context.authentication.learn(record.terms, record.proof)
        if learned is not None and learned.news in TOLD:
            facts = {"fingerprint": learned.key or "none", "scope": learned.scope}
            if learned.known:
                facts["known"] = ",".join(learned.known)
            context.report(TOLD[learned.news], {"id": record.number, **facts})

    # --- what there is to tell ---------------------------------------------------------------

    @property
    def count(self) -> int:
        """Live connections that are encrypted, or may become so."""
        return sum(flow.state != "plain" for _key, flow, _record in self._live())

    @property
    def live(self) -> int:
        """Live connections, plain ones among them."""
        return sum(1 for _ in self._live())

    def sessions(self) -> list[dict[str, object]]:
        """One entry a live connection, as `Connection.entry` of the relay has it."""
        return [self._entry(key, flow, record) for key, flow, record in self._live()]

    def find(self, local: Endpoint, remote: Endpoint) -> dict[str, object] | None:
        """The connection of the socket with these addresses, on either side."""
        try:
            one, other = (
                (ipaddress.ip_address(host).packed, port) for host, port in (local, remote)
            )
        except ValueError:
            return None
        for key in ((*one, *other), (*other, *one)):
            flow, record = self._flow(key), self._records.get(key)
            if flow is not None and record is not None and flow.state != "closed":
                return self._entry(key, flow, record)
        return None

    def flush(self, peer: bytes | None) -> int:
        """Forget secrets of a host, at whatever port, or all; how many."""
        if peer is None:
            return self._resumption.flush()
        names = {peer} | {peer + key[3].to_bytes(2, "big") for key in self._records}
        return sum(self._resumption.flush(name) for name in names)

    @property
    def cached(self) -> int:
        """Session secrets kept."""
        return len(self._resumption)

    def add_to(
        self,
        states: collections.Counter[tuple[str, str]],
        moved: collections.Counter[tuple[bool, str]],
    ) -> int:
        """Count live connections by state and direction, and what they moved; their rekeys."""
        rekeys = 0
        for key, flow, record in self._live():
            states[flow.state, record.direction.value] += 1
            self._add_to(key, moved)
            rekeys += flow.rekeys
        return rekeys

    def _live(self) -> Iterator[tuple[Key, Flow, _Record]]:
        if self._plane is None:
            return
        flows = self._plane.table.flows
        for key, record in self._records.items():
            flow = flows.get(key)
            if flow is not None and flow.state != "closed":
                yield key, flow, record

    def _flow(self, key: Key) -> Flow | None:
        return None if self._plane is None else self._plane.table.flows.get(key)

    def _forget(self) -> None:
        """Nothing is kept of connections that the engine has forgotten."""
        flows = {} if self._plane is None else self._plane.table.flows
        for key in [key for key in self._records if key not in flows]:
            del self._records[key]

    def _tell_exhausted(self, segments: int) -> None:
        reason = f"no memory to keep {segments} segments, which were dropped"
        self._context.report("exhausted", {"reason": reason, "plane": SEGMENT})

    def _describe(self, key: Key, record: _Record) -> dict[str, object]:
        flow = self._flow(key)
        facts: dict[str, object] = {"id": record.number, **_ends(key, record.direction)}
        facts["plane"] = SEGMENT
        established = None if flow is None else flow.established
        if flow is not None and established is not None:
            facts |= {
                "session": established.session_id.hex(),
                "tep": f"{established.tep:#04x}",
                "kex": key_exchange(established),
                "aead": f"{established.aead:#06x}",
                "role": established.role.name,
                "start": "resumed" if established.resumed else "fresh",
            }
        proof = record.proof
        if flow is not None and proof is not None and proof.key is not None:
            facts["fingerprint"] = fingerprint(proof.key)
            facts["proved"] = "yes" if flow.proved else "no"
            if proof.psk:
                facts["psk"] = proof.psk
            level = self._context.authentication.level(proof.key, record.scope)
            if level is not None:
                facts["trust"] = level
        return facts

    def _entry(self, key: Key, flow: Flow, record: _Record) -> dict[str, object]:
        policies = self._context.policies
        entry = {
            **self._describe(key, record),
            "state": flow.state,
            "policy": policies.index(record.policy) + 1 if record.policy in policies else None,
            "since": round(record.since, 3),
            "forwarded": record.forwarded,
            **self._moved(key),
        }
        if flow.established is not None:
            entry |= {"transcript": flow.transcript.hex(), "rekeys": flow.rekeys}
            entry = dict.fromkeys(("fingerprint", "trust", "psk")) | entry
            entry["proved"] = flow.proved
            entry |= {"profile": RFC8548.name, "lacks": list(RFC8548.lacks)}
        return entry

    def _moved(self, key: Key) -> Mapping[str, int]:
        flow = self._flow(key)
        if flow is None or flow.plain:
            return {}
        sent, received = flow.moved
        return {"sent": sent, "received": received}

    def _add_to(self, key: Key, moved: collections.Counter[tuple[bool, str]]) -> None:
        for name, octets in self._moved(key).items():
            moved[True, name] += octets


_address = functools.lru_cache(1024)(ipaddress.ip_address)


def _policy_flow(key: Key, direction: FlowDirection, *, forwarded: bool) -> PolicyFlow:
    local, remote = _address(key[0]), _address(key[2])
    return PolicyFlow(direction, local, key[1], remote, key[3], forwarded=forwarded)


def _ends(key: Key, direction: FlowDirection) -> dict[str, object]:
    inner, outer = (
        address_text((str(_address(address)), port)) for address, port in (key[:2], key[2:])
    )
    client, service = (inner, outer) if direction is FlowDirection.OUTGOING else (outer, inner)
    return {"direction": direction.value, "client": client, "service": service}


def _distrust(record: _Record, change: Change) -> str:
    """Why the peer is not believed any more; empty: it is, or there is nothing to believe."""
    if record.terms is None or record.proof is None:
        return ""
    try:
        record.terms.judge(record.proof)
    except AuthenticationError as error:
        return str(error)
    return "the pre-shared key has changed" if record.proof.psk in change.psks else ""
