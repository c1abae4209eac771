"""Application on one side, peer on the other, a `Session` in between.

Bytes move by copying a quarter of a megabyte at a time.  Each direction stops
reading while the other side has more than PENDING_MAX waiting, so that a slow
receiver slows its sender down and memory stays bounded.

How a connection ends is carried over, and nothing else looks like an end:

    application: FIN         peer: FINp, then FIN
    peer: FINp               application: FIN
    peer: FIN, no FINp       application: RST (or FIN, in a profile that has no FINp)
    RST on either side       the other side: RST
    a bad frame, a timeout   both: RST
    a peer that is not whom  both: RST
    policy asks for

Once a connection has shown that it lasts it is lent to the pump, where there is
one, and comes back for whatever is more than data.

Without a session (policy lets the connection go on in plain TCP) bytes and
FINs pass as they are.
"""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Callable
from typing import Final

from tcpcrypt.core.events import (
    Aborted,
    DataReceived,
    Established,
    PeerProved,
    Rekeyed,
    Role,
    StreamEnded,
)
from tcpcrypt.core.session import Session
from tcpcrypt.errors import AuthenticationError, LocalError, PeerError, PeerReason
from tcpcrypt.runtime.channel import Channel, ask_whether_alive
from tcpcrypt.runtime.loop import Loop, Timer
from tcpcrypt.runtime.pump import Back, Loan, Pumping, Why
from tcpcrypt.runtime.tcp_info import has_sack, lost_order

__all__ = ["PENDING_MAX", "Ending", "Relay"]

PENDING_MAX: Final = 256 * 1024
READ_SIZE: Final = 256 * 1024
_ANSWERS_MAX: Final = 2 * (PENDING_MAX + READ_SIZE)
"""Bytes waiting for the peer at which nothing more is read of it.  The application
alone never leaves so many; a peer that rekeys and does not read the answers does."""
_LEND_AFTER: Final = 4
"""Reads until a connection goes to the pump: what is over sooner does without."""
_LEND_AFTER_BYTES: Final = 32 * 1024

_SEGMENTS_SNDBUF: Final = 64 << 10
"""For a peer that takes each segment for a frame: some fifty are under way at most.
The Stanford tcpcryptd keeps track of a hundred, and its queue holds hardly more;
what it loses it does not find again."""

_BUFFER: Final = memoryview(bytearray(READ_SIZE))
"""One for all relays: there is one thread, and nothing keeps a view of it."""


class Ending(enum.Enum):
    """How a relayed connection ended."""

    CLOSED = "closed"
    ABORTED = "aborted"
    """The peer, or someone on the path, broke the protocol."""
    REFUSED = "refused"
    """The peer is not whom policy asks for."""
    RESET_BY_PEER = "reset by peer"
    RESET_BY_APPLICATION = "reset by application"
    STOPPED = "stopped"
    DISTRUSTED = "distrusted"
    """The peer's key was revoked, or another one pinned, meanwhile."""


