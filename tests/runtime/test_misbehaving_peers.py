"""Frames and endings that misbehave, through a relay: what the application sees of them.

An abort is a reset to the application, whatever TCP did; an end of file only ever
follows an authenticated FINp (RFC 8548 section 3.7).
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

import pytest
from adversary.subject import TestedHost
from conftest import PURE_PYTHON
from peer.faulty_endings import ENDINGS
from peer.faulty_frames import FRAMES
from peer.host import Host
from peer.misbehaviour import Misbehaviour
from support.relays import tcp_pair

from tcpcrypt.core.config import Config
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.errors import PeerReason
from tcpcrypt.runtime import relay as relays
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.pump import Pumping
from tcpcrypt.runtime.relay import Ending, Relay

NOT_HERE = {
    # A session that has not handed out its bytes: a relay leaves none behind.
    "rst-with-unsent-bytes",
    # A relay closes as soon as both streams are over, and hears nothing more.
    "finp-then-data-and-both-finished",
}
ENDED_BEFORE = {"rst-behind-own-finp", "rst-behind-own-fin"}
"""The application was told of the end, which was authenticated, before the fault."""
PUMPS = {"py": False} if PURE_PYTHON else {"py": False, "pump": True}
RUNS = [
    pytest.param(entry, role, ends, id=f"{entry.name}-{role}")
    for entry in (*FRAMES, *ENDINGS)
    for role, ends in (("A", entry.a), ("B", entry.b))
    if ends is not None and entry.name not in NOT_HERE
]
ROUNDS = 2000
"""Of at most 5 ms each: more than any test needs."""


class RelayedHost(TestedHost):
    """A `peer.scripts.Subject` whose streams are those of TCP, behind a relay."""

    def __init__(self, config: Config, *, opens: bool, pump: bool) -> None:
        super().__init__(config, opens=opens, cache=ResumptionCache(config))
        self.loop = Loop()
        self.pump = Pumping.open(self.loop, 1) if pump else None
        assert pump is (self.pump is not None)
        self.raw, self._outer = tcp_pair()
        self.app, self._inner = tcp_pair()
        for sock in (self.raw, self._outer, self.app, self._inner):
            sock.setblocking(False)
        self.relay: Relay | None = None
        self.attached = False
        self.ends: list[tuple[Ending, str]] = []
        self.heard = b""
        self.app_ended = self.app_reset = False

    def _start(self) -> Relay:
        if self.relay is None:
            self.relay = Relay(
                self.loop,
                self._outer,
                self.session,
                ready=lambda _established: self._attach(),
                ended=lambda ending, detail: self.ends.append((ending, detail)),
                releasing=lambda _sock: None,
                rekeyed=lambda _event: None,
                proved=lambda _event: None,
                pump=self.pump,
            )
            self.relay.start()
        return self.relay

    def _attach(self) -> None:
        self.attached = True
        assert self.relay is not None
        self.relay.attach(self._inner)

    def _collect(self) -> None:
        """The events are the relay's."""

    def turn(self, timeout: float = 0.0) -> None:
        self._start()
        self.loop.step(timeout)
        while not (self.app_ended or self.app_reset):
            try:
                data = self.app.recv(1 << 18)
            except BlockingIOError:
                return
            except ConnectionResetError:
                self.app_reset = True
                return
            self.heard += data
            self.app_ended = not data

    def until(self, condition: Callable[[], object]) -> bool:
        for _ in range(ROUNDS):
            if condition():
                return True
            self.turn(0.005)
        return False

    # --- what a script asks and does -----------------------------------------------------

    @property
    def over(self) -> bool:
        return bool(self.ends)

    def receive(self, data: bytes) -> None:
        self._start()
        rest = memoryview(data)
        for _ in range(ROUNDS):
            if not rest or self.ends:
                break
            try:
                rest = rest[self.raw.send(rest) :]
            except BlockingIOError:
                self.turn(0.005)
            except OSError:
                break  # the relay has reset it
        self.turn()

    def sent(self) -> bytes:
        """What comes within a moment, up to where nothing follows at once."""
        out = b""
        for _ in range(60):
            self.turn(0.002)
            try:
                got = self.raw.recv(1 << 18)
            except BlockingIOError:
                if out or self.ends:
                    break
                continue
            except OSError:
                break
            out += got
            if not got:
                break
        return out

    def eof(self) -> None:
        self.turn()
        with contextlib.suppress(OSError):  # the relay may have reset it already
            self.raw.shutdown(socket.SHUT_WR)
        self.turn()

    def reset(self) -> None:
        self.turn()
        self.turn()
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.raw.close()
        self.turn()

    def too_late(self) -> None:
        self.turn()

    def send(self, data: bytes) -> None:
        assert self.until(lambda: self.attached)
        self.app.sendall(data)
        self.turn()

    def finish(self) -> None:
        assert self.until(lambda: self.attached)
        self.app.shutdown(socket.SHUT_WR)
        self.turn()

    def rekey(self) -> None:
        relay = self._start()
        relay.take_back()
        assert self.session is not None
        self.session.rekey()
        relay.settle()
        self.turn()

    def close(self) -> None:
        if self.relay is not None:
            self.relay.reset()
        if self.pump is not None:
            self.pump.close()
        for sock in (self.raw, self.app, self._inner, self._outer):
            sock.close()
        self.loop.close()


@pytest.mark.parametrize("pump", PUMPS.values(), ids=PUMPS)
@pytest.mark.parametrize(("entry", "role", "ends"), RUNS)
def test_48_3_7_an_attack_never_looks_like_an_end(
    entry: Misbehaviour, role: str, ends: str, pump: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "_LEND_AFTER", 1)
    host = Host(role, quirk=entry.name)
    subject = RelayedHost(Config(teps=entry.teps, aeads=entry.aeads), opens=role == "B", pump=pump)
    try:
        entry.play(host, subject)
        kind, _, reason = ends.partition(" ")
        if kind == "abort":
            assert_reset(subject, PeerReason[reason], entry.name in ENDED_BEFORE)
        elif kind == "ended":
            assert subject.until(lambda: subject.app_ended)
            assert not subject.app_reset
        else:
            assert kind == "works"
            assert_talking(host, subject)
    finally:
        subject.close()


def assert_reset(subject: RelayedHost, reason: PeerReason, ended_before: bool) -> None:
    assert subject.until(lambda: subject.ends), "the connection lives on"
    ((ending, text),) = subject.ends
    assert ending is (Ending.RESET_BY_PEER if reason is PeerReason.RESET else Ending.ABORTED)
    assert text.startswith(reason.value)
    if subject.attached:
        assert subject.until(lambda: subject.app_reset or subject.app_ended)
        ended_before = ended_before or reason is PeerReason.DATA_AFTER_FINP
        assert subject.app_reset or (subject.app_ended and ended_before)


def assert_talking(host: Host, subject: RelayedHost) -> None:
    subject.receive(host.writer.frame(b"still there?"))
    assert subject.until(lambda: subject.heard.endswith(b"still there?")), subject.ends
    subject.send(b"still here")
    for _ in range(ROUNDS):
        subject.receive(host.read(subject.sent()))
        if host.data.endswith(b"still here"):
            return
    raise AssertionError("no answer")
