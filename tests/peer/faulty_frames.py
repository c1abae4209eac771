"""Misbehaviours of RFC 8548 sections 3.6, 3.8 and 4.2: frames, their order, rekeying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from peer.host import Host
from peer.misbehaviour import Misbehaviour as M
from peer.misbehaviour import both
from peer.scripts import QUESTION, Script, Subject, answer, keyed, opened, wire

TAG: Final = both("abort FRAME_TAG")
SHORT: Final = both("abort FRAME_TOO_SHORT")
URGENT: Final = both("abort FRAME_URGENT_TRUNCATED")
WORKS: Final = both("works")
MAX: Final = 65_518
"""Data bytes of the largest frame."""


def flipped(at: int, bit: int = 1, data: bytes = b"some data") -> Script:
    """An honest frame with one bit changed on its way."""

    def make(host: Host) -> bytes:
        whole = bytearray(host.writer.frame(data))
        whole[at] ^= bit
        return bytes(whole) + b"\x00"

    return wire(make)


def frame(*args, **kwargs) -> Script:
    """One frame as `Writer.frame` makes it."""
    return wire(lambda host: host.writer.frame(*args, **kwargs))


def sealed(plaintext: bytes, **kwargs) -> Script:
    """One frame as `Writer.seal` makes it, control byte and plaintext at will."""
    return wire(lambda host: host.writer.seal(plaintext, **kwargs))


def frames(make: Callable[[Host], list[bytes]]) -> Script:
    """Several, each a write of its own."""
    return wire(make)


def at_offset(change: Callable[[int], int]) -> Script:
    """A frame as if at another offset."""
    return wire(lambda h: h.writer.seal(b"\x00data", offset=change(h.writer.offset)))


def replayed(host: Host) -> list[bytes]:
    return [host.writer.frame(b"pay once")] * 2


def swapped(host: Host) -> list[bytes]:
    return [host.writer.frame(b"first"), host.writer.frame(b"second")][::-1]


def lost(host: Host) -> list[bytes]:
    return [host.writer.frame(b"1"), host.writer.frame(b"2"), host.writer.frame(b"3")][::2]


def cut(host: Host) -> list[bytes]:
    # A lost zero is made good by the first byte of the next frame.
    short = host.writer.frame(b"cut short").rstrip(b"\0")[:-1]
    return [short, host.writer.frame(b"next")]


def reflected(host: Host, subject: Subject) -> None:
    subject.send(b"comes back")
    own = subject.sent()
    host.read(own)
    subject.receive(own)


def first_bit(whole: bytes) -> bytes:
    return bytes([whole[0] ^ 1]) + whole[1:]


def last_bit(whole: bytes) -> bytes:
    return whole[:-1] + bytes([whole[-1] ^ 1])


def in_drops(host: Host, subject: Subject) -> None:
    for byte in host.writer.frame(b"in drops"):
        subject.receive(bytes([byte]))


def announced_twice(host: Host) -> list[bytes]:
    first = host.writer.frame(b"new", rekey=True)
    return [first, host.writer.seal(b"\x00new", control=1)]


def back_to_the_old_key(host: Host) -> list[bytes]:
    first = host.writer.frame(b"new", rekey=True)
    return [first, host.writer.seal(b"\x00old", generation=0)]


def unanswered(host: Host, subject: Subject) -> None:
    """The subject rekeys, and the host goes on under its old key."""
    subject.rekey()
    host.reader.feed(subject.sent())
    subject.receive(host.writer.frame(b"still the old key"))


def answered_too_often(host: Host, subject: Subject) -> None:
    """The subject rekeys once, the host three times."""
    subject.rekey()
    answer(host, subject, subject.sent())
    for _ in range(2):
        subject.receive(host.writer.frame(rekey=True))
    answer(host, subject, subject.sent())


def answered_without_the_bit(host: Host, subject: Subject) -> None:
    """The subject rekeys, and the host follows without saying so."""
    subject.rekey()
    host.reader.feed(subject.sent())
    subject.receive(host.writer.seal(b"\x00", generation=1))


def both_at_once(host: Host, subject: Subject) -> None:
    mine = host.writer.frame(rekey=True)
    subject.rekey()
    theirs = subject.sent()
    subject.receive(mine)
    answer(host, subject, theirs + subject.sent())


def idle(host: Host, subject: Subject) -> None:
    """Nothing for longer than a handshake may last."""
    subject.too_late()


FRAMES: Final = (
    # --- a bit changes on the way (section 3.6) -----------------------------------------------
    M(name="frame-tag-first-bit", rfc="48 3.6", does="changes the first bit of the tag",
      play=flipped(-16, 0x80), **TAG),
    M(name="frame-tag-last-bit", rfc="48 3.6", does="changes the last bit of the tag",
      play=flipped(-1), **TAG),
    M(name="frame-flags-changed", rfc="48 3.6", does="changes FINp in the ciphertext",
      play=flipped(3), **TAG),
    M(name="frame-data-changed", rfc="48 3.6",
      does="changes a bit of the data", play=flipped(8), **TAG),
    M(name="frame-reserved-control-changed", rfc="48 4.2.1",
      does="sets a reserved control bit on the way",
      play=flipped(0, 0x80), **TAG),
    M(name="frame-clen-one-too-small", rfc="48 4.2.1", does="says clen one too small",
      play=sealed(b"\x00data", clen=20), **TAG),
    M(name="frame-clen-changed-on-the-way", rfc="48 4.2.1", does="adds one to clen, and a byte",
      play=flipped(2, 0x01, b"a" * 8), **TAG),
    # --- associated data, nonce, offset (sections 4.2.1 to 4.2.3) -----------------------------
    M(name="aad-empty", rfc="48 3.6", does="seals without associated data", **TAG),
    M(name="aad-without-control", rfc="48 3.6", does="leaves the control byte out of it", **TAG),
    M(name="aad-reserved-control-cleared", rfc="48 3.6", does="clears reserved control bits in it",
      play=sealed(b"\x00data", control=0xFE), **TAG),
    M(name="nonce-with-frame-id-magic", rfc="48 4.2.3", does="uses the magic of old drafts", **TAG),
    M(name="nonce-offset-little-endian", rfc="48 4.2.3",
      does="writes the offset little-endian", **TAG),
    M(name="nonce-offset-in-front", rfc="48 4.2.3",
      does="writes the offset before the zeros", **TAG),
    M(name="nonce-not-randomized", rfc="48 4.2.3", does="does not XOR the randomizer", **TAG),
    M(name="offset-behind-init", rfc="48 4.2.3",
      does="counts from the byte behind Init (open point E1)",
      **WORKS),
    M(name="offset-behind-init-and-rekey", rfc="48 4.2.3", does="the same, and rekeys at once",
      play=keyed(lambda h, s: s.receive(h.writer.frame(b"new", rekey=True))), **WORKS),
    M(name="offset-behind-init-two-frames", rfc="48 4.2.3", does="the same, two frames at once",
      play=keyed(lambda h, s: s.receive(h.writer.frame(b"1") + h.writer.frame(b"2"))), **WORKS),
    M(name="offset-behind-init-byte-by-byte", rfc="48 4.2.3", does="the same, byte by byte",
      play=keyed(in_drops), **WORKS),
    M(name="offset-behind-init-forged", rfc="48 4.2.3", does="the same, with a wrong tag",
      play=keyed(lambda h, s: s.receive(last_bit(h.writer.frame(b"forged")))), **TAG),
    M(name="offset-one-too-high", rfc="48 4.2.3", does="counts the SYN", **TAG),
    M(name="offset-one-too-low", rfc="48 4.2.3", does="begins one byte too low", **TAG),
    M(name="offset-of-the-peer", rfc="48 4.2.3",
      does="begins where the other's stream does", **TAG),
    M(name="offset-past-32-bits", rfc="48 4.2.3", does="begins at 2^32", **TAG),
    M(name="offset-past-63-bits", rfc="48 4.2.3", does="begins at 2^63", **TAG),
    M(name="offset-counts-application-bytes", rfc="48 4.2.3", does="counts application bytes",
      play=frame(b"second"), **TAG),
    M(name="offset-stays", rfc="48 4.2.3", does="seals a second frame at the offset of the first",
      play=at_offset(lambda at: at - 20 - len(QUESTION)), **TAG),
    M(name="offset-starts-again", rfc="48 4.2.3", does="seals a second frame at offset 0",
      play=at_offset(lambda at: 0), **TAG),
    M(name="offset-changes-its-origin", rfc="48 4.2.3",
      does="leaves Init out from the second frame on",
      play=wire(lambda h: h.writer.seal(b"\x00data", offset=20 + len(QUESTION))), **TAG),
    M(name="offset-jumps", rfc="48 4.2.3", does="skips a byte of the offset",
      play=at_offset(lambda at: at + 1), **TAG),
    # --- order --------------------------------------------------------------------------------
    M(name="frame-replayed", rfc="48 3.6",
      does="sends a frame twice", play=frames(replayed), **TAG),
    M(name="frames-swapped", rfc="48 3.6", does="sends two frames in the wrong order",
      play=frames(swapped), **TAG),
    M(name="frame-lost", rfc="48 3.6", does="leaves a frame out", play=frames(lost), **TAG),
    M(name="frame-cut", rfc="48 3.6",
      does="loses the last byte of a frame", play=frames(cut), **TAG),
    M(name="frame-reflected", rfc="48 3.6", does="sends the subject's own frame back",
      play=opened(reflected), **TAG),
    M(name="frame-inserted", rfc="48 3.6", does="puts 20 bytes between two frames",
      play=frames(lambda h: [h.writer.frame(b"1"), b"\x00\x00\x11" + bytes(17)]), **TAG),
    # --- what is no frame at all --------------------------------------------------------------
    M(name="junk-zeros", rfc="48 4.2.1",
      does="sends zeros", play=wire(lambda h: bytes(1000)), **SHORT),
    M(name="junk-ones", rfc="48 4.2.1",
      does="sends ones", play=wire(lambda h: b"\xff" * 70_000), **TAG),
    M(name="junk-plain-response", rfc="47 4.6", does="sends plain text",
      play=wire(lambda h: b"HTTP/1.1 200 OK\r\n" + b"." * 30_000), **TAG),
    M(name="junk-tls-record", rfc="47 4.6", does="sends a TLS record",
      play=wire(lambda h: b"\x17\x03\x03\x04\x00" + bytes(2000)), **TAG),
    # --- sizes (section 4.2.1) ----------------------------------------------------------------
    M(name="frame-clen-0", rfc="48 4.2.1",
      does="says clen 0", play=wire(lambda h: b"\x00\x00\x00"), **SHORT),
    M(name="frame-clen-1", rfc="48 4.2.1",
      does="says clen 1", play=wire(lambda h: b"\x00\x00\x01\xff"), **SHORT),
    M(name="frame-clen-15", rfc="48 4.2.1", does="says clen 15, less than a tag",
      play=wire(lambda h: b"\x00\x00\x0f" + bytes(15)), **SHORT),
    M(name="frame-clen-16", rfc="48 4.2.2", does="seals no flags byte, under the right key",
      play=sealed(b""), **SHORT),
    M(name="frame-clen-16-rekeyed", rfc="48 4.2.2", does="seals no flags byte, under the next key",
      play=sealed(b"", control=1, generation=1), **SHORT),
    M(name="frame-empty", rfc="48 4.2",
      does="sends a frame without data, as it may", play=frame(), **WORKS),
    M(name="frames-empty-2000", rfc="48 4.2", does="sends 2,000 frames without data in one write",
      play=wire(lambda h: b"".join(h.writer.frame() for _ in range(2000))), **WORKS),
    M(name="frames-of-one-byte-2000", rfc="48 4.2", does="sends 2,000 frames of one byte",
      play=wire(lambda h: b"".join(h.writer.frame(b"x") for _ in range(2000))), **WORKS),
    M(name="frame-largest", rfc="48 4.2.1", does="sends the largest frame",
      play=frame(b"z" * MAX), **WORKS),
    M(name="frame-largest-urgent", rfc="48 4.2.1",
      does="sends the largest frame with an urgent field",
      play=frame(b"z" * (MAX - 2), urgent=7), **WORKS),
    M(name="frame-largest-forged", rfc="48 3.6", does="forges the largest frame",
      play=wire(lambda h: b"\x00\xff\xff" + bytes(0xFFFF)), **TAG),
    M(name="frame-byte-by-byte", rfc="48 3.6", does="sends a frame byte by byte",
      play=wire(lambda h: [bytes([b]) for b in h.writer.frame(b"in drops")]), **WORKS),
    # --- reserved bits ------------------------------------------------------------------------
    M(name="control-reserved-bits", rfc="48 4.2.1", does="sets all reserved control bits",
      play=sealed(b"\x00data", control=0xFE), **WORKS),
    M(name="flags-reserved-bits", rfc="48 4.2.2", does="sets all reserved flags",
      play=sealed(b"\xfcdata"), **WORKS),
    # --- urgent data (sections 3.7, 4.2.2) ----------------------------------------------------
    M(name="urgent-field-absent", rfc="48 4.2.2", does="sets URGp and sends no field",
      play=sealed(b"\x02"), **URGENT),
    M(name="urgent-field-of-one-byte", rfc="48 4.2.2", does="sets URGp and sends half a field",
      play=sealed(b"\x02\x00"), **URGENT),
    M(name="urgent-field-absent-with-finp", rfc="48 4.2.2",
      does="sets URGp and FINp and sends no field",
      play=sealed(b"\x03"), **URGENT),
    M(name="urgent-field-absent-with-reserved", rfc="48 4.2.2",
      does="sets all flags and sends no field",
      play=sealed(b"\xff\x01"), **URGENT),
    M(name="urgent-without-data", rfc="48 3.7", does="marks urgent data in an empty frame",
      play=frame(urgent=0), **WORKS),
    M(name="urgent-past-the-frame", rfc="48 3.7", does="points 65535 bytes ahead of one byte",
      play=frame(b"!", urgent=0xFFFF), **WORKS),
    M(name="urgent-behind-data", rfc="48 3.7", does="marks urgent data in the write of other data",
      play=wire(lambda h: h.writer.frame(b"calm") + h.writer.frame(b"alarm", urgent=3)), **WORKS),
    M(name="urgent-flood", rfc="48 3.7", does="marks 500 frames urgent",
      play=wire(lambda h: b"".join(h.writer.frame(b"!", urgent=i) for i in range(500))), **WORKS),
    # --- rekeying (section 3.8) ---------------------------------------------------------------
    M(name="rekey-under-the-old-key", rfc="48 3.8", does="announces a key and uses the old one",
      play=sealed(b"\x00", control=1), **TAG),
    M(name="rekey-unannounced", rfc="48 3.8", does="uses a new key and does not say so",
      play=sealed(b"\x00", generation=1), **TAG),
    M(name="rekey-skips-a-generation", rfc="48 3.8", does="goes two generations with one frame",
      play=sealed(b"\x00", control=1, generation=2), **TAG),
    M(name="rekey-bit-forged", rfc="48 8",
      does="sets the rekey bit on the way", play=flipped(0), **TAG),
    M(name="rekey-bit-removed", rfc="48 8", does="clears the rekey bit on the way",
      play=wire(lambda h: first_bit(h.writer.frame(b"new", rekey=True))), **TAG),
    M(name="rekey-announced-twice", rfc="48 3.8", does="announces one generation in two frames",
      play=frames(announced_twice), **TAG),
    M(name="rekey-and-back", rfc="48 3.8", does="goes back to the old key",
      play=frames(back_to_the_old_key), **TAG),
    M(name="rekey-restarts-the-offset", rfc="48 4.2.3", does="counts from 0 under a new key",
      play=frame(b"new", rekey=True), **TAG),
    M(name="rekey-with-const-nextk", rfc="48 3.4", does="derives mk[j] with CONST_NEXTK",
      play=frame(b"new", rekey=True), **TAG),
    M(name="rekey-300-times", rfc="48 3.8", does="rekeys 300 times in one write",
      play=wire(lambda h: b"".join(h.writer.frame(rekey=True) for _ in range(300))), **WORKS),
    M(name="rekey-300-times-with-data", rfc="48 3.8", does="rekeys with each of 300 writes",
      play=wire(lambda h: [h.writer.frame(b"new", rekey=True) for _ in range(300)]), **WORKS),
    M(name="rekey-first-frame", rfc="48 3.8", does="rekeys with its very first frame",
      play=keyed(lambda h, s: s.receive(h.writer.frame(b"new", rekey=True))), **WORKS),
    M(name="rekey-unanswered", rfc="48 3.8", does="does not answer a rekey",
      play=opened(unanswered), **WORKS),
    M(name="rekey-answered-three-times", rfc="48 3.8", does="answers a rekey three times",
      play=opened(answered_too_often), **WORKS),
    M(name="rekey-answered-without-the-bit", rfc="48 3.8", does="answers a rekey without saying so",
      play=opened(answered_without_the_bit), **TAG),
    M(name="rekey-at-once-on-both-sides", rfc="48 3.8", does="rekeys at the same time",
      play=opened(both_at_once), **WORKS),
    M(name="silence", rfc="48 3.9", does="says nothing for long", play=opened(idle), **WORKS),
)  # fmt: skip
