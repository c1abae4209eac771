"""The pump itself: what it refuses, what it gives back, and that nothing stays behind."""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PURE_PYTHON, load_twin
from support.frames import pattern, traffic_key
from support.relays import receive, tcp_pair, until

from tcpcrypt import _fast
from tcpcrypt.crypto.aead import AEADS
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.pump import Pumping, Way, Why

AES = AEADS[1]
KEY = traffic_key(AES)
OVERHEAD = 20
LIMITS = {"seal_end": 1 << 40, "frames_left": 1 << 30, "small_frame": 1400, "full_frame": 65516}


if PURE_PYTHON:

    def test_no_pump_is_opened() -> None:
        loop = Loop()
        assert Pumping.open(loop) is None
        loop.close()

else:
    # A pump needs the extension; nothing below has a meaning without.
    Twin: Any = load_twin("c")

    class Line:
        """An application's socket and a peer's, both ends of each."""

        def __init__(self) -> None:
            self.app, self.inner = tcp_pair()
            self.outer, self.peer = tcp_pair()
            for sock in (self.inner, self.outer):
                sock.setblocking(False)

        def fds(self) -> tuple[int, int]:
            return self.inner.fileno(), self.outer.fileno()

        def close(self) -> None:
            for sock in (self.app, self.inner, self.outer, self.peer):
                sock.close()

    @pytest.fixture
    def pump() -> Iterator[Any]:
        pump = Twin.make_pump(1)
        yield pump
        pump.close()

    @pytest.fixture
    def line() -> Iterator[Line]:
        line = Line()
        yield line
        line.close()

    def sealer() -> Any:
        return Twin.FrameSealer(AES, KEY)

    def opener() -> Any:
        return Twin.FrameOpener(AES, KEY)

    def frame(data: bytes, offset: int, **flags: Any) -> bytes:
        out = bytearray(len(data) + OVERHEAD + 2)
        _taken, written, _frames = sealer().seal(data, out, offset, 65516, **flags)
        return bytes(out[:written])

    def came_back(pump: Any) -> tuple[Any, ...]:
        """The one flow that comes back, by the bell."""
        assert select.select([pump], [], [], 10)[0]
        ((_flow, result),) = pump.collect()
        return result

    def test_the_numbers_are_those_of_the_enums() -> None:
        from tcpcrypt._fast import _c_pump

        for name, number in {**Way.__members__, **Why.__members__}.items():
            assert getattr(_c_pump, f"FLOW_{name}") == number

    def test_threads_start_with_the_first_flow_and_end_with_the_pump(line: Line) -> None:
        tasks = Path("/proc/self/task")
        before = set(os.listdir(tasks))
        pump = Twin.make_pump(2)
        assert set(os.listdir(tasks)) == before
        flow = pump.lend(*line.fds(), outgoing=Way.COPY, incoming=Way.COPY)
        assert len(set(os.listdir(tasks)) - before) == 1
        assert pump.flows == (1, 0)
        flow.recall()
        pump.close()
        pump.close()
        assert set(os.listdir(tasks)) == before
        with pytest.raises(RuntimeError, match="closed"):
            pump.lend(*line.fds(), outgoing=Way.COPY, incoming=Way.COPY)

    def test_flows_go_to_the_thread_that_has_fewest() -> None:
        lines, pump = [Line() for _ in range(5)], Twin.make_pump(2)
        flows = [pump.lend(*ln.fds(), outgoing=Way.COPY, incoming=Way.COPY) for ln in lines]
        assert pump.flows == (3, 2)
        for flow in flows[::2]:
            flow.recall()
        assert pump.flows == (0, 2)
        for flow in flows[1::2]:
            flow.recall()
        pump.close()
        for one in lines:
            one.close()

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"outgoing": Way.WATCH, "incoming": Way.OFF}, "unknown state"),
            ({"outgoing": 4, "incoming": Way.OFF}, "unknown state"),
            ({"outgoing": Way.OFF, "incoming": -1}, "unknown state"),
            ({"outgoing": Way.CRYPT, "incoming": Way.OFF}, "takes a key"),
            ({"outgoing": Way.OFF, "incoming": Way.CRYPT}, "takes a key"),
            ({"outgoing": Way.COPY, "incoming": Way.COPY, "sealer": True}, "takes a key"),
            ({"outgoing": Way.OFF, "incoming": Way.WATCH, "opener": True}, "takes a key"),
            ({"outgoing": Way.COPY, "incoming": Way.CRYPT, "opener": True}, "encrypted or it is"),
            ({"outgoing": Way.CRYPT, "incoming": Way.COPY, "sealer": True}, "encrypted or it is"),
            ({"outgoing": Way.COPY, "incoming": Way.WATCH}, "encrypted or it is"),
            (
                {"outgoing": Way.CRYPT, "incoming": Way.OFF, "sealer": True, "full_frame": 0},
                "frame",
            ),
            (
                {"outgoing": Way.CRYPT, "incoming": Way.OFF, "sealer": True, "small_frame": 65519},
                "frame",
            ),
            ({"outgoing": Way.COPY, "incoming": Way.COPY, "seal_at": -1}, "out of range"),
            ({"outgoing": Way.COPY, "incoming": Way.COPY, "open_at": 1 << 62}, "out of range"),
            ({"outgoing": Way.COPY, "incoming": Way.COPY, "wire": b"x"}, "more than the beginning"),
            (
                {
                    "outgoing": Way.OFF,
                    "incoming": Way.CRYPT,
                    "opener": True,
                    "wire": bytes((0, 0, 17)) + bytes(17),
                },
                "more than the beginning",
            ),
        ],
    )
    def test_what_cannot_be_is_refused(
        pump: Any, line: Line, wrong: dict[str, Any], message: str
    ) -> None:
        """Above all: a connection that is encrypted has no direction that copies."""
        keys = {"sealer": sealer(), "opener": opener()}
        given = {k: keys.get(k, v) for k, v in wrong.items()}
        with pytest.raises(ValueError, match=message):
            pump.lend(*line.fds(), **{**LIMITS, **given})
        assert sum(pump.flows) == 0
        # Neither key is left busy.
        keys["sealer"].wipe()
        keys["opener"].wipe()

    def test_descriptors_that_cannot_be_watched(pump: Any, line: Line, tmp_path: Path) -> None:
        key = sealer()
        with (tmp_path / "file").open("w") as file:
            for fds in ((line.inner.fileno(), file.fileno()), (file.fileno(), 0), (-1, -1)):
                with pytest.raises(OSError, match=r"permitted|descriptor"):
                    pump.lend(*fds, outgoing=Way.CRYPT, incoming=Way.OFF, sealer=key, **LIMITS)
        assert sum(pump.flows) == 0
        pump.lend(*line.fds(), outgoing=Way.CRYPT, incoming=Way.OFF, sealer=key, **LIMITS).recall()

    def test_a_key_is_busy_while_it_is_lent(pump: Any, line: Line) -> None:
        """Nobody seals at an offset that the pump may have used, nor wipes under it."""
        one, other = sealer(), opener()
        ways = {"outgoing": Way.CRYPT, "incoming": Way.CRYPT}
        flow = pump.lend(*line.fds(), **ways, sealer=one, opener=other, **LIMITS)
        for touch in (
            lambda: one.seal(b"", bytearray(99), 0, 9),
            one.wipe,
            lambda: other.open(b"", bytearray(9), 0),
            other.wipe,
            lambda: pump.lend(*line.fds(), **ways, sealer=one, opener=opener(), **LIMITS),
            lambda: pump.lend(*line.fds(), **ways, sealer=sealer(), opener=other, **LIMITS),
        ):
            with pytest.raises(RuntimeError, match="in use"):
                touch()
        flow.recall()
        one.wipe()
        other.wipe()
        with pytest.raises(RuntimeError, match="wiped"):
            pump.lend(*line.fds(), **ways, sealer=one, opener=opener(), **LIMITS)
        with pytest.raises(RuntimeError, match="already"):
            flow.recall()

    def test_a_flow_is_not_made_by_hand(pump: Any, line: Line) -> None:
        flow = pump.lend(*line.fds(), outgoing=Way.COPY, incoming=Way.COPY)
        with pytest.raises(TypeError, match=r"Pump\.lend"):
            type(flow)()
        flow.recall()

    def test_frames_begin_small_and_grow(pump: Any, line: Line) -> None:
        data = pattern(500_000)
        flow = pump.lend(
            *line.fds(),
            outgoing=Way.CRYPT,
            incoming=Way.OFF,
            sealer=sealer(),
            seal_at=79,
            small_end=79 + 14_000,
            **LIMITS,
        )
        threading.Thread(target=line.app.sendall, args=(data,)).start()
        at, got, sizes = 79, b"", []
        while len(got) < len(data):
            header = receive(line.peer, 3)
            body = receive(line.peer, int.from_bytes(header[1:], "big"))
            out = bytearray(len(body))
            _used, size, *_more = opener().open(header + body, out, at)
            at += 3 + len(body)
            got += bytes(out[:size])
            sizes.append(size)
        assert got == data
        assert max(sizes[:5]) <= 1400
        assert max(sizes) == 65516
        why, _errno, sent, _received, sealed_to, frames, *_rest = flow.recall()
        assert (why, sent, sealed_to, frames) == (Why.RECALLED, len(data), at, len(sizes))

    @pytest.mark.parametrize("left", [{"seal_end": 300_000}, {"frames_left": 180}])
    def test_a_key_near_its_end_comes_back(pump: Any, line: Line, left: dict[str, int]) -> None:
        """Before it seals a byte or a frame too many."""
        pump.lend(
            *line.fds(), outgoing=Way.CRYPT, incoming=Way.OFF, sealer=sealer(), small_end=1 << 30,
            **{**LIMITS, **left},
        )  # fmt: skip
        line.app.sendall(b"x")
        why, _errno, sent, *_rest = came_back(pump)
        assert (why, sent) == (Why.KEY_SPENT, 0)
        assert line.inner.recv(2) == b"x"

    @pytest.mark.parametrize(
        ("flags", "more"),
        [({"fin": True}, b""), ({"urgent": 2}, b"more"), ({"rekey": True}, b""), (None, b"")],
        ids=["FINp", "URGp", "rekey", "forged"],
    )
    def test_what_is_more_than_data_comes_back_unopened(
        pump: Any, line: Line, flags: dict[str, Any] | None, more: bytes
    ) -> None:
        first = frame(b"data", 0)
        second = frame(b"special", len(first), **flags) if flags else bytes((0, 0, 30)) + bytes(30)
        rest = frame(more, len(first + second)) if more else b""
        pump.lend(*line.fds(), outgoing=Way.OFF, incoming=Way.CRYPT, opener=opener())
        line.peer.sendall(first + second + rest)
        result = came_back(pump)
        why, _errno, _sent, received, _sealed, _frames, opened_to, opened, wire, *_out = result
        assert (why, received, opened_to, opened) == (Why.STIRRED, 4, len(first), 4)
        wire += (
            receive(line.outer, len(second + rest) - len(wire)) if wire != second + rest else b""
        )
        assert wire == second + rest
        # What was authenticated before it has been delivered, and nothing else.
        assert receive(line.app, 4) == b"data"
        line.app.setblocking(False)
        with pytest.raises(BlockingIOError):
            line.app.recv(1)

    @pytest.mark.parametrize("cut", [1, 2, 3, 50, 1019])
    def test_it_goes_on_within_a_frame(pump: Any, line: Line, cut: int) -> None:
        data = pattern(1000)
        wire = frame(data, 5)
        flow = pump.lend(
            *line.fds(), outgoing=Way.OFF, incoming=Way.CRYPT, opener=opener(), open_at=5,
            wire=wire[:cut],
        )  # fmt: skip
        line.peer.sendall(wire[cut:])
        assert receive(line.app, 1000) == data
        assert flow.recall()[6] == 5 + len(wire)

    def test_what_has_come_of_a_frame_comes_back(pump: Any, line: Line) -> None:
        wire = frame(pattern(60_000), 0)
        flow = pump.lend(*line.fds(), outgoing=Way.OFF, incoming=Way.CRYPT, opener=opener())
        line.peer.sendall(wire[:30_000])
        time.sleep(0.05)
        result = flow.recall()
        assert result[6:9] == (0, 0, wire[:30_000])

    def test_a_watched_direction_is_not_read(pump: Any, line: Line) -> None:
        pump.lend(*line.fds(), outgoing=Way.OFF, incoming=Way.WATCH)
        line.peer.sendall(b"anything")
        assert came_back(pump)[0] == Why.STIRRED
        assert receive(line.outer, 8) == b"anything"

    @pytest.mark.parametrize("side", ["app", "peer"])
    def test_ends_and_failures(pump: Any, side: str) -> None:
        ended, failed = Why.INNER_ENDED, Why.INNER_FAILED
        if side == "peer":
            ended, failed = Why.OUTER_ENDED, Why.OUTER_FAILED
        for way in (Way.COPY, Way.OFF):
            line = Line()
            other = Way.OFF if way is Way.OFF else Way.COPY
            flow = pump.lend(*line.fds(), outgoing=way, incoming=other)
            getattr(line, side).shutdown(socket.SHUT_WR)
            if way is Way.COPY:
                assert came_back(pump)[0] == ended
            else:
                # Nobody reads it; its death is noticed.
                far = getattr(line, side)
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                far.close()
                why, number, *_rest = came_back(pump)
                assert why == failed
                assert number in {errno.EPIPE, errno.ECONNRESET}
            with pytest.raises(RuntimeError, match="already"):
                flow.recall()
            line.close()

    def test_bytes_that_do_not_fit_come_back(pump: Any, line: Line) -> None:
        flow = pump.lend(*line.fds(), outgoing=Way.COPY, incoming=Way.COPY)
        line.app.settimeout(0.3)
        data, sent = pattern(1 << 20), 0
        try:
            while True:
                sent += line.app.send(data[sent % len(data) :])
        except TimeoutError:
            pass
        result = flow.recall()
        waiting = result[10]
        assert 0 < len(waiting) < 512 * 1024
        got = receive(line.peer, result[2] - len(waiting)) + waiting
        assert got == (data * (sent // len(data) + 1))[: len(got)]

    def test_memory_and_descriptors_come_back(pump: Any) -> None:
        """A thousand flows, one after the other and at once: each is idle in little memory."""

        def resident() -> int:
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        line = Line()
        for _ in range(3000):
            pump.lend(*line.fds(), outgoing=Way.COPY, incoming=Way.COPY).recall()
        line.close()
        lines = [Line() for _ in range(400)]
        descriptors = len(os.listdir("/proc/self/fd"))
        gc.collect()
        before = resident()
        ways = {"outgoing": Way.COPY, "incoming": Way.COPY}
        flows = [pump.lend(*one.fds(), **ways) for one in lines]
        for one in lines:
            one.app.sendall(pattern(100_000))
            assert receive(one.peer, 100_000) == pattern(100_000)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert (resident() - before) / len(lines) < 8 * 1024
        for flow in flows:
            flow.recall()
        for one in lines:
            one.close()

    def test_the_pump_is_not_for_a_child_of_a_fork(pump: Any, line: Line) -> None:
        flow = pump.lend(*line.fds(), outgoing=Way.COPY, incoming=Way.COPY)
        child = os.fork()
        if child == 0:
            try:
                pump.lend(*line.fds(), outgoing=Way.COPY, incoming=Way.COPY)
            except RuntimeError:
                pump.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        line.app.sendall(b"still")
        assert receive(line.peer, 5) == b"still"
        flow.recall()

    # --- beside a loop -------------------------------------------------------------

    def test_what_one_callback_does_wrong_does_not_hurt_the_others() -> None:
        loop, lines = Loop(), [Line(), Line()]
        pumping = Pumping.open(loop)
        assert pumping is not None
        seen: list[Why] = []

        def back(found: Any) -> None:
            seen.append(found.why)
            raise OSError("mistake")

        for one in lines:
            pumping.lend_plain(*one.fds(), outgoing=True, incoming=True, back=back)
            one.app.shutdown(socket.SHUT_WR)
        until(lambda: sum(pumping._pump.flows) == 2 and len(pumping) == 2)
        time.sleep(0.05)
        with pytest.raises(OSError, match="mistake"):
            loop.step(1)
        while len(seen) < 2:
            with pytest.raises(OSError, match="mistake"):
                loop.step(1)
        assert seen == [Why.INNER_ENDED] * 2
        assert len(pumping) == 0
        pumping.close()
        loop.close()
        for one in lines:
            one.close()

    def test_recalled_by_the_callback_of_another() -> None:
        """Both have come back in one turn; the second is told by the recall alone."""
        loop, lines = Loop(), [Line(), Line()]
        pumping = Pumping.open(loop, 1)
        assert pumping is not None
        told: list[int] = []
        loans: list[Any] = []

        def back(number: int) -> None:
            told.append(number)
            assert loans[1 - number].recall().why is Why.INNER_ENDED

        for number, one in enumerate(lines):
            loans.append(
                pumping.lend_plain(
                    *one.fds(),
                    outgoing=True,
                    incoming=True,
                    back=lambda _found, number=number: back(number),
                )
            )
        for one in lines:
            one.app.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        loop.step(1)
        assert len(told) == 1
        assert len(pumping) == 0
        pumping.close()
        loop.close()
        for one in lines:
            one.close()

    def test_one_thread_for_each_processor_and_two_at_most() -> None:
        loop = Loop()
        pumping = Pumping.open(loop)
        assert pumping is not None
        assert len(pumping._pump.flows) == min(2, len(os.sched_getaffinity(0)))
        pumping.close()
        loop.close()

    def test_the_switch_hands_it_out() -> None:
        assert _fast.make_pump(1) is not None
