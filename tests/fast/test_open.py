"""RFC 8548 sections 3.6 and 4.2: opening frames that were made by the letter."""

from __future__ import annotations

from types import ModuleType

import pytest
from support.frames import OVERHEAD, frame, pattern, sealed, traffic_key

from tcpcrypt.crypto.aead import AEADS, AeadParameters

AES = AEADS[1]
KEY = traffic_key(AES)
# Around the blocks of GCM and ChaCha20, around what one head holds, and the largest.
LENGTHS = [0, 1, 13, 14, 15, 16, 17, 61, 62, 63, 64, 65, 127, 128, 129, 1023, 1024, 1087, 1088]
LENGTHS += [1400, 16384, 65515, 65516, 65517, 65518]


def test_the_constants_are_those_of_the_contract(twin: ModuleType) -> None:
    names = "NEED_MORE OUT_FULL REKEY FIN URGENT BAD_TAG TOO_SHORT URGENT_TRUNCATED"
    assert [getattr(twin, f"STOP_{name}") for name in names.split()] == list(range(8))


@pytest.mark.parametrize("length", LENGTHS)
def test_one_frame(twin: ModuleType, aead: AeadParameters, length: int) -> None:
    key, data = traffic_key(aead), pattern(length)
    wire = frame(aead, key, 79, data)
    out = bytearray(length)
    opened = twin.FrameOpener(aead, key).open(wire, out, 79)
    assert opened == (len(wire), length, 1, twin.STOP_NEED_MORE, -1, length)
    assert out == data


@pytest.mark.parametrize("length", [0, 1, 12, 13, 14, 61, 62, 65515, 65516])
def test_urgp_stops_behind_its_frame(twin: ModuleType, aead: AeadParameters, length: int) -> None:
    """RFC 8548 section 4.2.2: the urgent field precedes the data."""
    key, data = traffic_key(aead), pattern(length)
    first = frame(aead, key, 0, data, urgent=0xABCD)
    wire = first + frame(aead, key, len(first), b"more")
    out = bytearray(length + 2)
    opened = twin.FrameOpener(aead, key).open(wire, out, 0)
    assert opened == (len(first), length, 1, twin.STOP_URGENT, 0xABCD, length)
    assert out[:length] == data


def test_finp_stops_behind_its_frame(twin: ModuleType) -> None:
    """RFC 8548 section 3.7: FINp is the last frame; what follows is not opened."""
    first = frame(AES, KEY, 0, b"data")
    last = frame(AES, KEY, len(first), b"bye", flags=1)
    after = frame(AES, KEY, len(first + last), b"forbidden")
    out = bytearray(50)
    opened = twin.FrameOpener(AES, KEY).open(first + last + after, out, 0)
    assert opened == (len(first + last), 7, 2, twin.STOP_FIN, -1, 3)
    assert out[:7] == b"databye"


def test_finp_with_urgp_reports_both(twin: ModuleType) -> None:
    wire = frame(AES, KEY, 0, b"now", flags=1, urgent=2)
    opened = twin.FrameOpener(AES, KEY).open(wire, bytearray(9), 0)
    assert opened == (len(wire), 3, 1, twin.STOP_FIN, 2, 3)


def test_reserved_bits_are_ignored_yet_authenticated(twin: ModuleType) -> None:
    """RFC 8548 sections 4.2.1 and 4.2.2: cres and fres are ignored on receipt."""
    wire = frame(AES, KEY, 0, b"data", control=0xFE, flags=0xFC)
    opener = twin.FrameOpener(AES, KEY)
    assert opener.open(wire, bytearray(9), 0) == (len(wire), 4, 1, twin.STOP_NEED_MORE, -1, 4)
    other = bytes([0x7E]) + wire[1:]
    assert opener.open(other, bytearray(9), 0) == (0, 0, 0, twin.STOP_BAD_TAG, -1, 0)


def test_a_frame_with_rekey_waits_for_the_caller(twin: ModuleType) -> None:
    """RFC 8548 section 3.8: that frame is under the next keys."""
    first = frame(AES, KEY, 0, b"old")
    second = frame(AES, KEY, len(first), b"new", control=1)
    third = frame(AES, KEY, len(first + second), b"newer", control=1)
    opener, out = twin.FrameOpener(AES, KEY), bytearray(20)
    for accept in (False, True):
        opened = opener.open(first + second, out, 0, accept)
        assert opened == (len(first), 3, 1, twin.STOP_REKEY, -1, 3)
    assert opener.open(second, out, len(first))[:4] == (0, 0, 0, twin.STOP_REKEY)
    opened = opener.open(second + third, out, len(first), accept_rekey=True)
    assert opened == (len(second), 3, 1, twin.STOP_REKEY, -1, 3)


