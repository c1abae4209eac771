"""The privilege channel and the verdict relay, between real processes and a real kernel."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tcpcrypt.auth.fingerprint import fingerprint
from tcpcrypt.auth.learned import Learned
from tcpcrypt.daemon.broker import BATCH, Broker, BrokeredPrivileges
from tcpcrypt.daemon.confinement import confine, find_account
from tcpcrypt.daemon.process import fork
from tcpcrypt.daemon.verdicts import DelegatedQueue, VerdictRelay, check_verdicts, verdict_pair
from tcpcrypt.daemon.words import NonsenseError, Words
from tcpcrypt.runtime import netlink
from tcpcrypt.runtime.loop import READ, Loop
from tcpcrypt.runtime.netlink import Hook, QueuedPacket, Verdict
from tcpcrypt.runtime.privileges import DirectPrivileges
from tcpcrypt.runtime.queue import PacketQueue
from tcpcrypt.runtime.rules import MARK_DONE, MARK_HANDSHAKE, MARK_INNER, MARK_MASK
from tcpcrypt.tools.netns import Lab, become_root

IP_TRANSPARENT = 19
FOREIGN = 0x1234
KEY = fingerprint(bytes(32))


@pytest.fixture(scope="module", autouse=True)
def _root() -> None:
    become_root()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def mark(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)


def congestion_control(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def until(loop: Loop, condition: Callable[[], object], timeout: float = 10) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never came"
        loop.step(0.05)


class Parent:
    """A parent's broker and, for the test to speak through, the bare worker's end."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.heard: list[tuple[str, object]] = []
        self.lost: list[str] = []
        ours, self.words = Words.pair(4096, 1 << 18)
        self.broker = Broker(
            loop,
            ours,
            DirectPrivileges(),
            expected={"ready"},
            heard=lambda verb, value: self.heard.append((verb, value)),
            lost=self.lost.append,
        )

    def ask(self, verb: str, value: object) -> list[socket.socket]:
        self.words.send(verb, value)
        self.loop.step(1)
        word = self.words.receive()
        assert word is not None
        assert word.verb == "sockets", word
        assert word.value == len(word.descriptors)
        return [socket.socket(fileno=descriptor) for descriptor in word.descriptors]

    def raw(self, text: bytes, descriptors: list[int] | None = None) -> None:
        end = socket.socket(fileno=os.dup(self.words.fileno()))
        with end:
            socket.send_fds(end, [text], descriptors or [])
        self.loop.step(1)

    def close(self) -> None:
        self.broker.close()
        self.words.close()


@pytest.fixture
def parent(loop: Loop) -> Iterator[Parent]:
    parent = Parent(loop)
    yield parent
    parent.close()


# --- what an honest worker gets ------------------------------------------------------


def test_sockets_carry_our_marks(parent: Parent) -> None:
    of_the_host = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_bytes().strip()
    for family, kind in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        openers = parent.ask("opener", [family, 3, 0])
        (marked,) = parent.ask("opener", [family, 1, FOREIGN])
        (passing,) = parent.ask("undiverted", [family, 1, FOREIGN])
        services = parent.ask("service", [family, 64])
        assert [mark(sock) for sock in openers] == [MARK_HANDSHAKE] * 3
        assert mark(marked) == MARK_HANDSHAKE | FOREIGN
        assert mark(passing) == MARK_DONE | FOREIGN
        assert {mark(sock) for sock in services} == {MARK_INNER}
        assert len(services) == 64
        # Whatever paces the host's connections, those within it are not paced.
        assert {congestion_control(sock) for sock in services} == {b"reno"}
        assert {congestion_control(sock) for sock in openers} == {of_the_host}
        for sock in (*openers, marked, passing, *services):
            assert sock.family == kind
            assert sock.type == socket.SOCK_STREAM
            sock.close()
    assert not parent.lost


def test_words_reach_the_daemon(parent: Parent) -> None:
    parent.words.send("ready", {"a": 1})
    parent.loop.step(1)
    assert parent.heard == [("ready", {"a": 1})]
    parent.broker.say("reload", "x" * 100_000)
    word = parent.words.receive()
    assert word is not None
    assert (word.verb, len(word.value)) == ("reload", 100_000)


def test_a_worker_that_reads_nothing_is_dropped(parent: Parent) -> None:
    for _ in range(200):
        if parent.lost:
            break
        for _ in range(64):
            try:
                parent.words.send("opener", [4, 64, 0])
            except (BlockingIOError, OSError):
                break
        parent.loop.step(0)
    assert parent.lost
    before = len(os.listdir("/proc/self/fd"))
    parent.words.close()
    assert len(os.listdir("/proc/self/fd")) < before
    assert before < 64, "what could not be sent was closed"


