"""RFC 8548 section 3.5: session secrets kept for one more use each.

A session yields ss[i+1] beside its own keys.  Both hosts keep it.  The host
that opens the next connection spends it at once, whether the attempt succeeds
or not; the passive host spends it when it enables encryption, because a SYN
alone, which anybody may replay, must not move its chain.  To recognise an
opener that lost attempts, the passive host knows the identifiers of a few
indices ahead; when it accepts one of them all earlier ones are void.

Everything hangs on the role in the *original* session: original A sends the
first half of resume[i] and original B the second, whoever opens now.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from tcpcrypt import _fast
from tcpcrypt.core.config import Clock, Config
from tcpcrypt.core.events import Role
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import K_LEN, SUBOPTION_V

__all__ = ["Recognised", "ResumptionCache", "Ticket"]

_PROMISE_LIFETIME: Final = 30.0
"""Seconds for which a recognised secret is not offered by this host as well."""
_PROMISES_MAX: Final = 1024

_META = struct.Struct("!BHBQQ")
"""TEP, AEAD, role in the original session, index, chain; the peer's identity follows."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A session secret taken out of the cache for its one use."""

    tep: int
    aead: int
    """That of the original session (open point E5: resumption skips the choice)."""
    original_role: Role
    secret: SessionSecret
    peer_identity: bytes | None
    chain: int
    """Number of the chain of secrets; what comes of them keeps it."""
    successor_kept: bool
    """Whether ss[i+1] is in the cache already."""

    @property
    def own_identifier(self) -> bytes:
        """The half of resume[i] that this host sends."""
        return self.secret.resume_ids()[self.original_role]

    @property
    def peer_identifier(self) -> bytes:
        """The half of resume[i] that the peer sends."""
        return self.secret.resume_ids()[self.original_role.peer]


@dataclass(frozen=True, slots=True)
class Recognised:
    """A cached secret that a SYN asks for; still in the cache."""

    handle: int
    position: int
    """How many indices past the cached one."""
    own_identifier: bytes
    tep: int
    peer_identity: bytes | None


class ResumptionCache:
    """The cached secrets of a host, found by peer or by identifier."""

    def __init__(self, config: Config, *, clock: Clock = time.monotonic) -> None:
        self._window = config.resumption_window
        self._table = _fast.SessionCache(config.cache_capacity, config.cache_per_peer)
        self._promised: OrderedDict[int, float] = OrderedDict()
        """Records that a SYN asked for, and until when its handshake may take."""
        self._clock = clock
        self._next_chain = itertools.count(1)
        self._chains: OrderedDict[int, int] = OrderedDict()
        """The record in which each chain goes on."""
        self._chains_max = config.cache_capacity

    def __len__(self) -> int:
        return len(self._table)

    def store(
        self,
        peer: bytes,
        *,
        tep: int,
        aead: int,
        original_role: Role,
        secret: SessionSecret,
        peer_identity: bytes | None = None,
        chain: int | None = None,
    ) -> int:
        """Keep ss[i], consuming it; returns the number of its chain, for `drop`.

        `chain` is that of the session it comes of; None begins a new one.
        """
        if chain is None:
            chain = next(self._next_chain)
        identifiers = tuple(
            _key(tep, step.resume_ids()[original_role.peer]) for step in _walk(secret, self._window)
        )
        meta = _META.pack(tep, aead, original_role, secret.index, chain)
        with secret.take() as ss:
            handle = self._table.insert(peer, identifiers, ss.view(), meta + (peer_identity or b""))
        self._chains[chain] = handle
        self._chains.move_to_end(chain)
        if len(self._chains) > self._chains_max:
            self._chains.popitem(last=False)
        return chain

    def offer(self, peer: bytes, teps: tuple[int, ...], *, keep: bool = True) -> Ticket | None:
        """Active open: spend the lowest unused index with `peer`, if there is one.

        RFC 8548 section 3.5: the lowest i not yet used, successfully or not.
        None also while a SYN of the peer waits to resume the same session: its
        handshake and this one would spend the same secret.  `keep` False: the
        next index is not kept, so that this is the chain's last use.
        """
        handle = self._table.newest(peer)
        if handle is None or self._promised.get(handle, 0.0) > self._clock():
            return None
        ticket = self._read(handle, 0)
        if ticket is None or ticket.tep not in teps:
            return None
        self._table.remove(handle)
        if keep:
            self.store(
                peer,
                tep=ticket.tep,
                aead=ticket.aead,
                original_role=ticket.original_role,
                secret=ticket.secret.peek_next(),
                peer_identity=ticket.peer_identity,
                chain=ticket.chain,
            )
        return replace(ticket, successor_kept=keep)

    def recognise(self, tep: int, identifier: bytes) -> Recognised | None:
        """Passive open: the cached secret that `identifier` names; it stays cached."""
        found = self._table.lookup(_key(tep, identifier))
        if found is None:
            return None
        handle, position = found
        if self._promised.get(handle, 0.0) > self._clock():
            # Another handshake is about to spend a secret of this chain, which
            # voids the rest of the record; this one goes to a fresh exchange.
            return None
        ticket = self._read(handle, position)
        if ticket is None:
            return None
        own = ticket.own_identifier
        ticket.secret.wipe()
        self._promised[handle] = self._clock() + _PROMISE_LIFETIME
        self._promised.move_to_end(handle)
        if len(self._promised) > _PROMISES_MAX:
            self._promised.popitem(last=False)
        return Recognised(handle, position, own, tep, ticket.peer_identity)

    def commit(self, recognised: Recognised) -> Ticket | None:
        """Passive open: spend the secret, because encryption is now enabled.

        None if it was spent meanwhile: RFC 8548 section 3.5 lets ss[i] secure
        one connection only, so this one cannot go on.
        """
        self._promised.pop(recognised.handle, None)
        ticket = self._read(recognised.handle, recognised.position)
        if ticket is not None:
            self._table.remove(recognised.handle)
        return ticket

    def release(self, recognised: Recognised) -> None:
        """Passive open: the handshake that asked for the secret did not spend it."""
        self._promised.pop(recognised.handle, None)

    def drop(self, chain: int) -> bool:
        """Forget what is left of a chain; True if there was something."""
        handle = self._chains.pop(chain, None)
        return handle is not None and self._table.remove(handle)

    def flush(self, peer: bytes | None = None) -> int:
        """Forget the secrets of one peer, or all; returns how many."""
        return self._table.clear() if peer is None else self._table.remove_peer(peer)

    def _read(self, handle: int, position: int) -> Ticket | None:
        buffer = bytearray(K_LEN)
        record = self._table.read(handle, buffer)
        if record is None:
            return None
        ss = Secret(buffer)
        buffer[:] = bytes(K_LEN)
        _peer, _identifiers, meta = record
        tep, aead, role, index, chain = _META.unpack_from(meta)
        secret = SessionSecret(ss, index)
        for _ in range(position):
            following = secret.peek_next()
            secret.wipe()
            secret = following
        identity = meta[_META.size :] or None
        return Ticket(tep, aead, Role(role), secret, identity, chain, False)


def _key(tep: int, identifier: bytes) -> bytes:
    """The cache's key: the first ten bytes of the suboption as on the wire."""
    return bytes((tep | SUBOPTION_V,)) + identifier


def _walk(secret: SessionSecret, steps: int) -> Iterator[SessionSecret]:
    """ss[i], ss[i+1], ...; all but the first are wiped once looked at."""
    yield secret
    current = secret
    for _ in range(steps - 1):
        following = current.peek_next()
        if current is not secret:
            current.wipe()
        yield following
        current = following
    if current is not secret:
        current.wipe()
