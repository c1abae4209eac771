"""The file of known peers: damaged, of another version, or written by somebody else."""

from __future__ import annotations

from collections.abc import Iterator

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, KnownPeersError, TrustLevel

MAX_LEN = 1000


def seeds() -> Iterator[bytes]:
    peers = KnownPeers()
    yield peers.format()
    for number, level in enumerate(TrustLevel):
        key = fingerprint(bytes(31) + bytes((number,)))
        last = None if level is TrustLevel.PINNED else 1_700_000_100
        peers.put(KnownPeer(key, f"192.0.2.{number}:5000", 1_700_000_000, last, level))
        yield peers.format()


def shown(error: KnownPeersError) -> None:
    assert str(error).isprintable(), "what a file says is shown as text"


def check(data: bytes) -> None:
    try:
        peers = KnownPeers.parse(data, "file")
    except KnownPeersError as error:
        shown(error)
        return
    assert KnownPeers.parse(peers.format(), "again") == peers