class Relay:
    """One connection.  `session` None: plain TCP.

    `ready` is called once, with the session's facts or None, when data can
    pass: the application's side is wanted then (`attach`).  `ended` is called
    once, with the error's text where there was one; `proved` once at most, when
    the peer has proved who it is; `rekeyed` at each change of keys.
    """

    def __init__(
        self,
        loop: Loop,
        outer: socket.socket,
        session: Session | None,
        *,
        ready: Callable[[Established | None], None],
        ended: Callable[[Ending, str], None],
        releasing: Callable[[socket.socket], None],
        rekeyed: Callable[[Rekeyed], None],
        proved: Callable[[PeerProved], None],
        pump: Pumping | None = None,
        accepted: bool = False,
    ) -> None:
        """`accepted`: `outer` came from a listener that was prepared for it (`Steering`)."""
        self.session = session
        self.rekeys = 0
        """Key changes of both directions (RFC 8548 section 3.8)."""
        self.fault: PeerReason | None = None
        """What the peer did wrong, once that has ended the connection."""
        self._frames_lent = 0
        self._sent = 0
        self._received = 0
        self._pump = pump
        self._loan: Loan | None = None
        self._reads = 0
        self._read_bytes = 0
        self._loop = loop
        self._ready: Callable[[Established | None], None] = ready
        self._ended: Callable[[Ending, str], None] = ended
        self._releasing: Callable[[socket.socket], None] = releasing
        self._rekeyed = rekeyed
        self._proved = proved
        self._over = False
        self._inner: Channel | None = None
        self._early: list[memoryview] = []
        self._application_ended = False
        self._peer_ended = False
        self._outer_at_eof = False
        self._timer: Timer | None = None
        if not accepted:
            ask_whether_alive(outer)
        self._outer = Channel(
            loop,
            outer,
            readable=self._read_outer,
            drained=self._regulate,
            failed=lambda _error: self._outer_lost(),
            equipped=accepted,
        )
        self._watchful = False
        """Whether the peer, once it has lost its place, sends what it did not mean."""
        if session is not None and session.config.profile.repeats_anew and not has_sack(outer):
            self._watchful, self._pump = True, None
        if session is not None and session.config.profile.frame_per_segment:
            # Linux joins nothing to such a segment, not even when it is sent again.
            self._outer.send_flags = socket.MSG_EOR
            outer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEGMENTS_SNDBUF)

    @property
    def sent(self) -> int:
        """Application bytes that went to the peer."""
        return self._sent + (self._loan.sent if self._loan is not None else 0)

    @property
    def received(self) -> int:
        """Application bytes that came from the peer."""
        return self._received + (self._loan.received if self._loan is not None else 0)

    @property
    def frames(self) -> int:
        """Frames sealed, but for those of a loan that is not back yet."""
        session = self.session
        return self._frames_lent + (session.frames_sealed if session is not None else 0)

    def start(self) -> None:
        """Begin: speak to the peer, and call `ready` as soon as data can pass."""
        if self.session is None:
            self._outer.watch()
            self._ready(None)
            return
        patience = self.session.config.handshake_timeout
        self._timer = self._loop.call_later(patience, self._on_deadline)
        if self.session.established:
            self._outer.watch()  # nobody takes data yet
        else:
            self._outer.reading = True
        self.settle()
        if not self._over and self.session.role is Role.B and not self.session.established:
            # Init1 may have brought the ACK with it that opened the connection.
            self._read_outer()

    def attach(self, inner: socket.socket, *, accepted: bool = False) -> None:
        """Give the relay the application's connection, which is open.

        `accepted`: it came from a listener that was prepared for it.
        """
        self._inner = Channel(
            self._loop,
            inner,
            readable=self._read_inner,
            drained=self._regulate,
            failed=lambda _error: self._finish(Ending.RESET_BY_APPLICATION),
            equipped=accepted,
        )
        early, self._early = self._early, []
        for data in early:
            self._inner.write(data)
        self._end_inner()
        self._regulate()
        if self._inner is not None and not self._inner.reading:
            self._inner.watch()

    def owns(self, fd: int) -> bool:
        """Whether `fd` is one of its sockets."""
        sides = (self._outer, self._inner)
        return any(side is not None and side.sock.fileno() == fd for side in sides)

    def reset(self, ending: Ending = Ending.STOPPED) -> None:
        """End the connection on both sides by RST."""
        self._finish(ending)

    # --- the application's side ----------------------------------------------------

    def _read_inner(self) -> None:
        inner = self._inner
        if inner is None:
            return
        size = self._receive(inner)
        if size is None:
            return
        if size == 0:
            inner.reading = False
            self._application_ended = True
            if self.session is None:
                self._outer.end()
            else:
                self.session.finish()
        else:
            self._sent += size
            data = _BUFFER[:size]
            if self.session is None:
                self._outer.write(data, borrowed=True)
            else:
                self.session.send_data(data)
        self.settle()

    def _receive(self, channel: Channel) -> int | None:
        """Bytes read into the buffer; 0 at the end, None if there is nothing."""
        try:
            size = channel.sock.recv_into(_BUFFER)
        except BlockingIOError:
            return None
        except OSError:
            if channel is self._outer:
                self._outer_lost()
            else:
                self._finish(Ending.RESET_BY_APPLICATION)
            return None
        if size:
            self._reads += 1
            self._read_bytes += size
        else:
            self._reads = self._read_bytes = 0  # what is left may be short
        return size

    def _deliver(self, data: memoryview, *, borrowed: bool = False) -> None:
        self._received += len(data)
        if self._inner is not None:
            self._inner.write(data, borrowed=borrowed)
        else:
            self._early.append(memoryview(bytes(data)) if borrowed else data)

    def _end_inner(self) -> None:
        if self._peer_ended and self._inner is not None:
            self._inner.end()

    # --- the peer's side -------------------------------------------------------------

    def _read_outer(self) -> None:
        size = self._receive(self._outer)
        if size is None:
            return
        if self._watchful and self.session is not None and lost_order(self._outer.sock):
            self.session.receive_disorder()
        elif size == 0:
            self._outer.reading = False
            self._outer_at_eof = True
            if self.session is None:
                self._peer_ended = True
                self._end_inner()
            else:
                self.session.receive_eof()
        else:
            data = _BUFFER[:size]
            if self.session is None:
                self._deliver(data, borrowed=True)
            else:
                self.session.receive_data(data)
        self.settle()

    def _outer_lost(self) -> None:
        if self.session is None:
            self._finish(Ending.RESET_BY_PEER)
        else:
            self.session.receive_reset()
            self.settle()

    def _on_deadline(self) -> None:
        if self.session is not None and not self.session.established:
            self.session.handle_timeout()
            self.settle()

    # --- both ------------------------------------------------------------------------

    def settle(self) -> None:
        """Carry out what the session wants, until it wants nothing more.

        To be called after `take_back` by whoever asked the session for something.
        """
        session = self.session
        while session is not None and not self._over and (event := session.next_event()):
            if isinstance(event, DataReceived):
                self._deliver(memoryview(event.data))
            elif isinstance(event, Established):
                if self._timer is not None:
                    self._timer.cancel()
                self._reads = self._read_bytes = 0
                self._flush_session()
                self._ready(event)
            elif isinstance(event, PeerProved):
                self._proved(event)
            elif isinstance(event, Rekeyed):
                self.rekeys += 1
                self._rekeyed(event)
            elif isinstance(event, StreamEnded):
                self._peer_ended = True
                self._end_inner()
            elif isinstance(event, Aborted):
                self.fault = event.error.reason
                self._finish(_ending(event.error), str(event.error))
        self._flush_session()
        self._regulate()

    def _flush_session(self) -> None:
        session = self.session
        if session is None or self._over:
            return
        chunk = session.bytes_to_send()
        while chunk:
            following = session.bytes_to_send()
            # RFC 8548 section 3.7: the FIN goes on the segment that ends the
            # frame with FINp.
            self._outer.write(chunk, last=not following and session.fin_queued)
            chunk = following
        if session.fin_queued:
            self._outer.end()

    def _regulate(self) -> None:
        """Read where there is room for what comes; close once both streams are over."""
        if self._over or self._loan is not None:
            return
        inner, outer = self._inner, self._outer
        # A session that has ended on both sides does not mind what TCP does then.
        if inner is not None and inner.ended and (outer.ended or outer.closed):
            self._finish(Ending.CLOSED)
            return
        exchanging = self.session is not None and not self.session.established
        if not self._outer_at_eof:
            room = inner is not None and inner.pending < PENDING_MAX
            outer.reading = exchanging or (room and outer.pending < _ANSWERS_MAX)
        if inner is not None and not self._application_ended:
            inner.reading = not exchanging and outer.pending < PENDING_MAX
            if self._reads >= _LEND_AFTER or self._read_bytes >= _LEND_AFTER_BYTES:
                self._lend(inner)

    # --- the pump --------------------------------------------------------------------

    def _lend(self, inner: Channel) -> None:
        """Lend the connection to the pump, if nothing is left to be done here."""
        outer, pump = self._outer, self._pump
        outgoing, incoming = not self._application_ended, not self._outer_at_eof
        if pump is None or inner.pending or outer.pending or not (outgoing or incoming):
            return
        lease = self.session.lend() if self.session is not None else None
        if self.session is not None and lease is None:
            return
        fds = inner.sock.fileno(), outer.sock.fileno()
        inner.lend()
        outer.lend()
        try:
            if lease is None:
                self._loan = pump.lend_plain(
                    *fds, outgoing=outgoing, incoming=incoming, back=self._on_back
                )
            else:
                self._loan = pump.lend(*fds, lease, watch=incoming, back=self._on_back)
        except OSError:
            self._pump = None  # it goes on here
            if self.session is not None and lease is not None:
                self.session.take_back(lease.unused())
            inner.take_back(b"")
            outer.take_back(b"")

    def take_back(self) -> None:
        """Have the connection back from the pump, for whoever needs the session."""
        if self._loan is not None:
            self._on_back(self._loan.recall())

    def _on_back(self, back: Back) -> None:
        """The pump has come upon something that is decided here."""
        self._regain(back)
        try:
            self._go_on(back)
        except Exception as error:
            # Nobody else knows whose this is; neither side is to wait for ever.
            self._finish(Ending.ABORTED, f"{type(error).__name__}: {error}")
            raise

    def _go_on(self, back: Back) -> None:
        inner, outer = self._inner, self._outer
        if inner is None or self._over:
            raise LocalError("a relay that is not at work came back")
        if self.session is not None:
            self.session.take_back(back.streams)
        inner.take_back(back.to_inner)
        outer.take_back(back.to_outer)
        if back.why is Why.INNER_FAILED:
            self._finish(Ending.RESET_BY_APPLICATION)
        elif back.why is Why.OUTER_FAILED:
            self._outer_lost()
        elif back.why is Why.BROKEN:
            reason = os.strerror(back.error) if back.error else "libcrypto"
            self._finish(Ending.ABORTED, f"pump failed: {reason}")
        else:
            self.settle()

    def _regain(self, back: Back) -> None:
        self._loan = None
        self._reads = self._read_bytes = 0
        self._sent += back.sent
        self._frames_lent += back.streams.frames
        self._received += back.received

    def _finish(self, ending: Ending, detail: str = "") -> None:
        if self._over:
            return
        if self._loan is not None:
            self._regain(self._loan.recall())
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._releasing(self._outer.sock)
        for channel in (self._inner, self._outer):
            if channel is None:
                continue
            if ending is Ending.CLOSED:
                channel.close_cleanly()
            else:
                channel.reset()
        if self.session is not None:
            self.session.wipe()
        self._early.clear()
        ended = self._ended
        # See `Channel`: no circle of references stays behind.
        self._ready = self._ended = self._releasing = self._rekeyed = _nothing
        self._proved = _nothing
        ended(ending, detail)


def _ending(error: PeerError) -> Ending:
    if isinstance(error, AuthenticationError):
        return Ending.REFUSED
    return Ending.RESET_BY_PEER if error.reason is PeerReason.RESET else Ending.ABORTED


def _nothing(*_arguments: object) -> None:
    """What a relay calls once it is over."""
