"""What the packets of handshakes are let go with, at each place where they wait."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import replace

import pytest
from middlebox.packet import ACK, ENO, MSS, RST, SYN, Packet
from support.queues import Verdicts

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation, Opener
from tcpcrypt.core.policy import Match, Mode, Policy
from tcpcrypt.runtime.eno_backend import Requested, Tuple4
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.nfqueue import NfqueueBackend
from tcpcrypt.runtime.rules import MARK_DIRECT, MARK_DONE, MARK_PASSED, QUEUE_NUMBER
from tcpcrypt.wire.profile import RFC8548, STANFORD, WireProfile

OTHERS = 0x7
"""Bits of the mark that are not ours."""
POLICY = Policy(Mode.OPPORTUNISTIC, Match())
HERE, THERE = (ipaddress.ip_address(a) for a in ("10.0.0.1", "10.0.0.2"))
SYN_SEQ, OUR_SEQ = 1000, 9000
COMES = Packet(
    *(THERE.packed, HERE.packed, 4000, 80, SYN_SEQ, 0, SYN, 64_000, 0),
    *(((MSS, b"\x05\xb4"), (ENO, b"\x21\x23")), b""),
)
FOLLOWS = Packet(
    *(THERE.packed, HERE.packed, 4000, 80, SYN_SEQ + 1, OUR_SEQ + 1, ACK, 64_000, 0),
    *(((ENO, b""),), b""),
)
LEAVES = Packet(
    *(HERE.packed, THERE.packed, 80, 4000, OUR_SEQ, SYN_SEQ + 1, SYN | ACK, 64_000, 0),
    *(((MSS, b"\x05\xb4"),), b""),
)


class Passive:
    """The backend with a listener."""

    def __init__(self, profile: WireProfile = RFC8548) -> None:
        self.profile = profile
        self.queue = Verdicts()
        self.negotiations: list[Negotiation] = []
        self.backend = NfqueueBackend(self.queue, None)  # type: ignore[arg-type]
        self.backend.adopt_listener(None, self._new)  # type: ignore[arg-type]

    def _new(self, _connection: Tuple4, **_of_the_syn: object) -> Requested:
        config = replace(Config(), profile=self.profile)
        self.negotiations.append(Negotiation(config, Opener.PASSIVE))
        return Requested(self.negotiations[-1], POLICY, config, None)

    def take(self, packet: Packet, hook: Hook) -> tuple[Verdict, bytes | None, int | None]:
        octets = memoryview(packet.build())
        self.backend.take(QueuedPacket(QUEUE_NUMBER, 1, hook, OTHERS, octets))
        return self.queue.verdicts[-1]


def test_what_follows_a_syn_is_for_the_listener_and_settles_the_negotiation() -> None:
    passive = Passive()
    assert passive.take(COMES, Hook.INPUT) == (Verdict.REPEAT, None, MARK_PASSED | OTHERS)
    what, changed, mark = passive.take(LEAVES, Hook.OUTPUT)
    assert (what, mark) == (Verdict.REPEAT, MARK_PASSED | OTHERS)
    assert Packet.parse(changed or b"").option(ENO) is not None
    assert passive.take(FOLLOWS, Hook.PREROUTING) == (Verdict.REPEAT, None, MARK_DONE | OTHERS)
    assert isinstance(passive.negotiations[0].outcome, Negotiated)


@pytest.mark.parametrize(
    ("profile", "option", "window"),
    [(RFC8548, (ENO, b"\x21"), 64_000), (STANFORD, (253, b"\x45\x4e\x21"), 536)],
    ids=["rfc8548", "stanford"],
)
def test_a_peer_that_cannot_be_overtaken_is_let_send_one_segment(
    profile: WireProfile, option: tuple[int, bytes], window: int
) -> None:
    passive = Passive(profile)
    passive.take(replace(COMES, options=(COMES.options[0], option)), Hook.INPUT)
    answer = Packet.parse(passive.take(LEAVES, Hook.OUTPUT)[1] or b"")
    assert answer.window == window
    assert answer.option(option[0]) is not None


def test_who_is_not_answered_in_that_dialect_keeps_the_window() -> None:
    passive = Passive(STANFORD)
    passive.take(COMES.without(ENO), Hook.INPUT)
    assert passive.take(LEAVES, Hook.OUTPUT)[1] is None


def test_rfc8547_4_6_what_follows_without_the_option_is_seen_as_well() -> None:
    passive = Passive()
    passive.take(COMES, Hook.INPUT)
    passive.take(LEAVES, Hook.OUTPUT)
    verdict = passive.take(FOLLOWS.without(ENO), Hook.PREROUTING)
    assert verdict == (Verdict.REPEAT, None, MARK_DONE | OTHERS)
    assert isinstance(passive.negotiations[0].outcome, Fallback)


@pytest.mark.parametrize(
    "guess",
    [FOLLOWS.bare(ACK, ahead=1 << 21), replace(FOLLOWS, ack=OUR_SEQ + 2, options=())],
    ids=["sequence", "acknowledgement"],
)
def test_guesses_settle_nothing_and_are_not_for_the_listener(guess: Packet) -> None:
    passive = Passive()
    passive.take(COMES, Hook.INPUT)
    passive.take(LEAVES, Hook.OUTPUT)
    assert passive.take(guess, Hook.PREROUTING)[2] == MARK_DIRECT | OTHERS
    assert passive.negotiations[0].outcome is None
    passive.take(FOLLOWS, Hook.PREROUTING)
    assert isinstance(passive.negotiations[0].outcome, Negotiated)


@pytest.mark.parametrize("packet", [FOLLOWS, FOLLOWS.bare(RST)], ids=["ack", "rst"])
def test_what_nobody_knows_goes_its_own_way(packet: Packet) -> None:
    """Handed to the listener it would be lost for a connection of the service."""
    passive = Passive()
    assert passive.take(packet, Hook.PREROUTING) == (Verdict.REPEAT, None, MARK_DIRECT | OTHERS)
    assert passive.take(packet, Hook.INPUT) == (Verdict.REPEAT, None, MARK_PASSED | OTHERS)


def test_what_this_host_has_opened_is_not_for_the_listener() -> None:
    """It comes by a second time, where its turn is."""
    passive = Passive()
    with socket.socket() as listener, socket.socket() as sock:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        negotiation = Negotiation(Config(), Opener.ACTIVE)
        passive.backend.connect(sock, address, negotiation, lambda: None)
        local = sock.getsockname()
        theirs = Packet(
            *(socket.inet_aton(address[0]), socket.inet_aton(local[0]), address[1], local[1]),
            *(1, 1, ACK, 64_000, 0, ((ENO, b""),), b""),
        )
        assert passive.take(theirs, Hook.PREROUTING)[2] == MARK_DIRECT | OTHERS
        assert passive.take(theirs, Hook.INPUT)[2] == MARK_PASSED | OTHERS
        assert negotiation.outcome is None
