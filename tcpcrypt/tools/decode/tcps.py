"""Captured connections of TCP/S (`tcpcrypt.tcps`): each segment has a tag of its own.

So each is opened when it comes, and what it held is put together afterwards.
What has no tag, or a wrong one, no host takes, and it is not given out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tcpcrypt.crypto.groups import EphemeralKey
from tcpcrypt.errors import PeerError
from tcpcrypt.tcps.options import NO_TAG, Shown, find_identity, find_key, find_tag
from tcpcrypt.tcps.position import Position
from tcpcrypt.tcps.schedule import ConnectionKeys, Direction, derive, identity_tag
from tcpcrypt.wire.segment import Segment

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["TcpsReader", "TcpsSecrets"]


@dataclass(slots=True)
class TcpsSecrets:
    """Private keys, by the public keys that a capture shows."""

    ephemeral: dict[bytes, EphemeralKey] = field(default_factory=dict)
    static: dict[bytes, EphemeralKey] = field(default_factory=dict)

    def reader(
        self, client: ReadableBuffer, server: ReadableBuffer, client_isn: int, server_isn: int
    ) -> TcpsReader | str:
        """Who reads the connection with these options and numbers of SYN and SYN-ACK.

        A text says why nobody does.  One of the two private keys is enough.
        """
        one, other = find_key(client), find_key(server)
        if one is None or other is None:
            return "its keys are malformed"
        own, theirs = self.ephemeral.get(one), other
        if own is None:
            own, theirs = self.ephemeral.get(other), one
        if own is None:
            return (
                f"no key: none of the {len(self.ephemeral)} private keys given is of this TCP/S"
                f" connection ({one.hex()}, {other.hex()})"
            )
        try:
            with own.agree(theirs) as shared:
                keys = derive(shared, client_isn, server_isn)
        except PeerError as error:
            return f"TCP/S: {error}"
        return TcpsReader(keys, client_isn, server_isn, tuple(self.static.values()))


@dataclass(slots=True)
class _Side:
    """What was found in one direction."""

    keys: Direction
    position: Position
    frames: int = 0
    wrong: int = 0
    clear: int = 0
    """Bytes without a tag."""
    forged: int = 0
    """TI options with a wrong tag."""


class TcpsReader:
    """Opens the segments of one connection."""

    def __init__(
        self,
        keys: ConnectionKeys,
        client_isn: int,
        server_isn: int,
        static: Sequence[EphemeralKey] = (),
    ) -> None:
        self._numbers = client_isn, server_isn
        self._static = static
        self._client = _Side(keys.c2s, Position(client_isn))
        self._server = _Side(keys.s2c, Position(server_isn))

    def read(self, segment: Segment, *, from_client: bool) -> tuple[bytes, bool]:
        """The plaintext of a segment without SYN, and whether its sender ends the stream."""
        side = self._client if from_client else self._server
        fin, payload = segment.flags.fin, segment.payload
        if not fin and not payload:
            shown = find_identity(segment.options)
            if shown is not None:
                side.forged += not self._fits(shown, from_client)
            return b"", False
        stated, position = find_tag(segment.options), side.position.of(segment.seq)
        if stated is None:
            side.clear += len(payload)
            return b"", False
        opened = None
        if position >= 0:
            opened = side.keys.open(position, int(segment.flags), payload, stated)
        if opened is None:
            side.wrong += 1
            return b"", False
        side.frames += 1
        side.position.reached(position + len(opened) + fin)
        return opened, fin

    def _fits(self, shown: Shown, from_client: bool) -> bool:
        """Whether a TI tag is that of the sender and of a host whose key is known.

        True where it cannot be told: without a tag, or the keys of both.
        """
        if shown.tag == NO_TAG:
            return True
        made = [
            identity_tag(own, shown.public, *self._numbers, is_client=from_client)
            for own in self._static
            if own.public != shown.public
        ]
        return not made or shown.tag in made

    def frames(self, *, from_client: bool) -> int:
        """Segments of one direction that verified; what came again counts again."""
        return (self._client if from_client else self._server).frames

    def authenticated(self, *, from_client: bool) -> bool | None:
        """Whether all of them did; None: there was no tag."""
        side = self._client if from_client else self._server
        if not side.frames and not side.wrong:
            return None
        return not side.wrong and not side.clear

    def faults(self, *, from_client: bool) -> list[str]:
        """What is wrong with one direction."""
        side = self._client if from_client else self._server
        found = []
        if side.wrong:
            found.append(f"the tags of {side.wrong} segments are wrong; no host takes them")
        if side.clear:
            found.append(
                f"{side.clear} bytes left in the clear, without a tag; no host that still"
                " encrypts takes them"
            )
        if side.forged:
            found.append(f"the tags of {side.forged} TI options are wrong")
        return found
