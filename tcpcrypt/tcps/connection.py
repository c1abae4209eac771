"""One TCP/S connection: what becomes of each of its segments.

The owner shows it every segment, in either direction, and sends on what comes
back.  It has no clock and no I/O.

Beyond what the wire asks for it keeps what it has sealed until that is
acknowledged.  The one-time key of a tag is the position of the segment, and
TCP may send other bytes or flags from the same position again; whoever has two
such tags comes nearer to forging a third.  So what is sent again from a
position is what was sent from it the first time.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

from tcpcrypt.crypto.groups import EphemeralKey
from tcpcrypt.errors import PeerError
from tcpcrypt.tcps.known_hosts import Judgement, KnownHosts
from tcpcrypt.tcps.options import (
    find_identity,
    find_key,
    find_tag,
    identity_region,
    syn_region,
    tagged_region,
    untagged_region,
)
from tcpcrypt.tcps.position import Position
from tcpcrypt.tcps.schedule import X25519, ConnectionKeys, derive
from tcpcrypt.tcps.states import TABLE, Action, Input, State
from tcpcrypt.wire.segment import Segment, TcpFlags

__all__ = ["Connection", "Fate", "Terms"]

_FROZEN_MAX: Final = 4096
"""Segments that are kept; the window, 64 KiB without scaling, bounds their bytes."""
_SHOWN_AGAIN_MAX: Final = 4
"""TI options that leave after the peer's has come.  TCP/S stops there at once."""
_MODULUS: Final = 1 << 32


class Fate(enum.Enum):
    """What becomes of a segment that is not changed."""

    PASS = "pass"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Terms:
    """What policy says about a connection."""

    require: bool = False
    """Encrypted or refused."""
    enforce: bool = False
    """A TI option that does not fit what is known ends the connection."""


class _Frozen(NamedTuple):
    flags: int
    ciphertext: bytes
    tag: bytes
    end: int
    """Position behind it, FIN included."""


