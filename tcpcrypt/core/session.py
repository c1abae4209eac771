"""RFC 8548: one encrypted connection, from the end of its ENO handshake on.

Sans-IO: bytes of the peer go into `receive_data`, application data into
`send_data`; `next_event` and `bytes_to_send` tell what came of it.
Its states are those of `tcpcrypt.core.lifecycle`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING

from tcpcrypt.core.beginning import Beginning, Ready
from tcpcrypt.core.config import Clock, Config, RandomBytes
from tcpcrypt.core.events import (
    Aborted,
    DataReceived,
    Direction,
    Established,
    Event,
    PeerProved,
    Rekeyed,
    Role,
    StreamEnded,
    UrgentReceived,
)
from tcpcrypt.core.exchange import Prepared
from tcpcrypt.core.key_log import KeyLog
from tcpcrypt.core.lease import Lease, Returned
from tcpcrypt.core.lifecycle import TABLE, SessionInput, SessionState, Verdict
from tcpcrypt.core.negotiation import Negotiated
from tcpcrypt.core.records import KeyRing, Received, RecordReceiver, RecordSender
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.tep import tep_spec
from tcpcrypt.errors import (
    HandshakeTimeoutError,
    IntegrityError,
    LocalError,
    PeerError,
    PeerReason,
    ResetError,
    TruncationError,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Session"]


class Session:
    """One encrypted connection.

    `resumption` and `peer` are the cache and the name under which this session
    may be resumed.  `sent_before` and `received_before` count the bytes of each
    stream that precede the Init messages; not zero only where negotiation took
    place in the streams, where `prepared` is an Init1 that has left already.
    `key_log` is given the secret of the session.
    """

    def __init__(
        self,
        config: Config,
        negotiated: Negotiated,
        *,
        resumption: ResumptionCache | None = None,
        peer: bytes = b"",
        sent_before: int = 0,
        received_before: int = 0,
        prepared: Prepared | None = None,
        key_log: KeyLog | None = None,
        random: RandomBytes = os.urandom,
        clock: Clock = time.monotonic,
    ) -> None:
        self.config = config
        self.negotiated = negotiated
        self.state = SessionState.EXCHANGING
        self._events: deque[Event] = deque()
        self._unsent: deque[tuple[bytes, int]] = deque()
        self._finish_wanted = False
        self._sender: RecordSender | None = None
        self._receiver: RecordReceiver | None = None
        self._ring: KeyRing | None = None
        self._never_data = b""
        """What the first frame may not begin with."""
        self._established: Established | None = None
        self._error: PeerError | None = None
        self._clock = clock
        self.deadline = clock() + config.handshake_timeout
        """When `handle_timeout` is due, while `established` is False."""
        self._tep = tep_spec(config, negotiated.tep)
        self._peer_proved = False
        self._proof_due = self._tep.first_frame_proves
        self._waits_for_a = self._tep.first_frame_proves and negotiated.role is Role.B
        self._unproved: Ready | None = None
        """The session whose keys are there, before its owner hears of it."""
        self._lease: Lease | None = None
        self._beginning = Beginning(
            config,
            negotiated,
            resumption=resumption,
            peer=peer,
            sent_before=sent_before,
            received_before=received_before,
            prepared=prepared,
            key_log=key_log,
            random=random,
        )
        if negotiated.resuming:
            try:
                self._start(self._beginning.resume())
            except PeerError as error:
                self._abort(SessionInput.FAULT, error)

    # --- what is known of the session --------------------------------------------

    @property
    def established(self) -> bool:
        """Whether keys are in place."""
        return self._established is not None

    @property
    def session_id(self) -> bytes:
        """The session ID, 33 bytes (RFC 8547 section 5.1, RFC 8548 section 3.4).

        Raises `LocalError` where there is none; never an empty or zero value.
        """
        return self._known.session_id

    @property
    def aead(self) -> int:
        """The AEAD in use.  Raises `LocalError` before it is chosen."""
        return self._known.aead

    @property
    def peer_identity(self) -> bytes | None:
        """What the TEP tells of the peer; see `peer_proved`.  `LocalError` before keys."""
        return self._known.peer_identity

    @property
    def peer_proved(self) -> bool:
        """Whether the peer has proved `peer_identity`; never with the TEPs of RFC 8548."""
        return self._peer_proved

    @property
    def role(self) -> Role:
        """Role of this host (RFC 8547 section 4.3)."""
        return self.negotiated.role

    @property
    def tep(self) -> int:
        """The negotiated TEP, bit `v` clear."""
        return self.negotiated.tep

    @property
    def resumed(self) -> bool:
        """Whether the session continues an earlier one."""
        return self.negotiated.resuming

    @property
    def error(self) -> PeerError | None:
        """Why the session was aborted, if it was."""
        return self._error

    @property
    def frames_sealed(self) -> int:
        """Frames that the session itself has sealed; what a borrower did is not among them."""
        return self._sender.frames if self._sender is not None else 0

    @property
    def _known(self) -> Established:
        if self._established is None:
            raise LocalError("there is no session ID: the key exchange is not over")
        return self._established

    # --- from the peer -----------------------------------------------------------

    def receive_data(self, data: ReadableBuffer) -> None:
        """Take bytes of the peer's stream.  Never raises for what they hold."""
        if self.state is SessionState.ABORTED:
            return
        try:
            if self._receiver is None:
                if self._beginning.agreed is None:
                    data = self._beginning.receive(data)
                # B says nothing before A's first frame: the keys have time until Init2 has left.
                if not self._waits_for_a or memoryview(data):
                    self.use_idle_time()
            if self._receiver is not None:
                self._receiver.feed(data)
                self._open_frames(self._receiver)
        except PeerError as error:
            self._abort(SessionInput.FAULT, error)

    def use_idle_time(self) -> None:
        """Derive keys that the peer's next bytes need, if that is still to be done.

        For who has sent `bytes_to_send` and waits; otherwise those bytes bring it about.
        """
        if self._beginning.agreed is not None:
            self._start(self._beginning.derive())

    def receive_eof(self) -> None:
        """The peer's TCP FIN came (section 3.7)."""
        receiver = self._receiver
        if (
            self.established
            and receiver is not None
            and not self.config.profile.authenticated_end
            and not receiver.finished
            and receiver.between_frames
        ):
            receiver.end()
            self._input(SessionInput.PEER_FINISH, None)
            return
        reason = PeerReason.TRUNCATED if self.established else PeerReason.FIN_DURING_EXCHANGE
        self._input(SessionInput.TCP_EOF, TruncationError(reason))

    def receive_reset(self) -> None:
        """A TCP RST came.  It is not authenticated, and never looks like an end."""
        unsent = self._sender is not None and self._sender.pending
        # A connection whose streams are both over does not mind, unless bytes of
        # its own have not even left.
        happened = SessionInput.FAULT if unsent else SessionInput.TCP_RESET
        self._input(happened, ResetError(PeerReason.RESET))

    def receive_disorder(self) -> None:
        """The peer `repeats_anew`, and some of its segments were lost or overtaken.

        To be called before the bytes that fill the gap are given to `receive_data`.
        """
        self._input(SessionInput.FAULT, IntegrityError(PeerReason.REPEATED_ANEW))

    def handle_timeout(self) -> None:
        """Abort if the deadline has passed before the keys were there."""
        if self._clock() >= self.deadline:
            self._input(SessionInput.TIMEOUT, HandshakeTimeoutError(PeerReason.TIMEOUT))

    # --- from the application ------------------------------------------------------

    def send_data(self, data: ReadableBuffer, *, urgent: int = -1) -> None:
        """Send application data.

        `urgent`, if not negative, is the index in `data` (at most 65535) of the
        last urgent byte.  Before the keys are there data is kept.  Raises
        `LocalError` after `finish`, and the error of an aborted session.
        """
        self._may_send()
        view = memoryview(data).cast("B")
        if not view:
            return
        if urgent >= min(len(view), 0x10000):
            raise LocalError("the last urgent byte is one of the data, index 65535 at most")
        if self._sender is None:
            self._unsent.append((bytes(view), urgent))
        else:
            self._seal(self._sender, view, urgent=urgent)

    def finish(self) -> None:
        """End the own stream; FINp follows what was sent before (section 3.7).

        In a profile without FINp nothing does, and TCP FIN is all there is.
        Raises `LocalError` if it was finished already.
        """
        self._may_send()
        self._finish_wanted = True
        if self._sender is not None:
            self._seal_fin(self._sender)

    def rekey(self) -> None:
        """Go to a new key and tell the peer at once (section 3.8).

        Raises `LocalError` before the keys are there, after `finish`, or in a
        profile without key generations.
        """
        self._may_send()
        if not self.config.profile.rekeying:
            raise LocalError(f"profile {self.config.profile.name} has no rekeying")
        if self._sender is None or self._receiver is None:
            raise LocalError("no keys yet")
        if self._sender.announcing:
            return  # a new key is on its way already
        # Section 3.8: while the peer's answer is due, MUST NOT initiate with an
        # empty frame; the next data announces the key.
        alone = self._receiver.generation >= self._sender.generation
        self._advance(self._sender)
        if alone:
            self._seal(self._sender)

    def keep_alive(self) -> bool:
        """Probe the peer, authenticated, by rekeying (section 3.9).

        False if the answer to an earlier probe is still due.
        """
        self._may_send()
        if self._sender is None or self._receiver is None:
            raise LocalError("no keys yet")
        if self._receiver.generation < self._sender.generation:
            return False
        self.rekey()
        return True

    def flush_resumption(self) -> bool:
        """Forget the secret that comes of this session, however far it went (section 3.5).

        True if there was one.
        """
        return self._beginning.forget_successor()

    # --- what came of it -----------------------------------------------------------

    def next_event(self) -> Event | None:
        """The next event, or None."""
        return self._events.popleft() if self._events else None

    def bytes_to_send(self) -> memoryview | bytes:
        """The next bytes for the peer, or b"".

        Call until empty.  Each return is one write of its own: the segment that
        ends Init1 or Init2 carries PSH (section 3.3).
        """
        beginning = self._beginning
        if beginning.to_send:
            out, beginning.to_send = beginning.to_send, b""
            return out
        if self._sender is not None:
            return self._sender.take()
        return self._unproved.sender.take() if self._unproved is not None else b""

    def lend(self) -> Lease | None:
        """Let another move the data of both streams, until `take_back`.

        None while there is anything for the session itself to do, or nothing to
        lend.
        """
        sender, receiver = self._sender, self._receiver
        if sender is None or receiver is None or self._events or sender.pending:
            return None
        if self.state is SessionState.ABORTED or self._lease or self._beginning.to_send:
            return None
        if self._proof_due or self._never_data:
            return None  # the peer's first frame has to be opened here
        lease = Lease(sender.lend(), receiver.lend())
        if lease.sealing is None and (lease.opening is None or not sender.finished):
            # What the application sends would have to be sealed here.
            if lease.opening is not None:
                receiver.take_back(lease.unused())
            return None
        self._lease = lease
        return lease

    def take_back(self, returned: Returned) -> None:
        """Go on where the borrower stopped.  Raises `LocalError` if nothing is lent."""
        lease, self._lease = self._lease, None
        if lease is None or self._sender is None or self._receiver is None:
            raise LocalError("nothing is lent")
        if lease.sealing is not None:
            self._sender.take_back(returned)
            if returned.finished:
                self._finish_wanted = True
                self._input(SessionInput.FINISH, None)
        if lease.opening is not None:
            self._receiver.take_back(returned)
            if returned.peer_finished:
                self._input(SessionInput.PEER_FINISH, None)
            try:
                self._open_frames(self._receiver)
            except PeerError as error:
                self._abort(SessionInput.FAULT, error)

    @property
    def fin_queued(self) -> bool:
        """Whether TCP FIN is to follow once `bytes_to_send` is empty."""
        return self._sender is not None and self._sender.finished and not self._error

    def wipe(self) -> None:
        """Forget all keys.  The session can be used no more."""
        unproved, self._unproved = self._unproved, None
        for part in (self._sender, self._receiver, self._ring, unproved):
            if part is not None:
                part.wipe()
        self._beginning.abandon()
        self._unsent.clear()
        self.state = SessionState.ABORTED

    # --- inside --------------------------------------------------------------------

    def _may_send(self) -> None:
        if self._error is not None:
            raise self._error
        if self._finish_wanted:
            raise LocalError("the own stream is finished")

    def _seal(
        self,
        sender: RecordSender,
        data: ReadableBuffer = b"",
        *,
        fin: bool = False,
        urgent: int = -1,
    ) -> None:
        before = sender.generation
        try:
            sender.seal(data, fin=fin, urgent=urgent)
        except PeerError as error:
            self._abort(SessionInput.FAULT, error)
            return
        self._report_keys(sender, before)

    def _advance(self, sender: RecordSender) -> None:
        before = sender.generation
        sender.advance_key()
        self._report_keys(sender, before)

    def _report_keys(self, sender: RecordSender, before: int) -> None:
        for generation in range(before + 1, sender.generation + 1):
            self._events.append(Rekeyed(Direction.SENDING, generation))

    def _seal_fin(self, sender: RecordSender) -> None:
        if self.config.profile.authenticated_end:
            self._seal(sender, fin=True)
        else:
            sender.end()
        self._input(SessionInput.FINISH, None)

    def _start(self, ready: Ready) -> None:
        """The keys are there: open both streams."""
        self._ring, self._receiver = ready.ring, ready.receiver
        exchange = self._beginning.exchange
        if exchange is not None and self.config.profile.init_as_data:
            self._never_data = exchange.received
        if self._tep.first_frame_proves and self.role is Role.B:
            self._unproved = ready
            if self._proves_at_once(ready.established):
                ready.sender.seal(b"")
        else:
            self._go_on(ready)

    def _go_on(self, ready: Ready) -> None:
        """Report the session, keep what may resume it, send what has waited."""
        established, sender = ready.established, ready.sender
        self._beginning.keep(ready)
        self._established, self._sender = established, sender
        self._input(SessionInput.KEYS, None)
        self._events.append(established)
        if self._proof_due and not established.resumed:
            self._prove()
        proves = self._tep.first_frame_proves and (self.role is Role.A or established.resumed)
        proves = proves and not self._proves_at_once(established)
        if proves and not (self._unsent or self._finish_wanted):
            self._seal(sender)  # the peer waits for it
        while self._unsent:
            data, urgent = self._unsent.popleft()
            self._seal(sender, data, urgent=urgent)
        if self._finish_wanted:
            self._seal_fin(sender)

    def _proves_at_once(self, established: Established) -> bool:
        """Whether the own first frame has not waited for the peer's."""
        return established.resumed and self.role is Role.B and self.config.prove_at_once

    def _prove(self) -> None:
        """The peer has shown that it has the keys."""
        self._proof_due, self._peer_proved = False, True
        self._events.append(PeerProved(self._known.peer_identity or b""))

    def _first_frame(self) -> None:
        """The peer's first frame opened, and the TEP waits for it.

        Raises `AuthenticationError` if it will not do any more.
        """
        waiting = self._known if self._unproved is None else self._unproved.established
        self._tep.judge(waiting.peer_identity)
        unproved, self._unproved = self._unproved, None
        if unproved is not None:
            self._go_on(unproved)
        if self._proof_due:
            self._prove()

    def _open_frames(self, receiver: RecordReceiver) -> None:
        while (received := receiver.step()) is not None:
            if self._proof_due:
                self._first_frame()
            if received.rekeyed:
                self._events.append(Rekeyed(Direction.RECEIVING, receiver.generation))
                self._answer_rekey(receiver)
            self._report(received)
            if received.fin:
                self._input(SessionInput.PEER_FINISH, None)

    def _report(self, received: Received) -> None:
        data = received.data
        if data and self._never_data:
            init, self._never_data = self._never_data, b""
            if bytes(data[: len(init)]) == init:
                # Genuine, but nothing that the peer's application has said.
                raise PeerError(PeerReason.INIT_AS_DATA)
        if received.urgent_index is not None:
            before = len(data) - received.urgent_data
            if before:
                self._events.append(DataReceived(data[:before]))
            self._events.append(UrgentReceived(received.urgent_index))
            data = data[before:]
        if data:
            self._events.append(DataReceived(data))

    def _answer_rekey(self, receiver: RecordReceiver) -> None:
        """Section 3.8: follow the peer's generation at once, one frame for each.

        Excused once FINp is sealed, because no frame may come behind it.
        """
        sender = self._sender
        if sender is None or sender.finished:
            return
        if receiver.generation > sender.generation:
            self._advance(sender)
            self._seal(sender)
        elif sender.announcing and receiver.generation == sender.generation - 1:
            # The answer that a further key of this host had to wait for.
            self._seal(sender)

    def _input(self, happened: SessionInput, error: PeerError | None) -> None:
        verdict, following = TABLE.get(
            (self.state, happened), (Verdict.ABORT, SessionState.ABORTED)
        )
        self.state = following
        if verdict is Verdict.END:
            self._events.append(StreamEnded(self.config.profile.authenticated_end))
        elif verdict is Verdict.ABORT:
            if error is None:
                raise LocalError(f"{happened.value} is impossible in this state")
            self._error = error
            self._events.append(Aborted(error))
            self.wipe()

    def _abort(self, happened: SessionInput, error: PeerError) -> None:
        self._input(happened, error)
