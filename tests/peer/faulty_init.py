"""Misbehaviours of RFC 8548 sections 3.3 and 4.1: Init1, Init2, and what stands for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from peer.host import INIT1_MAGIC, INIT2_MAGIC, Host
from peer.misbehaviour import Misbehaviour as M
from peer.misbehaviour import both
from peer.scripts import Mangle, Script, Subject, exchange, init, negotiated

MAGIC: Final = both("abort INIT_MAGIC")
SHORT: Final = both("abort INIT_TOO_SHORT")
LONG: Final = both("abort INIT_TOO_LONG")
EOF: Final = both("abort FIN_DURING_EXCHANGE")
NO_AEAD: Final = "abort NO_COMMON_AEAD"
NOT_OFFERED: Final = "abort AEAD_NOT_OFFERED"
TAG: Final = both("abort FRAME_TAG")
WORKS: Final = both("works")
ALL: Final = (0x0001, 0x0002, 0x0010)


def magic(make: Callable[[Host, bytes], bytes]) -> Script:
    return init(lambda host, message: make(host, message[:4]) + message[4:])


def with_length(length: int | Callable[[bytes], int], order: str = "big") -> Script:
    """message_len says this; the bytes stay."""

    def mangle(host: Host, message: bytes) -> bytes:
        said = length if isinstance(length, int) else length(message)
        return message[:4] + said.to_bytes(4, order) + message[8:]

    return init(mangle)


def resized(change: Mangle) -> Script:
    """Other bytes behind the header, and a message_len that fits them."""

    def mangle(host: Host, message: bytes) -> bytes:
        rest = change(host, message[8:])
        return message[:4] + (8 + len(rest)).to_bytes(4, "big") + rest

    return init(mangle)


def ciphers(*ids: int, said: int | None = None) -> Script:
    """A: another list of AEADs."""

    def change(host: Host, rest: bytes) -> bytes:
        count = len(ids) if said is None else said
        listed = b"".join(i.to_bytes(2, "big") for i in ids)
        return bytes([count]) + listed + rest[1 + 2 * len(host.aeads) :]

    return resized(change)


def chosen(aead: int) -> Script:
    """B: another choice."""
    return resized(lambda host, rest: aead.to_bytes(2, "big") + rest[2:])


def instead(*chunks: bytes) -> Script:
    """These writes, and no Init message."""

    def play(host: Host, subject: Subject) -> None:
        for chunk in chunks:
            subject.receive(chunk)

    return negotiated(play)


def part(count: Callable[[bytes], int], then: Callable[[Subject], None]) -> Script:
    """The first bytes of the Init message, then something else."""

    def play(host: Host, subject: Subject) -> None:
        if host.role == "B":
            host.hear_init(subject.sent())
        message = host.init1() if host.role == "A" else host.init2()
        subject.receive(message[: count(message)])
        then(subject)

    return negotiated(play)


def eof(subject: Subject) -> None:
    subject.eof()


def reset(subject: Subject) -> None:
    subject.reset()


def too_late(subject: Subject) -> None:
    subject.too_late()


def drip_too_late(subject: Subject) -> None:
    subject.receive(b"")
    subject.too_late()


def frames_before_init2(host: Host, subject: Subject) -> None:
    """A: a frame right behind Init1, under keys that it cannot have."""
    subject.receive(host.init1() + b"\x00\x00\x20" + bytes(32))


def init2_unread(host: Host, subject: Subject) -> None:
    """B: Init2 without a look at Init1, then a frame."""
    host.offered = list(host.aeads)
    subject.receive(host.init2())
    subject.receive(b"\x00\x00\x20" + bytes(32))


def init2_and_a_frame(host: Host, subject: Subject) -> None:
    """B: the first frame in the write that ends Init2."""
    host.hear_init(subject.sent())
    message = host.init2()
    host.start_fresh(message)
    subject.receive(message + host.writer.frame(b"at once"))


def again(times: int, then: Callable[[Subject], None] | None = None) -> Script:
    """The Init message, and then it comes once more."""

    def play(host: Host, subject: Subject) -> None:
        if host.role == "B":
            host.hear_init(subject.sent())
        message = host.init1() if host.role == "A" else host.init2()
        subject.receive(message)
        for _ in range(times):
            subject.receive(message)
        if then is not None:
            then(subject)

    return negotiated(play)


def reflected(host: Host, subject: Subject) -> None:
    """B: an Init2 with the nonce and the key of A."""
    host.hear_init(subject.sent())
    rest = host.aeads[0].to_bytes(2, "big") + host.peer_init[-64:]
    subject.receive(INIT2_MAGIC + (8 + len(rest)).to_bytes(4, "big") + rest)
    subject.receive(b"\x00\x00\x20" + bytes(32))


def reset_in_data(host: Host, subject: Subject) -> None:
    exchange(host, subject)
    subject.receive(b"\x00\x00")
    subject.reset()


def _cut_ids(host: Host, rest: bytes) -> bytes:
    """One byte an algorithm, as drafts up to 02 had it."""
    count = len(host.aeads)
    return rest[:1] + bytes(aead & 0xFF for aead in host.aeads) + rest[1 + 2 * count :]


INIT: Final = (
    # --- magic --------------------------------------------------------------------------------
    M(name="init-magic-of-the-other", rfc="48 4.1",
      does="begins with the magic of the other message",
      play=magic(lambda h, m: INIT2_MAGIC if h.role == "A" else INIT1_MAGIC), **MAGIC),
    M(name="init-magic-zero", rfc="48 4.1",
      does="begins with zeros", play=magic(lambda h, m: bytes(4)),
      **MAGIC),
    M(name="init-magic-first-byte", rfc="48 4.1", does="has a wrong first byte",
      play=magic(lambda h, m: bytes([m[0] ^ 1]) + m[1:]), **MAGIC),
    M(name="init-magic-last-byte", rfc="48 4.1", does="has a wrong fourth byte",
      play=magic(lambda h, m: m[:3] + bytes([m[3] ^ 0x80])), **MAGIC),
    M(name="init-magic-reversed", rfc="48 4.1", does="sends the magic little-endian",
      play=magic(lambda h, m: m[::-1]), **MAGIC),
    M(name="init-magic-one-wrong-byte-alone", rfc="48 4.1", does="sends one wrong byte and waits",
      play=instead(b"\x16"), **MAGIC),
    M(name="init-plaintext-request", rfc="47 4.6", does="sends a request in plain text",
      play=instead(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"), **MAGIC),
    M(name="init-tls", rfc="47 4.6", does="sends a TLS ClientHello",
      play=instead(bytes.fromhex("16030100c8010000c40303") + bytes(100)), **MAGIC),
    M(name="init-one-byte-behind", rfc="48 3.3", does="sends a byte before its Init message",
      play=init(lambda h, m: b"\x00" + m), **MAGIC),
    # --- message_len --------------------------------------------------------------------------
    M(name="init-length-zero", rfc="48 4.1",
      does="says message_len 0", play=with_length(0), **SHORT),
    M(name="init-length-8", rfc="48 4.1", does="says message_len 8", play=with_length(8), **SHORT),
    M(name="init-length-40", rfc="48 4.1", does="says message_len 40, no room for a nonce",
      play=with_length(40), **SHORT),
    M(name="init-length-without-itself", rfc="48 4.1", does="does not count magic and length",
      play=with_length(lambda m: len(m) - 8), **SHORT),
    M(name="init-length-one-too-small", rfc="48 4.1", does="cuts the key by a byte in message_len",
      play=with_length(lambda m: len(m) - 1), **SHORT),
    M(name="init-key-cut-by-a-byte", rfc="48 4.1", does="sends a public key one byte too short",
      play=resized(lambda h, rest: rest[:-1]), **SHORT),
    M(name="init-key-absent", rfc="48 4.1", does="sends no public key",
      play=resized(lambda h, rest: rest[:-32]), **SHORT),
    M(name="init-length-over-the-limit", rfc="48 4.1", does="says message_len 8193",
      play=with_length(8193), **LONG),
    M(name="init-length-31-bits", rfc="48 4.1",
      does="says message_len 2^31", play=with_length(1 << 31), **LONG),
    M(name="init-length-32-bits", rfc="48 4.1", does="says message_len 2^32 - 1",
      play=with_length(0xFFFFFFFF), **LONG),
    M(name="init-length-little-endian", rfc="48 4.1", does="sends message_len little-endian",
      play=with_length(len, "little"), **LONG),
    M(name="init-length-as-long-as-allowed", rfc="48 4.1", does="sends a tail up to 8192 bytes",
      play=resized(lambda h, rest: rest + bytes(8192 - 8 - len(rest))), **WORKS),
    M(name="init-tail-of-one", rfc="48 4.1", does="sends a byte behind its key",
      play=resized(lambda h, rest: rest + b"\xff"), **WORKS),
    M(name="init-tail-that-looks-like-a-frame", rfc="48 4.1",
      does="sends a tail that looks like a frame",
      play=resized(lambda h, rest: rest + b"\x01\x00\x11" + bytes(17)), **WORKS),
    # --- AEAD algorithms ----------------------------------------------------------------------
    M(name="init1-no-ciphers", rfc="48 4.1",
      does="offers no AEAD", play=ciphers(), a="abort INIT_NO_CIPHERS"),
    M(name="init1-nciphers-one-too-many", rfc="48 4.1", does="counts one AEAD more than it lists",
      play=ciphers(1, said=2), a="abort INIT_TOO_SHORT"),
    M(name="init1-nciphers-255", rfc="48 4.1", does="counts 255 AEADs and lists one",
      play=ciphers(1, said=255), a="abort INIT_TOO_SHORT"),
    M(name="init1-nciphers-in-bytes", rfc="48 4.1", does="counts bytes instead of AEADs",
      play=ciphers(*ALL, said=6), aeads=ALL, a="abort INIT_TOO_SHORT"),
    M(name="init1-nciphers-zero-and-a-list", rfc="48 4.1", does="counts no AEAD and lists three",
      play=ciphers(*ALL, said=0), aeads=ALL, a="abort INIT_NO_CIPHERS"),
    M(name="init1-ciphers-of-one-byte", rfc="48 4.1", does="sends one byte for each AEAD",
      play=resized(_cut_ids), aeads=ALL, a="abort INIT_TOO_SHORT"),
    M(name="init1-cipher-zero", rfc="48 7", does="offers AEAD 0", play=ciphers(0), a=NO_AEAD),
    M(name="init1-cipher-unknown", rfc="48 7",
      does="offers AEAD 0xffff", play=ciphers(0xFFFF), a=NO_AEAD),
    M(name="init1-cipher-byte-swapped", rfc="48 4.1", does="offers AEAD 1 little-endian",
      play=ciphers(0x0100), a=NO_AEAD),
    M(name="init1-cipher-that-is-off", rfc="48 3.3", does="offers an AEAD that the subject has off",
      play=ciphers(0x0010), a=NO_AEAD),
    M(name="init1-255-unknown-ciphers", rfc="48 4.1", does="offers 255 unknown AEADs",
      play=ciphers(*range(0x100, 0x1FF)), a=NO_AEAD),
    M(name="init1-254-unknown-ciphers-and-one", rfc="48 4.1",
      does="hides a good AEAD behind 254 others",
      play=ciphers(*range(0x100, 0x1FE), 1), a="works"),
    M(name="init1-cipher-zero-beside", rfc="48 7", does="offers AEAD 0 beside a good one",
      play=ciphers(0, 1), a="works"),
    M(name="init1-cipher-twice", rfc="48 4.1", does="offers one AEAD three times",
      play=ciphers(1, 1, 1), a="works"),
    M(name="init2-cipher-not-offered", rfc="48 3.3",
      does="picks an AEAD that exists and was not offered",
      play=chosen(0x0010), b=NOT_OFFERED),
    M(name="init2-cipher-zero", rfc="48 3.3", does="picks AEAD 0", play=chosen(0), b=NOT_OFFERED),
    M(name="init2-cipher-unknown", rfc="48 3.3",
      does="picks AEAD 0xffff", play=chosen(0xFFFF), b=NOT_OFFERED),
    M(name="init2-cipher-byte-swapped", rfc="48 3.3", does="picks AEAD 1 little-endian",
      play=chosen(0x0100), b=NOT_OFFERED),
    M(name="init2-cipher-of-one-byte", rfc="48 4.1", does="sends the choice in one byte",
      play=resized(lambda h, rest: rest[1:]), b="abort INIT_TOO_SHORT"),
    M(name="init2-cipher-other-than-used", rfc="48 3.3", does="picks one AEAD and uses another",
      play=chosen(0x0002), aeads=(0x0001, 0x0002), b="abort FRAME_TAG"),
    # --- in time, in pieces -------------------------------------------------------------------
    M(name="init-byte-by-byte", rfc="48 3.3", does="sends its Init message byte by byte",
      play=init(lambda h, m: [m[i : i + 1] for i in range(len(m))]), **WORKS),
    M(name="init-with-empty-writes", rfc="48 3.3", does="sends empty writes between the halves",
      play=init(lambda h, m: [b"", m[:7], b"", m[7:], b""]), **WORKS),
    M(name="init-cut-in-the-magic", rfc="48 3.3", does="cuts its Init message behind two bytes",
      play=init(lambda h, m: [m[:2], m[2:]]), **WORKS),
    M(name="init-silent", rfc="48 3.3", does="never sends an Init message",
      play=part(lambda m: 0, too_late), **both("abort TIMEOUT")),
    M(name="init-all-but-one-byte", rfc="48 3.3", does="never sends the last byte",
      play=part(lambda m: len(m) - 1, too_late), **both("abort TIMEOUT")),
    M(name="init-magic-and-silence", rfc="48 3.3", does="sends the magic and falls silent",
      play=part(lambda m: 4, drip_too_late), **both("abort TIMEOUT")),
    M(name="init-fin-first", rfc="48 3.7", does="ends its stream at once",
      play=part(lambda m: 0, eof), **EOF),
    M(name="init-fin-in-the-magic", rfc="48 3.7", does="ends its stream in the magic",
      play=part(lambda m: 3, eof), **EOF),
    M(name="init-fin-before-the-last-byte", rfc="48 3.7", does="ends its stream a byte too early",
      play=part(lambda m: len(m) - 1, eof), **EOF),
    M(name="init-fin-behind", rfc="48 3.7", does="ends its stream behind Init, without FINp",
      play=part(len, eof), **both("abort TRUNCATED")),
    M(name="init-reset-first", rfc="48 8", does="resets at once",
      play=part(lambda m: 0, reset), **both("abort RESET")),
    M(name="init-reset-inside", rfc="48 8", does="resets inside its Init message",
      play=part(lambda m: 20, reset), **both("abort RESET")),
    M(name="init-reset-behind", rfc="48 8", does="resets inside its first frame",
      play=negotiated(reset_in_data), **both("abort RESET")),
    # --- twice, too early, from the wrong side ------------------------------------------------
    M(name="init-twice-then-fin", rfc="48 3.3", does="sends its Init message twice, then ends",
      play=again(1, eof), **both("abort TRUNCATED")),
    M(name="init-many-times", rfc="48 3.3", does="sends its Init message 500 times",
      play=again(500), **TAG),
    M(name="init1-frames-too-early", rfc="48 3.3", does="sends frames before it has Init2",
      play=negotiated(frames_before_init2), a="abort FRAME_TAG"),
    M(name="init2-before-init1", rfc="48 3.3", does="sends Init2 before it has read Init1",
      play=negotiated(init2_unread), b="abort FRAME_TAG"),
    M(name="init2-with-a-frame", rfc="48 3.3",
      does="sends a frame in the write of Init2, as it may",
      play=negotiated(init2_and_a_frame), b="works"),
    M(name="init2-reflects-init1", rfc="48 3.3", does="sends the nonce and key of A back",
      play=negotiated(reflected), b="abort FRAME_TAG"),
    # --- the keys are not what the messages say (section 3.3) ---------------------------------
    *(M(name=name, rfc="48 3.3", does="derives PRK in another way", **TAG) for name in (
        "prk-salted-with-n-b", "prk-salted-with-both-nonces", "prk-without-salt",
        "prk-without-transcript", "prk-transcript-b-first",
        "prk-transcript-without-kind-and-length", "prk-transcript-padded", "prk-without-init1",
        "prk-without-init2", "prk-inits-swapped", "prk-without-es", "prk-es-first",
        "prk-es-reversed")),
    M(name="master-key-is-the-prk", rfc="48 3.4", does="takes ss[0] for mk[0]", **TAG),
    M(name="keys-of-the-other-direction", rfc="48 3.4",
      does="encrypts with the key of the other", **TAG),
    M(name="traffic-key-without-randomizer", rfc="48 3.4",
      does="derives no nonce randomizer", **TAG),
    M(name="traffic-key-randomizer-first", rfc="48 3.4",
      does="puts the randomizer before the key", **TAG),
)  # fmt: skip
