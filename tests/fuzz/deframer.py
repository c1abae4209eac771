"""RFC 8548 section 3.6: a stream of frames, good ones and such as no sender may make.

An input is a row of decisions: which AEAD, what frames, and what is put between
them or cut off.  Whatever is opened has to be what was sealed, from the beginning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

from fuzz.harness import Decisions, alike, pieces
from support.frames import frame, sealed, traffic_key

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Direction
from tcpcrypt.core.records import KeyRing, RecordReceiver
from tcpcrypt.crypto.aead import AEADS, AeadParameters
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import PeerError

MAX_LEN = 400
FRAMES_MAX = 12
ALGORITHMS = tuple(AEADS.values())


@dataclass
class Ring:
    """A key for each generation, the same in every run."""

    aead: AeadParameters

    @contextlib.contextmanager
    def take(self, _direction: Direction, generation: int) -> Iterator[Secret]:
        with Secret(traffic_key(self.aead, generation)) as key:
            yield key

    def close(self, _direction: Direction) -> None: ...


def seeds() -> Iterator[bytes]:
    yield bytes((0, 0, 0)) + b"\x00\x00\x00\x05hello" * 3 + b"\x00\x00\x01\x03end"
    yield bytes((1, 1, 1)) + b"\x00\x01\x00\x03one\x00\x00\x02\x03two\x02\x04abcd"
    yield bytes((2, 0, 7)) + b"\x01\x00\x02\x01a\x03\x05"
    yield bytes((0, 1, 2)) + b"\x00\x00\x01\x03end\x00\x00\x00\x05after"


def check(data: bytes) -> None:
    decisions = Decisions(data)
    aead = ALGORITHMS[decisions.number() % len(ALGORITHMS)]
    offset = (79, 2**32 - 5, 0, 2**63)[decisions.number() % 4]
    step = decisions.number()
    wire = b""
    frames: dict[int, list[tuple[bytes, bytes]]] = {}
    """Those that were made to begin somewhere, each with its data."""
    generation = 0
    for _ in range(FRAMES_MAX):
        if not decisions.more:
            break
        kind, control, flags = decisions.number() % 5, 0, 0
        if kind <= 2:
            control, flags = decisions.number(), decisions.number()
        body = decisions.string()
        generation += control & 1
        key, at = traffic_key(aead, generation), offset + len(wire)
        made = b""
        if kind == 0:  # without URGp
            made = frame(aead, key, at, body, control=control, flags=flags & ~2)
        elif kind == 1:
            made = frame(aead, key, at, body, control=control, flags=flags, urgent=len(body))
        elif kind == 2:  # an urgent field cut off
            wire += sealed(aead, key, at, bytes((flags | 2,)) + body[:1], control=control)
        elif kind == 3:
            wire += body
        else:
            wire = wire[: len(wire) - min(len(body), len(wire))]
        if made:
            frames.setdefault(len(wire), []).append((made, body))
            wire += made

    def open_all(twin: ModuleType) -> Any:
        out = bytearray(len(wire))
        opener = twin.FrameOpener(aead, traffic_key(aead))
        opened = opener.open(wire, out, offset, bool(step & 1))
        return opened, bytes(out[: opened[1]])

    alike(open_all)
    # What was cut off may have been put back, byte for byte.
    plain, at = b"", 0
    while whole := [one for one in frames.get(at, ()) if wire.startswith(one[0], at)]:
        made, body = whole[-1]
        plain, at = plain + body, at + len(made)
    received(aead, offset, pieces(wire, step), plain, damaged=at < len(wire))


def received(
    aead: AeadParameters, offset: int, wire: list[bytes], plain: bytes, *, damaged: bool
) -> None:
    """What `RecordReceiver` makes of it, in whatever pieces it comes."""
    ring = cast(KeyRing, Ring(aead))
    receiver = RecordReceiver(Config(), ring, aead, offset=offset, other_offset=offset)
    got, fault = b"", None
    try:
        for piece in wire:
            receiver.feed(piece)
            while (step := receiver.step()) is not None:
                got += step.data
    except PeerError as error:
        fault = error
    assert plain.startswith(got), "something else than was sealed"
    assert fault or damaged or receiver.finished or got == plain
