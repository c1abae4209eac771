"""Both twins of the frames: the same bytes and the same errors on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.frames import frame, sealed, traffic_key

from tcpcrypt.crypto.aead import AEADS, AeadParameters

SIZES = st.sampled_from([0, 1, 14, 15, 16, 17, 63, 64, 65, 129, 1100, 65518]) | st.integers(0, 300)
OFFSETS = (
    st.sampled_from([0, 79, 2**32 - 1, 2**63, -1, 2**64, 2**64 - 1])
    | st.integers(2**64 - 400, 2**64 - 1)
    | st.integers(0, 2**64 - 1)
)
ALGORITHMS = st.sampled_from(list(AEADS.values()))


def result(call: Callable[[], Any]) -> Any:
    """What it returns, or the error with its words."""
    try:
        return call()
    except (ValueError, RuntimeError) as error:
        return type(error), str(error)


def agreed(answers: list[Any]) -> Any:
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


@given(
    aead=ALGORITHMS,
    size=SIZES,
    room=SIZES | st.integers(0, 5000),
    offset=OFFSETS,
    frame_data=st.sampled_from([-1, 0, 1, 65516, 65517, 65518, 65519]) | st.integers(1, 200),
    marks=st.tuples(
        st.booleans(), st.booleans(), st.sampled_from([-2, -1, -1, -1, 0, 5, 65535, 65536])
    ),
    nonce_form=st.sampled_from([0, 0, 0, 1, 2]),
)
def test_sealing(  # noqa: PLR0917 (hypothesis passes them by name)
    twins: list[ModuleType],
    aead: AeadParameters,
    size: int,
    room: int,
    offset: int,
    frame_data: int,
    marks: tuple[bool, bool, int],
    nonce_form: int,
) -> None:
    key = traffic_key(aead)
    if nonce_form:
        key = key[: aead.key_len]
    data = bytes(index & 0xFF for index in range(size))

    def seal(twin: ModuleType) -> Any:
        out = bytearray(room)
        try:
            sealer = twin.FrameSealer(aead, key, nonce_form)
        except ValueError:
            return ValueError  # the words may be libcrypto's or cryptography's
        return result(lambda: sealer.seal(data, out, offset, frame_data, *marks)), out

    agreed([seal(twin) for twin in twins])


@st.composite
def streams(draw: st.DrawFn, aead: AeadParameters, key: bytes, offset: int) -> bytearray:
    """Some frames, good ones and such as no sender may make, perhaps damaged."""
    wire = b""
    for _ in range(draw(st.integers(0, 4))):
        at = (offset + len(wire)) % 2**64
        control = draw(st.sampled_from([0, 0, 0, 0, 1, 0xFE]))
        flags = draw(st.sampled_from([0, 0, 0, 1, 2, 3, 0xFC]))
        data = bytes(draw(st.integers(0, 200)))
        if draw(st.integers(0, 9)) == 0:
            wire += sealed(aead, key, at, bytes([flags]) + data[:2], control=control)
        else:
            urgent = draw(st.integers(0, 65535)) if flags & 2 else None
            wire += frame(aead, key, at, data, control=control, flags=flags, urgent=urgent)
    damaged = bytearray(wire[: draw(st.just(len(wire)) | st.integers(0, len(wire)))])
    if damaged and draw(st.booleans()):
        damaged[draw(st.integers(0, len(damaged) - 1))] ^= 1 << draw(st.integers(0, 7))
    return damaged


@given(data=st.data(), aead=ALGORITHMS, offset=OFFSETS, accept=st.booleans())
def test_opening(
    twins: list[ModuleType], data: st.DataObject, aead: AeadParameters, offset: int, accept: bool
) -> None:
    key = traffic_key(aead)
    wire = data.draw(streams(aead, key, offset % 2**64))
    room = data.draw(st.just(len(wire)) | st.integers(0, len(wire)))

    def open_all(twin: ModuleType) -> Any:
        out = bytearray(room)
        opener = twin.FrameOpener(aead, key)
        opened = result(lambda: opener.open(wire, out, offset, accept))
        # Bytes past what was written mean nothing.
        return opened, out[: opened[1]] if len(opened) == 6 else None

    agreed([open_all(twin) for twin in twins])


@given(wire=st.binary(max_size=80), accept=st.booleans())
def test_opening_noise(twins: list[ModuleType], wire: bytes, accept: bool) -> None:
    aead = AEADS[1]
    key = traffic_key(aead)
    answers = [twin.FrameOpener(aead, key).open(wire, bytearray(99), 0, accept) for twin in twins]
    assert agreed(answers)[:3] == (0, 0, 0)


@given(aead=ALGORITHMS, size=st.integers(0, 3000), frame_data=st.integers(1, 700), data=st.data())
def test_what_one_twin_seals_the_other_opens(
    twins: list[ModuleType], aead: AeadParameters, size: int, frame_data: int, data: st.DataObject
) -> None:
    """And in whatever pieces it arrives."""
    key = traffic_key(aead)
    plain = bytes(index & 0xFF for index in range(size))
    wire = bytearray(size + 20 * (size // frame_data + 1))
    consumed, written, _ = (
        twins[0].FrameSealer(aead, key).seal(plain, wire, 7, frame_data, fin=True)
    )
    assert consumed == size
    opener = twins[-1].FrameOpener(aead, key)
    cuts = [*sorted(data.draw(st.lists(st.integers(0, written), max_size=4))), written]
    out = b""
    done, stop = 0, -1
    for cut in cuts:
        part = bytearray(size)
        opened, got, _, stop, _, _ = opener.open(wire[done:cut], part, 7 + done)
        done += opened
        out += part[:got]
        if stop == twins[0].STOP_FIN:
            break
    assert (out, stop, done) == (plain, twins[0].STOP_FIN, written)
