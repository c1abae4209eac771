"""Two sessions and a network that does what it likes, step by step, as hypothesis chooses.

Some 3,000 steps; 100,000 with TCPCRYPT_TEST_PROFILE=long.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from machines.connection import Connection, Meddle
from machines.watch import Watch
from support.hosts import Host
from support.terms import TA, Conditions, identity, ta_host

from tcpcrypt.core.config import Config
from tcpcrypt.registry import AeadId, Tep

LONG = os.environ.get("TCPCRYPT_TEST_PROFILE") == "long"
STEPS = 50
RUNS = 2400 if LONG else 60
AGE = 12
"""Steps for which a connection lives at least."""
STRANGE = b"\x2a"
"""A TEP that nobody knows."""


def _stripped(_option: bytes, _last: bytes) -> bytes:
    return b""


def _echoed(option: bytes, last: bytes) -> bytes:
    return last or option


def _changed(option: bytes, _last: bytes) -> bytes:
    return option and bytes((69, len(option) + 1)) + STRANGE + option[2:]


def _last_changed(option: bytes, _last: bytes) -> bytes:
    return option and option[:-1] + bytes((option[-1] ^ 1,))


MEDDLING: tuple[Meddle, ...] = (_stripped, _echoed, _changed, _last_changed)
SIDES = st.integers(0, 1)
PLACES = st.integers(0, 1 << 16)
SIZES = st.sampled_from((1, 2, 20, 1399, 1401, 5000, 70_000))
KEYS = identity(1), identity(2)

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Sessions(RuleBasedStateMachine):
    """Hosts that meet again and again, so that sessions are resumed, too."""

    steps = 0
    """Of all runs."""
    seen: ClassVar[Counter[str]] = Counter()
    """What has come about, of all runs."""
    connection: Connection | None = None

    def __init__(self) -> None:
        super().__init__()
        self.watch = Watch()
        self.now = 1000.0
        self.age = 0
        """Steps that the connection has lived."""

    @initialize(
        tep=st.sampled_from((Tep.ECDHE_CURVE25519, Tep.ECDHE_P256, TA)),
        aead=st.sampled_from((AeadId.AES_128_GCM, AeadId.CHACHA20_POLY1305)),
        frame=st.sampled_from((7, 300, 1400)),
        rekey=st.sampled_from((None, 2000)),
        at_once=st.booleans(),
    )
    def hosts(self, tep: int, aead: int, frame: int, rekey: int | None, at_once: bool) -> None:
        more = {
            "aeads": (aead,),
            "first_frame_data": frame,
            "frame_data": max(frame, 1000),
            "rekey_after_bytes": rekey,
        }
        if tep == TA:
            self.client = ta_host(Conditions(KEYS[0]), **more)
            self.server = ta_host(Conditions(KEYS[1]), prove_at_once=at_once, **more)
        else:
            config = Config(teps=(tep,), **more)  # type: ignore[arg-type]
            self.client, self.server = Host(config), Host(config)

    # --- hosts -----------------------------------------------------------------------

    @precondition(lambda self: self.connection is None)
    @rule(
        meddle=st.one_of(
            st.just({}),
            st.dictionaries(
                st.sampled_from(("syn", "syn-ack", "ack")), st.sampled_from(MEDDLING), max_size=2
            ),
        )
    )
    def connect(self, meddle: dict[str, Meddle]) -> None:
        self.age = 0
        self.connection = Connection(self.client, self.server, meddle, lambda: self.now)
        sessions = [end.session for end in self.connection.ends]
        self.seen["agreed" if None not in sessions else "fallback"] += 1
        if any(session is not None and session.resumed for session in sessions):
            self.seen["resumed"] += 1

    @precondition(lambda self: self.connection is None)
    @rule()
    def connect_undisturbed(self) -> None:
        """Most connections are; and all that a handshake takes gets through."""
        self.connect({})
        for number in (0, 1, 0, 1):
            self.all_arrives(number)

    @property
    def _open(self) -> Connection:
        assert self.connection is not None
        return self.connection

    @precondition(lambda self: self.connection)
    @rule(side=SIDES, size=SIZES, urgent=st.booleans())
    def say(self, side: int, size: int, urgent: bool) -> None:
        end = self._open.ends[side]
        if end.may_say and end.session is not None and len(end.said) < 200_000:
            data = bytes((len(end.said) + at) % 251 for at in range(size))
            end.said += data
            end.session.send_data(data, urgent=min(size, 0x10000) - 1 if urgent else -1)
            self._open.look(side)

    @precondition(lambda self: self.connection)
    @rule(side=SIDES, size=SIZES)
    def converse(self, side: int, size: int) -> None:
        """As most data does, it gets through."""
        self.say(side, size, False)
        self.all_arrives(side)
        self.all_arrives(1 - side)

    @precondition(lambda self: self.connection)
    @rule(side=SIDES)
    def finish(self, side: int) -> None:
        end = self._open.ends[side]
        if end.may_say and end.session is not None:
            end.ended = True
            end.session.finish()
            self._open.look(side)

    @precondition(lambda self: self.connection)
    @rule(side=SIDES, probing=st.booleans())
    def rekey(self, side: int, probing: bool) -> None:
        end = self._open.ends[side]
        if end.may_say and end.session is not None and end.session._sender is not None:
            if probing:
                end.session.keep_alive()
            else:
                end.session.rekey()
            self._open.look(side)

    @precondition(lambda self: self.connection)
    @rule(side=SIDES)
    def lend(self, side: int) -> None:
        """Somebody has the streams for a moment, and uses neither."""
        session = self._open.ends[side].session
        lease = session.lend() if session is not None else None
        if session is not None and lease is not None:
            self.seen["lent"] += 1
            session.take_back(lease.unused())
            self._open.look(side)

    @precondition(lambda self: self.connection)
    @rule(side=SIDES)
    def forget(self, side: int) -> None:
        session = self._open.ends[side].session
        if session is not None:
            session.flush_resumption()

    @precondition(lambda self: self.connection)
    @rule(side=SIDES, seconds=st.sampled_from((1.0, 11.0)))
    def wait(self, side: int, seconds: float) -> None:
        self.now += seconds
        end = self._open.ends[side]
        if end.session is not None:
            self._open.touched = self._open.touched or not end.session.established
            end.session.handle_timeout()
            self._open.look(side)

    # --- TCP, and paths as they are ------------------------------------------------------

    @precondition(lambda self: self.connection)
    @rule(side=SIDES)
    def write(self, side: int) -> None:
        self._open.write(side)

    def _some(self, side: int, place: int) -> int | None:
        under_way = len(self._open.ends[side].line.under_way)
        return place % under_way if under_way else None

    @precondition(lambda self: self.connection)
    @rule(
        side=SIDES, place=PLACES, step=st.sampled_from((1 << 20, 1 << 20, 7, 1)), keep=st.booleans()
    )
    def arrive(self, side: int, place: int, step: int, keep: bool) -> None:
        index = self._some(side, place)
        if index is not None:
            size = len(self._open.ends[side].line.under_way[index].data)
            self._open.arrive(side, index, step if size < 3000 else 1 << 20, keep)

    @precondition(lambda self: self.connection)
    @rule(side=SIDES)
    def all_arrives(self, side: int) -> None:
        self._open.write(side)
        while self._open.ends[side].line.under_way:
            self._open.arrive(side, 0, 1 << 20, False)

    @precondition(lambda self: self.connection)
    @rule(side=SIDES, place=PLACES)
    def lose(self, side: int, place: int) -> None:
        index = self._some(side, place)
        if index is not None:
            del self._open.ends[side].line.under_way[index]

    @precondition(lambda self: self.connection)
    @rule(side=SIDES)
    def reset_arrives(self, side: int) -> None:
        """That of a session which was aborted."""
        other = self._open.ends[1 - side]
        if other.session is not None and self._open.ends[side].aborted is not None:
            other.session.receive_reset()
            self._open.look(1 - side)

    @precondition(lambda self: self.connection)
    @rule(side=SIDES)
    def repeat(self, side: int) -> None:
        self._open.ends[side].line.repeat()

    @precondition(lambda self: self.connection)
    @rule(side=SIDES, place=PLACES, at=PLACES)
    def split(self, side: int, place: int, at: int) -> None:
        index = self._some(side, place)
        if index is not None:
            self._open.ends[side].line.split(index, at)

    @precondition(lambda self: self.connection)
    @rule(side=SIDES, place=PLACES)
    def join(self, side: int, place: int) -> None:
        index = self._some(side, place)
        if index is not None:
            self._open.ends[side].line.join(index)

    # --- the adversary -----------------------------------------------------------------------

    @precondition(lambda self: self.connection)
    @rule(side=SIDES, what=st.sampled_from(("corrupt", "forge", "replay", "reset")), data=st.data())
    def attack(self, side: int, what: str, data: st.DataObject) -> None:
        if self._open.ends[side].line.sent:
            getattr(self, f"_{what}")(side, data.draw)

    def _corrupt(self, side: int, draw: Draw) -> None:
        index = self._some(side, draw(PLACES))
        if index is not None:
            self._open.ends[side].line.corrupt(index, draw(PLACES), draw(st.integers(1, 255)))

    def _forge(self, side: int, draw: Draw) -> None:
        forged, fin = draw(st.binary(max_size=40)), draw(st.booleans())
        self._open.ends[side].line.forge(draw(st.sampled_from((0, 0, 1, 20, 1400))), forged, fin)

    def _replay(self, side: int, draw: Draw) -> None:
        """What came before, once more, as if it were new; or the other's own words."""
        line, back = self._open.ends[side].line, draw(st.integers(1, 3000))
        old = bytes(line.taken[-back:]) or bytes(self._open.ends[1 - side].line.taken[:back])
        line.forge(0, old, False)

    def _reset(self, side: int, _draw: Draw) -> None:
        other = self._open.ends[1 - side]
        if other.session is not None:
            self._open.touched = True
            other.session.receive_reset()
            self._open.look(1 - side)

    # --- the end -----------------------------------------------------------------------------

    @precondition(lambda self: self.connection and self.age >= AGE)
    @rule()
    def close(self) -> None:
        """Both owners let go.  Nothing of the connection is left but what may resume it."""
        connection, self.connection = self._open, None
        for end in connection.ends:
            self.seen.update(name for name, is_so in _seen(end) if is_so)
            if end.session is not None:
                end.session.wipe()
        assert all(cipher.wiped for cipher in self.watch.ciphers)

    @invariant()
    def what_holds(self) -> None:
        type(self).steps += 1
        self.age += 1
        if self.connection is not None:
            self.connection.check()
            for end in self.connection.ends:
                if end.aborted is not None and end.session is not None:
                    parts = end.session._sender, end.session._receiver
                    ciphers = [
                        p._sealer if hasattr(p, "_sealer") else p._opener for p in parts if p
                    ]
                    assert all(cipher.wiped for cipher in ciphers), "keys outlive an abort"

    def teardown(self) -> None:
        connection = self.connection
        try:
            if connection is not None:
                self.close()
            if hasattr(self, "client"):
                self.client.cache.flush()
                self.server.cache.flush()
            # The sessions are still there, and nothing of theirs is left.
            assert self.watch.left() == [], connection
        finally:
            self.watch.stop()


def _seen(end) -> list[tuple[str, bool]]:
    return [
        ("heard", bool(end.heard)),
        ("end", end.heard_end),
        ("proved", end.proved),
        ("aborted", end.aborted is not None),
    ]


def test_sessions_and_a_network_that_does_what_it_likes() -> None:
    Sessions.steps, Sessions.seen = 0, Counter()
    Sessions.TestCase.settings = settings(
        max_examples=RUNS,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    Sessions.TestCase().runTest()
    print(f"{Sessions.steps} steps; came about: {dict(Sessions.seen)}")
    assert Sessions.steps >= RUNS * STEPS / 2
    assert Sessions.seen.keys() >= {"agreed", "resumed", "heard", "end", "proved", "aborted"}
