"""RFC 8548 sections 3.6 to 3.8 below `Session`: keys by generation, odd frames."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Direction, Role
from tcpcrypt.core.records import KeyRing, RecordReceiver, RecordSender
from tcpcrypt.crypto.aead import aead
from tcpcrypt.crypto.schedule import MasterKey
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError, PeerError, PeerReason

AES = aead(1)


def ring(role: Role) -> KeyRing:
    return KeyRing(MasterKey(Secret(bytes(range(32)))), AES, role)


def receiver() -> RecordReceiver:
    return RecordReceiver(Config(), ring(Role.B), AES, offset=0, other_offset=0)


def frame(plaintext: bytes, *, offset: int = 0, control: int = 0) -> bytes:
    """A frame of A under generation 0, made with `cryptography` alone."""
    keys = MasterKey(Secret(bytes(range(32)))).traffic_keys(AES)
    traffic = bytes(keys.ab.view())
    randomizer = int.from_bytes(traffic[16:], "big")
    header = bytes((control,)) + (len(plaintext) + 16).to_bytes(2, "big")
    nonce = (offset ^ randomizer).to_bytes(12, "big")
    return header + AESGCM(traffic[:16]).encrypt(nonce, plaintext, header)


def test_48_4_2_urgent_field_is_cut_short() -> None:
    """An authentic frame with URGp whose plaintext ends before the urgent field."""
    for plaintext in (b"\x02", b"\x02\x00", b"\x03"):
        r = receiver()
        r.feed(frame(plaintext))
        with pytest.raises(PeerError) as caught:
            r.step()
        assert caught.value.reason is PeerReason.FRAME_URGENT_TRUNCATED


def test_48_4_2_urgent_field_with_finp() -> None:
    r = receiver()
    r.feed(frame(b"\x03\x00\x07abc"))
    step = r.step()
    assert step is not None
    assert step.fin
    assert step.urgent_index == 7
    assert bytes(step.data) == b"abc"
    assert r.step() is None


def test_48_4_2_reserved_bits_are_ignored_on_receipt() -> None:
    """cres and fres: send 0, ignore on receipt."""
    r = receiver()
    r.feed(frame(b"\xfcdata", control=0xFE))
    step = r.step()
    assert step is not None
    assert bytes(step.data) == b"data"
    assert not step.fin
    assert step.urgent_index is None


def test_each_key_is_given_out_once() -> None:
    keys = ring(Role.A)
    keys.take(Direction.SENDING, 0).wipe()
    with pytest.raises(KeyError):
        keys.take(Direction.SENDING, 0)
    # One direction three ahead; the other finds its keys waiting.
    keys.take(Direction.SENDING, 3).wipe()
    for generation in range(4):
        keys.take(Direction.RECEIVING, generation).wipe()
    keys.wipe()


def test_a_sender_that_miscounts_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = RecordSender(Config(), ring(Role.A), AES, offset=0)
    monkeypatch.setattr("tcpcrypt.core.records.sealed_size", lambda *_: 5)
    with pytest.raises(LocalError):
        sender.seal(b"data")


def test_nothing_follows_finp() -> None:
    sender = RecordSender(Config(), ring(Role.A), AES, offset=0)
    sender.seal(b"end", fin=True)
    with pytest.raises(LocalError):
        sender.seal(b"more")


def test_a_large_write_is_sealed_in_pieces_of_a_mebibyte() -> None:
    """One allocation is bounded, and so are the frames by which a key may pass its limit."""
    sender = RecordSender(Config(), ring(Role.A), AES, offset=0)
    sender.seal(bytes(5 << 20))
    taken = []
    while octets := sender.take():
        taken.append(len(octets))
    assert 1 << 20 < max(taken) < (1 << 20) + 20 * 20
    assert sum(taken) > 5 << 20


def test_nothing_is_taken_behind_finp() -> None:
    r = receiver()
    r.feed(frame(b"\x01end"))
    step = r.step()
    assert step is not None
    assert step.fin
    r.feed(b"")
    with pytest.raises(PeerError) as caught:
        r.feed(b"x")
    assert caught.value.reason is PeerReason.DATA_AFTER_FINP


def test_48_3_8_an_empty_frame_before_a_rekey_in_one_read() -> None:
    sender, r = RecordSender(Config(), ring(Role.A), AES, offset=0), receiver()
    sender.seal(b"")
    sender.advance_key()
    sender.seal(b"under the next key")
    r.feed(b"".join((sender.take(), sender.take())))
    steps = [r.step(), r.step()]
    assert [(bytes(step.data), step.rekeyed) for step in steps if step is not None] == [
        (b"", False),
        (b"under the next key", True),
    ]
    assert r.step() is None


def test_a_ring_that_was_wiped_gives_no_key() -> None:
    keys = ring(Role.A)
    keys.wipe()
    with pytest.raises(KeyError):
        keys.take(Direction.SENDING, 0)


def test_48_3_8_every_generation_is_announced_by_a_frame_of_its_own() -> None:
    sender = RecordSender(Config(), ring(Role.A), AES, offset=0)
    sender.advance_key()
    sender.advance_key()
    sender.seal(b"data")
    frames = [bytes(sender.take()), bytes(sender.take())]
    assert [frame[0] for frame in frames] == [1, 1]
    assert len(frames[0]) == 20
    assert not sender.pending
