"""The pump beside the loop: relays lend it connections and get them back in callbacks.

The threads are those of `ext/_c_pump.pyx`, which says what they do.  With the
Python twin there is no pump, and `Pumping.open` says so by None.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from tcpcrypt import _fast
from tcpcrypt.core.lease import Lease, Returned
from tcpcrypt.runtime.loop import READ, Loop

__all__ = ["Back", "Loan", "Pumping", "Way", "Why"]

_THREADS: Final = 2


class Way(enum.IntEnum):
    """What becomes of one direction of a lent connection."""

    OFF = 0
    """It is over."""
    WATCH = 1
    """Incoming alone: the connection comes back when something arrives."""
    COPY = 2
    """Plain TCP; for both directions or, with OFF, for the one that is left."""
    CRYPT = 3


class Why(enum.IntEnum):
    """What a connection comes back for."""

    RECALLED = 0
    INNER_ENDED = 1
    """The application's FIN."""
    OUTER_ENDED = 2
    """The peer's FIN."""
    INNER_FAILED = 3
    OUTER_FAILED = 4
    STIRRED = 5
    """A frame that is more than data, or none at all; or anything, where watched."""
    KEY_SPENT = 6
    BROKEN = 7
    """libcrypto failed, or memory ran out."""


@dataclass(frozen=True, slots=True)
class Back:
    """A connection that came back."""

    why: Why
    error: int
    """The errno of a socket that failed."""
    sent: int
    """Data bytes that went to the peer."""
    received: int
    """Data bytes that came from the peer."""
    streams: Returned
    to_inner: bytes
    """What the application's socket has not taken yet."""
    to_outer: bytes
    """What the peer's socket has not taken yet."""

    @classmethod
    def of(cls, result: _fast.FlowResult) -> Self:
        why, error, sent, received, sealed_to, frames, opened_to, opened, wire, inner, outer = (
            result
        )
        streams = Returned(sealed_to, frames, opened_to, opened, wire)
        return cls(Why(why), error, sent, received, streams, inner, outer)


class Loan:
    """One connection in the pump."""

    __slots__ = ("_back", "_came", "_flow", "_lent")

    def __init__(
        self, lent: dict[_fast.Flow, Loan], flow: _fast.Flow, back: Callable[[Back], None]
    ) -> None:
        self._lent = lent
        self._flow = flow
        self._back: Callable[[Back], None] | None = back
        self._came: Back | None = None
        lent[flow] = self

    @property
    def sent(self) -> int:
        """Data bytes that went to the peer since the connection was lent."""
        return self._flow.sent

    @property
    def received(self) -> int:
        """Data bytes that came from the peer since then."""
        return self._flow.received

    def recall(self) -> Back:
        """Take it back now; its callback is not called any more."""
        self._back = None
        if self._came is not None:
            return self._came  # in this very turn, and its callback had not been called yet
        del self._lent[self._flow]
        return Back.of(self._flow.recall())

    def came(self, result: _fast.FlowResult) -> None:
        """It has come back by itself."""
        self._came = Back.of(result)

    def tell(self) -> None:
        """Call the callback, once."""
        back, self._back = self._back, None
        if back is not None and self._came is not None:
            back(self._came)


class Pumping:
    """The pump of a loop.  `open` it, and `close` it once all is recalled."""

    def __init__(self, loop: Loop, pump: _fast.Pump) -> None:
        self._loop = loop
        self._pump = pump
        self._lent: dict[_fast.Flow, Loan] = {}
        loop.watch(pump.fileno(), READ, self._collect)

    @classmethod
    def open(cls, loop: Loop, threads: int | None = None) -> Self | None:
        """A pump with a thread for each processor, two at most; None without the extension."""
        if threads is None:
            threads = max(1, min(_THREADS, len(os.sched_getaffinity(0))))
        pump = _fast.make_pump(threads)
        return cls(loop, pump) if pump is not None else None

    def __len__(self) -> int:
        """Connections in the pump."""
        return len(self._lent)

    def lend_plain(
        self,
        inner: int,
        outer: int,
        *,
        outgoing: bool,
        incoming: bool,
        back: Callable[[Back], None],
    ) -> Loan:
        """Lend a connection without encryption; `back` is called when it comes back.

        Raises `OSError`.
        """
        flow = self._pump.lend(
            inner,
            outer,
            outgoing=Way.COPY if outgoing else Way.OFF,
            incoming=Way.COPY if incoming else Way.OFF,
        )
        return Loan(self._lent, flow, back)

    def lend(
        self, inner: int, outer: int, lease: Lease, *, watch: bool, back: Callable[[Back], None]
    ) -> Loan:
        """Lend an encrypted connection.

        `watch`: although nothing of the peer's stream is to be opened, it comes
        back when something arrives.  Raises `OSError`; what was leased then has
        to be taken back as it was.
        """
        sealing, opening = lease.sealing, lease.opening
        incoming = Way.CRYPT if opening is not None else Way.WATCH if watch else Way.OFF
        flow = self._pump.lend(
            inner,
            outer,
            outgoing=Way.CRYPT if sealing is not None else Way.OFF,
            incoming=incoming,
            sealer=sealing.sealer if sealing is not None else None,
            seal_at=sealing.offset if sealing is not None else 0,
            seal_end=sealing.end if sealing is not None else 0,
            frames_left=sealing.frames if sealing is not None else 0,
            small_end=sealing.small_until if sealing is not None else 0,
            small_frame=sealing.first_frame_data if sealing is not None else 0,
            full_frame=sealing.frame_data if sealing is not None else 0,
            opener=opening.opener if opening is not None else None,
            open_at=opening.offset if opening is not None else 0,
            wire=opening.wire if opening is not None else b"",
        )
        return Loan(self._lent, flow, back)

    def _collect(self, _events: int) -> None:
        failed: Exception | None = None
        # All were taken off the pump's list: what one does must not lose the others.
        loans = []
        for flow, result in self._pump.collect():
            loan = self._lent.pop(flow)
            loan.came(result)
            loans.append(loan)
        for loan in loans:
            try:
                loan.tell()
            except Exception as error:
                failed = error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Stop the threads."""
        self._loop.forget(self._pump.fileno())
        self._pump.close()
