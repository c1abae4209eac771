"""The opening side of the queue: what waits for what, and what nobody need see."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
from middlebox.packet import ACK, ENO, MSS, SYN, Packet
from support.queues import Verdicts

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.core.negotiation import Negotiated, Negotiation, Opener
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import AeadId, Tep
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.nfqueue import NfqueueBackend
from tcpcrypt.runtime.rules import MARK_ANSWERED, MARK_DONE, MARK_PASSED, QUEUE_NUMBER
from tcpcrypt.runtime.tcp_info import has_heard

PEER = b"peer"
OUR_SEQ, THEIR_SEQ = 1000, 9000
IP_BIND_ADDRESS_NO_PORT = 24
FRESH = b"\x01\x23"
"""Role B, and the TEP of Curve25519."""


class Kernel(Verdicts):
    """Stands for queue and privileges, and notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[socket.socket] = []

    def finish(self, sock: socket.socket, _mark: int = 0, *, settled: bool = False) -> None:
        assert not settled
        self.finished.append(sock)


class Active:
    """A connection that the backend opens, with a listener that answers by itself."""

    def __init__(self, config: Config, cache: ResumptionCache | None = None) -> None:
        self.kernel = Kernel()
        self.backend = NfqueueBackend(self.kernel, self.kernel)  # type: ignore[arg-type]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sock = socket.socket()
        # An address of this process alone: what others leave in TIME_WAIT has its ports.
        pid = os.getpid()
        mine = bytes((127, 1 + (pid >> 14 & 127), pid >> 7 & 127, 1 + (pid & 127)))
        self.sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        self.sock.bind((socket.inet_ntoa(mine), 0))
        self.sock.setblocking(False)
        self.progress: list[object] = []
        self.negotiation = Negotiation(config, Opener.ACTIVE, resumption=cache, peer=PEER)
        there = self.listener.getsockname()
        self.backend.connect(
            self.sock, there, self.negotiation, lambda: self.progress.append(self.outcome)
        )
        here = self.sock.getsockname()
        ours = socket.inet_aton(here[0]), socket.inet_aton(there[0])
        self.syn = Packet(
            *(*ours, here[1], there[1], OUR_SEQ, 0, SYN, 64_000, 0),
            *(((MSS, b"\x05\xb4"),), b""),
        )
        self.ack = replace(self.syn, seq=OUR_SEQ + 1, ack=THEIR_SEQ + 1, flags=ACK, options=())
        self.syn_ack = Packet(
            *(*reversed(ours), there[1], here[1], THEIR_SEQ, OUR_SEQ + 1, SYN | ACK, 64_000, 0),
            *(((MSS, b"\x05\xb4"), (ENO, FRESH)), b""),
        )

    @property
    def outcome(self) -> object:
        return self.negotiation.outcome

    def take(self, packet: Packet, hook: Hook) -> tuple[Verdict, bytes | None, int | None]:
        octets = memoryview(packet.build())
        self.backend.take(QueuedPacket(QUEUE_NUMBER, 1, hook, 0, octets))
        return self.kernel.verdicts[-1]

    def close(self) -> None:
        self.backend.release(self.sock)
        self.sock.close()
        self.listener.close()


@pytest.fixture
def active() -> Iterator[Active]:
    one = Active(Config())
    yield one
    one.close()


def cache() -> ResumptionCache:
    """With one secret."""
    found = ResumptionCache(Config())
    found.store(
        PEER,
        tep=Tep.ECDHE_CURVE25519,
        aead=AeadId.AES_128_GCM,
        original_role=Role.A,
        secret=SessionSecret(Secret(bytes(32)), 1),
    )
    return found


def test_a_syn_ack_settles_a_fresh_exchange_before_the_ack_leaves(active: Active) -> None:
    active.take(active.syn, Hook.OUTPUT)
    _what, changed, mark = active.take(active.syn_ack, Hook.INPUT)
    assert mark == MARK_ANSWERED
    assert Packet.parse(changed or b"").option(MSS) == b"\x05\xb0"
    assert isinstance(active.outcome, Negotiated)
    assert active.progress == [active.outcome]


def test_rfc8547_4_6_every_segment_has_the_option_until_the_peer_was_heard(active: Active) -> None:
    active.take(active.syn, Hook.OUTPUT)
    active.take(active.syn_ack, Hook.INPUT)
    for packet in (active.ack.with_payload(b"Init1"), active.ack):
        _what, changed, mark = active.take(packet, Hook.OUTPUT)
        assert mark == MARK_PASSED
        assert Packet.parse(changed or b"").option(ENO) == b""


def test_what_has_no_room_for_the_option_that_was_promised_does_not_leave(active: Active) -> None:
    """The peer would go on in plain TCP, and this host not."""
    active.take(active.syn, Hook.OUTPUT)
    active.take(active.syn_ack, Hook.INPUT)
    crowded = replace(active.ack, options=((253, bytes(37)),))
    assert active.take(crowded, Hook.OUTPUT) == (Verdict.DROP, None, None)


