"""A flood asks alike: one negotiation serves for all, and who goes on has one of its own."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from middlebox.packet import ACK, ENO, MSS, SYN, TIMESTAMPS, Packet
from support.queues import Verdicts

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation, Opener
from tcpcrypt.core.policy import BOTH, Match, Mode, Policy
from tcpcrypt.errors import FallbackReason
from tcpcrypt.runtime.eno_backend import Requested, Tuple4
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.nfqueue import NfqueueBackend
from tcpcrypt.runtime.rules import MARK_DIRECT, MARK_DONE, MARK_PASSED, QUEUE_NUMBER, SYN_QUEUE

HERE, THERE = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
OUR_SEQ = 9000
OFFER = b"\x21\x23"
KNOWN, UNKNOWN = b"\x11" * 9, b"\x22" * 9
NONCE = b"12345678"
POLICY = Policy(Mode.OPPORTUNISTIC, Match())


class Finishing:
    def finish(self, _sock: socket.socket, _mark: int = 0, *, settled: bool = False) -> None:
        self.settled = settled


class Service:
    """The backend with a listener; `begun` counts negotiations."""

    def __init__(self, *, shared: bool = True, policy: Policy = POLICY) -> None:
        self.begun = 0
        self.queue = Verdicts()
        self.shared, self.policy = shared, policy
        self.config = Config()
        self.backend = NfqueueBackend(self.queue, Finishing())  # type: ignore[arg-type]
        self.backend.adopt_listener(None, self._new)  # type: ignore[arg-type]

    def _new(self, _connection: Tuple4, **_of_the_syn: object) -> Requested:
        self.begun += 1
        negotiation = Negotiation(self.config, Opener.PASSIVE)
        return Requested(negotiation, self.policy, self.config, None, self.shared, _resumes)

    def _take(self, packet: Packet, hook: Hook, queue: int) -> Packet | None:
        octets = memoryview(packet.build())
        self.backend.take(QueuedPacket(queue, 1, hook, 0, octets))
        assert self.queue.verdicts[-1] is not None
        what, changed, self.mark = self.queue.verdicts[-1]
        if what is Verdict.DROP:
            return None
        return packet if changed is None else Packet.parse(changed)

    def syn(self, port: int, *options: bytes, isn: int = 1000) -> None:
        """A SYN with these ENO options arrives."""
        self._syn(port, isn, *((ENO, option) for option in options))

    def _syn(self, port: int, isn: int, *options: tuple[int, bytes]) -> None:
        packet = Packet(
            *(THERE, HERE, port, 80, isn, 0, SYN, 64_000, 0),
            *(((MSS, b"\x05\xb4"), *options), b""),
        )
        assert self._take(packet, Hook.INPUT, SYN_QUEUE) == packet
        assert self.mark == MARK_PASSED

    def answer_to(self, port: int, *options: tuple[int, bytes]) -> bytes | None:
        """What a SYN with these options of any kind is answered."""
        self._syn(port, 1000, *options)
        return self.answer(port)

    def answer(self, port: int, *, isn: int = 1000, stuffing: int = 0) -> bytes | None:
        """The option in the SYN-ACK."""
        others = ((MSS, b"\x05\xb4"), *(((TIMESTAMPS, bytes(stuffing)),) if stuffing else ()))
        leaves = Packet(
            *(HERE, THERE, 80, port, OUR_SEQ, isn + 1, SYN | ACK, 64_000, 0, others, b"")
        )
        changed = self._take(leaves, Hook.OUTPUT, QUEUE_NUMBER)
        assert changed is not None
        found: bytes | None = changed.option(ENO)
        return found

    def ack(self, port: int, *, option: bool = True, isn: int = 1000) -> bool:
        """The first ACK arrives; whether it is let go."""
        follows = Packet(
            *(THERE, HERE, port, 80, isn + 1, OUR_SEQ + 1, ACK, 64_000, 0),
            *(((ENO, b""),) if option else (), b""),
        )
        return self._take(follows, Hook.PREROUTING, QUEUE_NUMBER) is not None

    def accepted(self, port: int) -> Requested | None:
        with socket.socket() as sock:
            return self.backend.accepted(sock, Tuple4(HERE, 80, THERE, port))


def _resumes(tep: int, identifier: bytes) -> bool:
    return (tep, identifier) == (0x21, KNOWN)


def resuming(identifier: bytes) -> bytes:
    return b"\xa1" + identifier + NONCE


def met(service: Service, port: int = 4000, option: bytes = OFFER) -> bytes | None:
    service.syn(port, option)
    return service.answer(port)


def test_who_asks_alike_is_answered_alike_and_negotiates_only_if_it_goes_on() -> None:
    service = Service()
    first = met(service)
    assert first
    for port in range(5000, 5010):
        assert met(service, port) == first
    assert service.begun == 1
    assert service.ack(5000)
    assert service.mark == MARK_DONE
    assert service.ack(4000)
    ends = [service.accepted(port) for port in (4000, 5000)]
    found = [end.negotiation.outcome for end in ends if end is not None]
    assert len(found) == 2
    assert isinstance(found[1], Negotiated)
    assert found[0] == found[1]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].negotiation is not ends[1].negotiation
    assert ends[1].policy is POLICY


def test_what_others_are_answered_is_answered_again_when_syn_or_answer_are_repeated() -> None:
    service = Service()
    first = met(service)
    for _ in range(2):
        assert met(service, 5000) == first
    assert service.begun == 1
    assert service.ack(5000)
    assert service.accepted(5000) is not None


def test_rfc8547_4_6_without_the_option_in_the_first_ack_it_is_plain() -> None:
    service = Service()
    met(service)
    met(service, 5000)
    assert service.ack(5000, option=False)
    end = service.accepted(5000)
    assert end is not None
    assert end.negotiation.outcome == Fallback(FallbackReason.NO_ENO_IN_FIRST_ACK)


@pytest.mark.parametrize("answered", [False, True])
def test_rfc8547_4_6_a_repeated_syn_that_says_something_else_counts(answered: bool) -> None:
    service = Service()
    met(service)
    service.syn(5000, OFFER)
    if answered:
        assert service.answer(5000)
    service.syn(5000, b"\x21")
    assert not service.answer(5000)
    assert service.ack(5000)
    end = service.accepted(5000)
    assert end is not None
    assert end.negotiation.outcome == Fallback(FallbackReason.SYN_CHANGED)


@pytest.mark.parametrize("then", [(), (b"\x21",), (b"\x21\x24",), (OFFER, OFFER)])
def test_nobody_spoils_the_answer_of_others_by_a_second_syn(then: tuple[bytes, ...]) -> None:
    service = Service()
    service.syn(4000, OFFER)
    service.syn(4000, *then)  # before the first is answered
    assert not service.answer(4000)
    assert met(service, 5000)
    assert service.begun == 2


def test_guesses_of_what_follows_cost_no_negotiation(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    met(service)
    met(service, 5000)
    monkeypatch.setattr("tcpcrypt.runtime.half_open.Negotiation", None)
    for seq, ack in ((1001, OUR_SEQ), (1001, OUR_SEQ + 2), (1000, OUR_SEQ + 1), (5, OUR_SEQ + 1)):
        guess = Packet(*(THERE, HERE, 5000, 80, seq, ack, ACK, 64_000, 0), *((), b"data"))
        assert service._take(guess, Hook.PREROUTING, QUEUE_NUMBER) == guess
        assert service.mark == MARK_DIRECT
    monkeypatch.undo()
    assert service.ack(5000)
    assert service.accepted(5000) is not None


def test_another_number_is_another_handshake() -> None:
    service = Service()
    met(service)
    service.syn(4000, b"\x21", isn=7)
    answer = service.answer(4000, isn=7)
    assert answer is not None
    assert b"\x21" in answer
    assert service.begun == 2


def test_where_the_peer_decides_about_the_policy_nothing_is_shared() -> None:
    service = Service(shared=False)
    for port in range(4000, 4004):
        assert met(service, port)
    assert service.begun == 4


def test_rfc8548_3_5_who_asks_for_a_session_that_there_is_is_asked_about() -> None:
    service = Service()
    fresh = met(service, 4000, resuming(UNKNOWN))
    for number in range(10):
        other = bytes((number,)) * 9
        assert met(service, 5000 + number, resuming(other)) == fresh
    assert service.begun == 1
    met(service, 6000, resuming(KNOWN))
    assert service.begun == 2
    # Who does not name any is another case, though the answer is the same.
    assert met(service, 6001, b"\x21") == fresh
    assert service.begun == 3
    assert service.ack(5003)
    end = service.accepted(5003)
    assert end is not None
    assert isinstance(end.negotiation.outcome, Negotiated)


@pytest.mark.parametrize(
    "useless",
    [(OFFER, b"\x21"), (b"\x9f\x21",), (b"\x70",), (b"",)],
    ids=["two", "ill-formed", "strange", "empty"],
)
def test_what_leads_to_nothing_is_told_once_as_well(useless: tuple[bytes, ...]) -> None:
    service = Service()
    for port in range(4000, 4005):
        service.syn(port, *useless)
        assert service.answer(port) is None
    assert service.begun == 1
    assert service.ack(4003, option=False)
    end = service.accepted(4003)
    assert end is not None
    assert isinstance(end.negotiation.outcome, Fallback)


def test_what_does_not_count_for_the_answer_is_not_told_apart() -> None:
    """Else a flood of permutations would be negotiated with one by one."""
    service = Service()
    answer = met(service)
    for port, option in enumerate(
        (b"\x23\x21", b"\x70\x21\x23", b"\x21\x71\x23\x72", b"\x04\x21\x23"), 5000
    ):
        assert met(service, port, option) == answer
        assert service.ack(port)
        end = service.accepted(port)
        assert end is not None
        assert isinstance(end.negotiation.outcome, Negotiated)
    assert service.begun == 1


def test_rfc6994_an_experiment_of_others_makes_no_option_useless() -> None:
    service = Service()
    service.syn(4000, OFFER, b"\x21")
    assert service.answer(4000) is None
    for port in (5000, 5001):
        assert service.answer_to(port, (253, b"\xf9\x89\0\0"), (ENO, OFFER))
    assert service.begun == 2
    # Nor does one that ends before what follows makes it look like the form below.
    assert service.answer_to(5002, (253, b"\x45"), (0x4E, b""), (ENO, OFFER))
    assert service.begun == 2
    # RFC 8547 section 4.1: the experimental form of ENO itself does.
    assert service.answer_to(6000, (253, b"\x45\x4e\x21"), (ENO, OFFER)) is None
    assert service.begun == 2


def test_of_another_dialect_nothing_is_shared() -> None:
    service = Service(policy=replace(POLICY, profile=BOTH))
    for port in range(4000, 4004):
        service.syn(port, OFFER, b"\x21")
        assert service.answer(port) is None
    assert service.begun == 4
    met(service, 5000)
    met(service, 5001)
    assert service.begun == 5


def test_where_the_answer_has_no_room_the_negotiation_says_what_becomes_of_it() -> None:
    service = Service()
    assert met(service)
    service.syn(5000, OFFER)
    assert service.answer(5000, stuffing=32) is None
    assert service.begun == 1
    assert service.ack(5000, option=False)
    end = service.accepted(5000)
    assert end is not None
    assert end.negotiation.outcome == Fallback(FallbackReason.NO_OPTION_SPACE)
    # And that is nobody else's affair.
    assert met(service, 5001)


def test_what_has_changed_changes_the_next_answer() -> None:
    service = Service()
    first = met(service)
    service.config = Config(teps=(0x21,))
    assert met(service, 5000) == first  # asked before
    service.backend.configure(service.config)
    assert met(service, 5001) not in {None, first}
    assert service.begun == 2
    # What was under way goes on as it was decided.
    assert service.ack(5000)
    end = service.accepted(5000)
    assert end is not None
    assert end.config is not service.config


def test_an_answer_is_renewed_by_one_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    service = Service()
    met(service)
    now += 1.5
    # The first is asked anew; until it is answered the others go by what there was.
    service.syn(5000, OFFER)
    service.syn(5001, OFFER)
    assert service.begun == 2
    now += 1.6
    service.syn(5002, OFFER)
    assert service.begun == 3
    assert service.answer(5001)
    met(service, 5003)
    assert service.begun == 4


def test_answers_that_do_not_lead_there_again_open_nothing() -> None:
    service = Service()
    met(service)
    met(service, 5000)
    met(service, 5001)
    known = next(iter(service.backend._answers._known.values()))
    known.option = known.option[:-1] + b"\x7f"
    assert not service.ack(5000)
    assert service.accepted(5000) is None
    assert service.accepted(5001) is None


def test_however_many_services_are_asked_what_is_kept_is_bounded() -> None:
    service = Service()
    for port in range(5000):
        packet = Packet(
            *(THERE, HERE, 4000, 1000 + port, 1, 0, SYN, 64_000, 0),
            *(((ENO, OFFER),), b""),
        )
        service._take(packet, Hook.INPUT, SYN_QUEUE)
        leaves = Packet(*(HERE, THERE, 1000 + port, 4000, 1, 2, SYN | ACK, 64_000, 0, (), b""))
        service._take(leaves, Hook.OUTPUT, QUEUE_NUMBER)
    assert service.begun == 5000
    answers = service.backend._answers
    assert len(answers._known) <= 4096
    assert len(answers._latest) <= 4096
    assert len(answers._alike) <= 256
