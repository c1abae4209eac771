"""The keys of a TCP/S connection, and what it does with them.

Both hosts agree by X25519 on a shared secret, which is not hashed with
anything: neither the sequence numbers that its formula takes in, nor the hosts,
nor what they said have an effect on the keys.  So whoever sits in the middle of
the agreement has the connection.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcpcrypt.crypto.groups import GROUPS, EphemeralKey
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import Tep
from tcpcrypt.tcps.keystream import KeyStream
from tcpcrypt.tcps.tag import KEY_LEN as TAG_KEY_LEN
from tcpcrypt.tcps.tag import tag

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["PUBLIC_LEN", "X25519", "ConnectionKeys", "Direction", "derive", "identity_tag"]

X25519: Final = GROUPS[Tep.ECDHE_CURVE25519]
"""The group of ephemeral and static keys alike."""
PUBLIC_LEN: Final = X25519.public_key_len
_DERIVED_AT: Final = 1 << 63
_TAGS_AT: Final = 1 << 62
_IDENTITY_AT: Final = 3 << 62
_BLOCK: Final = 64
_IDENTITY_TAG_LEN: Final = 4


@dataclass(frozen=True, slots=True)
class Direction:
    """What one side of a connection sends with."""

    data: KeyStream
    tags: KeyStream

    def tag(self, position: int, flags: int, ciphertext: ReadableBuffer) -> bytes:
        """The tag of a segment; its key is a slice of a stream, at any byte of it."""
        return tag(self.tags.slice(_TAGS_AT + position, TAG_KEY_LEN), position, flags, ciphertext)

    def seal(self, position: int, flags: int, payload: ReadableBuffer) -> tuple[bytes, bytes]:
        """Ciphertext, as long as `payload`, and tag."""
        ciphertext = self.data.mixed(position, payload)
        return ciphertext, self.tag(position, flags, ciphertext)

    def open(
        self, position: int, flags: int, ciphertext: ReadableBuffer, stated: bytes
    ) -> bytes | None:
        """The plaintext; None if `stated` is not the tag."""
        if not hmac.compare_digest(self.tag(position, flags, ciphertext), stated):
            return None
        return self.data.mixed(position, ciphertext)

    def wipe(self) -> None:
        """Forget both keys.  Idempotent."""
        self.data.wipe()
        self.tags.wipe()


@dataclass(frozen=True, slots=True)
class ConnectionKeys:
    """Both directions: `c2s` is sent by whose SYN opened the connection."""

    c2s: Direction
    s2c: Direction

    def wipe(self) -> None:
        """Forget all keys.  Idempotent."""
        self.c2s.wipe()
        self.s2c.wipe()


def derive(shared: Secret, client_isn: int, server_isn: int) -> ConnectionKeys:
    """The keys from the shared secret (32 bytes) and the numbers of SYN and SYN-ACK.

    The numbers stand behind the bytes that become the key, and change nothing.
    """
    stream = KeyStream(Secret(shared.view()))

    def key(number: int, label: bytes) -> KeyStream:
        numbers = client_isn.to_bytes(4, "big") + server_isn.to_bytes(4, "big")
        block = label.ljust(32, b"\0") + numbers + bytes((number,))
        mixed = stream.mixed(_DERIVED_AT + (number - 1) * _BLOCK, block.ljust(_BLOCK, b"\0"))
        return KeyStream(Secret(mixed[:32]))

    enc_c2s, enc_s2c = key(1, b"TCPS enc_c2s"), key(2, b"TCPS enc_s2c")
    mac_c2s, mac_s2c = key(3, b"TCPS mac_c2s"), key(4, b"TCPS mac_s2c")
    stream.wipe()
    return ConnectionKeys(Direction(enc_c2s, mac_c2s), Direction(enc_s2c, mac_s2c))


def identity_tag(
    own: EphemeralKey, peer_static: bytes, client_isn: int, server_isn: int, *, is_client: bool
) -> bytes:
    """What a TI option says beside the static key, 4 bytes.

    Of what it is made of, the client's number alone is in those four; the rest of
    them is the same for two hosts for ever.  Raises `PeerError` for a key of
    small order.
    """
    with own.agree(peer_static) as shared:
        stream = KeyStream(shared)
        numbers = client_isn.to_bytes(4, "big") + server_isn.to_bytes(4, "big")
        said = numbers + b"TAUT" + bytes((is_client, 0, 0, 0))
        return stream.mixed(_IDENTITY_AT, said)[:_IDENTITY_TAG_LEN]
