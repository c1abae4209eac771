"""Two hosts that speak TCP/S by packets alone: ours, or one with the model of the module."""

from collections.abc import Iterator

from tcps.model import Module
from tcps.tcp import ACK, CLIENT, FIN, PSH, SERVER, packet, syn, syn_ack

from tcpcrypt.tcps.connection import Connection, Fate, Terms
from tcpcrypt.tcps.gate import Flow, Gate
from tcpcrypt.tcps.known_hosts import KnownHosts
from tcpcrypt.wire.segment import Segment

REQUIRED = Terms(require=True)


class Ours:
    """A host with our gate; has the hooks of the model."""

    def __init__(self, terms: Terms | Fate | None = REQUIRED) -> None:
        self.hosts = KnownHosts()
        self.seen: list[str] = []
        self.now = 0.0
        found = Fate.PASS if terms is None else terms
        self.gate = Gate(self.hosts, lambda _flow, _opens: found, self.note, lambda: self.now)

    def note(self, _flow: Flow, connection: Connection) -> None:
        self.seen.append(connection.state.value)

    def local_out(self, octets: bytes) -> bytes | None:
        return self._done(octets, self.gate.outgoing(memoryview(octets)))

    def pre_routing(self, octets: bytes) -> bytes | None:
        return self._done(octets, self.gate.incoming(memoryview(octets)))

    @staticmethod
    def _done(octets: bytes, made: bytes | Fate) -> bytes | None:
        if isinstance(made, Fate):
            return octets if made is Fate.PASS else None
        assert Segment.parse(made).checksum_ok()
        return made

    @property
    def connection(self) -> Connection:
        ((_flow, connection),) = self.gate
        return connection


Host = Ours | Module


class Wire:
    """Carries packets from the one to the other; `seen` are those on the wire."""

    def __init__(self, client: Host, server: Host) -> None:
        self.client, self.server = client, server
        self.seen: list[Segment] = []

    def carry(self, octets: bytes) -> Segment | None:
        """What the receiver's TCP is given; None: it was dropped on the way."""
        from_client = Segment.parse(octets).source.packed == CLIENT
        sender, receiver = self.client, self.server
        if not from_client:
            sender, receiver = receiver, sender
        made = sender.local_out(octets)
        if made is None:
            return None
        self.seen.append(Segment.parse(made))
        given = receiver.pre_routing(made)
        return None if given is None else Segment.parse(given)

    def sealed(self, octets: bytes) -> bytes:
        """What the sender makes of it, which is lost."""
        from_client = Segment.parse(octets).source.packed == CLIENT
        made = (self.client if from_client else self.server).local_out(octets)
        assert made is not None
        return made

    def open(self) -> "Wire":
        """Three segments; the third without data."""
        for octets in (syn(), syn_ack(), packet()):
            assert self.carry(octets) is not None
        return self

    def say(self, data: bytes, *, from_client: bool = True, at: int = 0, acked: int = 0) -> bytes:
        """What arrives of `data`."""
        octets = packet(from_client, PSH | ACK, data=data, at=at, acked=acked)
        given = self.carry(octets)
        return b"" if given is None else bytes(given.payload)

    def end(self, at: int, *, from_client: bool = True, acked: int = 0) -> bool:
        """Whether a FIN arrives."""
        given = self.carry(packet(from_client, FIN | ACK, at=at, acked=acked))
        return given is not None and given.flags.fin

    def clear(self, *texts: bytes) -> Iterator[bytes]:
        """Those that were on the wire as they are."""
        return (text for text in texts if any(text in bytes(s.payload) for s in self.seen))


__all__ = ["CLIENT", "SERVER", "Host", "Ours", "Wire"]
