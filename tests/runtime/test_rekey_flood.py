"""A peer that makes this host answer, and never reads the answers (RFC 8548 section 3.8)."""

import pytest
from adversary.subject import TestedHost
from peer.host import Host
from peer.scripts import negotiate
from support.relays import tcp_pair

from tcpcrypt.core.config import Config
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.runtime import relay as relays
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.relay import Relay

ANSWERS_MAX = 8_000
READ_AT_ONCE = 50_000
"""More than a kernel keeps for a receiver that asked for buffers of 8 KiB."""
REKEYS = 6_000
"""Frames of 20 bytes, and far more than all buffers on the way hold."""
STEPS = 20_000


class Flooded:
    """A relay of the package, and a peer that drives its own socket."""

    def __init__(self) -> None:
        config = Config(teps=(0x23,))
        self.host = Host("A")
        subject = TestedHost(config, opens=False, cache=ResumptionCache(config))
        assert negotiate(self.host, subject)
        self.loop, self.endings = Loop(), []
        self.raw, outer = tcp_pair(8192)
        self.app, self.inner = tcp_pair()
        outer.setblocking(False)
        self.inner.setblocking(False)
        self.raw.setblocking(False)
        self.relay = Relay(
            self.loop,
            outer,
            subject.session,
            ready=lambda _established: self.relay.attach(self.inner),
            ended=lambda ending, detail: self.endings.append((ending, detail)),
            releasing=lambda _sock: None,
            rekeyed=lambda _event: None,
            proved=lambda _event: None,
            pump=None,
        )
        self.relay.start()

    @property
    def pending(self) -> int:
        return self.relay._outer.pending

    def send(self, data: memoryview) -> int:
        try:
            return self.raw.send(data)
        except BlockingIOError:
            return 0

    def read(self) -> bytes:
        try:
            return self.raw.recv(1 << 16)
        except BlockingIOError:
            return b""

    def exchange(self) -> None:
        own, heard = self.host.init1(), b""
        assert self.send(memoryview(own)) == len(own)
        for _ in range(STEPS):
            self.loop.step(0.01)
            heard += self.read()
            if len(heard) >= 74:
                break
        assert self.host.hear_init(heard) == b""
        self.host.start_fresh(own)

    def close(self) -> None:
        self.relay.reset()
        for sock in (self.raw, self.app, self.inner):
            sock.close()
        self.loop.close()


def test_48_3_8_answers_that_the_peer_does_not_read_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relays, "_ANSWERS_MAX", ANSWERS_MAX)
    flooded = Flooded()
    try:
        flooded.exchange()
        flood = memoryview(b"".join(flooded.host.writer.frame(rekey=True) for _ in range(REKEYS)))
        sent = most = idle = 0
        for _ in range(STEPS):
            took = flooded.send(flood[sent:])
            sent += took
            flooded.loop.step(0)
            most = max(most, flooded.pending)
            idle = 0 if took else idle + 1
            if idle > 20 or sent == len(flood):
                break
        assert sent < len(flood), "the peer was never slowed down"
        assert ANSWERS_MAX <= most <= ANSWERS_MAX + READ_AT_ONCE
        # Nothing is lost by it: once the peer reads, everything goes on.
        for _ in range(STEPS):
            sent += flooded.send(flood[sent:])
            flooded.loop.step(0)
            flooded.host.read(flooded.read())
            if flooded.host.reader.generation == REKEYS:
                break
        assert sent == len(flood)
        assert flooded.host.reader.generation == flooded.host.writer.generation == REKEYS
        assert flooded.endings == []
    finally:
        flooded.close()
