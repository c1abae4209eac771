"""Static keys by IPv4 address: what TCP/S trusts on first use.

It is bounded, never overwritten, and lives as long as the process.  What it is
worth docs/tcps.md says: who has once seen a TI option can make that of any
later connection, and the addresses of hosts change.
"""

from __future__ import annotations

import enum
import hmac
from typing import Final

from tcpcrypt.crypto.groups import EphemeralKey
from tcpcrypt.errors import PeerError
from tcpcrypt.tcps.options import NO_TAG, Shown
from tcpcrypt.tcps.schedule import X25519, identity_tag

__all__ = ["HOSTS_MAX", "Judgement", "KnownHosts"]

HOSTS_MAX: Final = 16384
"""Addresses that are remembered; those that come after are unknown each time."""


class Judgement(enum.Enum):
    """What became of a TI option."""

    FIRST = "a key for an address that was not known"
    KNOWN = "the key that is known for the address"
    UNPROVED = "the key that is known for the address, shown by a host that does not know ours"
    FOREIGN = "another key than the one known for the address"
    FORGED = "the key that is known for the address, with a wrong tag"

    @property
    def good(self) -> bool:
        """Whether enforcement lets the connection go on."""
        return self not in {Judgement.FOREIGN, Judgement.FORGED}


class KnownHosts:
    """This host's static key, and those of others."""

    def __init__(self, own: EphemeralKey | None = None) -> None:
        self.own = own or X25519.generate()
        self._keys: dict[bytes, bytes] = {}
        self._shown_to: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, address: bytes) -> bytes | None:
        """The static key of the host at `address` (4 bytes)."""
        return self._keys.get(address)

    def shown(self, address: bytes) -> None:
        """A TI option has left for `address`: its host has our key, or may have."""
        if len(self._shown_to) < HOSTS_MAX:
            self._shown_to.add(address)

    def has_seen_us(self, address: bytes) -> bool:
        """Whether a TI option has left for `address`."""
        return address in self._shown_to

    def tag_for(
        self, address: bytes, client_isn: int, server_isn: int, *, is_client: bool
    ) -> bytes:
        """The tag of the own TI option; NO_TAG where the other host's key is not known."""
        key = self._keys.get(address)
        if key is None:
            return NO_TAG
        return identity_tag(self.own, key, client_isn, server_isn, is_client=is_client)

    def judge(
        self, address: bytes, shown: Shown, client_isn: int, server_isn: int, *, is_client: bool
    ) -> Judgement:
        """Look at a TI option, and remember the key of a host that was not known.

        `is_client` tells the sender's part.  TCP/S takes the zero tag of a known
        host for an attack, and so fails with the second connection to each server;
        here the key alone decides then, since the tag proves nothing.
        """
        known = self._keys.get(address)
        try:
            expected = identity_tag(
                self.own, shown.public, client_isn, server_isn, is_client=is_client
            )
        except PeerError:
            return Judgement.FOREIGN  # no key: of small order
        if known is None:
            if len(self._keys) < HOSTS_MAX:
                self._keys[address] = shown.public
            return Judgement.FIRST
        if not hmac.compare_digest(known, shown.public):
            return Judgement.FOREIGN
        if shown.tag == NO_TAG:
            return Judgement.UNPROVED
        same = hmac.compare_digest(expected, shown.tag)
        return Judgement.KNOWN if same else Judgement.FORGED
