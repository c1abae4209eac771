"""Held SYNs: one decision each, whatever the packets hold, and nothing is left waiting."""

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st
from support.queues import VerdictOnEach

from tcpcrypt.runtime.eno_backend import Tuple4
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.rules import MARK_DIRECT, MARK_MASK, MARK_REFUSED, MARK_STEERED
from tcpcrypt.runtime.synhold import HeldSyn, SynHold

APPLICATION_MARK = 0x0F00_0007


def syn(isn: int = 1, port: int = 40000) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", port, 80, isn, 0, 0x50, 0x02, 65535, 0, 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0xB8, 40, 0, 0, 64, 6, 0)
    return head + socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2") + tcp


def queued(number: int, payload: bytes, queue: int = 1) -> QueuedPacket:
    return QueuedPacket(queue, number, Hook.OUTPUT, APPLICATION_MARK, memoryview(payload))


def hold() -> tuple[SynHold, VerdictOnEach, list[HeldSyn]]:
    queue, came = VerdictOnEach(), list[HeldSyn]()
    return SynHold(queue, came.append), queue, came  # type: ignore[arg-type]


def test_a_decision_keeps_the_bits_of_others() -> None:
    held, queue, came = hold()
    held.take(queued(1, syn()))
    assert (came[0].dscp, came[0].mark) == (0xB8, APPLICATION_MARK & ~MARK_MASK)
    came[0].steer()
    came[0].forget()
    assert queue.decided == {1: (Verdict.REPEAT, APPLICATION_MARK | MARK_STEERED)}
    assert (len(held), held.packets) == (0, 0)


def test_repetitions_share_the_decision_and_only_one_waits() -> None:
    held, queue, came = hold()
    held.take(queued(1, syn()))
    held.take(queued(2, syn()))
    assert queue.decided == {1: (Verdict.DROP, None)}
    assert (len(came), held.packets) == (1, 1)
    came[0].refuse()
    held.take(queued(3, syn()))
    assert (
        queue.decided[2]
        == queue.decided[3]
        == (
            Verdict.REPEAT,
            APPLICATION_MARK | MARK_REFUSED,
        )
    )


def test_a_repetition_that_comes_late_opens_nothing() -> None:
    """The kernel repeats a SYN whose answer is under way, as where processors are busy."""
    held, queue, came = hold()
    held.take(queued(1, syn()))
    came[0].steer()
    came[0].arrived()
    held.take(queued(2, syn()))
    assert queue.decided[2] == (Verdict.DROP, None)
    assert (len(came), len(held), held.packets) == (1, 0, 0)
    held.take(queued(3, syn(isn=2)))  # another connection
    assert len(came) == 2


def test_what_has_arrived_is_remembered_for_a_while_only() -> None:
    held, _queue, came = hold()
    for number in range(1100):
        held.take(queued(number, syn(port=1024 + number)))
        came[-1].steer()
        came[-1].arrived()
    held.take(queued(2000, syn(port=1024 + 1099)))
    assert len(came) == 1100
    held.take(queued(2001, syn(port=1024)))
    assert len(came) == 1101


def test_another_connection_of_the_same_addresses_shares_nothing() -> None:
    """Another sequence number, or another policy's queue: decided for itself."""
    for other in (queued(2, syn(isn=2)), queued(2, syn(), queue=9)):
        held, queue, came = hold()
        held.take(queued(1, syn()))
        ended: list[HeldSyn] = []

        def end(ended: list[HeldSyn] = ended, came: list[HeldSyn] = came) -> None:
            ended.append(came[0])
            came[0].forget()

        came[0].superseded = end
        came[0].steer()
        held.take(other)
        assert ended == came[:1]
        assert len(came) == 2
        assert 2 not in queue.decided, "it waits for a decision of its own"


def test_a_stray_is_left_alone_only_if_it_may_be() -> None:
    for may, verdict in (
        (True, (Verdict.REPEAT, APPLICATION_MARK | MARK_DIRECT)),
        (False, (Verdict.DROP, None)),
    ):
        held, queue, _came = hold()
        asked: list[tuple[Tuple4, int]] = []

        def answer(
            connection: Tuple4, isn: int, may: bool = may, asked: list[tuple[Tuple4, int]] = asked
        ) -> bool:
            asked.append((connection, isn))
            return may

        held.take_stray(queued(1, syn(isn=5)), answer)
        assert queue.decided == {1: verdict}
        assert asked[0][1] == 5


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_get_one_verdict_or_wait(payload: bytes, stray: bool) -> None:
    held, queue, came = hold()
    if stray:
        held.take_stray(queued(1, payload), lambda _connection, _isn: False)
        assert queue.decided == {1: (Verdict.DROP, None)}
    else:
        held.take(queued(1, payload))
        assert (1 in queue.decided) is not bool(came)