# --- what a worker that was taken over asks for ----------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"not json",
        b"[]",
        b"{}",
        b"1",
        b'{"opener":[4,1,0],"service":[4,1]}',
        b'{"opener":[4,1]}',
        b'{"opener":[4,1,0,0]}',
        b'{"opener":[5,1,0]}',
        b'{"opener":[4,0,0]}',
        b'{"opener":[4,-1,0]}',
        b'{"opener":[4,65,0]}',
        b'{"opener":[4,1e9,0]}',
        b'{"opener":[4,1.0,0]}',
        b'{"opener":[true,true,false]}',
        b'{"opener":[4,1,"0"]}',
        b'{"opener":{"4":1}}',
        b'{"opener":null}',
        b'{"opener":[4,1,-1]}',
        b'{"opener":[4,1,4294967296]}',
        b'{"opener":[4,1,1048576]}',  # MARK_STEERED
        b'{"opener":[4,1,8388608]}',  # the top bit of MARK_MASK
        b'{"service":[4]}',
        b'{"service":[4,1,0]}',
        b'{"service":[0,1]}',
        b'{"finish":[0]}',
        b'{"finish":0}',
        b'{"run":"/bin/sh"}',
        b'{"reload":"x"}',
        b"[" * 4000,
        b'{"a":' * 800,
        b'{"opener":[4,1,' + b"9" * 4000 + b"]}",
        b'{"ready":"' + b"x" * 8000 + b'"}',
    ],
    ids=lambda text: text[:34].decode(errors="replace"),
)
def test_nonsense_ends_the_worker(parent: Parent, text: bytes) -> None:
    parent.raw(text)
    assert len(parent.lost) == 1
    parent.loop.step(0)
    assert len(parent.lost) == 1, "it is said once"
    assert not parent.heard


def test_only_sockets_in_their_handshake_are_finished(parent: Parent, tmp_path) -> None:
    (sock,) = parent.ask("opener", [4, 1, 0])
    parent.raw(json.dumps({"finish": [FOREIGN]}).encode(), [sock.fileno()])
    assert mark(sock) == MARK_DONE | FOREIGN
    assert not parent.lost
    # The mark is not one of a handshake any more.
    parent.raw(b'{"finish":[0]}', [sock.fileno()])
    assert parent.lost
    assert mark(sock) == MARK_DONE | FOREIGN
    sock.close()


def _plain() -> int:
    return socket.socket(socket.AF_INET).detach()


def _datagram() -> int:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_HANDSHAKE)
    return sock.detach()


def _inner() -> int:
    return DirectPrivileges().service(4).detach()


def _raw() -> int:
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_HANDSHAKE)
    return sock.detach()


def _unix() -> int:
    return socket.socket(socket.AF_UNIX).detach()


def _file() -> int:
    return os.open("/dev/null", os.O_RDONLY)