def test_rfc8548_3_5_a_chain_is_not_free_before_the_ack_has_left() -> None:
    """The next secret of it must not reach the peer before that has spent this one."""
    config = Config()
    active = Active(config, cache())
    try:
        active.take(active.syn, Hook.OUTPUT)
        own = active.negotiation.own
        assert own is not None
        assert own.ticket is not None
        taken = (bytes((own.ticket.tep | 0x80,)) + own.ticket.peer_identifier) + b"NONCE678"
        answer = replace(active.syn_ack, options=((ENO, b"\x01" + taken),))
        assert active.take(answer, Hook.INPUT)[2] == MARK_ANSWERED
        active.backend.connected(active.sock)
        assert active.outcome is None
        active.take(active.ack, Hook.OUTPUT)
        assert isinstance(active.outcome, Negotiated)
        assert active.outcome.resuming
    finally:
        active.close()


@pytest.mark.parametrize("payload", [b"", b"Init1"], ids=["alone", "with Init1"])
def test_the_ack_leaves_with_the_option_whether_or_not_init1_is_with_it(
    active: Active, payload: bytes
) -> None:
    """A path that loses long segments, or takes options from data, leaves an ACK alone."""
    active.take(active.syn, Hook.OUTPUT)
    assert not active.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
    active.take(active.syn_ack, Hook.INPUT)
    what, changed, _mark = active.take(replace(active.ack, payload=payload), Hook.OUTPUT)
    assert what is Verdict.REPEAT
    assert Packet.parse(changed or b"").option(ENO) == b""


def test_what_nobody_was_shown_is_found_out_later(active: Active) -> None:
    """The kernel's rules have seen the peer's first segment without SYN, and nobody else."""
    active.take(active.syn, Hook.OUTPUT)
    active.take(active.syn_ack, Hook.INPUT)
    active.backend.look_after()
    assert not active.negotiation.finished
    assert not has_heard(active.sock)
    other, _address = active.listener.accept()
    with other:
        other.sendall(b"!")
        active.sock.setblocking(True)
        assert active.sock.recv(1) == b"!"
        assert has_heard(active.sock)
        active.backend.look_after()
    assert active.negotiation.finished
    assert active.kernel.finished == [active.sock]
    assert not active.backend._opening
    active.backend.look_after()
    assert active.kernel.finished == [active.sock]


def test_an_acknowledgement_counts_as_well(active: Active) -> None:
    other, _address = active.listener.accept()
    with other:
        active.sock.setblocking(True)
        active.sock.sendall(b"Init1")
        assert other.recv(5) == b"Init1"
        other.sendall(b"")
        # On the loopback what is sent is acknowledged before send() returns, or soon.
        for _ in range(1000):
            if has_heard(active.sock):
                return
        pytest.fail("not acknowledged")


def test_what_comes_in_through_the_queue_all_the_same_settles_it(active: Active) -> None:
    """As where connection tracking does not know the connection."""
    active.take(active.syn, Hook.OUTPUT)
    active.take(active.syn_ack, Hook.INPUT)
    theirs = replace(
        active.syn_ack, seq=THEIR_SEQ + 1, ack=OUR_SEQ + 6, flags=ACK, options=(), payload=b"!"
    )
    seen = active.negotiation
    active.kernel.finish = lambda *_given, **_named: None  # type: ignore[method-assign]
    assert active.take(theirs, Hook.INPUT)[2] == MARK_DONE
    assert seen.finished


def test_a_port_that_is_used_again_is_not_released_with_who_had_it(active: Active) -> None:
    """A reset frees the port at once, and the next may have it before anybody heard of that."""
    active.take(active.syn, Hook.OUTPUT)
    peer, here = active.listener.accept()[0], active.sock.getsockname()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with socket.socket() as following:
        following.bind(here)
        following.setblocking(False)
        second = Negotiation(Config(), Opener.ACTIVE, peer=PEER)
        there = active.listener.getsockname()
        active.backend.connect(following, there, second, lambda: None)
        active.take(active.syn, Hook.OUTPUT)
        active.take(active.syn_ack, Hook.INPUT)
        assert isinstance(second.outcome, Negotiated)
        active.backend.release(active.sock)
        _what, changed, mark = active.take(active.ack, Hook.OUTPUT)
        assert mark == MARK_PASSED
        assert Packet.parse(changed or b"").option(ENO) == b""
        active.backend.look_after()
        active.backend.release(following)


def test_an_answer_from_elsewhere_is_not_taken_by_who_had_the_port_before(active: Active) -> None:
    """Where others translate the destination: the former's answers came from there, too."""
    elsewhere = replace(active.syn_ack, source=socket.inet_aton("127.0.0.9"))
    active.take(active.syn, Hook.OUTPUT)
    assert active.take(elsewhere, Hook.INPUT)[2] == MARK_ANSWERED
    peer, here = active.listener.accept()[0], active.sock.getsockname()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with socket.socket() as following:
        following.bind(here)
        following.setblocking(False)
        second = Negotiation(Config(), Opener.ACTIVE, peer=PEER)
        active.backend.connect(following, active.listener.getsockname(), second, lambda: None)
        active.take(replace(active.syn, seq=OUR_SEQ + 700), Hook.OUTPUT)
        answer = replace(elsewhere, ack=OUR_SEQ + 701)
        assert active.take(answer, Hook.INPUT)[2] == MARK_ANSWERED
        assert isinstance(second.outcome, Negotiated)
        active.backend.release(active.sock)
        assert active.take(answer, Hook.INPUT)[2] == MARK_ANSWERED
        active.backend.release(following)
    assert not active.backend._opening
