"""What a path can do to the options of a handshake: plain TCP where policy lets it, or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from middlebox.fault import Attack, Downgrade, Fault, Kind, Later, Mode, Out, Outcome
from middlebox.packet import ENO, TIMESTAMPS, Packet

_STRANGE_TEP = b"\x2a"
"""A TEP that nobody knows, and that has no data."""


class StrippedFromSyn(Downgrade):
    def syn(self, packet: Packet) -> Iterable[Out]:
        self.done += packet.option(ENO) is not None
        return [packet.without(ENO)]


class StrippedFromSynAck(Downgrade):
    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        self.done += packet.option(ENO) is not None
        return [packet.without(ENO)]


class StrippedFromBoth(StrippedFromSyn):
    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        return [packet.without(ENO)]


class _StrippedFromAcks(Attack):
    """The client has enabled encryption, and the server must not: no connection comes of it."""

    garbles = True


class StrippedFromAcks(_StrippedFromAcks):
    """All that the client sends behind its SYN has lost the option."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if forward and packet.option(ENO) is not None:
            self.done += 1
            return [packet.without(ENO)]
        return [packet]


class StrippedFromFirstAck(_StrippedFromAcks):
    """Only the first.  Those behind it are too late, unless they come before the server has
    looked: it cannot tell that from a first ACK which came late."""

    @classmethod
    def expected(cls, kind: Kind, mode: Mode) -> set[Outcome]:
        return {Outcome.FAILED, Outcome.ENCRYPTED}

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if forward and not self.done and packet.option(ENO) is not None:
            self.done += 1
            return [packet.without(ENO)]
        return [packet]


class Echoed(Downgrade):
    """A peer, or a box, that sends back options which it does not know."""

    def __init__(self, later: Later) -> None:
        super().__init__(later)
        self._option: bytes | None = None

    def syn(self, packet: Packet) -> Iterable[Out]:
        self._option = packet.option(ENO)
        self.done += self._option is not None
        return [packet.without(ENO, TIMESTAMPS)]

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        if self._option is None:
            return [packet]
        return [packet.with_option(ENO, self._option)]


class EchoedThroughout(Echoed):
    """As a server that knows TCP-ENO sees it: its own answer is what is replaced."""

    def syn(self, packet: Packet) -> Iterable[Out]:
        self._option = packet.option(ENO)
        self.done += self._option is not None
        return [packet.without(TIMESTAMPS)]


class TwoOptions(Downgrade):
    """RFC 8547 section 4.7: two SYN-form options in a segment are none."""

    def syn(self, packet: Packet) -> Iterable[Out]:
        option = packet.option(ENO)
        if option is None:
            return [packet]
        self.done += 1
        packet = packet.without(TIMESTAMPS, ENO)
        return [replace(packet, options=(*packet.options, (ENO, option), (ENO, _STRANGE_TEP)))]


class OfferChanged(Attack):
    """A TEP more in the SYN: the transcripts differ, and with them all keys.

    Not those of a session that plain tcpcrypt resumes: by RFC 8548 section 3.5 they
    come of the cached secret and both nonces, and what else the options say is void.
    """

    @classmethod
    def expected(cls, kind: Kind, mode: Mode) -> set[Outcome]:
        return {Outcome.ENCRYPTED} if kind is Kind.RESUMED else {Outcome.FAILED}

    def syn(self, packet: Packet) -> Iterable[Out]:
        return [self._changed(packet)]

    def _changed(self, packet: Packet) -> Packet:
        option = packet.option(ENO)
        if option is None:
            return packet
        self.done += 1
        return packet.without(TIMESTAMPS).with_option(ENO, _STRANGE_TEP + option)


class AnswerChanged(OfferChanged):
    """The same in the SYN-ACK."""

    def syn(self, packet: Packet) -> Iterable[Out]:
        return [packet]

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        return [self._changed(packet)]


class LastByteChanged(Attack):
    """Of the option in the SYN: what of a resumption nonce or of an offer."""

    def syn(self, packet: Packet) -> Iterable[Out]:
        option = packet.option(ENO)
        if option is None:
            return [packet]
        self.done += 1
        return [packet.with_option(ENO, option[:-1] + bytes((option[-1] ^ 1,)))]


class _SecondSynDiffers(Fault):
    """The first SYN-ACK is lost, and of two SYNs one is not as it was sent.

    What comes of it depends on who believes which of them.
    """

    garbles = True

    @classmethod
    def expected(cls, kind: Kind, mode: Mode) -> set[Outcome]:
        return Downgrade.expected(kind, mode) | {Outcome.FAILED}

    def __init__(self, later: Later) -> None:
        super().__init__(later)
        self._answers = 0
        self._syns = 0

    def syn(self, packet: Packet) -> Iterable[Out]:
        self._syns += 1
        return [self.differing(packet, self._syns)]

    def syn_ack(self, packet: Packet) -> Iterable[Out]:
        self._answers += 1
        # Until the second SYN has come.
        return [packet] if self._syns > 1 else []

    def differing(self, packet: Packet, number: int) -> Packet:
        raise NotImplementedError


class SecondSynStripped(_SecondSynDiffers):
    """The first one counts, which the server has answered."""

    @classmethod
    def expected(cls, kind: Kind, mode: Mode) -> set[Outcome]:
        return super().expected(kind, mode) | {Outcome.ENCRYPTED}

    def differing(self, packet: Packet, number: int) -> Packet:
        if number < 2:
            return packet
        self.done += 1
        return packet.without(ENO)


class FirstSynStripped(_SecondSynDiffers):
    def differing(self, packet: Packet, number: int) -> Packet:
        if number > 1:
            return packet
        self.done += 1
        return packet.without(ENO)


class SecondSynChanged(_SecondSynDiffers):
    """RFC 8547 section 4.6: the option of a SYN that is sent again is the same."""

    def differing(self, packet: Packet, number: int) -> Packet:
        option = packet.option(ENO)
        packet = packet.without(TIMESTAMPS)
        if number < 2 or option is None:
            return packet
        self.done += 1
        return packet.with_option(ENO, _STRANGE_TEP + option)


class OptionLost(Downgrade):
    """A path that drops each SYN with the option: the fourth goes without, where that is let."""

    def syn(self, packet: Packet) -> Iterable[Out]:
        if packet.option(ENO) is None:
            return [packet]
        self.done += 1
        return []


HANDSHAKE_FAULTS: tuple[type[Fault], ...] = (
    *(StrippedFromSyn, StrippedFromSynAck, StrippedFromBoth, StrippedFromAcks),
    *(
        StrippedFromFirstAck,
        Echoed,
        EchoedThroughout,
        TwoOptions,
        OfferChanged,
        AnswerChanged,
        LastByteChanged,
    ),
    *(SecondSynStripped, FirstSynStripped, SecondSynChanged, OptionLost),
)