def test_an_unfinished_frame_with_rekey_is_not_reported_yet(twin: ModuleType) -> None:
    wire = frame(AES, KEY, 0, b"new", control=1)
    opener = twin.FrameOpener(AES, KEY)
    for end in range(len(wire)):
        assert opener.open(wire[:end], bytearray(9), 0)[3] == twin.STOP_NEED_MORE


def test_every_split_of_a_stream_gives_the_same_data(twin: ModuleType) -> None:
    data = pattern(40)
    wire = b""
    for index in range(4):
        wire += frame(AES, KEY, 79 + len(wire), data[10 * index : 10 * index + 10])
    opener = twin.FrameOpener(AES, KEY)
    for cut in range(len(wire) + 1):
        out = bytearray(40)
        consumed, written, frames, stop, _, _ = opener.open(wire[:cut], out, 79)
        assert (consumed, frames) == (cut // 30 * 30, cut // 30)
        assert stop == twin.STOP_NEED_MORE
        rest = bytearray(40)
        opened = opener.open(wire[consumed:], rest, 79 + consumed)
        assert out[:written] + rest[: opened[1]] == data


@pytest.mark.parametrize("length", [0, 1, 2, 14, 15, 16, 17])
def test_a_small_frame_cut_at_every_byte_needs_more(
    twin: ModuleType, aead: AeadParameters, length: int
) -> None:
    key = traffic_key(aead)
    wire = frame(aead, key, 0, pattern(length))
    opener = twin.FrameOpener(aead, key)
    for end in range(len(wire)):
        out = bytearray(length)
        assert opener.open(wire[:end], out, 0) == (0, 0, 0, twin.STOP_NEED_MORE, -1, 0)
        assert not any(out)


def test_every_changed_bit_of_a_frame_is_noticed(twin: ModuleType, aead: AeadParameters) -> None:
    """RFC 8548 section 3.6: a frame that fails authentication delivers nothing."""
    key = traffic_key(aead)
    wire = frame(aead, key, 0, b"data")
    opener = twin.FrameOpener(aead, key)
    for position in range(8 * len(wire)):
        forged = bytearray(wire + bytes(70000))
        forged[position // 8] ^= 1 << position % 8
        out = bytearray(b"\xee" * 70000)
        result = opener.open(forged, out, 0, accept_rekey=True)
        assert result[:3] == (0, 0, 0)
        assert result[3] in (twin.STOP_BAD_TAG, twin.STOP_TOO_SHORT)
        assert b"data" not in out
    # The object goes on as if nothing had been.
    assert opener.open(wire, bytearray(4), 0)[:3] == (len(wire), 4, 1)


@pytest.mark.parametrize("length", [5, 100, 5000, 65518])
def test_no_plaintext_of_a_bad_frame_stays_behind(
    twin: ModuleType, aead: AeadParameters, length: int
) -> None:
    key, data = traffic_key(aead), pattern(length)
    good = frame(aead, key, 0, b"good")
    bad = bytearray(frame(aead, key, len(good), data))
    bad[-1] ^= 1
    out = bytearray(b"\xee" * (length + 10))
    opened = twin.FrameOpener(aead, key).open(good + bad, out, 0)
    assert opened == (len(good), 4, 1, twin.STOP_BAD_TAG, -1, 4)
    assert set(out[4:]) <= {0x00, 0xEE}


def test_the_wrong_offset_is_a_bad_tag(twin: ModuleType) -> None:
    wire = frame(AES, KEY, 79, b"data")
    assert twin.FrameOpener(AES, KEY).open(wire, bytearray(9), 0)[3] == twin.STOP_BAD_TAG


@pytest.mark.parametrize("clen", range(17))
def test_a_frame_without_flags_and_tag_is_too_short(twin: ModuleType, clen: int) -> None:
    """RFC 8548 section 4.2.1: clen is at least flags and tag; told before it is whole."""
    good = frame(AES, KEY, 0, b"good")
    for control in (0, 1):
        wire = good + bytes([control, 0, clen])
        opened = twin.FrameOpener(AES, KEY).open(wire, bytearray(9), 0)
        assert opened == (len(good), 4, 1, twin.STOP_TOO_SHORT, -1, 4)


@pytest.mark.parametrize("plaintext", [b"\x02", b"\x02\x00", b"\x03\xff"])
def test_urgp_without_its_field_is_truncated(twin: ModuleType, plaintext: bytes) -> None:
    """RFC 8548 section 4.2.2: with URGp, two bytes follow the flags."""
    good = frame(AES, KEY, 0, b"good")
    wire = good + sealed(AES, KEY, len(good), plaintext)
    out = bytearray(b"\xee" * 9)
    opened = twin.FrameOpener(AES, KEY).open(wire, out, 0)
    assert opened == (len(good), 4, 1, twin.STOP_URGENT_TRUNCATED, -1, 4)
    assert set(out[4:]) <= {0x00, 0xEE}
    # A bad tag is a bad tag, whatever the flags seem to say.
    forged = wire[:-1] + bytes([wire[-1] ^ 1])
    assert twin.FrameOpener(AES, KEY).open(forged, out, 0)[3] == twin.STOP_BAD_TAG


@pytest.mark.parametrize("room", range(25))
def test_a_frame_larger_than_the_rest_of_out_waits(twin: ModuleType, room: int) -> None:
    wire = b""
    for _ in range(2):
        wire += frame(AES, KEY, len(wire), pattern(10))
    frames = min(room // 10, 2)
    stop = twin.STOP_NEED_MORE if frames == 2 else twin.STOP_OUT_FULL
    opened = twin.FrameOpener(AES, KEY).open(wire, bytearray(room), 0)
    assert opened == (30 * frames, 10 * frames, frames, stop, -1, 10 if frames else 0)


def test_a_frame_with_urgp_wants_the_room_of_one_without(twin: ModuleType) -> None:
    """Which it is shows only once it is opened."""
    wire = frame(AES, KEY, 0, b"12345", urgent=0)
    opener = twin.FrameOpener(AES, KEY)
    assert opener.open(wire, bytearray(6), 0)[3] == twin.STOP_OUT_FULL
    assert opener.open(wire, bytearray(7), 0)[:4] == (len(wire), 5, 1, twin.STOP_URGENT)


def test_empty_frames_need_no_room(twin: ModuleType) -> None:
    wire = frame(AES, KEY, 0, b"") + frame(AES, KEY, OVERHEAD, b"", flags=1)
    opened = twin.FrameOpener(AES, KEY).open(wire, bytearray(), 0)
    assert opened == (len(wire), 0, 2, twin.STOP_FIN, -1, 0)


def test_nothing_to_open_needs_more(twin: ModuleType) -> None:
    opener = twin.FrameOpener(AES, KEY)
    for offset in (0, 2**64 - 1):
        assert opener.open(b"", bytearray(), offset) == (0, 0, 0, twin.STOP_NEED_MORE, -1, 0)


def test_offsets_end_at_64_bits(twin: ModuleType, aead: AeadParameters) -> None:
    """RFC 8548 section 3.6: no more than 2**64 bytes under one key."""
    key = traffic_key(aead)
    opener = twin.FrameOpener(aead, key)
    wire = frame(aead, key, 2**64 - 22, b"ab")
    assert opener.open(wire, bytearray(2), 2**64 - 22)[:3] == (22, 2, 1)
    with pytest.raises(ValueError, match="passes 64 bits"):
        opener.open(wire, bytearray(2), 2**64 - 21)
    for offset in (-1, 2**64):
        with pytest.raises(ValueError, match="not a 64-bit number"):
            opener.open(wire, bytearray(2), offset)


def test_overlapping_buffers_are_refused(twin: ModuleType) -> None:
    memory = memoryview(bytearray(100))
    memory[:24] = frame(AES, KEY, 0, b"data")
    opener = twin.FrameOpener(AES, KEY)
    for wire, out in ((memory, memory), (memory[:24].toreadonly(), memory[23:])):
        with pytest.raises(ValueError, match="overlap"):
            opener.open(wire, out, 0)
    assert opener.open(memory[:24], memory[24:], 0)[:3] == (24, 4, 1)


def test_buffers_that_do_not_do_are_refused(twin: ModuleType) -> None:
    opener = twin.FrameOpener(AES, KEY)
    with pytest.raises(BufferError):
        opener.open(b"", bytes(50), 0)
    with pytest.raises(BufferError):
        opener.open(memoryview(bytes(8))[::2], bytearray(50), 0)
    with pytest.raises(TypeError):
        opener.open(None, bytearray(50), 0)
