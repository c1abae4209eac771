"""RFC 8547 section 4.6 by diverting the handshake's packets through NFQUEUE.

Bulk data never comes here.  What is diverted (`tcpcrypt.runtime.diversion`) is told by
socket marks: a socket
to a peer carries MARK_HANDSHAKE from its creation until its negotiation is
finished, then MARK_DONE; a second later where the connection's own mark tells
that it is, as most connections do not last that long.  Outgoing packets have the
mark of their socket.
Incoming ones are known by the connection's mark, which the SYN gives it and
the last one that the negotiation needs to see takes back (MARK_DONE as the
verdict's mark), or else the first outgoing packet with MARK_DONE.  What a peer
opens is known by the option that it carries, and what follows by the connection's
mark (MARK_PASSED, which the SYN gives it), until that last one (then
MARK_MADE, and MARK_ACCEPTED with the next); it is queued before its socket is looked for
(`tcpcrypt.runtime.following`).  An ACK that completes a handshake without the
option and was not seen here is known by the connection that it brings (`accepted`).

An off-path attacker who guesses the 4-tuple must not be able to talk a
handshake into plain TCP by a segment that TCP itself will discard, so
segments whose numbers are out of place are not shown to the negotiation.

Opening side: `45 02` takes four bytes of every segment until the peer's first
one without SYN, after TCP has chosen how much data goes into a segment.  The
MSS in the SYN-ACK is lowered by four, so that full segments keep that room.

What the peer says is known from its SYN-ACK, and what comes in afterwards need not be
seen (MARK_ANSWERED).  The ACK does not wait for Init1, though that would be a packet less:
who takes the option from segments with data, or loses long ones, leaves it alone.

Where a peer expects Init1 in the first segment behind the SYN (a fact of its
profile), what would leave before without data is dropped: Init1 acknowledges
the same.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tcpcrypt.core.config import Config
from tcpcrypt.core.handshake import State
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation
from tcpcrypt.errors import LocalError, PeerError
from tcpcrypt.registry import INIT1_MAGIC, TCP_OPTION_FAST_OPEN
from tcpcrypt.runtime.eno_backend import (
    NewRequest,
    Requested,
    SocketAddress,
    Tuple4,
    syns_with_option,
)
from tcpcrypt.runtime.half_open import Answer, Answers, ChangedError, HalfOpen
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.privileges import Privileges
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.rules import (
    MARK_ANSWERED,
    MARK_DIRECT,
    MARK_DONE,
    MARK_MASK,
    MARK_PASSED,
    QUEUE_NUMBER,
)
from tcpcrypt.runtime.tcp_info import has_heard
from tcpcrypt.wire.segment import Segment
from tcpcrypt.wire.tcpopt import insert_option, mss, remove_option, replace_mss, room

__all__ = ["QUEUE_LENGTH", "QUEUE_NUMBER", "SYN_QUEUE_LENGTH", "NfqueueBackend"]

QUEUE_LENGTH: Final = 4096
"""Packets waiting in the kernel; a handshake needs two or three on each side."""
SYN_QUEUE_LENGTH: Final = 1024
"""SYNs of peers among them.  A flood that is faster than they are read keeps it full, and
who comes waits for all of them, or is dropped and comes again; one that is not has room
here for the tenth of a second in which others have the processor."""
PENDING_MAX: Final = 32_768
"""Passive handshakes under way.  The oldest goes, and its connection is reset,
rather than newcomers go unencrypted: a flood of SYNs must not downgrade anybody."""
PENDING_SECONDS: Final = 130.0
"""Linux gives up on a SYN-ACK 63 s after the first; twice that."""
ACK_OPTION_ROOM: Final = 4
"""Bytes of a header that `45 02` and its padding take."""
_NARROW: Final = 536
"""Bytes of a window in which Linux sends one segment, whole or not, and no second.
(Of a larger one it makes two halves.)"""
_ROOM_IN_ACK: Final = 28
"""Bytes that timestamps leave; an ACK that completes a handshake acknowledges no more."""
_MODULUS: Final = 1 << 32
_PLAUSIBLE: Final = 1 << 20
"""How far from its start a stream can be while the handshake lasts; the initial
window is some 14 kB."""


@dataclass(slots=True)
class _Opening:
    """A connection this host opens."""

    sock: socket.socket
    key: Tuple4
    negotiation: Negotiation
    progress: Callable[[], None]
    mark: int
    syns_max: int
    """SYNs that leave with the option before one leaves without; 0: all do."""
    sent_isn: int | None = None
    received_isn: int | None = None
    syns: int = 0
    told: bool = False
    fresh: bool = False
    """Whether no secret was offered.  Otherwise it is spent when the ACK leaves: no other
    connection may spend the next one of the chain before."""
    alias: Tuple4 | None = None
    """The connection as its answers have it, if others translate its destination."""


class NfqueueBackend:
    """See `tcpcrypt.runtime.eno_backend.EnoBackend`.

    `queue` is shared with others; whoever receives from it gives the packets
    of QUEUE_NUMBER and SYN_QUEUE to `take`.
    """

    name: Final = "nfqueue"

    def __init__(self, queue: PacketQueue, privileges: Privileges) -> None:
        self._queue = queue
        self._privileges = privileges
        self._new: NewRequest | None = None
        self._opening: dict[Tuple4, _Opening] = {}
        self._opening_by_socket: dict[socket.socket, _Opening] = {}
        self._accepting: OrderedDict[tuple[Tuple4, int], HalfOpen] = OrderedDict()
        self._answered: dict[Tuple4, HalfOpen] = {}
        self._answers = Answers()
        self.evicted = 0
        """Passive handshakes given up for want of room."""

    def configure(self, _config: Config) -> None:
        """Negotiations are made when their SYNs come, and by what is configured then."""
        self._answers.clear()

    def adopt_listener(self, _listener: socket.socket, new: NewRequest) -> None:
        self._new = new

    def opener(self, family: int, mark: int, _config: Config) -> socket.socket:
        return self._privileges.opener(family, mark)

    def connect(
        self,
        sock: socket.socket,
        address: SocketAddress,
        negotiation: Negotiation,
        progress: Callable[[], None],
        *,
        mark: int = 0,
        insist: bool = False,
        known: bool = False,
    ) -> None:
        number = sock.connect_ex(address)
        if number not in {0, errno.EINPROGRESS}:
            raise OSError(number, "connect")
        # The port is known now, and the SYN waits in the queue until this
        # thread comes back to the loop.
        local = Tuple4.of_opener(sock, address)
        syns_max = syns_with_option(insist=insist, known=known)
        opening = _Opening(sock, local, negotiation, progress, mark, syns_max)
        former = self._opening.get(local)
        if former is not None:
            # One that has been reset, of which nobody has heard yet.
            self._forget_packets(former)
        self._opening[local] = self._opening_by_socket[sock] = opening

    def connected(self, _sock: socket.socket) -> None:
        """The segments have told more, and sooner."""

    def look_after(self) -> None:
        """Find out of connections that are up whether the peer's first segment has come.

        To be called once a second or so: most connections do not last that long.
        """
        for opening in tuple(self._opening_by_socket.values()):
            if isinstance(opening.negotiation.outcome, Negotiated) and has_heard(opening.sock):
                opening.negotiation.segment_received(False, True, b"")
                self._follow(opening, settled=False)

    def accepted(self, sock: socket.socket, connection: Tuple4) -> Requested | None:
        entry = self._answered.pop(connection, None)
        if entry is None:
            return None
        self._accepting.pop((entry.connection, entry.received_isn), None)
        try:
            requested = entry.requested()
        except ChangedError:
            return None
        negotiation = requested.negotiation
        settled = negotiation.finished
        if not settled:
            # The ACK that has opened the connection had no option.
            negotiation.segment_received(False, True, b"")
        self._privileges.finish(sock, settled=settled)
        if not negotiation.finished:
            negotiation.abandon()
            return None
        return requested

    def release(self, sock: socket.socket) -> None:
        opening = self._opening_by_socket.pop(sock, None)
        if opening is not None:
            self._forget_packets(opening)

    def _forget_packets(self, opening: _Opening) -> None:
        for key in (opening.key, opening.alias):
            # The kernel gives the port of a connection that was reset to the next one,
            # whatever still waits to be done about the former here.
            if key is not None and self._opening.get(key) is opening:
                del self._opening[key]

    # --- packets -----------------------------------------------------------------

    def take(self, packet: QueuedPacket) -> None:
        """Decide on a packet of QUEUE_NUMBER or SYN_QUEUE."""
        changed: bytes | None = None
        mark = unconcerned = _unconcerned(packet.hook)
        try:
            segment = Segment.parse(packet.payload)
            if not segment.flags.rst:
                changed, mark = self._pass(packet.hook, segment)
        except _WithheldError:
            self._queue.verdict(packet, Verdict.DROP)
        except PeerError:
            # Not a segment that TCP takes: TCP may say so itself.
            self._let_go(packet, None, unconcerned)
        except (LocalError, _UnknownError, ChangedError):
            # A segment that has no place in the handshake must not leave
            # without the option that ought to be in it.
            self._queue.verdict(packet, Verdict.DROP)
        except BaseException:
            # A mistake of ours; no packet may wait for ever, or pass unseen.
            self._queue.verdict(packet, Verdict.DROP)
            raise
        else:
            self._let_go(packet, changed, mark)

    def _let_go(self, packet: QueuedPacket, changed: bytes | None, mark: int) -> None:
        # Not ACCEPT, which would skip the rules of others in this table.
        mark |= packet.mark & ~MARK_MASK
        self._queue.verdict(packet, Verdict.REPEAT, changed, mark)

    def _pass(self, hook: Hook, segment: Segment) -> tuple[bytes | None, int]:
        """Show the segment to whom it concerns.

        Returns the changed packet, or None, and the mark that says what becomes of
        it: MARK_DONE if no more that comes in needs to be shown.
        """
        outgoing = hook is Hook.OUTPUT
        flow = segment.flow
        key = Tuple4(*flow) if outgoing else Tuple4(*flow[2:], *flow[:2])
        opening = self._opening.get(key)
        if opening is None and not outgoing and segment.flags.syn and segment.flags.ack:
            opening = self._translated(key, segment)
        if opening is not None:
            if hook is Hook.PREROUTING:
                return None, MARK_DIRECT  # comes by again, in INPUT
            show = self._open_out if outgoing else self._open_in
            changed = show(opening, segment)
            settled = _settled(opening.negotiation, outgoing, segment)
            # Before what follows sends Init1, which goes by itself.
            withheld = outgoing and _is_early_ack(opening.negotiation, segment)
            self._follow(opening, settled)
            if withheld:
                raise _WithheldError
            if not outgoing and segment.flags.syn and _is_agreed(opening.negotiation):
                return changed, MARK_ANSWERED
            return changed, MARK_DONE if settled else MARK_PASSED
        if outgoing:
            return self._accept_out(key, segment), MARK_PASSED
        seen = self._accept_in(key, segment)
        if seen is None:
            return None, _unconcerned(hook)
        changed, settled = seen
        return changed, MARK_DONE if settled else MARK_PASSED

    def _translated(self, key: Tuple4, segment: Segment) -> _Opening | None:
        """Whom a SYN-ACK answers that comes from another address than the SYN went to.

        Others have translated the destination on its way out; here, in INPUT,
        answers still have the address that they came with.
        """
        local = (key.local, key.local_port)
        for known, opening in self._opening.items():
            if (known.local, known.local_port) == local and _near(
                segment.ack, opening.sent_isn, within=1
            ):
                opening.alias = key
                self._opening[key] = opening
                return opening
        return None

    def _follow(self, opening: _Opening, settled: bool) -> None:
        """Act on what the last segment changed."""
        negotiation = opening.negotiation
        if negotiation.outcome is None:
            return
        finished = negotiation.finished
        if finished:
            self.release(opening.sock)
            with contextlib.suppress(OSError):
                self._privileges.finish(opening.sock, opening.mark, settled=settled)
        if finished or not opening.told:
            opening.told = True
            opening.progress()

    def _open_out(self, opening: _Opening, segment: Segment) -> bytes | None:
        flags, give_up = segment.flags, False
        syn = flags.syn
        if syn:
            opening.sent_isn = segment.seq
            opening.syns += 1
            # Not if the answer is here already, and this one was on its way to the queue.
            unheard = opening.received_isn is None and not flags.ack
            give_up = unheard and 0 < opening.syns_max < opening.syns
        negotiation = opening.negotiation
        changed = _with_option(negotiation, segment, give_up=give_up)
        if syn:
            own = negotiation.own
            opening.fresh = own is not None and own.ticket is None
        elif changed is None and _is_promised(negotiation):
            raise LocalError("no room for the option of an ACK")
        return changed

    def _open_in(self, opening: _Opening, segment: Segment) -> bytes | None:
        flags = segment.flags
        if flags.ack and not _near(segment.ack, opening.sent_isn):
            return None
        if flags.syn:
            if flags.ack and not _near(segment.ack, opening.sent_isn, within=1):
                return None  # TCP answers it with a reset: this host sent only its SYN
            opening.received_isn = segment.seq
        elif not flags.ack or not _near(segment.seq, opening.received_isn):
            return None
        negotiation = opening.negotiation
        negotiation.segment_received(flags.syn, flags.ack, segment.options)
        if opening.fresh and flags.syn and negotiation.state is State.ACK_DUE:
            # Whenever the ACK leaves, it carries the option.
            negotiation.option_to_send(False, True, _ROOM_IN_ACK)
        announced = mss(segment.options) if flags.syn else None
        if announced is None or isinstance(negotiation.outcome, Fallback):
            return None
        lowered = max(announced - ACK_OPTION_ROOM, ACK_OPTION_ROOM)
        return segment.with_options(replace_mss(segment.options, lowered))

    def _accept_in(self, key: Tuple4, segment: Segment) -> tuple[bytes | None, bool] | None:
        """The changed packet, and whether it settled the negotiation; None: of no handshake."""
        flags = segment.flags
        if flags.syn and not flags.ack:
            self._request(key, segment)
            return _without_syn_data(segment), False
        entry = self._answered.get(key)
        if entry is not None and not flags.syn and flags.ack and entry.sent_isn is not None:
            if (segment.ack - entry.sent_isn) % _MODULUS != 1:
                return None  # this host has sent nothing but its SYN yet
            changed: bytes | None = None
            if _repeated_too_low(entry, segment):
                seq = (segment.seq + 1) % _MODULUS
                changed = segment.altered(segment.options, segment.payload, seq=seq)
                segment = Segment.parse(changed)
            if _near(segment.seq, entry.received_isn):
                negotiation = entry.requested().negotiation
                negotiation.segment_received(False, True, segment.options)
                return changed, _settled(negotiation, False, segment)
        return None

    def _accept_out(self, key: Tuple4, segment: Segment) -> bytes | None:
        if not segment.flags.syn:
            return None
        entry = self._accepting.get((key, (segment.ack - 1) % _MODULUS))
        if entry is None:
            raise _UnknownError
        self._answered[key] = entry
        answer = entry.answer
        if answer is not None and len(answer) <= room(segment.options):
            entry.sent_isn = segment.seq
            return _inserted(segment, answer)
        requested = entry.requested()
        negotiation = requested.negotiation
        # For want of room it is this one's affair.
        useless = isinstance(negotiation.outcome, Fallback)
        first, entry.sent_isn = entry.sent_isn is None, segment.seq
        option = _option_for(negotiation, segment)
        if first and entry.exemplary and (option or useless):
            self._answers.note(key, entry.syn, requested, option)
        changed = _inserted(segment, option)
        if changed is not None and requested.config.profile.repeats_anew:
            changed = _with_narrow_window(Segment.parse(changed))
        return changed

    def _request(self, key: Tuple4, syn: Segment) -> None:
        """Begin the handshake of a SYN, or repeat it; a SYN with another number is another."""
        isn = syn.seq
        entry, new = self._accepting.get((key, isn)), self._new
        said = syn.options.tobytes()
        if entry is not None:
            entry.repeated(said)
        else:
            if new is None:
                raise _UnknownError
            known: Requested | Answer | None = self._answers.find(key, said)
            if known is None:
                known = new(key, options=said)
                known.negotiation.segment_received(True, False, said)
            entry = HalfOpen(key, isn, said, known)
            self._accepting[key, isn] = entry
            now = entry.since
            while self._accepting:
                oldest = next(iter(self._accepting.values()))
                if len(self._accepting) <= PENDING_MAX and now - oldest.since < PENDING_SECONDS:
                    break
                self._forget(oldest)
                self.evicted += 1

    def _forget(self, entry: HalfOpen) -> None:
        entry.abandon()
        del self._accepting[entry.connection, entry.received_isn]
        if self._answered.get(entry.connection) is entry:
            del self._answered[entry.connection]


class _UnknownError(Exception):
    """Internal: no handshake is known that the segment could belong to."""


class _WithheldError(Exception):
    """Internal: the segment says what another will say as well."""


def _repeated_too_low(entry: HalfOpen, segment: Segment) -> bool:
    """Whether this is an Init1 with the number of the SYN.

    So the Stanford daemon repeats one that was lost; TCP would take its first byte
    for the SYN, and the rest for the stream.
    """
    return (
        segment.seq == entry.received_isn
        and bytes(segment.payload[: len(INIT1_MAGIC)]) == INIT1_MAGIC
        and entry.requested().config.profile.init1_in_first_ack
    )


def _is_early_ack(negotiation: Negotiation, segment: Segment) -> bool:
    flags = segment.flags
    return negotiation.awaits_init1 and not (flags.syn or flags.fin or len(segment.payload))


def _unconcerned(hook: Hook) -> int:
    """The mark of what belongs to no handshake.

    In PREROUTING MARK_PASSED is for the listener (`tcpcrypt.runtime.following`).
    """
    return MARK_DIRECT if hook is Hook.PREROUTING else MARK_PASSED


def _settled(negotiation: Negotiation, outgoing: bool, segment: Segment) -> bool:
    # A SYN may be repeated, and begins a connection for the rules.
    return not outgoing and not segment.flags.syn and negotiation.finished


def _is_agreed(negotiation: Negotiation) -> bool:
    """Whether the peer's SYN-ACK has settled that the connection is encrypted."""
    return negotiation.state in {State.ACK_DUE, State.ENABLED}


