"""Keys of peers that this host has come to know, and the text that they are kept as.

    tcpcrypt-known-peers-1
    tcpcrypt1:... 192.0.2.7:5432 2026-11-21T10:00:00Z 2026-11-21T12:00:00Z tofu
    tcpcrypt1:... * 2026-11-21T10:00:00Z - pinned
    end

A line has the whole fingerprint, the scope (`tcpcrypt.auth.scope`), when the
key was first and last seen there, and how far it is trusted.  The last line
is there so that a file of which a part is missing is never taken for one that
knows fewer peers.
"""

from __future__ import annotations

import enum
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

from tcpcrypt.auth.fingerprint import is_fingerprint
from tcpcrypt.auth.scope import INCOMING, check_scope
from tcpcrypt.errors import LocalError

__all__ = [
    "PEERS_MAX",
    "SIZE_MAX",
    "KnownPeer",
    "KnownPeers",
    "KnownPeersError",
    "TrustLevel",
    "read_time",
    "written_time",
]

PEERS_MAX: Final = 200_000
"""Lines of one file."""
SIZE_MAX: Final = 64 << 20
"""Bytes of one file."""
_HEADER: Final = "tcpcrypt-known-peers-1"
_END: Final = "end"
_NEVER: Final = "-"
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_COLUMNS: Final = 5
_TIME_MAX: Final = 253402300799
"""The last second of the year 9999."""
_NONE: Final[Mapping[str, KnownPeer]] = MappingProxyType({})


class TrustLevel(enum.StrEnum):
    """How a key came to be known."""

    TOFU = "tofu"
    """Taken at the first contact."""
    PSK = "psk"
    """Taken from a peer that had the pre-shared key."""
    PINNED = "pinned"
    """The administrator said so."""
    REVOKED = "revoked"
    """Refused everywhere, whatever else is known of it."""


class KnownPeersError(LocalError):
    """A file of known peers is not what it should be."""

    def __init__(self, source: str, line: int, message: str) -> None:
        super().__init__(f"{source}:{line}: {message}")
        self.source = source
        self.line = line


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """One key in one scope.  Raises `LocalError` for values that cannot be."""

    key: str
    """The whole fingerprint."""
    scope: str
    first: int
    """When it was first seen or entered, Unix time in seconds."""
    last: int | None
    """When it was last seen; None: never."""
    trust: TrustLevel

    def __post_init__(self) -> None:
        if not is_fingerprint(self.key):
            raise LocalError(f"{self.key!r} is not a whole fingerprint")
        check_scope(self.scope)
        for moment in (self.first, self.last):
            if moment is not None and not 0 <= moment <= _TIME_MAX:
                raise LocalError(f"{moment} is not a time")