@pytest.mark.parametrize("make", [_plain, _datagram, _inner, _raw, _unix, _file])
def test_other_descriptors_are_not_marked(parent: Parent, make: Callable[[], int]) -> None:
    descriptor = make()
    before = len(os.listdir("/proc/self/fd"))
    try:
        parent.raw(b'{"finish":[0]}', [descriptor])
        assert len(parent.lost) == 1
        # The channel is closed, and so is every copy.
        assert len(os.listdir("/proc/self/fd")) == before - 1
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "text", [b'{"opener":[4,1,0]}', b'{"ready":true}', b'{"finish":[]}', b'{"finish":[0,0]}']
)
def test_descriptors_that_nobody_asked_for(parent: Parent, text: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket() as sock:
        parent.raw(text, [sock.fileno()])
    assert len(parent.lost) == 1
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_more_descriptors_than_a_message_may_have(parent: Parent) -> None:
    with socket.socket() as sock:
        before = len(os.listdir("/proc/self/fd"))
        parent.raw(json.dumps({"finish": [0] * 65}).encode(), [sock.fileno()] * 65)
        assert parent.lost == ["a message is too long"]
        assert len(os.listdir("/proc/self/fd")) == before - 1


# --- both ends, two processes --------------------------------------------------------------


def test_an_unprivileged_worker_does_its_work(loop: Loop) -> None:
    """Pools, requests that have to wait, finishing: by a process without any capability."""
    ours, theirs = Words.pair(4096, 1 << 18)
    parent = os.getpid()
    account = find_account("nobody")

    def work() -> int:
        confine(account, parent)
        mine = Loop()
        heard: list[object] = []
        privileges = BrokeredPrivileges(theirs, (4, 6), lambda *word: heard.append(word))
        privileges.attach(mine)
        with pytest.raises(PermissionError):
            DirectPrivileges().opener(4)
        kept = []
        for number in range(3 * BATCH):
            kept.append(privileges.opener(4))
            assert not kept[-1].getblocking()
            assert not os.get_blocking(kept[-1].fileno()), "what Python believes is not enough"
            kept.append(privileges.service(6))
            if number % 40 == 0:
                special = privileges.opener(6, FOREIGN)
                assert mark(special) == MARK_HANDSHAKE | FOREIGN
                assert mark(privileges.opener(6, FOREIGN, diverted=False)) == MARK_DONE | FOREIGN
                assert mark(privileges.opener(4, diverted=False)) == MARK_DONE
        openers, services = kept[::2], kept[1::2]
        assert {mark(sock) for sock in openers} == {MARK_HANDSHAKE}
        assert {mark(sock) for sock in services} == {MARK_INNER}
        assert services[0].getsockopt(socket.IPPROTO_IPV6, 75) == 1, "transparent"
        services[0].bind(("2001:db8::1", 4711))  # not an address of this host
        for sock in openers:
            privileges.finish(sock, FOREIGN)
        copies = [sock.dup() for sock in openers]
        for sock in openers:
            sock.close()  # before the turn is over
        privileges.say("ready", {})
        while "stop" not in [verb for verb, _value in heard]:
            mine.step(5)
        assert {mark(sock) for sock in copies} == {MARK_DONE | FOREIGN}
        with pytest.raises(OSError, match="Address family"):
            privileges.opener(5)
        return 0

    worker = fork(work)
    theirs.close()
    heard: list[str] = []
    lost: list[str] = []
    broker = Broker(
        loop,
        ours,
        DirectPrivileges(),
        expected={"ready"},
        heard=lambda verb, _value: heard.append(verb),
        lost=lost.append,
    )
    until(loop, lambda: heard or lost)
    assert not lost
    loop.step(0.05)
    broker.say("stop", None)
    until(loop, lambda: lost)
    assert worker.wait(5) == 0
    broker.close()


def test_settled_connections_are_finished_later_and_closed_ones_never(loop: Loop) -> None:
    ours, theirs = Words.pair(4096, 1 << 18)
    mine = Loop()
    privileges = BrokeredPrivileges(theirs, (), lambda *_: None)
    privileges.attach(mine)
    finished: list[int] = []

    class Counting(DirectPrivileges):
        def finish(self, sock: socket.socket, mark: int = 0, *, settled: bool = False) -> None:
            finished.append(sock.fileno())
            super().finish(sock, mark, settled=settled)

    broker = Broker(loop, ours, Counting(), heard=lambda *_: None, lost=lambda _why: None)
    short, lasting = DirectPrivileges().opener(4), DirectPrivileges().opener(4)
    with short, lasting:
        privileges.finish(short, FOREIGN, settled=True)
        privileges.finish(lasting, FOREIGN, settled=True)
        mine.step(0)
        loop.step(0)
        assert not finished
        short.close()

        def both() -> bool:
            mine.step(0.05)
            return bool(finished)

        until(loop, both)
        assert mark(lasting) == MARK_DONE | FOREIGN
    assert len(finished) == 1
    privileges.close()
    broker.close()
    mine.close()


def test_a_descriptor_is_handed_over(loop: Loop) -> None:
    """For what is to be in no message: the worker reads it, and the parent has it no more."""
    ours, theirs = Words.pair(4096, 1 << 18)
    mine = Loop()
    heard: list[tuple[str, int]] = []
    privileges = BrokeredPrivileges(theirs, (), lambda verb, value: heard.append((verb, value)))
    privileges.attach(mine)
    broker = Broker(loop, ours, DirectPrivileges(), heard=lambda *_: None, lost=lambda _why: None)
    descriptor = os.memfd_create("test")
    os.write(descriptor, b"secret")
    before = len(os.listdir("/proc/self/fd"))
    broker.hand("trust", descriptor)
    until(mine, lambda: heard)
    ((verb, came),) = heard
    assert (verb, os.pread(came, 100, 0)) == ("trust", b"secret")
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(came)
    broker.close()
    descriptor = os.memfd_create("test")
    broker.hand("trust", descriptor)  # to nobody
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    privileges.close()
    mine.close()


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"news": "first", "key": "tcpcrypt1:x", "scope": "*", "trust": "tofu", "known": []},
        {"news": "first", "key": KEY, "scope": "*\n", "trust": "tofu", "known": []},
        {"news": "first", "key": KEY, "scope": "*", "trust": "tofu", "known": [], "more": 1},
        {"news": "first", "key": KEY, "scope": "*", "trust": "tofu", "known": [KEY] * 9},
    ],
)
def test_what_nobody_can_have_learnt_ends_the_worker(loop: Loop, value: object) -> None:
    ours, words = Words.pair(4096, 1 << 18)
    lost: list[str] = []
    broker = Broker(
        loop,
        ours,
        DirectPrivileges(),
        expected={"learned"},
        heard=lambda _verb, word: Learned.from_json(word),
        lost=lost.append,
    )
    words.send("learned", value)
    until(loop, lambda: lost)
    assert lost == ["not what was learnt of a peer"]
    broker.close()
    words.close()


