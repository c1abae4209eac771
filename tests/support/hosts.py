"""Two hosts that negotiate and talk in memory, for tests of the core."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import DataReceived, Event
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation, Opener
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.session import Session

ROOM = 40


def region(*options: bytes) -> bytes:
    """A TCP option region that holds `options`, padded with NOPs."""
    joined = b"".join(options)
    return joined + b"\x01" * (-len(joined) % 4)


@dataclass
class Seen:
    """The options that crossed the wire, in order: (who, syn, ack, option)."""

    segments: list[tuple[str, bool, bool, bytes]] = field(default_factory=list)

    def carry(self, who: str, sender: Negotiation, receiver: Negotiation, *, syn: bool, ack: bool,
              room: int = ROOM, strip: bool = False) -> bytes:  # fmt: skip
        option = sender.option_to_send(syn=syn, ack=ack, room=room)
        self.segments.append((who, syn, ack, option))
        receiver.segment_received(syn=syn, ack=ack, options=region(b"" if strip else option))
        return option


def negotiate(active: Negotiation, passive: Negotiation, *, room: int = ROOM,
              strip: Iterable[str] = (), passive_room: int = ROOM) -> Seen:  # fmt: skip
    """The three-way handshake; `strip` names segments that lose their option."""
    seen = Seen()
    seen.carry("A", active, passive, syn=True, ack=False, room=room, strip="syn" in strip)
    seen.carry("B", passive, active, syn=True, ack=True, room=passive_room, strip="synack" in strip)
    seen.carry("A", active, passive, syn=False, ack=True, strip="ack" in strip)
    return seen


def simultaneous(first: Negotiation, second: Negotiation) -> None:
    """SYNs cross, then SYN-ACKs cross (RFC 9293 figure 7)."""
    syns = [n.option_to_send(syn=True, ack=False, room=ROOM) for n in (first, second)]
    second.segment_received(syn=True, ack=False, options=region(syns[0]))
    first.segment_received(syn=True, ack=False, options=region(syns[1]))
    acks = [n.option_to_send(syn=True, ack=True, room=ROOM) for n in (first, second)]
    second.segment_received(syn=True, ack=True, options=region(acks[0]))
    first.segment_received(syn=True, ack=True, options=region(acks[1]))


def outcome(negotiation: Negotiation) -> Negotiated:
    assert isinstance(negotiation.outcome, Negotiated), negotiation.outcome
    return negotiation.outcome


def fallback(negotiation: Negotiation) -> Fallback:
    assert isinstance(negotiation.outcome, Fallback), negotiation.outcome
    return negotiation.outcome


@dataclass
class Host:
    """One host with a configuration and a cache; opens any number of connections."""

    config: Config = field(default_factory=Config)
    peer: bytes = b"peer"

    def __post_init__(self) -> None:
        self.cache = ResumptionCache(self.config)

    def negotiation(self, opener: Opener) -> Negotiation:
        return Negotiation(self.config, opener, resumption=self.cache, peer=self.peer)

    def session(self, negotiation: Negotiation, **more) -> Session:
        return Session(self.config, outcome(negotiation), resumption=self.cache, peer=self.peer,
                       **more)  # fmt: skip


def connect(client: Host, server: Host, **more) -> tuple[Session, Session]:
    """A negotiated connection, before any byte of the streams."""
    active = client.negotiation(Opener.ACTIVE)
    passive = server.negotiation(Opener.PASSIVE)
    negotiate(active, passive, **more)
    return client.session(active), server.session(passive)


def drain(session: Session) -> bytes:
    """All bytes that the session wants to send."""
    out = bytearray()
    while chunk := session.bytes_to_send():
        out += chunk
    return bytes(out)


def exchange(one: Session, other: Session, *, step: int | None = None) -> None:
    """Carry bytes both ways until neither has any; `step` bytes at a time."""
    for _ in range(20):
        quiet = True
        for sender, receiver in ((one, other), (other, one)):
            data = drain(sender)
            quiet = quiet and not data
            for start in range(0, len(data), step or max(len(data), 1)):
                receiver.receive_data(data[start : start + (step or len(data))])
        if quiet:
            return
    raise AssertionError("the two sessions never fall silent")


def events(session: Session) -> list[Event]:
    found = []
    while (event := session.next_event()) is not None:
        found.append(event)
    return found


def data_of(found: Iterable[Event]) -> bytes:
    return b"".join(bytes(e.data) for e in found if isinstance(e, DataReceived))


def open_pair(client: Host | None = None, server: Host | None = None) -> tuple[Session, Session]:
    """A connection with keys in place on both sides, events drained."""
    one, other = connect(client or Host(), server or Host())
    exchange(one, other)
    events(one)
    events(other)
    return one, other
