"""The package under test, as the second host of `peer` sees it."""

from __future__ import annotations

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import (
    Aborted,
    DataReceived,
    Established,
    Event,
    Rekeyed,
    StreamEnded,
    UrgentReceived,
)
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation, Opener
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.session import Session
from tcpcrypt.errors import PeerError

ROOM = 40
_SENDS = 1000
"""More writes than any test makes."""


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestedHost:
    """Implements `peer.scripts.Subject` with the public core."""

    __test__ = False

    def __init__(self, config: Config, *, opens: bool, cache: ResumptionCache) -> None:
        self.config, self._cache = config, cache
        self._clock = Clock()
        opener = Opener.ACTIVE if opens else Opener.PASSIVE
        self.negotiation = Negotiation(config, opener, resumption=cache, peer=b"host")
        self._session: Session | None = None
        self.events: list[Event] = []
        self.wire = b""
        """Every byte of the stream that it has sent."""

    # --- what a script asks ---------------------------------------------------------

    @property
    def encrypted(self) -> bool:
        return isinstance(self.negotiation.outcome, Negotiated)

    @property
    def over(self) -> bool:
        return isinstance(self.negotiation.outcome, Fallback) or self.error is not None

    @property
    def received(self) -> bytes:
        return b"".join(bytes(e.data) for e in self._seen(DataReceived))

    @property
    def ended(self) -> bool:
        return bool(self._seen(StreamEnded))

    # --- what a test looks at ---------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """There is one as soon as encryption is on; never in plain TCP."""
        outcome = self.negotiation.outcome
        if self._session is None and isinstance(outcome, Negotiated):
            self._session = Session(
                self.config, outcome, resumption=self._cache, peer=b"host", clock=self._clock
            )
            self._collect()
        return self._session

    @property
    def error(self) -> PeerError | None:
        return self.session.error if self.session is not None else None

    @property
    def established(self) -> Established | None:
        found = self._seen(Established)
        return found[0] if found else None

    @property
    def aborts(self) -> list[Aborted]:
        return self._seen(Aborted)

    @property
    def urgent(self) -> list[int]:
        return [event.index for event in self._seen(UrgentReceived)]

    @property
    def rekeyed(self) -> list[Rekeyed]:
        return self._seen(Rekeyed)

    def _seen(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def _collect(self) -> None:
        while self._session is not None and (event := self._session.next_event()) is not None:
            self.events.append(event)

    # --- what a script does ------------------------------------------------------------

    def option(self, syn: bool, ack: bool) -> bytes:
        return self.negotiation.option_to_send(syn=syn, ack=ack, room=ROOM)

    def segment(self, syn: bool, ack: bool, options: bytes) -> None:
        self.negotiation.segment_received(syn=syn, ack=ack, options=options)

    def receive(self, data: bytes) -> None:
        self._on().receive_data(data)
        self._collect()

    def sent(self) -> bytes:
        session, out = self._on(), b""
        for _ in range(_SENDS):
            chunk = bytes(session.bytes_to_send())
            if not chunk:
                self.wire += out
                return out
            out += chunk
        raise AssertionError("the session never falls silent")

    def eof(self) -> None:
        self._on().receive_eof()
        self._collect()

    def reset(self) -> None:
        self._on().receive_reset()
        self._collect()

    def too_late(self) -> None:
        session = self._on()
        self._clock.now += 2 * self.config.handshake_timeout
        session.handle_timeout()
        self._collect()

    def send(self, data: bytes) -> None:
        self._on().send_data(data)

    def finish(self) -> None:
        self._on().finish()
        self._collect()

    def rekey(self) -> None:
        self._on().rekey()
        self._collect()

    def _on(self) -> Session:
        session = self.session
        assert session is not None, "encryption is not on"
        return session
