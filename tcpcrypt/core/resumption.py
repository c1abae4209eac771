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
import math
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tcpcrypt import _fast
from tcpcrypt.core.config import Clock, Config
from tcpcrypt.core.events import Role
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import K_LEN, SUBOPTION_V
from tcpcrypt.wire.profile import ResumptionForm

__all__ = ["Recognised", "ResumptionCache", "Ticket"]

_HOLD_LIFETIME: Final = 30.0
"""Seconds for which a chain waits for a handshake of which nothing more is heard."""
_HOLDS_MAX: Final = 1024

_SWEEP_INTERVAL: Final = 600.0
"""Seconds between two searches for what is past its lifetime."""

_META = struct.Struct("!BHBBQQd")
"""TEP, AEAD, role in the original session, form of resumption, index, chain, end of
its lifetime by the clock; the peer's identity follows."""


@dataclass(slots=True)
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
    expires: float = math.inf
    """When the chain ends, by the clock of the cache."""
    successor_kept: bool = False
    """Whether ss[i+1] is in the cache already."""
    peer: bytes = b""
    """The name under which it was kept."""
    peer_identifier: bytes = b""
    """The half of resume[i] that the peer sends."""
    handle: int = 0
    """The record of ss[i+1], held for the handshake that offers ss[i]; 0: none."""

    @property
    def own_identifier(self) -> bytes:
        """The half of resume[i] that this host sends."""
        return self.secret.resume_ids()[self.original_role]

    @property
    def form(self) -> ResumptionForm:
        """How it is named on the wire."""
        return self.secret.form


@dataclass(frozen=True, slots=True)
class Recognised:
    """A cached secret that a SYN asks for; still in the cache, and held."""

    handle: int
    position: int
    """How many indices past the cached one."""
    own_identifier: bytes
    tep: int
    peer_identity: bytes | None
    form: ResumptionForm = ResumptionForm.RESUME_IDENTIFIER
    original_role: Role = Role.B


@dataclass(frozen=True, slots=True)
class _Hold:
    """A record that waits for the handshake which is about to spend its chain."""

    until: float
    peer: bytes
    position: int = 0
    ticket: Ticket | None = None
    """Passive open: what was recognised.  It outlives its record, which newer ones
    can push out of the table: the SYN-ACK has promised the secret."""

    def wipe(self) -> None:
        if self.ticket is not None:
            self.ticket.secret.wipe()