def test_the_worker_is_told_that_there_are_no_sockets(loop: Loop) -> None:
    class Exhausted(DirectPrivileges):
        def service(self, family: int) -> socket.socket:
            raise OSError(errno.EMFILE, "out of them")

    ours, theirs = Words.pair(4096, 1 << 18)

    def work() -> int:
        privileges = BrokeredPrivileges(theirs, (4,), lambda *_: None)
        for _ in range(2):
            with pytest.raises(OSError) as raised:
                privileges.service(4)
            assert raised.value.errno == errno.EMFILE
        privileges.opener(4).close()
        return 0

    worker = fork(work)
    theirs.close()
    lost: list[str] = []
    broker = Broker(loop, ours, Exhausted(), heard=lambda *_: None, lost=lost.append)
    until(loop, lambda: lost)
    assert worker.wait(5) == 0
    broker.close()


def test_without_its_parent_the_worker_ends(loop: Loop) -> None:
    ours, theirs = Words.pair(4096, 1 << 18)
    privileges = BrokeredPrivileges(theirs, (4,), lambda *_: None)
    privileges.attach(loop)
    ours.close()
    with pytest.raises(SystemExit):
        privileges.opener(4)
    with pytest.raises(SystemExit):
        loop.step(1)
    loop.forget(theirs.fileno())


# --- verdicts --------------------------------------------------------------------------------

QUEUE = 29795


def packet(number: int = 1, queue: int = QUEUE) -> QueuedPacket:
    return QueuedPacket(queue, number, Hook.OUTPUT, 0, memoryview(b""))


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(
    attributes: bytes, kind: int = 0x301, flags: int = 1, queue: int = QUEUE, family: int = 0
) -> bytes:
    body = struct.pack("!BBH", family, 0, queue) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


ACCEPT = attribute(2, struct.pack("!II", 1, 7))


def test_our_verdicts_pass() -> None:
    ours = [
        netlink.verdict(packet(), Verdict.ACCEPT),
        netlink.verdict(packet(2), Verdict.DROP),
        netlink.verdict(packet(3), Verdict.ACCEPT, b"x" * 1501),
        netlink.verdict(packet(4, QUEUE + 1), Verdict.ACCEPT, b"x" * 60, MARK_MASK),
        netlink.verdict(packet(5), Verdict.ACCEPT, mark=0),
    ]
    for one in (*ours, b"".join(ours)):
        check_verdicts(memoryview(one), {QUEUE, QUEUE + 1})


