"""RFC 8548 sections 3.3 and 3.5: how a session comes to be.

By a key exchange, or from what an earlier session left behind.  Either ends in
the keys of both streams (`Ready`); what is said under them is the business of
`tcpcrypt.core.session`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcpcrypt.core.config import Config, RandomBytes
from tcpcrypt.core.events import Established, Role
from tcpcrypt.core.exchange import Exchange, Outcome, Prepared
from tcpcrypt.core.key_log import KeyLine, KeyLog
from tcpcrypt.core.negotiation import Negotiated
from tcpcrypt.core.records import KeyRing, RecordReceiver, RecordSender
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.tep import tep_spec
from tcpcrypt.crypto.aead import aead as aead_parameters
from tcpcrypt.crypto.schedule import MasterKey, SessionSecret
from tcpcrypt.errors import LocalError, PeerError, PeerReason

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Beginning", "Ready"]


@dataclass(frozen=True, slots=True)
class Ready:
    """Both streams, with their keys, and what the session is."""

    ring: KeyRing
    sender: RecordSender
    receiver: RecordReceiver
    established: Established
    following: SessionSecret
    """ss[i+1], for `Beginning.keep`."""
    original_role: Role

    def wipe(self) -> None:
        """Forget all keys."""
        for part in (self.ring, self.sender, self.receiver, self.following):
            part.wipe()


class Beginning:
    """One session, until it has keys; then what keeps its successor.

    See `tcpcrypt.core.session.Session` for the arguments.
    """

    def __init__(
        self,
        config: Config,
        negotiated: Negotiated,
        *,
        resumption: ResumptionCache | None,
        peer: bytes,
        sent_before: int,
        received_before: int,
        prepared: Prepared | None,
        key_log: KeyLog | None,
        random: RandomBytes = os.urandom,
    ) -> None:
        self._config = config
        self._negotiated = negotiated
        self._tep = tep_spec(config, negotiated.tep)
        self._resumption = resumption
        self._peer_name = peer
        self._sent_before = sent_before
        self._received_before = received_before
        self._key_log = key_log
        self._chain: int | None = None
        """What the session may be resumed by, in the cache."""
        self._successor_kept = False
        self._expires: float | None = None
        self.exchange: Exchange | None = None
        """None: the session is resumed."""
        self.to_send = b""
        """Init1 or Init2, once there is one to be sent."""
        self.agreed: Outcome | None = None
        """What the exchange came to, until `derive`."""
        if not negotiated.resuming:
            self.exchange = Exchange(config, negotiated, prepared=prepared, random=random)
            self.to_send = self.exchange.to_send

    def receive(self, data: ReadableBuffer) -> ReadableBuffer:
        """Take bytes of the peer's stream; returns what is left of them.

        Once the exchange is over, `agreed`, `derive` comes next.  Raises `PeerError`.
        """
        exchange = self.exchange
        if exchange is None:
            raise LocalError("a resumed session has no key exchange")
        queued = bool(exchange.to_send)
        rest = exchange.receive(data)
        if exchange.outcome is not None:
            self.agreed = exchange.outcome
            if not queued:
                self.to_send = exchange.to_send
        return rest

    def derive(self) -> Ready:
        """The keys of what was `agreed`."""
        outcome, self.agreed = self.agreed, None
        if outcome is None:
            raise LocalError("nothing is agreed, or its keys are there already")
        return self._derive(
            SessionSecret(outcome.prk, form=self._config.profile.resumption),
            b"",
            outcome.aead,
            outcome.peer_identity,
            original_role=self._negotiated.role,
            nonce_a=outcome.nonce_a,
        )

    def resume(self) -> Ready:
        """RFC 8548 section 3.5: no Init messages, frames start at offset 0.

        Raises `PeerError`.
        """
        negotiated = self._negotiated
        ticket = negotiated.ticket
        if ticket is None:
            raise PeerError(PeerReason.RESUMPTION_REPLAYED)
        try:
            # What was accepted when the SYN went out may have been revoked since, and
            # A sends before it sees a frame of the peer.
            if self._tep.first_frame_proves:
                self._tep.judge(ticket.peer_identity)
        except PeerError:
            ticket.secret.wipe()
            raise
        self._chain, self._successor_kept = ticket.chain, ticket.successor_kept
        self._expires = ticket.expires
        return self._derive(
            ticket.secret,
            self._tep.sn(negotiated.nonce_a, negotiated.nonce_b, negotiated.eno_transcript),
            ticket.aead,
            ticket.peer_identity,
            original_role=ticket.original_role,
        )

    def keep(self, ready: Ready) -> None:
        """Let the session be resumed by ss[i+1], where that is wanted; consumes it."""
        established, resumption = ready.established, self._resumption
        if resumption is not None and self._config.cache and not self._successor_kept:
            expires = self._expires
            if expires is None:
                expires = resumption.expiry(self._tep.resumption_lifetime)
            self._chain = resumption.store(
                self._peer_name,
                tep=established.tep,
                aead=established.aead,
                original_role=ready.original_role,
                secret=ready.following,
                peer_identity=established.peer_identity,
                chain=self._chain,
                expires=expires,
            )
        ready.following.wipe()

    def forget_successor(self) -> bool:
        """Let the session not be resumed (section 3.5); True if it could have been."""
        chain, self._chain = self._chain, None
        return chain is not None and self._resumption is not None and self._resumption.drop(chain)

    def abandon(self) -> None:
        """Forget the keys of the exchange, and what was not sent."""
        if self.exchange is not None:
            self.exchange.abandon()
        if self.agreed is not None:
            self.agreed.prk.wipe()
            self.agreed = None
        self.to_send = b""

    # --- inside --------------------------------------------------------------------

    def _derive(
        self,
        secret: SessionSecret,
        sn: bytes,
        aead_id: int,
        peer_identity: bytes | None,
        *,
        original_role: Role,
        nonce_a: bytes = b"",
    ) -> Ready:
        """Everything from ss[i] (section 3.3)."""
        config, negotiated = self._config, self._negotiated
        aead = aead_parameters(aead_id)
        session_id, master, following = self._use(secret, sn, aead_id, original_role, nonce_a)
        ring = KeyRing(master, aead, original_role)
        sent, received = self._offsets()
        other = received
        if config.tolerate_offset_origin:
            other = 0 if config.profile.offset_counts_init else self._after_init()[1]
        return Ready(
            ring,
            RecordSender(config, ring, aead, offset=sent),
            RecordReceiver(config, ring, aead, offset=received, other_offset=other),
            Established(
                session_id=session_id,
                tep=negotiated.tep,
                aead=aead_id,
                role=negotiated.role,
                resumed=negotiated.resuming,
                peer_application_aware=negotiated.peer_application_aware,
                peer_identity=peer_identity,
            ),
            following,
            original_role,
        )

    def _use(
        self, secret: SessionSecret, sn: bytes, aead_id: int, original_role: Role, nonce_a: bytes
    ) -> tuple[bytes, MasterKey, SessionSecret]:
        """The one use of ss[i]; a key log is told of it."""
        negotiated = self._negotiated
        if self._key_log is None:
            return secret.use(negotiated.tep_byte, sn)
        opener = original_role if negotiated.role is Role.A else original_role.peer
        match = nonce_a or secret.resume_ids()[opener]
        with secret.copy() as ss:
            used = secret.use(negotiated.tep_byte, sn)
            self._key_log(KeyLine(match, used[0], ss, sn, aead_id, opener))
        return used

    def _offsets(self) -> tuple[int, int]:
        """Where the frames of this host and of the peer begin, as the profile counts."""
        return self._after_init() if self._config.profile.offset_counts_init else (0, 0)

    def _after_init(self) -> tuple[int, int]:
        """Bytes of each stream before its first frame."""
        exchange = self.exchange
        own_init = exchange.sent_len if exchange is not None else 0
        peer_init = exchange.received_len if exchange is not None else 0
        return self._sent_before + own_init, self._received_before + peer_init