class ResumptionCache:
    """The cached secrets of a host, found by peer or by identifier.

    Each session with a peer that was not resumed begins a chain of secrets, and
    one handshake at a time spends a secret of a chain: of two, the one that
    comes second to the peer could find its own void.  Handshakes that run in
    parallel take different chains, as RFC 8548 section 3.5 orders indices
    within one chain only, and where there are no more, fresh exchanges.
    """

    def __init__(self, config: Config, *, clock: Clock = time.monotonic) -> None:
        self._window = config.resumption_window
        self._table = _fast.SessionCache(config.cache_capacity, config.cache_per_peer)
        self._holds: OrderedDict[int, _Hold] = OrderedDict()
        """By record, the one that was taken first in front."""
        self._clock = clock
        self._next_chain = itertools.count(1)
        self._chains: OrderedDict[int, int] = OrderedDict()
        """The record in which each chain goes on."""
        self._chains_max = config.cache_capacity
        self._sweep_due = clock() + _SWEEP_INTERVAL

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
        expires: float = math.inf,
    ) -> int:
        """Keep ss[i], consuming it; returns the number of its chain, for `drop`.

        `chain` is that of the session it comes of; None begins a new one, which
        lives until `expires` (see `expiry`).
        """
        if chain is None:
            chain = next(self._next_chain)
        identifiers = secret.identifiers(
            self._window, original_role.peer, bytes((tep | SUBOPTION_V,))
        )
        form = secret.form
        meta = _META.pack(tep, aead, original_role, form, secret.index, chain, expires)
        with secret.take() as ss:
            handle = self._table.insert(peer, identifiers, ss.view(), meta + (peer_identity or b""))
        self._chains[chain] = handle
        self._chains.move_to_end(chain)
        if len(self._chains) > self._chains_max:
            self._chains.popitem(last=False)
        return chain

    def expiry(self, lifetime: float | None) -> float:
        """When a chain that begins now ends; None: it has no end."""
        return math.inf if lifetime is None else self._clock() + lifetime

    def keeps(self, peer: bytes) -> bool:
        """Whether anything is kept for `peer`, so that `offer` may find something."""
        return self._table.newest(peer) is not None

    def offer(
        self,
        peer: bytes,
        teps: tuple[int, ...],
        *,
        may_resume: Callable[[Ticket], bool] = lambda _ticket: True,
        keep: bool = True,
    ) -> Ticket | None:
        """Active open: spend the lowest unused index of a chain with `peer`, if there is one.

        RFC 8548 section 3.5: the lowest i not yet used, successfully or not.
        Of several chains the newest whose TEP is one of `teps` and that
        `may_resume` lets pass; it is held for this handshake until `release`.
        `keep` False: the next index is not kept, so that this is its last use.
        """
        self._expire()
        handle = self._table.newest(peer)
        while handle is not None:
            older = self._table.older(handle)
            ticket = self._read(handle, 0) if handle not in self._holds else None
            if ticket is not None:
                if ticket.tep in teps and may_resume(ticket):
                    return self._take(handle, ticket, keep=keep)
                ticket.secret.wipe()
            handle = older
        return None

    def _take(self, handle: int, ticket: Ticket, *, keep: bool) -> Ticket:
        self._spend(handle)
        if not keep:
            return ticket
        ticket.handle = self._keep_successor(ticket)
        self._hold(ticket.handle, _Hold(self._clock() + _HOLD_LIFETIME, ticket.peer))
        return ticket

    def knows(self, tep: int, identifier: bytes) -> bool:
        """Passive open: whether `identifier` names a cached secret; nothing is held."""
        return self._table.lookup(_key(tep, identifier)) is not None

    def recognise(self, tep: int, identifier: bytes) -> Recognised | None:
        """Passive open: the cached secret that `identifier` names; it stays cached.

        None also while another handshake is about to spend a secret of the same
        chain, which voids the rest of the record: there will be a fresh exchange.
        """
        self._expire()
        found = self._table.lookup(_key(tep, identifier))
        if found is None or found[0] in self._holds:
            return None
        handle, position = found
        ticket = self._read(handle, position)
        if ticket is None:
            return None
        until = self._clock() + _HOLD_LIFETIME
        self._hold(handle, _Hold(until, ticket.peer, position, ticket))
        return Recognised(
            handle,
            position,
            ticket.own_identifier,
            tep,
            ticket.peer_identity,
            ticket.form,
            ticket.original_role,
        )

    def commit(self, recognised: Recognised, *, keep: bool = True) -> Ticket | None:
        """Passive open: spend the secret, because encryption is now enabled.

        None if it was spent meanwhile: RFC 8548 section 3.5 lets ss[i] secure
        one connection only, so this one cannot go on.  ss[i+1] is kept at once
        (unless `keep` is False), because the peer may ask for it at once.
        """
        hold = self._holds.pop(recognised.handle, None)
        # After long the chain was given free, and may be held by another handshake.
        own = hold is not None and hold.position == recognised.position
        ticket = hold.ticket if hold is not None and own else None
        ticket = ticket or self._read(recognised.handle, recognised.position)
        if ticket is None:
            return None
        self._spend(recognised.handle)
        if keep:
            self._keep_successor(ticket)
        return ticket

    def release(self, held: Recognised | Ticket) -> None:
        """The handshake that held a chain is over, or spends nothing.  Idempotent."""
        hold = self._holds.pop(held.handle, None)
        if hold is not None:
            hold.wipe()

    def drop(self, chain: int) -> bool:
        """Forget what is left of a chain; True if there was something."""
        handle = self._chains.pop(chain, None)
        return handle is not None and self._spend(handle)

    def flush(self, peer: bytes | None = None) -> int:
        """Forget the secrets of one peer, or all; returns how many."""
        for handle, hold in list(self._holds.items()):
            if peer in {None, hold.peer}:
                hold.wipe()
                del self._holds[handle]
        return self._table.clear() if peer is None else self._table.remove_peer(peer)

    def flush_identity(self, matches: Callable[[bytes], bool]) -> int:
        """Forget the secrets of peers whose identity `matches`; returns how many.

        It is not asked about sessions of TEPs that tell nothing of the peer.
        What an active open has taken out already is not reached.
        """

        def unwanted(ticket: Ticket) -> bool:
            return ticket.peer_identity is not None and matches(ticket.peer_identity)

        dropped = self._drop_if(unwanted)
        for handle, hold in list(self._holds.items()):
            # What a SYN-ACK promised outlives its record.
            if hold.ticket is not None and unwanted(hold.ticket):
                hold.wipe()
                del self._holds[handle]
                dropped += 1
        return dropped

    def _drop_if(self, unwanted: Callable[[Ticket], bool]) -> int:
        dropped = 0
        for handle in self._table.handles():
            ticket = self._read(handle, 0, expired=True)
            if ticket is not None:
                ticket.secret.wipe()
                dropped += unwanted(ticket) and self._spend(handle)
        return dropped

    def _hold(self, handle: int, hold: _Hold) -> None:
        self._holds[handle] = hold
        if len(self._holds) > _HOLDS_MAX:
            self._holds.popitem(last=False)[1].wipe()

    def _expire(self) -> None:
        """Give free what was held for too long; all are held for the same time."""
        now = self._clock()
        while self._holds:
            handle, hold = next(iter(self._holds.items()))
            if hold.until > now:
                break
            hold.wipe()
            del self._holds[handle]
        if now >= self._sweep_due:
            self._sweep_due = now + _SWEEP_INTERVAL
            self._drop_if(lambda ticket: ticket.expires <= now)

    def _spend(self, handle: int) -> bool:
        """Take a record out, and whatever waits for it; True if it was there."""
        hold = self._holds.pop(handle, None)
        if hold is not None:
            hold.wipe()
        return self._table.remove(handle)

    def _keep_successor(self, ticket: Ticket) -> int:
        """Put ss[i+1] into the cache; returns its record."""
        self.store(
            ticket.peer,
            tep=ticket.tep,
            aead=ticket.aead,
            original_role=ticket.original_role,
            secret=ticket.secret.peek_next(),
            peer_identity=ticket.peer_identity,
            chain=ticket.chain,
            expires=ticket.expires,
        )
        ticket.successor_kept = True
        return self._chains[ticket.chain]

    def _read(self, handle: int, position: int, *, expired: bool = False) -> Ticket | None:
        """The ticket of a record; None if it is gone, or past its lifetime."""
        buffer = bytearray(K_LEN)
        record = self._table.read(handle, buffer)
        if record is None:
            return None
        ss = Secret(buffer)
        buffer[:] = bytes(K_LEN)
        peer, identifiers, meta = record
        tep, aead, role, form, index, chain, expires = _META.unpack_from(meta)
        secret = SessionSecret(ss, index, ResumptionForm(form))
        if expires <= self._clock() and not expired:
            secret.wipe()
            self._spend(handle)
            return None
        for _ in range(position):
            following = secret.peek_next()
            secret.wipe()
            secret = following
        return Ticket(
            tep,
            aead,
            Role(role),
            secret,
            meta[_META.size :] or None,
            chain,
            expires,
            peer=peer,
            peer_identifier=identifiers[position][1:],
        )


def _key(tep: int, identifier: bytes) -> bytes:
    """The cache's key: the first ten bytes of the suboption as on the wire."""
    return bytes((tep | SUBOPTION_V,)) + identifier
