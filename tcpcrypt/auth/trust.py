"""Whom to believe: what a policy shows and asks, and what is remembered of a proof.

Decisions alone: no file is read, nothing is sent.  For what opens connections
`strict` says whether anything but an authenticated exchange will do, `terms`
what that exchange shows and asks, and `learn`, once the peer has proved itself,
what is to be written down.

| auth   | outgoing                                   | incoming                         |
|--------|--------------------------------------------|----------------------------------|
| none   | any                                        | any                              |
| tofu   | known scope: its keys; otherwise any       | any                              |
| pinned | the keys that are pinned for the scope     | the keys that are pinned for `*` |
| psk    | any that has the key; a pinned one if any  | any that has the key             |

A revoked key is refused everywhere, and a scope that only revoked keys are
known for stays known: whoever comes there next is no first contact.  What was
learnt is only ever added to: no key replaces another by itself.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tcpcrypt.auth import notices
from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.learned import KNOWN_MAX, Learned, News, room
from tcpcrypt.auth.psk import Psk, PskStore
from tcpcrypt.auth.scope import INCOMING
from tcpcrypt.auth.terms import VERSION_HYBRID, VERSION_X25519, PeerProof
from tcpcrypt.core.policy import FlowDirection
from tcpcrypt.errors import AuthenticationError, IdentityChangedError, LocalError, PeerReason

__all__ = [
    "REFRESH",
    "Auth",
    "PostQuantum",
    "Trust",
    "TrustTerms",
]

REFRESH: Final = 3600
"""Seconds in which a key may be seen again without that being written down."""
_LEARNT: Final = (TrustLevel.TOFU, TrustLevel.PSK)


class Auth(enum.StrEnum):
    """How a peer proves who it is."""

    NONE = "none"
    TOFU = "tofu"
    PINNED = "pinned"
    PSK = "psk"


class PostQuantum(enum.StrEnum):
    """Whether keys are agreed on with the hybrid."""

    OFF = "off"
    PREFER = "prefer"
    REQUIRE = "require"


@dataclass(slots=True)
class Trust:
    """What this host knows and has; `known`, `psks` and `identity` may be replaced."""

    known: KnownPeers
    psks: PskStore
    identity: Identity | None
    """None: there is none, so no policy that authenticates can be served."""
    hybrid: bool
    """Whether X25519MLKEM768 is available here."""
    enforce: bool = True
    """False: a changed key that tofu has learnt is told of and not refused."""
    clock: Callable[[], float] = time.time
    secrets_stay: bool = False
    """`psks` and `identity` could not be read: those that were in force are to stay."""

    def strict(
        self, auth: str, pq: str, direction: FlowDirection, scope: str, *, require: bool = False
    ) -> bool:
        """Whether TEP 0x20 is to be offered alone, and encryption required.

        `require`: the policy's mode.  Raises `LocalError` for unknown words.
        """
        how = Auth(_word(Auth, auth))
        if how in (Auth.PINNED, Auth.PSK) or PostQuantum(_word(PostQuantum, pq)) == "require":
            return True
        if how is Auth.NONE:
            return False
        outgoing = direction is FlowDirection.OUTGOING
        return require or (outgoing and bool(self.known.of_scope(scope)))

    def terms(
        self,
        auth: str,
        pq: str,
        direction: FlowDirection,
        scope: str,
        *,
        psk: str = "",
        require: bool = False,
    ) -> TrustTerms | None:
        """What one connection shows and asks; None: no authenticated exchange at all.

        Raises `LocalError` for what this host does not have: an identity, the
        pre-shared key of that name, the hybrid where policy requires it.
        """
        how, quantum = Auth(_word(Auth, auth)), PostQuantum(_word(PostQuantum, pq))
        if how is Auth.NONE and quantum is PostQuantum.OFF:
            return None
        versions = self._versions(how, quantum)
        if not versions:
            return None
        if how is not Auth.NONE and self.identity is None:
            raise LocalError("this host has no identity yet; `tcpcrypt id new` makes one")
        shared = self.psks.by_name(psk) if how is Auth.PSK else None
        if how is Auth.PSK and shared is None:
            raise LocalError(f"there is no pre-shared key {psk!r}; `tcpcrypt psk new` makes one")
        return TrustTerms(
            self,
            how,
            versions=versions,
            direction=direction,
            scope=scope,
            psk=shared,
            require=require,
        )

    def _versions(self, auth: Auth, pq: PostQuantum) -> tuple[int, ...]:
        if pq is PostQuantum.REQUIRE and not self.hybrid:
            raise LocalError("policy requires post-quantum keys, and ML-KEM is not available here")
        if pq is PostQuantum.REQUIRE or auth is Auth.NONE:
            return (VERSION_HYBRID,) if self.hybrid else ()
        if pq is PostQuantum.PREFER and self.hybrid:
            return (VERSION_HYBRID, VERSION_X25519)
        return (VERSION_X25519,)


class TrustTerms:
    """`Terms` of one connection.  Trust is looked up anew at each question."""

    __slots__ = (
        "_auth",
        "_incoming",
        "_require",
        "_scope",
        "_trust",
        "identity",
        "psk",
        "versions",
    )

    def __init__(
        self,
        trust: Trust,
        auth: Auth,
        *,
        versions: tuple[int, ...],
        direction: FlowDirection,
        scope: str,
        psk: Psk | None = None,
        require: bool = False,
    ) -> None:
        self._trust = trust
        self._auth = auth
        self._incoming = direction is FlowDirection.INCOMING
        self._scope = INCOMING if self._incoming else scope
        self._require = require
        self.identity: Identity | None = None if auth is Auth.NONE else trust.identity
        self.versions = versions
        self.psk = psk

    def find_psk(self, hint: bytes) -> Psk | None:
        """The key that A's hint names.

        Where policy names one, that one alone.  Elsewhere any that this host
        has: a peer that offers a key asks for it.
        """
        if self.identity is None:
            return None
        found = self._trust.psks.by_hint(hint)
        return found if self.psk is None or _same(found, self.psk) else None

    # --- judging -------------------------------------------------------------------

    def judge(self, proof: PeerProof) -> None:
        """Accept a peer, or raise `AuthenticationError` or `IdentityChangedError`."""
        if proof.version not in self.versions:
            raise self._refusal(notices.VERSION, version=proof.version)
        key = None if proof.key is None else fingerprint(proof.key)
        if key is not None and self._trust.known.is_revoked(key):
            raise self._refusal(notices.REVOKED, shown=key)
        if self._auth is Auth.NONE:
            return
        if key is None:
            self._judge_no_key()
        elif self._auth is Auth.TOFU:
            self._judge_tofu(key)
        else:
            self._judge_strictly(key, proof)

    def _judge_no_key(self) -> None:
        known, tofu = self._outgoing_keys(), self._auth is Auth.TOFU
        if known and not (tofu and self._forgiven()):
            raise self._refusal(notices.MISSING, known=notices.listed(known))
        if not known and (self._require or not tofu):
            raise self._refusal(notices.NO_KEY)

    def _judge_tofu(self, key: str) -> None:
        known = self._outgoing_keys()
        if known and key not in known and not self._forgiven():
            raise self._changed(notices.CHANGED, key, known)

    def _judge_strictly(self, key: str, proof: PeerProof) -> None:
        """`pinned`, and `psk` with what is pinned beside it."""
        name = "" if self.psk is None else self.psk.name
        if self._auth is Auth.PSK and not (proof.psk == name and self._has_psk()):
            raise self._refusal(notices.NO_PSK, shown=key, psk=name)
        pinned = self._pinned()
        if key in pinned or (self._auth is Auth.PSK and (self._incoming or not pinned)):
            return
        if self._incoming:
            raise self._refusal(notices.NOT_PINNED_INCOMING, shown=key, count=len(pinned))
        if pinned:
            raise self._changed(notices.PIN_CHANGED, key, pinned)
        raise self._refusal(notices.NOT_PINNED, shown=key)

    def _has_psk(self) -> bool:
        """Whether this host still has the key that the connection began with."""
        psk = self.psk
        return psk is not None and _same(self._trust.psks.by_name(psk.name), psk)

    def _outgoing_keys(self) -> Mapping[str, KnownPeer]:
        """Those of the scope, if connections to it are strict for them."""
        return {} if self._incoming else self._trust.known.of_scope(self._scope)

    def _pinned(self) -> list[str]:
        known = self._trust.known.of_scope(self._scope)
        return [key for key, peer in known.items() if peer.trust is TrustLevel.PINNED]

    def _forgiven(self) -> bool:
        """Whether another key than the known ones is only told of."""
        known = self._trust.known.of_scope(self._scope).values()
        return not self._trust.enforce and all(peer.trust in _LEARNT for peer in known)

    def _refusal(self, text: str, **values: object) -> AuthenticationError:
        who = "a host" if self._incoming else self._scope
        return AuthenticationError(PeerReason.AUTHENTICATION, text.format(scope=who, **values))

    def _changed(self, text: str, key: str, known: Iterable[str]) -> IdentityChangedError:
        detail = text.format(scope=self._scope, shown=key, known=notices.listed(known))
        return IdentityChangedError(PeerReason.IDENTITY_CHANGED, detail)

    # --- learning --------------------------------------------------------------------

    def learn(self, proof: PeerProof) -> Learned | None:
        """What is to be remembered or told of a peer that has proved itself.

        What is to be remembered is known from now on.
        """
        if self._auth is Auth.NONE:
            return None
        trust, scope = self._trust, self._scope
        known = trust.known.of_scope(scope)
        level = TrustLevel.PSK if proof.psk else TrustLevel.TOFU
        others = () if self._incoming else tuple(known)[:KNOWN_MAX]
        if proof.key is None:
            return Learned(News.CHANGED, "", scope, level, others) if others else None
        key, now = fingerprint(proof.key), int(trust.clock())
        before = known.get(key)
        if before is not None:
            if before.last is not None and now - before.last < REFRESH:
                return None
            trust.known.put(KnownPeer(key, scope, before.first, now, before.trust))
            return Learned(News.AGAIN, key, scope, before.trust)
        if self._auth is Auth.PINNED:
            return None  # it was judged by what was known then
        if others:
            return Learned(News.CHANGED, key, scope, level, others)
        if not room(trust.known, scope):
            return Learned(News.FULL, key, scope, level)
        trust.known.put(KnownPeer(key, scope, now, now, level))
        return Learned(News.FIRST, key, scope, level)


def _same(found: Psk | None, psk: Psk) -> bool:
    return found is not None and found.name == psk.name and found.key == psk.key


def _word(words: type[enum.StrEnum], text: str) -> str:
    if text not in list(words):
        raise LocalError(f"{text!r} is none of {', '.join(words)}")
    return text