class KnownPeers:
    """All known keys.  What is asked at each connection is a look into a dictionary."""

    def __init__(self) -> None:
        self._scopes: dict[str, dict[str, KnownPeer]] = {}
        self._revoked: dict[str, int] = {}
        """How many lines say so of a key."""
        self._count = 0
        self._learnt = [0, 0]
        """Outgoing, incoming: lines that no administrator has written."""
        self._levels: Counter[TrustLevel] = Counter()

    # --- asking --------------------------------------------------------------------

    def of_scope(self, scope: str) -> Mapping[str, KnownPeer]:
        """What is known there, by fingerprint."""
        return self._scopes.get(scope, _NONE)

    def get(self, key: str, scope: str) -> KnownPeer | None:
        """One line."""
        return self.of_scope(scope).get(key)

    def of_key(self, key: str) -> list[KnownPeer]:
        """All lines of a key.  Looks at every scope."""
        return [known[key] for known in self._scopes.values() if key in known]

    def is_revoked(self, key: str) -> bool:
        """Whether the key is refused, in every scope."""
        return key in self._revoked

    def learnt(self, scope: str) -> int:
        """How many keys were taken, not entered: of incoming or of outgoing scopes."""
        return self._learnt[scope == INCOMING]

    def count(self, level: TrustLevel) -> int:
        """How many lines there are with this trust."""
        return self._levels[level]

    def __iter__(self) -> Iterator[KnownPeer]:
        for scope in sorted(self._scopes):
            known = self._scopes[scope]
            yield from (known[key] for key in sorted(known))

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KnownPeers) and self._scopes == other._scopes

    __hash__ = None  # type: ignore[assignment]

    # --- changing ------------------------------------------------------------------

    def put(self, peer: KnownPeer) -> None:
        """Add a line, or replace that of the same key and scope.

        Raises `LocalError` if there is no room.
        """
        if self.get(peer.key, peer.scope) is None and self._count >= PEERS_MAX:
            raise LocalError(f"there are {PEERS_MAX} known peers already; forget some")
        self.remove(peer.key, peer.scope)
        self._scopes.setdefault(peer.scope, {})[peer.key] = peer
        self._account(peer, 1)

    def remove(self, key: str, scope: str) -> bool:
        """Forget one line; whether there was one."""
        known = self._scopes.get(scope, {})
        if key not in known:
            return False
        self._account(known.pop(key), -1)
        if not known:
            del self._scopes[scope]
        return True

    def copy(self) -> KnownPeers:
        """Another one that knows the same."""
        other = KnownPeers()
        other._scopes = {scope: dict(known) for scope, known in self._scopes.items()}
        other._revoked = dict(self._revoked)
        other._count, other._learnt = self._count, list(self._learnt)
        other._levels = self._levels.copy()
        return other

    def _account(self, peer: KnownPeer, sign: int) -> None:
        self._count += sign
        self._levels[peer.trust] += sign
        if peer.trust is TrustLevel.REVOKED:
            left = self._revoked.pop(peer.key, 0) + sign
            if left:
                self._revoked[peer.key] = left
        elif peer.trust is not TrustLevel.PINNED:
            self._learnt[peer.scope == INCOMING] += sign

    # --- the text --------------------------------------------------------------------

    def format(self) -> bytes:
        """The text of a file."""
        lines = [
            f"{peer.key} {peer.scope} {written_time(peer.first)} {written_time(peer.last)}"
            f" {peer.trust}\n"
            for peer in self
        ]
        return f"{_HEADER}\n{''.join(lines)}{_END}\n".encode()

    @classmethod
    def parse(cls, data: bytes, source: str) -> KnownPeers:
        """What a text says.  Raises `KnownPeersError`, for any bytes, with the line."""
        if len(data) > SIZE_MAX:
            raise KnownPeersError(source, 1, f"longer than {SIZE_MAX} bytes")
        try:
            lines = data.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            before = data.count(b"\n", 0, error.start)
            raise KnownPeersError(source, before + 1, "not ASCII") from None
        if lines[0] != _HEADER:
            message = f"the first line is not {_HEADER!r}: another format, or damaged"
            raise KnownPeersError(source, 1, message)
        if lines[-2:] != [_END, ""]:
            message = f"the last line is not {_END!r}: a part of the file is missing"
            raise KnownPeersError(source, len(lines) - (not lines[-1]), message)
        peers = cls()
        for number, line in enumerate(lines[1:-2], 2):
            try:
                peer = _read_line(line)
                if peers.get(peer.key, peer.scope) is not None:
                    raise LocalError(f"{peer.key} stands there twice for {peer.scope}")
                peers.put(peer)
            except LocalError as error:
                raise KnownPeersError(source, number, str(error)) from None
        return peers


def _read_line(line: str) -> KnownPeer:
    words = line.split(" ")
    if len(words) != _COLUMNS:
        raise LocalError(f"{len(words)} columns, not {_COLUMNS}")
    key, scope, first, last, trust = words
    try:
        level = TrustLevel(trust)
    except ValueError:
        raise LocalError(f"{trust!r} is none of {', '.join(TrustLevel)}") from None
    return KnownPeer(key, scope, read_time(first), _read_last(last), level)


def _read_last(text: str) -> int | None:
    return None if text == _NEVER else read_time(text)


def read_time(text: str) -> int:
    """A time as in the file.  Raises `LocalError` for what is none."""
    try:
        if _TIME.fullmatch(text):
            return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        pass
    raise LocalError(f"{text!r} is not a time such as 2026-11-21T10:00:00Z")


def written_time(moment: int | None) -> str:
    """Unix time, in seconds, as in the file."""
    if moment is None:
        return _NEVER
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
