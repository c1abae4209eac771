"""What somebody on the path does to one connection, and what has to come of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import ClassVar

from middlebox.packet import MODULUS, SYN, Packet, after

MIDDLE = 17_000
"""Where in a stream things happen: behind TCP's initial window, all of which a client
may send with the option, so that its peer looks at each segment before TCP does."""
_INIT_MAGICS = (bytes.fromhex("15101a0e"), bytes.fromhex("097105e0"))


class Kind(enum.Enum):
    """What a connection begins with, and who it is between."""

    FRESH = "fresh"
    RESUMED = "resumed"
    AUTHENTICATED = "authenticated"
    """With a peer that is remembered, by a fresh exchange."""


class Mode(enum.Enum):
    """What policy asks for."""

    OPPORTUNISTIC = "opportunistic"
    REQUIRE = "require"


class Outcome(enum.Enum):
    """What may come of a connection; whatever else comes of one is a fault of ours."""

    ENCRYPTED = "encrypted, and all of both streams intact"
    PLAIN = "plain TCP from the beginning, and all of both streams intact"
    FAILED = "an error, and before it nothing that was not said"


Later = Callable[[float, bytes], None]
Out = Packet | bytes


class Fault:
    """Passes everything on as it came.  One object serves one connection.

    `carry` gets each segment of it.  `done` counts what was done to it: a fault
    that never came about has shown nothing.
    """

    size: ClassVar[int] = 30_000
    """Bytes that either side says."""
    garbles: ClassVar[bool] = False
    """Whether the server can be made to fall back where the client has enabled encryption:
    RFC 8547 section 4.6 makes its service take for data what the client has sealed."""

    def __init__(self, later: Later) -> None:
        self.done = 0
        self.too_late = False
        """TCP has said that what was put in came behind what it should have come in front of."""
        self.streams = {True: Stream(), False: Stream()}
        """By direction: True is what the client sends."""
        self._later = later
        self.port: int | None = None
        """The client's, as it is on the wire."""

    @classmethod
    def expected(cls, kind: Kind, mode: Mode) -> set[Outcome]:
        raise NotImplementedError

    def carry(self, packet: Packet, forward: bool) -> Iterable[bytes]:
        """What leaves at once in place of `packet`, which comes from the client if `forward`."""
        if self.port is None and packet.is_syn and forward:
            self.port = packet.sport
        if self.port != (packet.sport if forward else packet.dport):
            return [packet.build()]  # of the connection before
        self.streams[forward].note(packet)
        if packet.is_syn:
            out = self.syn(packet)
        elif packet.is_syn_ack:
            out = self.syn_ack(packet)
        else:
            out = self.segment(packet, forward)
        return [p.build() if isinstance(p, Packet) else p for p in out]

    def syn(self, packet: Packet) -> Iterable[Out]:
        return [packet]

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        return [packet]

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        return [packet]

    def offset(self, packet: Packet, forward: bool) -> int:
        """Where in the stream its payload begins."""
        return after(packet.seq, self.streams[forward].start)

    def later(self, seconds: float, *packets: Packet) -> None:
        for packet in packets:
            self._later(seconds, packet.build())


class Stream:
    """One direction as an eavesdropper sees it, and where its frames end."""

    def __init__(self) -> None:
        self.start = 0
        """Sequence number of its first byte."""
        self.data = bytearray()
        self._early: dict[int, bytes] = {}
        self.init = False
        """Whether it begins with an Init message."""
        self.ends: list[int] = []
        """Offsets behind the Init message and each frame that has passed."""

    def note(self, packet: Packet) -> None:
        if packet.flags & SYN:
            self.start = (packet.seq + 1) % MODULUS
            return
        if packet.payload:
            self._early[after(packet.seq, self.start)] = packet.payload
        # What comes out of order waits; a host that sends from two processors does that.
        for offset in sorted(self._early):
            known = len(self.data) - offset
            if known < 0:
                break
            self.data += self._early.pop(offset)[known:]
        self._find_ends()

    def _find_ends(self) -> None:
        while True:
            at = self.ends[-1] if self.ends else 0
            head = bytes(self.data[at : at + 8])
            if len(head) < 4:
                return
            init = not self.ends and head[:4] in _INIT_MAGICS
            if init and len(head) < 8:
                return
            self.init = self.init or init
            length = int.from_bytes(head[4:8], "big") if init else 3 + int.from_bytes(head[1:3])
            if len(self.data) < at + length:
                return
            self.ends.append(at + length)


class Harmless(Fault):
    """TCP has to mend it, or there is nothing to mend."""

    @classmethod
    def expected(cls, kind: Kind, mode: Mode) -> set[Outcome]:
        return {Outcome.ENCRYPTED}


class Downgrade(Fault):
    """Nobody can tell it from a peer that has no TCP-ENO, except who knows better."""

    @classmethod
    def expected(cls, kind: Kind, mode: Mode) -> set[Outcome]:
        plain = mode is Mode.OPPORTUNISTIC and kind is not Kind.AUTHENTICATED
        return {Outcome.PLAIN} if plain else {Outcome.FAILED}


class Attack(Fault):
    """What was encrypted is touched, or an end is forged."""

    @classmethod
    def expected(cls, kind: Kind, mode: Mode) -> set[Outcome]:
        return {Outcome.FAILED}
