"""RFC 8548 sections 3.6 and 4.2: sealing frames, held against frames made by the letter."""

from __future__ import annotations

import array
from types import ModuleType

import pytest
from support.frames import OVERHEAD, frame, pattern, traffic_key

from tcpcrypt.crypto.aead import AEADS, AeadParameters

AES = AEADS[1]
KEY = traffic_key(AES)
# Around the blocks of GCM and ChaCha20, around what one head holds, and the largest.
LENGTHS = [0, 1, 13, 14, 15, 16, 17, 61, 62, 63, 64, 65, 127, 128, 129, 1023, 1024, 1087, 1088]
LENGTHS += [1400, 16384, 65515, 65516, 65517, 65518]
LARGEST = 65535 - 1 - 16


@pytest.mark.parametrize("length", LENGTHS)
def test_one_frame_is_what_section_4_2_says(
    twin: ModuleType, aead: AeadParameters, length: int
) -> None:
    key, data = traffic_key(aead), pattern(length)
    out = bytearray(length + OVERHEAD)
    sealer = twin.FrameSealer(aead, key)
    assert sealer.seal(data, out, 79, LARGEST) == (length, len(out), 1)
    assert out == frame(aead, key, 79, data)


@pytest.mark.parametrize("length", [0, 1, 12, 13, 14, 61, 62, 65515, 65516])
def test_urgent_field_comes_before_the_data(
    twin: ModuleType, aead: AeadParameters, length: int
) -> None:
    key, data = traffic_key(aead), pattern(length)
    out = bytearray(length + OVERHEAD + 2)
    result = twin.FrameSealer(aead, key).seal(
        data, out, 5, LARGEST, rekey=True, fin=True, urgent=0x1234
    )
    assert result == (length, len(out), 1)
    assert out == frame(aead, key, 5, data, control=1, flags=1, urgent=0x1234)


def test_many_frames_carry_rekey_and_urgent_first_and_finp_last(twin: ModuleType) -> None:
    """RFC 8548 section 3.7: FINp MUST be on the last frame; section 3.8: rekey on the first."""
    data = pattern(250)
    out = bytearray(1000)
    result = twin.FrameSealer(AES, KEY).seal(data, out, 100, 100, True, True, 7)
    first = frame(AES, KEY, 100, data[:100], control=1, urgent=7)
    second = frame(AES, KEY, 100 + len(first), data[100:200])
    third = frame(AES, KEY, 100 + len(first) + len(second), data[200:], flags=1)
    assert result == (250, len(first + second + third), 3)
    assert out[: result[1]] == first + second + third
    assert not any(out[result[1] :])


def test_data_that_fill_the_last_frame_make_no_empty_one(twin: ModuleType) -> None:
    out = bytearray(1000)
    assert twin.FrameSealer(AES, KEY).seal(bytes(200), out, 0, 100) == (200, 240, 2)


def test_the_largest_frame_gives_two_bytes_to_the_urgent_field(twin: ModuleType) -> None:
    data = pattern(LARGEST)
    out = bytearray(2 * 65538)
    result = twin.FrameSealer(AES, KEY).seal(data, out, 0, LARGEST, urgent=0)
    first = frame(AES, KEY, 0, data[:-2], urgent=0)
    assert result == (LARGEST, len(first) + OVERHEAD + 2, 2)
    assert out[: result[1]] == first + frame(AES, KEY, len(first), data[-2:])


@pytest.mark.parametrize("room", range(3 * 30 + 3))
def test_frames_without_room_are_left_undone_and_finp_with_them(
    twin: ModuleType, room: int
) -> None:
    data = pattern(30)
    out = bytearray(room)
    frames = room // 30
    result = twin.FrameSealer(AES, KEY).seal(data, out, 0, 10, fin=True)
    assert result == (frames * 10, frames * 30, frames)
    expected = b"".join(
        frame(AES, KEY, 30 * index, data[10 * index : 10 * index + 10], flags=index == 2)
        for index in range(frames)
    )
    assert out[: 30 * frames] == expected
    assert not any(out[30 * frames :])


def test_sealing_goes_on_where_it_stopped(twin: ModuleType, aead: AeadParameters) -> None:
    """The same stream comes out, however much room each call has."""
    key, data = traffic_key(aead), pattern(1000)
    whole = bytearray(5000)
    length = twin.FrameSealer(aead, key).seal(data, whole, 9, 64, fin=True)[1]
    sealer = twin.FrameSealer(aead, key)
    wire, done, room = b"", 0, 84
    while done < len(data):
        out = bytearray(room)
        consumed, written, _ = sealer.seal(data[done:], out, 9 + len(wire), 64, fin=True)
        wire += out[:written]
        done += consumed
        room += 17
    assert wire == whole[:length]


