"""What one connection goes by: settings, demands, and where its session is kept.

Decided from `peer=` and a directory of keys, by the rules of
`tcpcrypt.auth.trust`, as the daemon decides it from a policy that requires
encryption.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.scope import INCOMING, outgoing_scope, read_scope
from tcpcrypt.auth.tep import AuthenticatedTep
from tcpcrypt.auth.terms import PeerProof, Terms
from tcpcrypt.auth.trust import Auth, PostQuantum, Trust, TrustTerms
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.core.policy import FlowDirection
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.tep import PlainTep
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import Tep
from tcpcrypt.sockets.keys import KeyDirectory, Keys
from tcpcrypt.sockets.peer import Demand, PeerSpec
from tcpcrypt.sockets.preface import Usual

__all__ = [
    "HANDSHAKE_TIMEOUT",
    "Arrangement",
    "ConfirmedTep",
    "arrange",
    "authenticated",
    "service_scope",
]

HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds from the TCP connection to AES_MODE, whatever trickles in meanwhile."""
_SETTLED_MAX: Final = 256
_INIT_MAX: Final = 4096
"""Bytes of an Init message; the largest of ours, with ML-KEM, has about 1,400."""


@dataclass(frozen=True, slots=True)
class ConfirmedTep(PlainTep):
    """A TEP of RFC 8548 whose keys are confirmed before anything is said.

    Nobody proves who he is, but the first frame proves that both ends have the
    same keys, and hence saw the same options and Init messages.  A sends one at
    once, which the RFC allows; B waits for it.
    """

    first_frame_proves = True


_BASE: Final = Config(
    application_aware=True,
    require_encryption=True,
    handshake_timeout=HANDSHAKE_TIMEOUT,
    max_init_len=_INIT_MAX,
    # Within the stream there is one reading only of where offsets begin.
    tolerate_offset_origin=False,
    prove_at_once=True,
)
_UNAUTHENTICATED: Final = replace(
    _BASE,
    extensions={tep: ConfirmedTep(tep) for tep in map(int, _BASE.teps)},
    # The keys of a session that RFC 8548 section 3.5 resumes do not depend on the
    # options, so that an altered one could pass; those of TEP 0x20 do.
    resume=False,
    cache=False,
)
_UNAUTHENTICATED_USUAL: Final = Usual()
_AUTH: Final = {Demand.TOFU: Auth.TOFU, Demand.PIN: Auth.PINNED, Demand.PSK: Auth.PSK}
_EXPERIMENTAL: Final = int(Tep.EXPERIMENTAL)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What `Conversation` needs to know."""

    config: Config
    resumption: ResumptionCache | None
    name: bytes
    """Under which sessions with the other end are kept."""
    learn: Callable[[bytes], None]
    """Takes what the peer has proved (a packed `PeerProof`), before it counts.

    Raises `AuthenticationError`, and `LocalError` if it must be and cannot be
    remembered."""
    own_fingerprint: str = ""
    """What this host shows; empty: nothing."""
    usual: Usual = field(default_factory=Usual, compare=False)
    """What all connections of this `config` have in common."""


class _Pinned(KnownPeers):
    """The fingerprints of one `peer=`, and what is revoked for this user."""

    def __init__(self, pins: tuple[str, ...], scope: str, trust: Trust) -> None:
        super().__init__()
        self._trust = trust
        for pin in pins:
            self.put(KnownPeer(pin, scope, 0, None, TrustLevel.PINNED))

    def is_revoked(self, key: str) -> bool:
        return self._trust.known.is_revoked(key)


@functools.lru_cache(_SETTLED_MAX)
def service_scope(host: str, port: int) -> str:
    """The name under which the key of a service is known: as its address was given.

    Raises `LocalError` for what is neither an address nor a name, or no port.
    """
    try:
        return outgoing_scope(ipaddress.ip_address(host), port)
    except ValueError:
        return read_scope(f"{host}:{port}")


def authenticated(terms: Terms, *, timeout: float | None = None) -> Config:
    """Settings of a connection in which both ends prove what `terms` ask for.

    `timeout`: seconds for the handshake, where it is not to be `HANDSHAKE_TIMEOUT`.
    """
    return replace(
        _BASE,
        teps=(_EXPERIMENTAL,),
        extensions={_EXPERIMENTAL: AuthenticatedTep(terms)},
        handshake_timeout=_BASE.handshake_timeout if timeout is None else timeout,
    )


def arrange(spec: PeerSpec, role: Role, name: str, keys: Keys = None) -> Arrangement:
    """What a connection goes by.

    `name`: as A the scope of the service (`tcpcrypt.auth.scope`), under which
    its key is known; as B the address of whoever connected, under which
    sessions alone are kept.  Raises `LocalError` for keys that are not there or
    not safe to use.
    """
    cached_as = name.encode()
    if spec.demand is Demand.UNAUTHENTICATED:
        return Arrangement(
            _UNAUTHENTICATED, None, cached_as, _nothing_to_learn, usual=_UNAUTHENTICATED_USUAL
        )
    directory = KeyDirectory.at(keys)
    trust = directory.trust()
    scope = name if role is Role.A else INCOMING
    config, terms, usual = _settled(directory, trust, spec, role, scope)

    def learn(packed: bytes) -> None:
        if spec.demand is not Demand.PIN:
            insist = spec.demand is Demand.TOFU and role is Role.A
            directory.learn(terms, PeerProof.unpack(packed), insist=insist)

    return Arrangement(
        config,
        directory.outgoing if role is Role.A else directory.incoming,
        cached_as,
        learn,
        "" if trust.identity is None else trust.identity.fingerprint,
        usual,
    )


def _settled(
    directory: KeyDirectory, trust: Trust, spec: PeerSpec, role: Role, scope: str
) -> tuple[Config, TrustTerms, Usual]:
    """Made once for as long as the own keys are the same; all else is asked of trust anew."""
    key = spec, role, scope
    # Looked at first: another thread may meet new ones meanwhile, and then it is made again.
    identity, psks = trust.identity, trust.psks
    found = directory.settled.get(key)
    if found is not None and found[0] is identity and found[1] is psks:
        return found[2:]
    terms = _terms(trust, spec, role, scope)
    config = authenticated(terms)
    if len(directory.settled) >= _SETTLED_MAX:
        directory.settled.clear()
    usual = Usual()
    directory.settled[key] = identity, psks, config, terms, usual
    return config, terms, usual


def _terms(trust: Trust, spec: PeerSpec, role: Role, scope: str) -> TrustTerms:
    """Raises `LocalError` for a pre-shared key that is not there."""
    direction = FlowDirection.OUTGOING if role is Role.A else FlowDirection.INCOMING
    asked = trust
    if spec.demand is Demand.PIN:
        known = _Pinned(spec.pins, scope, trust)
        asked = Trust(known, trust.psks, trust.identity, trust.hybrid)
    terms = asked.terms(
        _AUTH[spec.demand],
        # As B: what A prefers.
        spec.pq or (PostQuantum.OFF if role is Role.A else PostQuantum.PREFER),
        direction,
        scope,
        psk=spec.psk,
        require=True,
    )
    if terms is None:  # there are some where anything but `none` is asked
        raise LocalError(f"peer={spec}: no terms")
    return terms


def _nothing_to_learn(_packed: bytes) -> None:
    """Nobody has proved anything but his keys."""
