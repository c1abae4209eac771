"""Processes that write to a file of known peers, all at once."""

from __future__ import annotations

from pathlib import Path

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.known_peers_file import KnownPeersFile

NOW = 1_800_000_000


def write_many(path: Path, number: int, count: int) -> None:
    """Add `count` peers that no other `number` adds, one at a time."""
    file = KnownPeersFile(path)
    for at in range(count):
        _put(file, bytes([number, at]) * 16, f"10.0.{number}.{at}:1")


def write_endlessly(path: Path) -> None:
    """Until somebody ends it."""
    file = KnownPeersFile(path)
    for number in range(10**6):
        _put(file, number.to_bytes(32, "big"), f"10.0.0.{number % 250 + 1}:1")


def _put(file: KnownPeersFile, public: bytes, scope: str) -> None:
    peer = KnownPeer(fingerprint(public), scope, NOW, None, TrustLevel.PINNED)

    def change(known: KnownPeers) -> None:
        known.put(peer)

    file.update(change)
