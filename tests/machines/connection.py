"""One connection of two hosts in memory, and what has to be true of it at every moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from machines.line import Line
from support.hosts import ROOM, Host, region

from tcpcrypt.core.events import Aborted, DataReceived, Established, PeerProved, StreamEnded
from tcpcrypt.core.lifecycle import SessionState
from tcpcrypt.core.negotiation import Negotiated, Negotiation, Opener
from tcpcrypt.core.session import Session

Meddle = Callable[[bytes, bytes], bytes]
"""Of an option and the one before it in the other direction: what arrives."""


@dataclass
class End:
    """One host's side; `session` None: it speaks plain TCP."""

    session: Session | None
    line: Line = field(default_factory=Line)
    """What it sends."""
    said: bytearray = field(default_factory=bytearray)
    """By its application."""
    heard: bytearray = field(default_factory=bytearray)
    ended: bool = False
    """The application has said all."""
    heard_end: bool = False
    proved: bool = False
    aborted: Aborted | None = None
    closed: bool = False
    """TCP FIN was sent."""

    @property
    def may_say(self) -> bool:
        return self.session is not None and self.aborted is None and not self.ended


class Connection:
    """From the SYN on."""

    def __init__(
        self, client: Host, server: Host, meddle: dict[str, Meddle], clock: Callable[[], float]
    ) -> None:
        active = client.negotiation(Opener.ACTIVE)
        passive = server.negotiation(Opener.PASSIVE)
        self.touched = bool(meddle)
        """Somebody has changed the handshake or forged a reset, or it took too long."""
        self._handshake(active, passive, meddle)
        self.ends = [
            End(host.session(negotiation, clock=clock) if self._agreed(negotiation) else None)
            for host, negotiation in ((client, active), (server, passive))
        ]
        self.touched = self.touched or any(end.session is None for end in self.ends)
        for number in (0, 1):
            self.look(number)

    @staticmethod
    def _agreed(negotiation: Negotiation) -> bool:
        if negotiation.outcome is None:
            negotiation.abandon()
        return isinstance(negotiation.outcome, Negotiated)

    @staticmethod
    def _handshake(active: Negotiation, passive: Negotiation, meddle: dict[str, Meddle]) -> None:
        last = b""
        for name, sender, receiver, syn, ack in (
            ("syn", active, passive, True, False),
            ("syn-ack", passive, active, True, True),
            ("ack", active, passive, False, True),
        ):
            option = sender.option_to_send(syn=syn, ack=ack, room=ROOM)
            arrived = meddle[name](option, last) if name in meddle else option
            receiver.segment_received(syn=syn, ack=ack, options=region(arrived[:ROOM]))
            last = option

    # --- what TCP does ---------------------------------------------------------------

    def write(self, number: int) -> None:
        """What the session has for its peer leaves, each piece a segment."""
        end = self.ends[number]
        session = end.session
        if session is None:
            return
        while octets := bytes(session.bytes_to_send()):
            end.line.send(octets)
        if session.fin_queued and not end.closed:
            end.closed = True
            end.line.send(b"", fin=True)

    def arrive(self, number: int, index: int, step: int, keep: bool) -> None:
        """A segment that this end has sent comes to the other; `keep`: and comes again."""
        line, other = self.ends[number].line, self.ends[1 - number]
        segment = line.under_way[index] if keep else line.under_way.pop(index)
        data, at_end = line.arrive(segment)
        if other.session is None:
            return
        for start in range(0, len(data), step):
            other.session.receive_data(data[start : start + step])
            self.look(1 - number)
        if at_end:
            other.session.receive_eof()
        self.look(1 - number)

    def look(self, number: int) -> None:
        """Take note of all events."""
        end = self.ends[number]
        session = end.session
        if session is None:
            return
        while (event := session.next_event()) is not None:
            assert end.aborted is None, "something happened after the abort"
            if isinstance(event, DataReceived):
                assert not end.heard_end, "data behind the end"
                end.heard += event.data
            elif isinstance(event, StreamEnded):
                end.heard_end = True
            elif isinstance(event, PeerProved):
                end.proved = True
            elif isinstance(event, Aborted):
                end.aborted = event
            elif isinstance(event, Established):
                assert session.session_id == event.session_id

    # --- what has to be true -------------------------------------------------------------

    def check(self) -> None:
        one, other = self.ends
        for end, peer in ((one, other), (other, one)):
            assert peer.said.startswith(end.heard), "heard what nobody said"
            if end.heard_end:
                # RFC 8548 section 3.7
                assert peer.ended, "an end before FINp"
                assert end.heard == peer.said, "an end, and something lacks"
            if end.aborted is not None:
                assert end.session is not None
                assert end.session.state is SessionState.ABORTED
                assert not end.session.bytes_to_send(), "an aborted session sends"
        ids = [self._id(end) for end in self.ends]
        authentic = any(end.heard or end.heard_end or end.proved for end in self.ends)
        if authentic or not self.faulty:
            # Who was heard is who is known by this session ID; RFC 8547 section 5.1.
            assert None in ids or ids[0] == ids[1], "data between two sessions"
        if any(end.heard or end.heard_end for end in self.ends):
            assert None not in ids, "data without a session"
        if not self.faulty:
            assert one.aborted is other.aborted is None, (one.aborted, other.aborted)

    @property
    def faulty(self) -> bool:
        """Whether anybody has done anything that an honest path does not do."""
        return self.touched or any(end.line.touched for end in self.ends)

    @staticmethod
    def _id(end: End) -> bytes | None:
        known = end.session is not None and end.session.established
        return end.session.session_id if known and end.session is not None else None