def _is_promised(negotiation: Negotiation) -> bool:
    """Whether what leaves must carry the option."""
    return isinstance(negotiation.outcome, Negotiated) and not negotiation.finished


def _near(number: int, start: int | None, within: int = _PLAUSIBLE) -> bool:
    """Whether a sequence number is one of the first of a stream that begins at `start`."""
    return start is not None and (number - start - 1) % _MODULUS < within


def _with_option(
    negotiation: Negotiation, segment: Segment, *, give_up: bool = False
) -> bytes | None:
    return _inserted(segment, _option_for(negotiation, segment, give_up=give_up))


def _option_for(negotiation: Negotiation, segment: Segment, *, give_up: bool = False) -> bytes:
    flags = segment.flags
    # Without room the negotiation has to leave the option out.
    left = 0 if give_up else room(segment.options)
    return negotiation.option_to_send(flags.syn, flags.ack, left)


def _inserted(segment: Segment, option: bytes) -> bytes | None:
    if not option:
        return None
    region = insert_option(segment.options, option)
    if region is None:
        raise LocalError("the ENO option does not fit the room that there was")
    return segment.with_options(region)


def _with_narrow_window(syn_ack: Segment) -> bytes:
    """A SYN-ACK that lets one segment of data follow, until this host has acknowledged that.

    What comes while the last packet that the negotiation needs waits here comes behind
    it, and what comes once it is decided does not come here any more: it would overtake
    what still waits.  TCP puts that in order, but who has to take a gap for a loss
    (`repeats_anew`) would end the connection.
    """
    window = min(syn_ack.window, _NARROW)
    return syn_ack.altered(syn_ack.options, syn_ack.payload, window=window)


def _without_syn_data(segment: Segment) -> bytes | None:
    """RFC 8547 section 4.7: data in a SYN with ENO, and a Fast Open cookie, are ignored."""
    if not segment.payload and TCP_OPTION_FAST_OPEN not in segment.options.tobytes():
        return None  # as nearly all
    stripped = remove_option(segment.options, TCP_OPTION_FAST_OPEN)
    if stripped == segment.options.tobytes() and not segment.payload:
        return None
    if not segment.payload:
        return segment.with_options(stripped)
    return Segment.parse(segment.with_payload_dropped()).with_options(stripped)
