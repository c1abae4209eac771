"""How connections come to show and to ask for an identity, and what becomes of proofs.

The decisions are those of `tcpcrypt.auth.trust`; here they meet policies,
connections and the cache of sessions.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.known_peers import KnownPeers
from tcpcrypt.auth.learned import Learned, News
from tcpcrypt.auth.psk import changed_psks
from tcpcrypt.auth.scope import INCOMING, outgoing_scope
from tcpcrypt.auth.tep import AuthenticatedTep
from tcpcrypt.auth.terms import VERSION_HYBRID, PeerProof
from tcpcrypt.auth.trust import Trust, TrustTerms
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Established
from tcpcrypt.core.policy import FlowDirection, Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import Tep

__all__ = ["Authentication", "Change", "Remember", "key_exchange", "needs_trust"]

Remember = Callable[[Learned], None]
"""Takes what is to be written down."""

_EXPERIMENTAL: Final = int(Tep.EXPERIMENTAL)
_KEY_EXCHANGES: Final = {
    int(Tep.ECDHE_CURVE25519): "X25519",
    int(Tep.ECDHE_CURVE448): "X448",
    int(Tep.ECDHE_P256): "P-256",
    int(Tep.ECDHE_P521): "P-521",
}


def key_exchange(established: Established) -> str:
    """By which key agreement the session, or the one that it continues, got its keys."""
    if established.peer_identity is None:
        return _KEY_EXCHANGES[established.tep]
    version = PeerProof.unpack(established.peer_identity).version
    return "X25519MLKEM768" if version == VERSION_HYBRID else "X25519"


def needs_trust(policy: Policy) -> bool:
    """Whether connections under `policy` are to be authenticated, or agree on hybrid keys."""
    return policy.mode is not Mode.NEVER and (policy.auth != "none" or policy.pq != "off")


class Authentication:
    """Whom a host trusts, for its connections.

    `trust` None: no policy asks for anything, and none is served that does.
    """

    def __init__(self, trust: Trust | None, remember: Remember = lambda _learned: None) -> None:
        self.trust = trust
        self._remember = remember

    @property
    def identity(self) -> str | None:
        """The fingerprint of this host; None: it shows none."""
        trust = self.trust
        return None if trust is None or trust.identity is None else trust.identity.fingerprint

    def scope(self, policy: Policy, direction: FlowDirection, address: bytes, port: int) -> str:
        """Under which name keys are known of such a connection."""
        if direction is FlowDirection.INCOMING or not needs_trust(policy):
            return INCOMING
        return outgoing_scope(ipaddress.ip_address(address), port)

    def insists(self, policy: Policy, direction: FlowDirection, scope: str) -> bool:
        """Whether a connection is refused that is not authenticated, whatever the mode says."""
        if not needs_trust(policy):
            return False
        return self._trusted().strict(
            policy.auth, policy.pq, direction, scope, require=policy.mode is Mode.REQUIRE
        )

    def configure(
        self, base: Config, policy: Policy, direction: FlowDirection, scope: str
    ) -> tuple[Config, TrustTerms | None]:
        """`base`, which has the demands of `policy`, and what one connection asks and shows.

        Raises `LocalError` for what this host does not have.
        """
        if not needs_trust(policy):
            return base, None
        terms = self._trusted().terms(
            policy.auth,
            policy.pq,
            direction,
            scope,
            psk=policy.psk,
            require=policy.mode is Mode.REQUIRE,
        )
        if terms is None:
            return base, None
        strict = self.insists(policy, direction, scope)
        return (
            replace(
                base,
                teps=(_EXPERIMENTAL,) if strict else (_EXPERIMENTAL, *base.teps),
                extensions={**base.extensions, _EXPERIMENTAL: AuthenticatedTep(terms)},
                require_encryption=strict or base.require_encryption,
            ),
            terms,
        )

    def known(self, scope: str) -> str:
        """The fingerprints known of a service, for a message."""
        trust = self.trust
        return "" if trust is None or scope == INCOMING else ",".join(trust.known.of_scope(scope))

    def level(self, key: bytes, scope: str) -> str | None:
        """How far a key is trusted there."""
        found = self._trusted().known.get(fingerprint(key), scope)
        return None if found is None else str(found.trust)

    def learn(self, terms: TrustTerms, proof: PeerProof) -> Learned | None:
        """Remember what a peer has proved, if there is anything new."""
        learned = terms.learn(proof)
        if learned is not None and learned.news in (News.FIRST, News.AGAIN):
            self._remember(learned)
        return learned

    def _trusted(self) -> Trust:
        if self.trust is None:
            raise LocalError("no identity and no known peers have been given to this process")
        return self.trust

    def replace(self, trust: Trust | None) -> Change:
        """Go by another state of trust; what is different now.

        The terms of live connections go by it, too.
        """
        before, self.trust = self.trust, trust
        if before is None or trust is None:
            return Change(everything=True)
        if trust.secrets_stay:
            trust.psks, trust.identity = before.psks, before.identity
        change = Change(
            everything=_public(before) != _public(trust),
            keys=_changed_keys(before.known, trust.known),
            psks=changed_psks(before.psks, trust.psks),
        )
        before.known, before.psks, before.identity = trust.known, trust.psks, trust.identity
        before.hybrid, before.enforce = trust.hybrid, trust.enforce
        self.trust = before
        return change


@dataclass(frozen=True, slots=True)
class Change:
    """What is different between two states of trust."""

    everything: bool = False
    """Nothing that was proved counts any more: this host itself is another."""
    keys: frozenset[str] = frozenset()
    """Fingerprints of which something else is known now."""
    psks: frozenset[str] = frozenset()
    """Names of pre-shared keys that there are no more, or that are others."""

    def concerns(self, packed: bytes) -> bool:
        """Whether a proof, as the core keeps it, is to be forgotten."""
        if self.everything:
            return True
        proof = PeerProof.unpack(packed)
        return proof.psk in self.psks or (
            proof.key is not None and fingerprint(proof.key) in self.keys
        )


def _public(trust: Trust) -> bytes | None:
    return None if trust.identity is None else trust.identity.public


def _changed_keys(before: KnownPeers, after: KnownPeers) -> frozenset[str]:
    """Times aside."""
    one, other = ({(p.key, p.scope, p.trust) for p in peers} for peers in (before, after))
    return frozenset(key for key, _scope, _trust in one ^ other)
