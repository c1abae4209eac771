"""Known peers as a text that can be mailed, and what importing one would do.

    -----BEGIN TCPCRYPT PEERS-----
    192.0.2.7:5432 pinned
      tcpcrypt1:...
    -----END TCPCRYPT PEERS-----

Three words a peer, however the lines are broken, indented or quoted on the way.
What stands before and behind is not looked at, so a whole mail will do.

Nobody vouches for such a text: who imports it believes who has sent it.  It
adds and it raises trust; where it contradicts what is known, that is a
conflict, and nothing at all is imported unless the administrator insists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from tcpcrypt.auth.known_peers import (
    PEERS_MAX,
    KnownPeer,
    KnownPeers,
    KnownPeersError,
    TrustLevel,
)
from tcpcrypt.auth.scope import INCOMING
from tcpcrypt.errors import LocalError

__all__ = ["Conflict", "Introduction", "Plan", "plan", "read_text", "revoke", "written_text"]

_BEGIN: Final = "-----BEGIN TCPCRYPT PEERS-----"
_END: Final = "-----END TCPCRYPT PEERS-----"
_WORDS: Final = 3
_RANKS: Final = (TrustLevel.TOFU, TrustLevel.PSK, TrustLevel.PINNED)


@dataclass(frozen=True, slots=True)
class Introduction:
    """One peer of a text."""

    scope: str
    trust: TrustLevel
    key: str
    """The whole fingerprint."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """An introduction that contradicts what is known."""

    introduction: Introduction
    known: tuple[KnownPeer, ...]

    def __str__(self) -> str:
        new = self.introduction
        lines = [f"{new.scope}: the text says {new.trust} of  {new.key}"]
        lines += [f"  known is {peer.trust} for {peer.scope}  {peer.key}" for peer in self.known]
        return "\n".join(lines)


@dataclass(slots=True)
class Plan:
    """What importing would do."""

    added: list[Introduction] = field(default_factory=list)
    raised: list[Introduction] = field(default_factory=list)
    """Known, and trusted more, or revoked, from now on."""
    unchanged: list[Introduction] = field(default_factory=list)
    """Known already, and trusted as much or more."""
    conflicts: list[Conflict] = field(default_factory=list)

    def carry_out(self, known: KnownPeers, now: int) -> None:
        """Do it, conflicts included: then the text is right.  Raises `LocalError` for no room."""
        for conflict in self.conflicts:
            new = conflict.introduction
            if new.trust is not TrustLevel.REVOKED:
                for peer in conflict.known:
                    known.remove(peer.key, peer.scope)
        for new in (*self.added, *self.raised, *(one.introduction for one in self.conflicts)):
            if new.trust is TrustLevel.REVOKED:
                revoke(known, new.key, now, new.scope)
                continue
            before = known.get(new.key, new.scope)
            peer = before or KnownPeer(new.key, new.scope, now, None, new.trust)
            known.put(replace(peer, trust=new.trust))


def revoke(known: KnownPeers, key: str, now: int, scope: str = INCOMING) -> list[KnownPeer]:
    """Mark every line of a key; one of `scope` is added if there is none.  Returns the lines."""
    before = known.of_key(key) or [KnownPeer(key, scope, now, None, TrustLevel.REVOKED)]
    lines = [replace(peer, trust=TrustLevel.REVOKED) for peer in before]
    for line in lines:
        known.put(line)
    return lines


def plan(known: KnownPeers, introductions: Iterable[Introduction]) -> Plan:
    """What importing them would do.  Changes nothing."""
    made = Plan()
    by_key: dict[str, list[KnownPeer]] = {}
    for peer in known:
        by_key.setdefault(peer.key, []).append(peer)
    for new in dict.fromkeys(introductions):
        lines = by_key.get(new.key, [])
        if against := _against(known, lines, new):
            made.conflicts.append(Conflict(new, tuple(against)))
            continue
        if new.trust is TrustLevel.REVOKED:
            done = any(line.trust is TrustLevel.REVOKED for line in lines)
            (made.unchanged if done else made.raised if lines else made.added).append(new)
            continue
        before = known.get(new.key, new.scope)
        if before is None:
            made.added.append(new)
        elif _RANKS.index(before.trust) < _RANKS.index(new.trust):
            made.raised.append(new)
        else:
            made.unchanged.append(new)
    return made


def _against(known: KnownPeers, lines: list[KnownPeer], new: Introduction) -> list[KnownPeer]:
    """What contradicts, of the key's own `lines` or of its scope."""
    if new.trust is TrustLevel.REVOKED:
        return [line for line in lines if line.trust is TrustLevel.PINNED]
    if known.is_revoked(new.key):
        return [line for line in lines if line.trust is TrustLevel.REVOKED]
    there = known.of_scope(new.scope)
    if new.scope == INCOMING or new.key in there:
        return []
    return [line for line in there.values() if line.trust is not TrustLevel.REVOKED]


# --- the text ------------------------------------------------------------------------


def written_text(peers: Iterable[KnownPeer | Introduction]) -> str:
    """The text of these peers."""
    lines = [f"{peer.scope} {peer.trust}\n  {peer.key}\n" for peer in peers]
    return f"{_BEGIN}\n{''.join(lines)}{_END}\n"


def read_text(text: str, source: str) -> list[Introduction]:
    """The peers of a text.  Raises `KnownPeersError`, for any text, with the line."""
    words: list[tuple[int, str]] = []
    inside = ended = False
    number = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.lstrip("> \t").rstrip()
        if line == _BEGIN:
            if inside or ended:
                raise KnownPeersError(source, number, "the text begins twice")
            inside = True
        elif line == _END and inside:
            inside, ended = False, True
        elif inside:
            words += [(number, word) for word in line.split()]
            if len(words) > PEERS_MAX * _WORDS:
                raise KnownPeersError(source, number, f"more than {PEERS_MAX} peers")
    if not ended:
        missing = _END if inside else _BEGIN
        raise KnownPeersError(source, max(number, 1), f"there is no line {missing!r}")
    return [_read(words[at : at + _WORDS], source) for at in range(0, len(words), _WORDS)]


def _read(words: list[tuple[int, str]], source: str) -> Introduction:
    number = words[0][0]
    if len(words) != _WORDS:
        raise KnownPeersError(source, number, "not a scope, its trust and a fingerprint")
    scope, trust, key = (word for _number, word in words)
    try:
        level = TrustLevel(trust)
    except ValueError:
        message = f"{trust!r} is none of {', '.join(TrustLevel)}"
        raise KnownPeersError(source, number, message) from None
    try:
        peer = KnownPeer(key, scope, 0, None, level)
    except LocalError as error:
        raise KnownPeersError(source, number, str(error)) from None
    return Introduction(peer.scope, peer.trust, peer.key)
