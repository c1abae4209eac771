"""One secure connection without any I/O: what both APIs put between socket and program.

    conversation = Conversation(Role.A, arrange(PeerSpec.parse("tofu"), Role.A, "db:5432"))
    loop:   write all of `data_to_send`
            read, and tell `receive_data`, `receive_eof` or `receive_reset`;
            past `deadline` tell `handle_timeout`
            look at all of `next_event`

No application byte is delivered or sent before AES_MODE: before the keys are
there, the peer has proved what policy asks for, and its first authenticated
frame, or the proof in its Init2, has shown that both ends saw the same options
and Init messages.  With `insecure-unauthenticated`, too, B waits for such a frame
(`tcpcrypt.sockets.arrangement.ConfirmedTep`); A sends once it has keys, with whomever:
an altered negotiation shows when B cannot open that.  FAIL wipes the keys; the owner
writes what `data_to_send` still has, if it can at once, and resets the connection.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.terms import PeerProof
from tcpcrypt.core.config import Clock, RandomBytes
from tcpcrypt.core.events import (
    Aborted,
    DataReceived,
    Established,
    PeerProved,
    Role,
    StreamEnded,
)
from tcpcrypt.core.exchange import Prepared, prepare
from tcpcrypt.core.lease import Lease, Returned
from tcpcrypt.core.lifecycle import SessionState
from tcpcrypt.core.negotiation import Negotiated
from tcpcrypt.core.session import Session
from tcpcrypt.crypto.aead import aead
from tcpcrypt.errors import (
    HandshakeTimeoutError,
    LocalError,
    NoEncryptionError,
    PeerError,
    PeerReason,
    ResetError,
    TcpcryptError,
    TruncationError,
)
from tcpcrypt.registry import Tep
from tcpcrypt.sockets.arrangement import Arrangement
from tcpcrypt.sockets.key_log import key_log
from tcpcrypt.sockets.preface import Preface
from tcpcrypt.sockets.state import TABLE, Failure, State, StateChanged, Step

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Conversation", "Event", "Failed"]


@dataclass(frozen=True, slots=True)
class Failed:
    """The connection failed and must be reset; the last event there is."""

    error: TcpcryptError


Event = StateChanged | DataReceived | StreamEnded | Failed

_AWAITED = {
    State.INIT: "the other end has not offered encryption",
    State.EXCHANGE_KEYS: "no Init message of the other end",
    State.DERIVE_KEYS: "no frame of the other end has proved its keys",
}


class Conversation:
    """One connection, from the moment at which TCP is connected.

    `role`: A for the host that connected.  Nothing of the peer's bytes makes a
    method raise; what they lead to is an event.
    """

    def __init__(
        self,
        role: Role,
        arrangement: Arrangement,
        *,
        random: RandomBytes = os.urandom,
        clock: Clock = time.monotonic,
    ) -> None:
        config = arrangement.config
        self.role = role
        self.state = State.INIT
        self.error: TcpcryptError | None = None
        """Why it failed, if it did."""
        self.deadline: float | None = clock() + config.handshake_timeout
        """When `handle_timeout` is due, by the clock; None in AES_MODE and FAIL."""
        self.negotiated: Negotiated | None = None
        """What both options agreed on."""
        self._arrangement = arrangement
        self._key_log = key_log()
        self._random = random
        self._clock = clock
        self.events: deque[Event] = deque()
        """What `next_event` hands out, for who takes all there are."""
        self._out: list[memoryview | bytes] = []
        self._session: Session | None = None
        self._waiting: Established | None = None
        """What has keys, and not yet the peer's proof."""
        self._established: Established | None = None
        self._peer_identity: str | None = None
        self._preface: Preface | None = Preface(
            config,
            role,
            resumption=arrangement.resumption,
            peer=arrangement.name,
            random=random,
            usual=arrangement.usual,
        )
        self._take_preface(self._preface)
        self._prepared: Prepared | None = None
        offer = self._preface.only_offer if role is Role.A else None
        if offer is not None:
            self._prepared = prepare(config, *offer, random)
            self._out.append(self._prepared.message)

    # --- what is known -------------------------------------------------------------

    @property
    def failure(self) -> Failure | None:
        """Why it failed, by name."""
        return None if self.error is None else Failure.of(self.error)

    @property
    def established(self) -> Established | None:
        """What the core knows of the session; None before AES_MODE."""
        return self._established

    @property
    def session_id(self) -> bytes | None:
        """33 bytes, the same at both ends (RFC 8548 section 3.4); None before AES_MODE."""
        return None if self._established is None else self._established.session_id

    @property
    def peer_identity(self) -> str | None:
        """The fingerprint of the key that the peer has proved; None: it has none."""
        return self._peer_identity

    @property
    def cipher(self) -> str | None:
        """The AEAD in use, such as `AES-128-GCM`; None before AES_MODE."""
        return None if self._established is None else aead(self._established.aead).evp_name

    @property
    def tep(self) -> int | None:
        """The encryption protocol in use (RFC 8548 section 7); None before AES_MODE."""
        return None if self._established is None else self._established.tep

    @property
    def resumed(self) -> bool | None:
        """Whether the session continues an earlier one; None before AES_MODE."""
        return None if self._established is None else self._established.resumed

    @property
    def seconds_left(self) -> float:
        """To the deadline; infinite where there is none."""
        return math.inf if self.deadline is None else self.deadline - self._clock()

    @property
    def fin_due(self) -> bool:
        """Whether TCP FIN follows what `data_to_send` had last."""
        return self._session is not None and self._session.fin_queued and self.error is None

    @property
    def over(self) -> bool:
        """Whether both streams have ended, authenticated; TCP may go."""
        return self._session is not None and self._session.state is SessionState.CLOSED

    # --- from the peer -----------------------------------------------------------------

    def receive_data(self, data: ReadableBuffer) -> None:
        """Take bytes of the peer's stream."""
        if self.state is State.FAIL:
            return
        preface = self._preface
        if preface is not None:
            try:
                data = preface.receive(data)
            except NoEncryptionError as error:
                self._take_preface(preface)
                self._fail(error)
                return
            self._take_preface(preface)
            if preface.outcome is None:
                return
            self._begin(preface, preface.outcome)
        if self._session is not None:
            self._session.receive_data(data)
            self._settle(self._session)

    def receive_eof(self) -> None:
        """The peer's TCP FIN came."""
        if self.state is State.AES_MODE and self._session is not None:
            self._session.receive_eof()
            self._settle(self._session)
        else:
            self._fail(TruncationError(PeerReason.FIN_DURING_EXCHANGE, self._hint()))

    def receive_reset(self, *, unsent: bool = False) -> None:
        """A TCP RST came, or the path is gone.

        `unsent`: with bytes of this host that the kernel had not taken.  It is a
        failure then even where both streams have ended.
        """
        if self.state is State.AES_MODE and unsent:
            self._fail(ResetError(PeerReason.RESET))
        elif self.state is State.AES_MODE and self._session is not None:
            self._session.receive_reset()
            self._settle(self._session)
        else:
            self._fail(ResetError(PeerReason.RESET, self._hint()))

    def handle_timeout(self) -> None:
        """Fail if the deadline has passed; not every call has to be in time."""
        if self.deadline is not None and self._clock() >= self.deadline:
            self._fail(HandshakeTimeoutError(PeerReason.TIMEOUT, _AWAITED[self.state]))

    def expire(self, why: str) -> None:
        """Fail as if the deadline had passed, where there is no room to wait for it."""
        if self.deadline is not None:
            self._fail(HandshakeTimeoutError(PeerReason.TIMEOUT, why))

    def use_idle_time(self) -> None:
        """While the other end is at work: do what would otherwise be done when it has answered."""
        if self._session is not None:
            self._session.use_idle_time()

    # --- from the application ------------------------------------------------------------

    def send(self, data: ReadableBuffer) -> None:
        """Seal application data; `data_to_send` has it then.

        Raises the error of a failed connection, `LocalError` before AES_MODE and
        after `finish`.
        """
        session = self._flowing()
        session.send_data(data)
        self._settle(session)

    def finish(self) -> None:
        """End the own stream with FINp (RFC 8548 section 3.7).  Raises as `send` does."""
        session = self._flowing()
        session.finish()
        self._settle(session)

    def flush_resumption(self) -> bool:
        """Forget what could resume this session (RFC 8548 section 3.5); True if there was."""
        return self._session is not None and self._session.flush_resumption()

    def close(self) -> None:
        """Forget the keys: the connection is used no more.  Idempotent.

        Before AES_MODE that is a failure; afterwards the state stays, and what
        was not sent never is.
        """
        if self.state is not State.FAIL and self.state is not State.AES_MODE:
            self._fail(LocalError("closed by this host before the handshake was over"))
        self._wipe()

    # --- for who moves bytes himself (`tcpcrypt.sockets.streams`) -----------------------------

    def lend(self) -> Lease | None:
        """Both streams, to be sealed and opened elsewhere; None: not now.

        `data_to_send` has to be empty.
        """
        if self.state is not State.AES_MODE or self._session is None:
            return None
        return self._session.lend()

    def take_back(self, returned: Returned) -> None:
        """Go on where the borrower stopped."""
        if self._session is not None and self.error is None:
            self._session.take_back(returned)
            self._settle(self._session)

    # --- what came of it -------------------------------------------------------------------

    def data_to_send(self) -> list[memoryview | bytes]:
        """Buffers for the peer, in order; they are handed out once."""
        out, self._out = self._out, []
        session = self._session
        if session is not None:
            while chunk := session.bytes_to_send():
                out.append(chunk)
        return out

    def next_event(self) -> Event | None:
        """The next event, or None."""
        return self.events.popleft() if self.events else None

    # --- inside ----------------------------------------------------------------------------

    def _flowing(self) -> Session:
        if self.error is not None:
            raise self.error
        if self._session is None or self.state is not State.AES_MODE:
            raise LocalError(f"no application data in state {self.state.value}")
        return self._session

    def _take_preface(self, preface: Preface) -> None:
        if preface.to_send:
            self._out.append(preface.to_send)
            preface.to_send = b""

    def _begin(self, preface: Preface, negotiated: Negotiated) -> None:
        """Both options are known: from here on it is RFC 8548."""
        arrangement = self._arrangement
        self._preface, self.negotiated = None, negotiated
        how = "resuming a session" if negotiated.resuming else "exchanging keys"
        self._step(Step.NEGOTIATED, f"TEP {negotiated.tep:#04x} negotiated, {how}")
        self._session = Session(
            arrangement.config,
            negotiated,
            resumption=arrangement.resumption,
            peer=arrangement.name,
            sent_before=preface.sent_len,
            received_before=preface.received_len,
            prepared=self._prepared,
            random=self._random,
            clock=self._clock,
            key_log=self._key_log,
        )

    def _settle(self, session: Session) -> None:
        """What the session has to tell, as the program is to see it."""
        while self.error is None and (event := session.next_event()) is not None:
            if isinstance(event, DataReceived | StreamEnded):
                self.events.append(event)
            elif isinstance(event, Established):
                how = "from the earlier one" if event.resumed else "from the key exchange"
                self._step(Step.KEYS, f"session secret {how}")
                self._waiting = event
            elif isinstance(event, PeerProved):
                self._prove(event)
            elif isinstance(event, Aborted):
                self._fail(event.error)

    def _prove(self, event: PeerProved) -> None:
        """The peer has shown that it has the keys, and what policy asks for."""
        reason = "the other end has the same keys, and is nobody in particular"
        identity: str | None = None
        try:
            if self._waiting is not None and self._waiting.tep == Tep.EXPERIMENTAL:
                proof = PeerProof.unpack(event.peer_identity)
                identity = None if proof.key is None else fingerprint(proof.key)
                reason = f"the other end has proved to be {identity}"
            self._arrangement.learn(event.peer_identity)
        except (PeerError, LocalError) as error:
            self._fail(error)
            return
        self.deadline = None
        self._established, self._peer_identity = self._waiting, identity
        self._step(Step.PROVED, reason)

    def _step(self, step: Step, reason: str) -> None:
        old, new = self.state, TABLE.get((self.state, step), State.FAIL)
        if new is State.FAIL:  # the core does nothing out of order
            self._fail(LocalError(f"{step.value} in state {old.value}"))
            return
        self.state = new
        self.events.append(StateChanged(old, new, reason))

    def _fail(self, error: TcpcryptError) -> None:
        if self.error is not None:
            return
        old, self.state = self.state, TABLE.get((self.state, Step.FAULT), State.FAIL)
        self.error, self.deadline = error, None
        self._wipe()
        self.events.append(StateChanged(old, self.state, str(error)))
        self.events.append(Failed(error))

    def _wipe(self) -> None:
        if self._preface is not None:
            self._preface.abandon()
            if self._prepared is not None:
                self._prepared.agreement.wipe()
        if self._session is not None:
            self._session.wipe()

    def _hint(self) -> str:
        """Why the other end may have gone during the handshake."""
        if self.state is State.INIT:
            return "it may not speak tcpcrypt on this port"
        own = self._arrangement.own_fingerprint
        return f"it may not accept this host, {own}" if own else ""