@pytest.mark.parametrize(
    "datagram",
    [
        b"x",
        netlink.verdict(packet(queue=1), Verdict.ACCEPT),
        netlink.verdict(packet(), Verdict.ACCEPT)[:-4],
        netlink.verdict(packet(), Verdict.ACCEPT) + b"\0\0\0\0",
        netlink.verdict(packet(), Verdict.ACCEPT) + netlink.bind_request(QUEUE, 1),
        netlink.bind_request(QUEUE, 1),
        netlink.length_request(QUEUE, 1, 1),
        message(ACCEPT, kind=0x303),  # a batch verdict covers packets of others' turns
        message(ACCEPT, kind=0xA00),  # nf_tables
        message(ACCEPT, flags=5),
        message(ACCEPT, family=2),
        message(b""),
        message(attribute(10, b"abcd")),
        message(attribute(10, b"abcd") + ACCEPT),
        message(ACCEPT + ACCEPT),
        message(ACCEPT + attribute(11, b"abcd")),  # NFQA_CT: the connection's tracking
        message(ACCEPT + attribute(0x8000 | 10, b"abcd")),
        message(ACCEPT + attribute(3, b"abcdefgh")),
        message(attribute(2, struct.pack("!II", 0x50003, 7))),  # to another queue
        message(attribute(2, struct.pack("!II", 5, 7))),  # past all rules that follow
        message(attribute(2, b"\0\0\0\1")),
        message(struct.pack("=HH", 3, 2) + bytes(8)),
        message(struct.pack("=HH", 200, 2) + bytes(8)),
        message(ACCEPT + b"\0\0"),
        struct.pack("=IHHII", 0xFFFFFFFF, 0x301, 1, 0, 0) + bytes(8),
        struct.pack("=IHHII", 0, 0x301, 1, 0, 0) + bytes(8),
    ],
)
def test_other_messages_do_not(datagram: bytes) -> None:
    with pytest.raises(NonsenseError):
        check_verdicts(memoryview(datagram), {QUEUE})


@pytest.fixture
def host() -> Iterator[object]:
    with Lab() as lab:
        yield lab.host("host")


def test_an_unprivileged_worker_decides_on_packets(loop: Loop, host) -> None:
    """It reads the queue itself; its verdicts go through the parent."""
    with host.entered():
        queue = PacketQueue.open({QUEUE: 1024})
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    divert = ("-p", "udp", "-j", "NFQUEUE", "--queue-num", str(QUEUE))
    host.run("iptables", "-t", "mangle", "-A", "OUTPUT", *divert)
    receiver.bind(("127.0.0.1", 0))
    receiver.settimeout(10)
    ours, theirs = verdict_pair()
    parent = os.getpid()
    account = find_account("nobody")

    def work() -> int:
        confine(account, parent)
        mine = Loop()
        delegated = DelegatedQueue(queue.fileno(), theirs)
        delegated.attach(mine)

        def decide(one: QueuedPacket) -> None:
            text = bytes(one.payload[28:])
            if text == b"stop":
                mine.stop()
            if text == b"no":
                delegated.verdict(one, Verdict.DROP)
            elif text == b"other":
                delegated.verdict(one, Verdict.ACCEPT, bytes(one.payload[:28]) + b"OTHER")
            else:
                delegated.verdict(one, Verdict.ACCEPT)

        # The checksum of UDP is left out, so that the payload can be changed.
        mine.watch(delegated.fileno(), READ, lambda _events: delegated.receive(decide))
        mine.run()
        delegated.close()
        return 0

    sender.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
    worker = fork(work)
    theirs.close()
    lost: list[str] = []
    relay = VerdictRelay(loop, ours, queue.fileno(), {QUEUE}, lost.append)
    queue.close()
    for text in (b"yes", b"no", b"other", b"stop"):
        sender.sendto(text, receiver.getsockname())
    until(loop, lambda: lost)
    assert worker.wait(5) == 0
    assert [receiver.recv(100) for _ in range(3)] == [b"yes", b"OTHER", b"stop"]
    relay.close()
    receiver.close()
    sender.close()


def test_a_worker_whose_verdicts_the_kernel_does_not_take_ends_alone(loop: Loop) -> None:
    """How much it takes at once is the host's setting (`net.core.wmem_default`)."""
    ours, theirs = verdict_pair()
    kernel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    lost: list[str] = []
    relay = VerdictRelay(loop, ours, kernel.fileno(), {QUEUE}, lost.append)
    packet = QueuedPacket(QUEUE, 1, Hook.OUTPUT, 0, memoryview(b""))
    theirs.send(netlink.verdict(packet, Verdict.ACCEPT, bytes(60_000)))
    loop.step(1)
    assert lost == [f"[Errno {errno.EMSGSIZE}] Message too long"]
    for sock in (relay, theirs, kernel, other):
        sock.close()


def test_a_worker_that_sends_no_verdicts_is_dropped(loop: Loop, host) -> None:
    with host.entered():
        queue = PacketQueue.open({QUEUE: 1024})
    ours, theirs = verdict_pair()
    lost: list[str] = []
    relay = VerdictRelay(loop, ours, queue.fileno(), {QUEUE}, lost.append)
    theirs.send(netlink.bind_request(QUEUE + 1, 1))
    loop.step(1)
    assert lost == ["a message to the kernel is no verdict"]
    assert ours.fileno() == -1
    relay.close()
    theirs.close()
    queue.close()
