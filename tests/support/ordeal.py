"""One relay between an application and a peer that does whatever chance tells it to.

Everything happens in one thread, but for the pump's.  What must come of it is
said by what was done, not by another implementation: who authenticated what,
and who ended what.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from support.hosts import Host, connect, drain
from support.relays import tcp_pair
from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Aborted, DataReceived, Event, StreamEnded
from tcpcrypt.core.session import Session
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.pump import Pumping
from tcpcrypt.runtime.relay import Ending, Relay

PATIENCE = 20.0
_RESET = struct.pack("ii", 1, 0)
_SIZES = (0, 1, 2, 3, 20, 1399, 1400, 1401, 14_001, 65_516, 65_517, 200_000)


@dataclass
class End:
    """A socket, what came out of it, and how it ended: "", "end" or "reset"."""

    sock: socket.socket
    got: bytearray = field(default_factory=bytearray)
    ended: str = ""
    out: bytearray = field(default_factory=bytearray)
    shut: bool = False
    """No more is to be sent; FIN follows `out`."""
    fin: bool = False
    gone: bool = False
    stalled: bool = False
    broken: bool = False
    """Sending told of the reset, so that reading does not any more."""

    def read(self, most: int) -> bytes:
        if self.ended or self.gone or self.stalled:
            return b""
        try:
            data = self.sock.recv(most)
        except BlockingIOError:
            return b""
        except OSError:
            self.ended = "reset"
            return b""
        if not data:
            self.ended = "reset" if self.broken else "end"
        self.got += data
        return data

    def write(self, most: int) -> None:
        if self.fin or self.gone:
            return
        try:
            if self.out:
                del self.out[: self.sock.send(self.out[:most])]
            if self.shut and not self.out:
                self.fin = True
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self.fin = self.broken = True

    def reset(self) -> None:
        self.gone = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()


class Ordeal:
    """`run` one; then ask what came of it."""

    def __init__(self, seed: int, *, pumps: bool, faults: bool) -> None:
        self.chance = chance = random.Random(seed)
        self.faults = faults
        self.plain = chance.random() < 0.15
        config = Config(
            aeads=(chance.choice((1, 2, 0x10)),),
            first_frame_data=chance.choice((1, 100, 1400, 65_000)),
            frame_data=chance.choice((300, 1400, 16_000, 65_516)),
            rekey_after_bytes=chance.choice((None, 450_000)),
        )
        self.loop = Loop()
        self.bugs: list[Exception] = []
        self.loop.failed = lambda _fd, error: self.bugs.append(error)
        buffers = chance.choice((0, 0, 4096))
        outer, peer = tcp_pair(buffers)
        app, inner = tcp_pair(buffers)
        for sock in (peer, app, inner):
            sock.setblocking(False)
        self.app, self.peer = End(app), End(peer)
        self.endings: list[tuple[Ending, str]] = []
        self.session: Session | None = None
        session = None
        if not self.plain:
            pair = connect(Host(config), Host(config))
            session, self.session = pair if chance.random() < 0.5 else pair[::-1]
        self.pump = Pumping.open(self.loop, chance.choice((1, 2))) if pumps else None
        self.relay = Relay(
            self.loop,
            outer,
            session,
            ready=lambda _facts: self.relay.attach(inner),
            ended=lambda ending, detail: self.endings.append((ending, detail)),
            releasing=lambda _sock: None,
            rekeyed=lambda _event: None,
            proved=lambda _event: None,
            pump=self.pump,
        )
        self.lent = 0
        """How often the connection was seen in the pump."""
        self.said = bytearray()
        """By the application."""
        self.heard = bytearray()
        """What the peer authenticated of it."""
        self.told = bytearray()
        """By the peer, and authentic."""
        self.peer_heard_end = False
        self.peer_aborted = False
        self.finished = False
        """The peer sealed its FINp, and nothing before it was touched."""
        self.spoilt = False
        """Somebody touched the peer's stream."""
        self.violent = False
        """Somebody reset."""

    # --- what happens --------------------------------------------------------------

    def run(self) -> None:
        try:
            self.relay.start()
            self._turns(200)
            actions = self._actions()
            for _ in range(self.chance.randrange(3, 30)):
                if self.endings:
                    break
                self.chance.choice(actions)()
                self._turns(self.chance.choice((0, 1, 3, 20)))
            self._end_politely()
            until = time.monotonic() + PATIENCE
            while not self._over():
                assert time.monotonic() < until, f"a stall: {self.state()}"
                self._turn(0.001)
        finally:
            self.relay.reset()
            if self.pump is not None:
                assert len(self.pump) == 0
                assert sum(self.pump._pump.flows) == 0
                self.pump.close()
            for end in (self.app, self.peer):
                if not end.gone:
                    end.sock.close()
            self.loop.close()

    def state(self) -> str:
        ends = [(len(e.got), e.ended, len(e.out), e.shut, e.fin, e.gone) for e in self._ends()]
        return f"{ends} {self.endings} spoilt={self.spoilt} lent={self.lent} bugs={self.bugs}"

    def _ends(self) -> tuple[End, End]:
        return self.app, self.peer

    def _over(self) -> bool:
        return bool(self.endings) and all(end.ended or end.gone for end in self._ends())

    def _turns(self, count: int) -> None:
        for _ in range(count):
            self._turn(0)

    def _turn(self, timeout: float) -> None:
        chance = self.chance
        self.lent += self.pump is not None and len(self.pump) > 0
        self.loop.step(timeout)
        for end in self._ends():
            # Frames are split wherever chance will have it.
            end.write(chance.choice((1, 2, 7, 1000, 60_000, 1 << 20)))
            data = end.read(chance.choice((1, 5000, 1 << 18)))
            if end is self.peer:
                self._judge(data)
        self._answer()

    def _judge(self, data: bytes) -> None:
        """What the peer makes of it: a nonce that came twice would be a bad tag."""
        if self.session is None:
            self.heard += data
            return
        self.session.receive_data(data)
        while (event := self.session.next_event()) is not None:
            self._note(event)

    def _note(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self.heard += event.data
        elif isinstance(event, StreamEnded):
            self.peer_heard_end = True
        elif isinstance(event, Aborted):
            self.peer_aborted = True
            raise AssertionError(f"the relay's stream is not valid: {event.error!r}")

    def _answer(self) -> None:
        """Init messages, answers to new keys."""
        if self.session is not None and not self.spoilt:
            self.peer.out += drain(self.session)

    def _actions(self) -> list[Callable[[], None]]:
        often = [self._app_says, self._peer_says] * 4
        seldom = [self._recall, self._stall, self._app_shuts, self._peer_shuts, self._wait]
        faults = [
            self._app_resets, self._peer_resets, self._fin_alone, self._spoil, self._forge,
            self._trail, self._fin_and_reset,
        ]  # fmt: skip
        crypt = [self._rekey_here, self._peer_rekeys, self._peer_urges] if self.session else []
        return often + seldom + crypt + (faults if self.faults else [])

    def _data(self) -> bytes:
        return self.chance.randbytes(self.chance.choice(_SIZES))

    def _app_says(self) -> None:
        if not self.app.shut and not self.app.gone:
            data = self._data()
            self.said += data
            self.app.out += data

    def _peer_says(self, urgent: bool = False) -> None:
        if self.peer.shut or self.peer.gone or self.spoilt or self.finished:
            return
        data = self._data()
        if self.session is None:
            self.told += data
            self.peer.out += data
            return
        while data:
            piece = data[: self.chance.choice((1, 30, 1400, 1 << 20))]
            data = data[len(piece) :] if len(data) < 100_000 else b""
            self.told += piece
            at = self.chance.randrange(min(len(piece), 65_536)) if urgent else -1
            self.session.send_data(piece, urgent=at)
            if self.chance.random() < 0.1 and self.session._sender is not None:
                self.session._sender.seal(b"")
        self._answer()

    def _peer_urges(self) -> None:
        self._peer_says(urgent=True)

    def _peer_rekeys(self) -> None:
        over = self.peer.shut or self.finished or self.spoilt
        if self.session is not None and self.session.established and not over:
            self.session.rekey()
            self._answer()

    def _rekey_here(self) -> None:
        self.relay.take_back()
        session = self.relay.session
        if session is None or self.endings or not session.established:
            return
        if not self.relay._application_ended:
            session.rekey()
            self.relay.settle()

    def _recall(self) -> None:
        for _ in range(self.chance.randrange(1, 6)):
            self.relay.take_back()
            self._turns(2)

    def _wait(self) -> None:
        time.sleep(0.002)

    def _stall(self) -> None:
        end = self.chance.choice(self._ends())
        end.stalled = True
        self._turns(self.chance.randrange(40))
        end.stalled = False

    def _app_shuts(self) -> None:
        self.app.shut = True

    def _peer_shuts(self) -> None:
        """FINp, and FIN behind it, at once or later."""
        if self.peer.shut or self.peer.gone or self.finished or self.spoilt:
            return
        if self.session is not None:
            if not self.session.established:
                return
            self.session.finish()
            self._answer()
        self.finished = True
        self.peer.shut = self.session is None or self.chance.random() < 0.5

    # --- what should not happen -----------------------------------------------------

    def _app_resets(self) -> None:
        if not self.app.gone and self.chance.random() < 0.3:
            self.violent = True
            self.app.reset()

    def _peer_resets(self) -> None:
        if not self.peer.gone and self.chance.random() < 0.3:
            self.violent = True
            self.peer.reset()

    def _fin_alone(self) -> None:
        """TCP's end without FINp: no end."""
        if self.session is not None and not self.finished and not self.peer.gone:
            self.spoilt = self.peer.shut = True

    def _spoil(self) -> None:
        """Someone on the path changes a byte that has not left yet."""
        if self.session is not None and self.peer.out and self.session.established:
            at = self.chance.randrange(len(self.peer.out))
            self.peer.out[at] ^= self.chance.randrange(1, 256)
            self.spoilt = self.peer.shut = True

    def _forge(self) -> None:
        if self.session is not None and not self.finished and self.session.established:
            length = self.chance.choice((0, 1, 16, 17, 18, 40, 65_535))
            control = self.chance.choice((0, 1, 0xFE))
            header = bytes((control,)) + length.to_bytes(2, "big")
            self.peer.out += header + self.chance.randbytes(length)
            self.spoilt = self.peer.shut = True

    def _trail(self) -> None:
        """Bytes behind FINp."""
        if self.session is not None and self.finished and not self.peer.shut:
            self.peer.out += self.chance.randbytes(self.chance.choice((1, 2, 40, 70_000)))
            self.spoilt = self.peer.shut = True

    def _fin_and_reset(self) -> None:
        """The end, and what no one waits for."""
        self._peer_shuts()
        self._turns(self.chance.randrange(5))
        self._peer_resets()

    def _end_politely(self) -> None:
        for end in self._ends():
            end.stalled = False
        self.app.shut = True
        if not (self.finished or self.spoilt or self.peer.gone):
            deadline = time.monotonic() + PATIENCE
            while self.session is not None and not self.session.established:
                if self.endings or self.app.gone:
                    return
                assert time.monotonic() < deadline, self.state()
                self._turn(0.001)
            self._peer_shuts()
        self.peer.shut = True

    # --- what must be true ----------------------------------------------------------

    def check(self) -> None:
        """Whoever was told of an end was told of all that came before."""
        app, peer = self.app, self.peer
        assert self.bugs == []
        assert len(self.endings) == 1
        assert self.told.startswith(app.got), "what nobody authenticated was delivered"
        assert self.said.startswith(self.heard), "the peer heard what nobody said"
        if app.ended == "end":
            assert self.finished, "an end that nobody authenticated"
            assert app.got == self.told
        if peer.ended == "end":
            assert self.plain or self.peer_heard_end, "a FIN without FINp"
            assert self.heard == self.said
        if not self.spoilt and not self.violent:
            assert (app.ended, peer.ended) == ("end", "end"), self.state()
            assert self.endings == [(Ending.CLOSED, "")]
            assert (self.relay.sent, self.relay.received) == (len(self.said), len(self.told))
        elif self.spoilt and not self.violent and not self.finished:
            assert app.ended == "reset", self.state()
            assert peer.ended == "reset" or self.peer_heard_end, self.state()
            assert self.endings[0][0] is Ending.ABORTED, self.state()
