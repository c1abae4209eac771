"""What a connection has taught of a peer's key: told by who proves, written by who may write.

What is learnt adds a key where none was known, or says that a known one was
seen again; it never replaces one and never changes how far one is trusted.
That holds for whoever writes, too, so that a daemon whose unprivileged part
somebody has taken over cannot unlearn what it had learnt before.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from tcpcrypt.auth.known_peers import PEERS_MAX, KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.scope import INCOMING
from tcpcrypt.errors import LocalError

__all__ = [
    "KNOWN_MAX",
    "LEARNT_INCOMING_MAX",
    "LEARNT_OUTGOING_MAX",
    "Learned",
    "News",
    "remember",
    "room",
]

LEARNT_INCOMING_MAX: Final = 4096
"""Keys that strangers can make this host remember."""
LEARNT_OUTGOING_MAX: Final = 65_536
"""Scopes that programs of this host can make it remember."""
KNOWN_MAX: Final = 8
"""Fingerprints of one scope that are told."""


class News(enum.StrEnum):
    """What there is to say of a key that was proved."""

    FIRST = "first"
    """First contact: to be remembered."""
    AGAIN = "again"
    """Known; when it was last seen is to be written down."""
    CHANGED = "changed"
    """Another key is known for the scope, which stays until the administrator decides."""
    FULL = "full"
    """First contact, and no room to remember it."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What is to be remembered, or told, of one proof."""

    news: News
    key: str
    """The fingerprint; empty: the peer showed no key where one is known."""
    scope: str
    trust: TrustLevel
    """TOFU or PSK where it is to be remembered; what it is, where it is."""
    known: tuple[str, ...] = ()
    """The fingerprints known before, where `news` is CHANGED."""

    def as_json(self) -> dict[str, Any]:
        """For another process."""
        return asdict(self) | {"known": list(self.known)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Learned:
        """The inverse of `as_json`.  Raises `LocalError` for anything else."""
        try:
            news, trust = News(value["news"]), TrustLevel(value["trust"])
            key, scope, known = value["key"], value["scope"], tuple(value["known"])
            learned = cls(news, key, scope, trust, known)
            missing = news is News.CHANGED and key == ""
            for text in known if missing else (key, *known):
                KnownPeer(text, scope, 0, None, trust)
            if len(value) != len(learned.as_json()) or len(known) > KNOWN_MAX:
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError, LocalError):
            raise LocalError("not what was learnt of a peer") from None
        return learned


def room(known: KnownPeers, scope: str) -> bool:
    """Whether one more key may be learnt there."""
    most = LEARNT_INCOMING_MAX if scope == INCOMING else LEARNT_OUTGOING_MAX
    return known.learnt(scope) < most and len(known) < PEERS_MAX


def remember(known: KnownPeers, learned: Iterable[Learned], now: int) -> list[Learned]:
    """Add to `known` what may be added; returns what was."""
    return [one for one in learned if _remember(known, one, now)]


def _remember(known: KnownPeers, learned: Learned, now: int) -> bool:
    key, scope = learned.key, learned.scope
    before = known.get(key, scope)
    if learned.news not in (News.FIRST, News.AGAIN):
        return False
    if before is not None:
        known.put(replace(before, last=max(now, before.last or 0)))
        return True
    first_contact = scope == INCOMING or not known.of_scope(scope)
    if (
        learned.news is News.AGAIN  # forgotten meanwhile
        or not first_contact
        or learned.trust not in (TrustLevel.TOFU, TrustLevel.PSK)
        or known.is_revoked(key)
        or not room(known, scope)
    ):
        return False
    known.put(KnownPeer(key, scope, now, now, learned.trust))
    return True