class Connection:
    """A connection from the side of one of its hosts.

    `active`: this host opened it, by a SYN with the number `isn`.  `address` is
    that of the other host, 4 bytes.
    """

    def __init__(
        self, hosts: KnownHosts, address: bytes, isn: int, terms: Terms, *, active: bool
    ) -> None:
        self.state = State.START
        self.active = active
        self.isn = isn
        self.judgement: Judgement | None = None
        """What became of the other host's TI option."""
        self.rejected = 0
        """Segments of the peer that did not verify, or were not in their place."""
        self.sent = 0
        self.received = 0
        """Bytes of payload; what came again counts again."""
        self._hosts = hosts
        self._address = address
        self._terms = terms
        self._ephemeral: EphemeralKey | None = None
        self._public = b""
        self._peer_public = b""
        self._answer: int | None = None
        """The number of the SYN-ACK."""
        self._keys: ConnectionKeys | None = None
        self._out = self._in = Position(isn)
        self._told = 0
        """What this host's TCP acknowledged last."""
        self._fins = [False, False]
        self._frozen: dict[int, _Frozen] = {}
        self._first_contact = False
        self._owed = False
        self._shown_again = 0

    @classmethod
    def left_alone(cls, hosts: KnownHosts, address: bytes, isn: int, *, active: bool) -> Connection:
        """One that policy says nothing about, and whose packets come by all the same."""
        connection = cls(hosts, address, isn, Terms(), active=active)
        connection.state = State.PLAIN
        return connection

    @property
    def ended(self) -> bool:
        """Both streams are at their end, or the connection was given up."""
        return self.state in {State.CLOSED, State.REFUSED} or all(self._fins)

    @property
    def isn_behind(self) -> int:
        """What acknowledges the SYN."""
        return (self.isn + 1) % _MODULUS

    @property
    def answer(self) -> int | None:
        """The sequence number of the SYN-ACK, once it is known."""
        return self._answer

    def given_up(self) -> None:
        """This host's TCP sends nothing again any more: it has its answers, or has given up."""
        self._frozen.clear()
        if self.state is State.SYN_SENT:
            self.state = State.CLOSED

    def wipe(self) -> None:
        """Forget all keys.  Idempotent."""
        self._ephemeral = None
        if self._keys is not None:
            self._keys.wipe()

    def _step(self, seen: Input) -> Action:
        action, self.state = TABLE.get((self.state, seen), (Action.DROP, self.state))
        return action

    def _agree(self, answer: int) -> bool:
        """Derive the keys; False: the peer's is none."""
        own, self._ephemeral = self._ephemeral, None
        if own is None:
            return False
        try:
            with own.agree(self._peer_public) as shared:
                self._keys = derive(shared, self.isn, answer)
        except PeerError:
            return False
        return True

    # --- segments that leave -------------------------------------------------

    def send(self, segment: Segment) -> bytes | Fate:
        """What leaves in place of `segment`."""
        flags = segment.flags
        if flags.ack:
            self._told = segment.ack
        if flags.rst:
            seen = Input.SEND_RST
        elif flags.syn:
            seen = Input.SEND_SYN_ACK if flags.ack else Input.SEND_SYN
            if flags.ack is self.active:
                return Fate.DROP  # TCP answers what it opened: a simultaneous open, not served
            if flags.ack and self._answer is None:
                self._answer, self._out = segment.seq, Position(segment.seq)
        else:
            data = flags.fin or len(segment.payload)
            seen = Input.SEND_DATA if data else Input.SEND_ACK
        action = self._step(seen)
        if self.state is State.PLAIN:
            self._fins[0] |= flags.fin or flags.rst
            self._fins[1] |= flags.rst
        if action is Action.OFFER:
            return self._offer(segment)
        if action is Action.SEAL:
            return self._seal(segment)
        if action is Action.SHOW:
            return self._show(segment)
        return Fate.PASS if action is Action.PASS else Fate.DROP

    def _offer(self, segment: Segment) -> bytes | Fate:
        if not self._public:
            # Not before a SYN is answered: a flood of them costs little.
            self._ephemeral = X25519.generate()
            self._public = self._ephemeral.public
        # Data of a SYN would not be encrypted.  TCP sends them again.
        return segment.altered(syn_region(segment.options, self._public), b"")

    def _seal(self, segment: Segment) -> bytes | Fate:
        keys, position = self._keys, self._out.of(segment.seq)
        if keys is None or position < 0:
            return Fate.DROP
        frozen = self._frozen.get(position)
        if frozen is None:
            if len(self._frozen) >= _FROZEN_MAX:
                return Fate.DROP
            flags, payload = int(segment.flags), segment.payload
            mine = keys.c2s if self.active else keys.s2c
            end = position + len(payload) + segment.flags.fin
            frozen = _Frozen(flags, *mine.seal(position, flags, payload), end)
        region = tagged_region(segment.options, frozen.tag)
        if region is None:
            return Fate.DROP  # options that leave no room
        self._frozen[position] = frozen
        self._out.reached(frozen.end)
        self._fins[0] |= frozen.flags & TcpFlags.FIN != 0
        self.sent += len(frozen.ciphertext)
        return segment.altered(region, frozen.ciphertext, flags=frozen.flags)

    def _show(self, segment: Segment) -> bytes | Fate:
        if self._answer is None or not self._due():
            return Fate.PASS
        tag = self._hosts.tag_for(self._address, self.isn, self._answer, is_client=self.active)
        self._hosts.shown(self._address)
        return segment.with_options(identity_region(self._hosts.own.public, tag))

    def _due(self) -> bool:
        """Whether a TI option is to leave.

        TCP/S sends one with every such segment until the peer's has come, and then
        none, so that a server that speaks seldom never shows its own.  Here it is
        shown then, too.  A server that knows this host takes a TI option without a
        tag for an attack, and there is no tag before its key is known: at the second
        connection that is waited for.
        """
        if self.state is State.AUTHENTICATED:
            due = self._owed and self._shown_again < _SHOWN_AGAIN_MAX
            self._shown_again += due
            self._owed = False
            return due
        if self.active and self._hosts.key(self._address) is None:
            self._first_contact |= not self._hosts.has_seen_us(self._address)
            return self._first_contact
        return True

    # --- segments that arrive ------------------------------------------------

    def receive(self, segment: Segment) -> bytes | Fate:
        """What this host's TCP is given in place of `segment`."""
        seen = self._classify(segment)
        action = self._step(seen) if seen is not None else Action.DROP
        made: bytes | Fate = Fate.DROP
        if self.state is State.PLAIN:
            self._fins[1] |= segment.flags.fin
        match action:
            case Action.PASS | Action.TRUST | Action.AGREE:
                made = Fate.PASS
            case Action.OPEN:
                made = self._open(segment)
            case Action.NOTE:
                self._peer_public = find_key(segment.options) or b""
                # TCP/S encrypts none of it, and so nobody is meant to take it.
                made = segment.altered(segment.options, b"")
            case Action.REPEATED if self._is_repeated(segment):
                # Without a key it is not what was answered, and what it offers is decided.
                offered = segment.options if find_key(segment.options) else b""
                made = segment.altered(offered, b"")
            case Action.ABORT:
                flags = TcpFlags.RST | TcpFlags.ACK
                return segment.altered(b"", b"", flags=flags, seq=self._told)
        if made is Fate.DROP:
            self.rejected += 1
        elif self._keys is not None and segment.flags.ack:
            self._owed |= action is Action.TRUST
            # TCP looks at no acknowledgement of a segment that is out of its window,
            # and would send again what is forgotten.
            end = self._in.of(segment.seq) + len(segment.payload) + segment.flags.fin
            if end == self._in.end:
                self._forget_until(self._out.of(segment.ack))
        return made

    def _classify(self, segment: Segment) -> Input | None:
        """What the segment is; None: nothing that this connection could bring."""
        flags = segment.flags
        if flags.rst:
            return Input.RST
        if flags.syn:
            return self._classify_syn(segment)
        if self._keys is None and self.state is State.ENCRYPTED and not self._agree_late():
            return Input.KEY_BAD
        if flags.fin or len(segment.payload):
            return Input.DATA
        shown = find_identity(segment.options)
        if shown is None or self._answer is None or not self._is_next(segment):
            return Input.ACK
        judgement = self._hosts.judge(
            self._address, shown, self.isn, self._answer, is_client=not self.active
        )
        good = judgement.good or not self._terms.enforce
        if self.judgement is None or not good:
            self.judgement = judgement
        return Input.IDENTITY if good else Input.IDENTITY_BAD

    def _classify_syn(self, segment: Segment) -> Input | None:
        key, require = find_key(segment.options), self._terms.require
        if not segment.flags.ack:
            if segment.seq != self.isn:
                return None
            if key is not None:
                return Input.SYN
            return Input.SYN_BAD if require else Input.SYN_BARE
        if segment.ack != self.isn_behind:
            return None
        if self.state is not State.SYN_SENT:
            return Input.SYN_ACK
        if key is None:
            return Input.SYN_ACK_BAD if require else Input.SYN_ACK_BARE
        self._peer_public = key
        if not self._agree(segment.seq):
            return Input.SYN_ACK_BAD
        self._answer, self._in = segment.seq, Position(segment.seq)
        return Input.SYN_ACK

    def _agree_late(self) -> bool:
        """The opened host's keys, once somebody is known to be there."""
        return self._answer is not None and self._agree(self._answer)

    def _is_repeated(self, segment: Segment) -> bool:
        number = self._answer if self.active else self.isn
        key = find_key(segment.options)
        # TCP/S repeats a SYN-ACK without its key, and TCP has to acknowledge it again.
        known = key == self._peer_public or (self.active and key is None)
        return segment.flags.ack is self.active and segment.seq == number and known

    def _is_next(self, segment: Segment) -> bool:
        """Whether the segment is exactly where the peer is, and knows where this host is."""
        acknowledged = self._out.of(segment.ack)
        return (
            segment.flags.ack
            and self._in.of(segment.seq) == self._in.end
            and 0 <= acknowledged <= self._out.end
        )

    def _open(self, segment: Segment) -> bytes | Fate:
        keys, stated = self._keys, find_tag(segment.options)
        position = self._in.of(segment.seq)
        if keys is None or stated is None or position < 0:
            return Fate.DROP
        theirs = keys.s2c if self.active else keys.c2s
        data = theirs.open(position, int(segment.flags), segment.payload, stated)
        if data is None:
            return Fate.DROP
        self._in.reached(position + len(data) + segment.flags.fin)
        self._fins[1] |= segment.flags.fin
        self.received += len(data)
        return segment.altered(untagged_region(segment.options), data)

    def _forget_until(self, acknowledged: int) -> None:
        """What was sealed need not be kept once it cannot be sent again."""
        if acknowledged > self._out.end:
            return
        for position, frozen in tuple(self._frozen.items()):
            if frozen.end > acknowledged:
                break
            del self._frozen[position]
