"""A connection of an application, from its arrival at the daemon to its end.

Two kinds: `outgoing`, which an application here opened, and `incoming`, which
a peer opened.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.learned import News
from tcpcrypt.auth.scope import INCOMING
from tcpcrypt.auth.terms import PeerProof
from tcpcrypt.auth.trust import TrustTerms
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Established, PeerProved, Rekeyed
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation
from tcpcrypt.core.policy import FlowDirection, Policy
from tcpcrypt.core.session import Session
from tcpcrypt.crypto.aead import aead
from tcpcrypt.errors import AuthenticationError, LocalError, PeerReason
from tcpcrypt.registry import Tep
from tcpcrypt.runtime.authentication import Change, key_exchange
from tcpcrypt.runtime.context import Context
from tcpcrypt.runtime.eno_backend import SocketAddress
from tcpcrypt.runtime.facts import Facts
from tcpcrypt.runtime.relay import Ending, Relay
from tcpcrypt.runtime.tally import word
from tcpcrypt.wire.frame import sealed_size
from tcpcrypt.wire.profile import RFC8548

__all__ = ["TOLD", "Connection", "address_text", "close_with_reset", "peer_name"]

TOLD: Final = {
    News.FIRST: "first_contact",
    News.FULL: "not_remembered",
    News.CHANGED: "identity_changed",
}
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

Gone = Callable[["Connection"], None]


def peer_name(address: bytes, port: int) -> bytes:
    """The name under which sessions with a service are cached."""
    return address + port.to_bytes(2, "big")


class Connection(ABC):
    """What both kinds have in common.  `gone` is called once, at the end."""

    direction = ""

    def __init__(self, context: Context, gone: Gone) -> None:
        self.number = context.next_number()
        self.state = "connecting"
        self.since = time.time()
        self.began = time.monotonic()
        self.established: Established | None = None
        self.policy: Policy | None = None
        self.terms: TrustTerms | None = None
        self.proof: PeerProof | None = None
        """What the peer claims, and once `proved` has proved."""
        self.proved = False
        self._scope = INCOMING
        self._config: Config | None = None
        self._transcript = b""
        self._context = context
        self._gone = gone
        self._relay: Relay | None = None
        self._inner: socket.socket | None = None
        self._outer: socket.socket | None = None
        self._client: SocketAddress = ()
        self._service: SocketAddress = ()

    @abstractmethod
    def start(self) -> None:
        """Begin; whatever goes wrong ends the connection and is reported."""

    @abstractmethod
    def _want_inner(self) -> None:
        """Data can pass: give the relay the application's side."""

    def describe(self) -> dict[str, object]:
        """The facts for a log or a status file; no secrets."""
        facts: dict[str, object] = {
            "id": self.number,
            "direction": self.direction,
            "client": address_text(self._client),
            "service": address_text(self._service),
        }
        if self.established is not None:
            if self._config is not None and self._config.profile is not RFC8548:
                facts["profile"] = self._config.profile.name
            facts |= {
                "session": self.established.session_id.hex(),
                "tep": f"{self.established.tep:#04x}",
                "kex": key_exchange(self.established),
                "aead": f"{self.established.aead:#06x}",
                "role": self.established.role.name,
                "start": "resumed" if self.established.resumed else "fresh",
            }
        proof = self.proof
        if proof is not None and proof.key is not None:
            proved = "yes" if self.proved else "no"
            facts |= {"fingerprint": fingerprint(proof.key), "proved": proved}
            if proof.psk:
                facts["psk"] = proof.psk
            level = self._context.authentication.level(proof.key, self._scope)
            if level is not None:
                facts["trust"] = level
        return facts

    def traffic(self) -> dict[str, object]:
        """Application bytes so far, as seen from this host's application."""
        relay = self._relay
        return {"sent": relay.sent, "received": relay.received} if relay is not None else {}

    @property
    def frames(self) -> int:
        """Frames that this host has sealed for it; see `Relay.frames`."""
        return self._relay.frames if self._relay is not None else 0

    @property
    def rekeys(self) -> int:
        """Key changes of both directions."""
        return self._relay.rekeys if self._relay is not None else 0

    def add_to(self, moved: Counter[tuple[bool, str]]) -> None:
        """Add its bytes to `moved`, which is as `Tally.moved`."""
        relay, encrypted = self._relay, self.established is not None
        if relay is not None:
            moved[encrypted, "sent"] += relay.sent
            moved[encrypted, "received"] += relay.received

    def entry(self) -> dict[str, object]:
        """All there is to tell of it, for a list of connections; no secrets."""
        policies = self._context.policies
        facts = {
            **self.describe(),
            "state": self.state,
            "policy": policies.index(self.policy) + 1 if self.policy in policies else None,
            "since": round(self.since, 3),
            **self.traffic(),
        }
        if self.established is not None and self._relay is not None:
            facts |= {"transcript": self._transcript.hex(), "rekeys": self._relay.rekeys}
            # What there is not is null here, where programs look for it.
            facts = dict.fromkeys(("fingerprint", "trust", "psk")) | facts
            facts["proved"] = self.proved
            profile = self._config.profile if self._config is not None else RFC8548
            facts |= {"profile": profile.name, "lacks": list(profile.lacks)}
        return facts

    @property
    def ends(self) -> tuple[SocketAddress, SocketAddress]:
        """Host and port of the client and of the service, as the application here sees them."""
        return self._client[:2], self._service[:2]

    def owns(self, fd: int) -> bool:
        """Whether `fd` is one of its sockets."""
        mine = [sock.fileno() for sock in (self._inner, self._outer) if sock is not None]
        return fd in mine or (self._relay is not None and self._relay.owns(fd))

    def reconsider(self, change: Change) -> None:
        """Trust has changed: end it if its peer is not believed any more."""
        relay, terms, proof = self._relay, self.terms, self.proof
        if relay is None or terms is None or proof is None:
            return  # the exchange asks itself
        why = "the pre-shared key has changed"
        try:
            terms.judge(proof)
            if proof.psk not in change.psks:
                return
        except AuthenticationError as error:
            why = str(error)
        self._context.report("distrusted", {**self.describe(), "reason": why})
        relay.reset(Ending.DISTRUSTED)

    def reset(self) -> None:
        """End it now, by RST on both sides."""
        if self._relay is not None:
            self._relay.reset()
        else:
            self._give_up("stopped", "daemon ends")

    def _speak(self, negotiation: Negotiation, peer: bytes) -> bool:
        """The connection to the peer is up and negotiated: relay, or refuse (False)."""
        context, outcome, outer = self._context, negotiation.outcome, self._outer
        if outcome is None or outer is None or self._config is None:
            raise LocalError("negotiation is not over")
        session = None
        if self._refuses(outcome):
            reason, kind = "its key exchange proves nothing", word(PeerReason.AUTHENTICATION)
            if isinstance(outcome, Fallback):
                reason, kind = outcome.reason.value, word(outcome.reason)
            context.tally.count("refused", kind)
            known = context.authentication.known(self._scope)
            more = f"; remembered is {known}" if known and self.terms is not None else ""
            self._give_up("refused", reason + more)
            return False
        if isinstance(outcome, Fallback):
            self.state = "plain"
            context.tally.count("fallback", word(outcome.reason))
            context.report("fallback", {**self.describe(), "reason": outcome.reason.value})
        else:
            session = self._session(self._config, outcome, peer)
        # From here on it is the relay's, which watches it in our place.
        self._outer = None
        self._relay = Relay(
            context.loop,
            outer,
            session,
            ready=self._on_ready,
            ended=self._on_ended,
            releasing=context.backend.release,
            rekeyed=self._on_rekeyed,
            proved=self._on_proved,
            pump=context.pump,
            accepted=self.direction == FlowDirection.INCOMING.value,
        )
        self._relay.start()
        return True

    def _refuses(self, outcome: Negotiated | Fallback) -> bool:
        """Whether policy excludes what was negotiated.

        Asked again here: a host can have become known since its SYN went out.
        """
        policy, config = self.policy, self._config
        if isinstance(outcome, Negotiated) and outcome.tep == Tep.EXPERIMENTAL:
            return False
        if isinstance(outcome, Fallback) and config is not None and config.require_encryption:
            return True
        direction = FlowDirection(self.direction)
        trust = self._context.authentication
        return policy is not None and trust.insists(policy, direction, self._scope)

    def _session(self, config: Config, negotiated: Negotiated, peer: bytes) -> Session:
        self.state = "exchanging"
        self._transcript = negotiated.eno_transcript
        if not negotiated.resuming:
            self._context.keep_keys_ready()
        if config.profile.frame_per_segment and self._outer is not None:
            config = _for_segments(config, self._outer)
        context = self._context
        return Session(
            config,
            negotiated,
            resumption=context.resumption,
            peer=peer,
            key_log=context.key_log,
        )

    def _on_ready(self, established: Established | None) -> None:
        if established is not None:
            self.established = established
            self.state = "encrypted"
            if established.peer_identity is not None:
                self.proof = PeerProof.unpack(established.peer_identity)
                session = self._relay.session if self._relay is not None else None
                self.proved = session is not None and session.peer_proved
            self._context.tally.count("resumed" if established.resumed else "fresh")
            self._context.report("enabled", Facts(self.describe))
        start = "plain" if established is None else "resumed" if established.resumed else "fresh"
        setup = self._context.tally.setups[self.direction, start]
        setup.add(time.monotonic() - self.began)
        self._want_inner()

    def _on_proved(self, event: PeerProved) -> None:
        self.proved = True
        self.proof = PeerProof.unpack(event.peer_identity)
        terms, context = self.terms, self._context
        learned = None if terms is None else context.authentication.learn(terms, self.proof)
        if learned is not None and learned.news in TOLD:
            facts = {"fingerprint": learned.key or "none", "scope": learned.scope}
            if learned.known:
                facts["known"] = ",".join(learned.known)
            context.report(TOLD[learned.news], {"id": self.number, **facts})

    def _on_rekeyed(self, event: Rekeyed) -> None:
        facts = {"direction": event.direction.value, "generation": event.generation}
        self._context.report("rekeyed", {"id": self.number, **facts})

    def _attach(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None and self._relay is not None:
            # The one side of a connection is accepted, and the other opened.
            self._relay.attach(inner, accepted=self.direction == FlowDirection.OUTGOING.value)

    def _on_ended(self, ending: Ending, detail: str) -> None:
        try:
            self._account(ending, detail)
        finally:
            self._drop()

    def _account(self, ending: Ending, detail: str) -> None:
        tally, relay = self._context.tally, self._relay
        tally.frames += self.frames
        tally.rekeys += self.rekeys
        self.add_to(tally.moved)
        if ending in (Ending.ABORTED, Ending.REFUSED):
            event = "refused" if ending is Ending.REFUSED else "aborted"
            fault = relay.fault if relay is not None else None
            tally.count(event, "internal" if fault is None else word(fault))
            self._context.report(event, self._last_words(reason=detail))
        elif ending is Ending.RESET_BY_PEER and self.established is None and self.terms is not None:
            tally.count("failed", "reset_in_key_exchange")
            own = self._context.authentication.identity or "what this host offers"
            reason = f"reset by the peer in the key exchange; it may not accept {own}"
            self._context.report("failed", self._last_words(reason=reason))
        else:
            tally.count("closed", ending.name.lower())
            self._context.report("closed", Facts(lambda: self._last_words(how=ending.value)))

    def _last_words(self, **more: object) -> dict[str, object]:
        return {**self.describe(), **self.traffic(), **more}

    def _give_up(self, event: str, reason: str, kind: str = "") -> None:
        """End a connection of which one side at most is up; `kind` is the reason as a label."""
        try:
            if event == "failed":
                self._context.tally.count("failed", kind)
            self._context.report(event, {**self.describe(), "reason": reason})
        finally:
            if self._relay is not None:
                self._relay.reset()
            else:
                self._drop()

    def _drop(self) -> None:
        self.state = "closed"
        if self._outer is not None:
            self._context.backend.release(self._outer)
        for sock in (self._inner, self._outer):
            if sock is not None:
                self._context.loop.forget(sock.fileno())
                close_with_reset(sock)
        self._inner = self._outer = None
        self._gone(self)


def _for_segments(config: Config, sock: socket.socket) -> Config:
    """`config` with frames that fill the segments of a connection and do not pass them."""
    tag_len = max(aead(number).tag_len for number in config.aeads)
    room = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) - sealed_size(0, 1, tag_len)
    return replace(config, frame_data=max(1, min(config.frame_data, room)))


def close_with_reset(sock: socket.socket) -> None:
    """Close with RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


def address_text(address: SocketAddress) -> str:
    """`10.0.0.1:80`, `[2001:db8::1]:80`; `-` if it is not known."""
    if not address:
        return "-"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