def test_no_room_for_an_empty_frame_is_told_by_the_count(twin: ModuleType) -> None:
    sealer = twin.FrameSealer(AES, KEY)
    assert sealer.seal(b"", bytearray(19), 0, 1, fin=True) == (0, 0, 0)
    assert sealer.seal(b"", bytearray(20), 0, 1, fin=True) == (0, 20, 1)
    assert sealer.seal(b"", bytearray(21), 0, 1, urgent=1) == (0, 0, 0)
    assert sealer.seal(b"", bytearray(0), 0, 1) == (0, 0, 0)


def test_offsets_use_all_64_bits(twin: ModuleType, aead: AeadParameters) -> None:
    """RFC 8548 section 4.2.3: the frame's offset is 64 bits of the nonce."""
    key = traffic_key(aead)
    for offset in (2**32 - 1, 2**32, 2**63, 2**64 - 22):
        out = bytearray(22)
        assert twin.FrameSealer(aead, key).seal(b"ab", out, offset, 9) == (2, 22, 1)
        assert out == frame(aead, key, offset, b"ab")


@pytest.mark.parametrize("offset", [2**64 - 21, 2**64 - 1])
def test_a_stream_past_64_bits_is_refused_before_anything_is_sealed(
    twin: ModuleType, offset: int
) -> None:
    """RFC 8548 section 3.6: no more than 2**64 bytes under one key."""
    sealer = twin.FrameSealer(AES, KEY)
    out = bytearray(22)
    with pytest.raises(ValueError, match="stream offset passes 64 bits"):
        sealer.seal(b"ab", out, offset, 9)
    assert out == bytes(22)
    # Frames that have no room would not be written, so they pass nothing.
    assert sealer.seal(b"ab", bytearray(21), offset, 9) == (0, 0, 0)


def test_a_second_frame_past_64_bits_refuses_the_first_too(twin: ModuleType) -> None:
    sealer = twin.FrameSealer(AES, KEY)
    out = bytearray(100)
    with pytest.raises(ValueError, match="stream offset passes 64 bits"):
        sealer.seal(b"abcd", out, 2**64 - 43, 2)
    assert out == bytes(100)
    assert sealer.seal(b"abcd", out, 2**64 - 44, 2) == (4, 44, 2)
    with pytest.raises(ValueError, match="stream offset passes 64 bits"):
        sealer.seal(b"abcd", out, 2**64 - 45, 2, urgent=3)


@pytest.mark.parametrize("offset", [-1, 2**64])
def test_an_offset_is_a_64_bit_number(twin: ModuleType, offset: int) -> None:
    with pytest.raises(ValueError, match="not a 64-bit number"):
        twin.FrameSealer(AES, KEY).seal(b"", bytearray(50), offset, 1)


@pytest.mark.parametrize("frame_data", [-1, 0, LARGEST + 1, 2**70])
def test_a_frame_data_that_no_frame_can_hold_is_refused(twin: ModuleType, frame_data: int) -> None:
    with pytest.raises(ValueError, match="no frame can hold"):
        twin.FrameSealer(AES, KEY).seal(b"", bytearray(50), 0, frame_data)


@pytest.mark.parametrize("urgent", [-2, 65536])
def test_urgent_is_a_16_bit_number(twin: ModuleType, urgent: int) -> None:
    with pytest.raises(ValueError, match="16-bit"):
        twin.FrameSealer(AES, KEY).seal(b"", bytearray(50), 0, 1, urgent=urgent)


def test_overlapping_buffers_are_refused(twin: ModuleType) -> None:
    memory = memoryview(bytearray(100))
    sealer = twin.FrameSealer(AES, KEY)
    for data, out in ((memory, memory), (memory[:21], memory[20:]), (memory[79:], memory[:80])):
        with pytest.raises(ValueError, match="overlap"):
            sealer.seal(data, out, 0, 10)
    # Side by side in one buffer is what a relay does.
    assert sealer.seal(memory[:10], memory[10:], 0, 10) == (10, 30, 1)
    assert sealer.seal(memory[90:], memory[:90], 0, 10) == (10, 30, 1)


def test_buffers_of_any_kind_are_taken_as_bytes(twin: ModuleType) -> None:
    words = array.array("I", range(8))
    out = array.array("B", bytes(60))
    assert twin.FrameSealer(AES, KEY).seal(words, out, 0, 32) == (32, 52, 1)
    assert out[:52].tobytes() == frame(AES, KEY, 0, words.tobytes())


def test_buffers_that_do_not_do_are_refused(twin: ModuleType) -> None:
    sealer = twin.FrameSealer(AES, KEY)
    with pytest.raises(BufferError):
        sealer.seal(b"", bytes(50), 0, 1)
    with pytest.raises(BufferError):
        sealer.seal(memoryview(bytes(8))[::2], bytearray(50), 0, 1)
    with pytest.raises(TypeError):
        sealer.seal("text", bytearray(50), 0, 1)
