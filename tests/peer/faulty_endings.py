"""Misbehaviours of RFC 8548 sections 3.7 and 8: FINp, FIN and RST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from peer.host import Host
from peer.misbehaviour import Misbehaviour as M
from peer.misbehaviour import both
from peer.scripts import Script, Subject, keyed, opened, wire

BEHIND: Final = both("abort DATA_AFTER_FINP")
TRUNCATED: Final = both("abort TRUNCATED")
RESET: Final = both("abort RESET")
TAG: Final = both("abort FRAME_TAG")
ENDED: Final = both("ended")

_ACTS: Final = {
    "FIN": lambda subject: subject.eof(),
    "RST": lambda subject: subject.reset(),
    "the subject finishes": lambda subject: subject.finish(),
}


def acts(*steps: str | Callable[[Host], bytes]) -> Script:
    """`opened`, then these in order: bytes of the host, "FIN", "RST", the subject's end.

    What the subject wants to send is read before each "RST" and "FIN".
    """

    def play(host: Host, subject: Subject) -> None:
        for step in steps:
            if callable(step):
                subject.receive(step(host))
            elif step == "the subject speaks":
                subject.send(b"unread")
            elif step == "the host reads":
                host.read(subject.sent())
            else:
                _ACTS[step](subject)

    return opened(play)


def data(host: Host) -> bytes:
    return host.writer.frame(b"data")


def fin(host: Host) -> bytes:
    return host.writer.frame(fin=True)


def fin_with_data(host: Host) -> bytes:
    return host.writer.frame(b"the end", fin=True)


def cut(count: int) -> Callable[[Host], bytes]:
    return lambda host: host.writer.frame(b"data")[:count]


def fin_cut(host: Host) -> bytes:
    return host.writer.frame(b"the end", fin=True)[:-1]


def fin_forged(host: Host) -> bytes:
    whole = host.writer.frame(b"the end", fin=True)
    return whole[:-1] + bytes([whole[-1] ^ 1])


def fin_with_all_flags(host: Host) -> bytes:
    return host.writer.seal(b"\xfdthe end")


def every_flag_but_finp(host: Host) -> bytes:
    return host.writer.seal(b"\xfcno end")


def finp_in_the_control_byte(host: Host) -> bytes:
    """Bit 1 of the control byte is reserved, and no FINp."""
    return host.writer.seal(b"\x00", control=0x02)


def joined(*parts: Callable[[Host], bytes]) -> Script:
    """All in one write."""
    return wire(lambda host: b"".join(part(host) for part in parts))


def at_once(*steps: str) -> Script:
    """With keys in place, and before any frame of the host."""

    def play(host: Host, subject: Subject) -> None:
        for step in steps:
            _ACTS[step](subject)

    return keyed(play)


ENDINGS: Final = (
    # --- behind FINp (section 3.7: on the last frame, and on no other) ------------------------
    M(name="finp-twice", rfc="48 3.7",
      does="sends two frames with FINp", play=acts(fin, fin), **BEHIND),
    M(name="finp-twice-in-one-write", rfc="48 3.7", does="sends two frames with FINp at once",
      play=joined(fin, fin), **BEHIND),
    M(name="finp-then-data", rfc="48 3.7",
      does="sends data behind FINp", play=acts(fin, data), **BEHIND),
    M(name="finp-then-data-in-one-write", rfc="48 3.7", does="sends data in the write of FINp",
      play=joined(fin, data), **BEHIND),
    M(name="finp-then-empty-frame", rfc="48 3.7", does="sends an empty frame behind FINp",
      play=acts(fin_with_data, lambda h: h.writer.frame()), **BEHIND),
    M(name="finp-then-rekey", rfc="48 3.8", does="rekeys behind FINp",
      play=acts(fin, lambda h: h.writer.frame(rekey=True)), **BEHIND),
    M(name="finp-then-one-byte", rfc="48 3.7", does="sends one byte behind FINp",
      play=acts(fin, lambda h: b"\x00"), **BEHIND),
    M(name="finp-then-junk-in-one-write", rfc="48 3.7", does="sends junk in the write of FINp",
      play=joined(fin, lambda h: b"\xff" * 100), **BEHIND),
    M(name="finp-then-data-and-both-finished", rfc="48 3.7",
      does="sends data when both are finished",
      play=acts("the subject finishes", "the host reads", fin, data), **BEHIND),
    M(name="finp-in-the-middle", rfc="48 3.7", does="sends FINp between data and data",
      play=joined(data, fin_with_data, data), **BEHIND),
    # --- FINp as it may be --------------------------------------------------------------------
    M(name="finp-with-reserved-flags", rfc="48 4.2.2", does="sends FINp with all reserved flags",
      play=acts(fin_with_all_flags, "FIN"), **ENDED),
    M(name="finp-with-data", rfc="48 3.7", does="sends FINp with the last data, as it should",
      play=acts(fin_with_data, "FIN"), **ENDED),
    M(name="finp-with-rekey", rfc="48 3.8", does="rekeys with its last frame",
      play=acts(lambda h: h.writer.frame(fin=True, rekey=True), "FIN"), **ENDED),
    M(name="finp-with-urgent", rfc="48 3.7", does="marks its last frame urgent",
      play=acts(lambda h: h.writer.frame(b"!", fin=True, urgent=0), "FIN"), **ENDED),
    M(name="finp-without-fin", rfc="48 3.7", does="sends FINp and no FIN", play=acts(fin), **ENDED),
    M(name="finp-byte-by-byte", rfc="48 3.7", does="sends FINp byte by byte",
      play=wire(lambda h: [bytes([b]) for b in fin_with_data(h)]), **ENDED),
    M(name="fin-twice", rfc="48 3.7", does="sends FIN twice behind FINp",
      play=acts(fin, "FIN", "FIN"), **ENDED),
    # --- FIN without FINp ---------------------------------------------------------------------
    M(name="fin-at-once", rfc="48 3.7",
      does="ends a stream without any frame", play=at_once("FIN"), **TRUNCATED),
    M(name="fin-without-finp", rfc="48 3.7", does="ends its stream between two frames",
      play=acts(data, "FIN"), **TRUNCATED),
    *(M(name=f"fin-behind-{count}-bytes", rfc="48 3.7",
        does=f"ends its stream {count} bytes into a frame",
        play=acts(cut(count), "FIN"), **TRUNCATED) for count in (1, 2, 3, 4, 23)),
    M(name="fin-inside-the-finp-frame", rfc="48 3.7",
      does="ends its stream a byte before FINp is whole",
      play=acts(fin_cut, "FIN"), **TRUNCATED),
    M(name="fin-behind-empty-frame", rfc="48 3.7", does="sends an empty frame in place of FINp",
      play=acts(lambda h: h.writer.frame(), "FIN"), **TRUNCATED),
    M(name="fin-behind-every-flag-but-finp", rfc="48 4.2.2", does="sets every flag but FINp",
      play=acts(every_flag_but_finp, "FIN"), **TRUNCATED),
    M(name="fin-behind-a-control-bit", rfc="48 4.2.1", does="sets a control bit in place of FINp",
      play=acts(finp_in_the_control_byte, "FIN"), **TRUNCATED),
    M(name="fin-behind-a-rekey", rfc="48 3.8", does="rekeys, then ends its stream",
      play=acts(lambda h: h.writer.frame(rekey=True), "FIN"), **TRUNCATED),
    M(name="fin-while-the-subject-finished", rfc="48 3.7", does="answers FINp with a bare FIN",
      play=acts("the subject finishes", "the host reads", "FIN"), **TRUNCATED),
    M(name="fin-behind-a-short-header", rfc="48 3.7",
      does="says clen 16, sends none of it and ends",
      play=acts(lambda h: b"\x00\x00\x10", "FIN"), **TRUNCATED),
    M(name="fin-behind-a-promise", rfc="48 3.7", does="says clen 65535, sends less and ends",
      play=acts(lambda h: b"\x00\xff\xff" + bytes(65_000), "FIN"), **TRUNCATED),
    M(name="fin-behind-plain-text", rfc="47 4.6", does="sends plain text and ends",
      play=acts(lambda h: b"HTTP/1.1 200 OK\r\n\r\n", "FIN"), **TRUNCATED),
    M(name="finp-forged", rfc="48 3.7", does="sends FINp with a wrong tag",
      play=acts(fin_forged, "FIN"), **TAG),
    # --- RST (section 8: told from an end) ----------------------------------------------------
    M(name="rst-at-once", rfc="48 8", does="resets before any frame", play=at_once("RST"), **RESET),
    M(name="rst-between-frames", rfc="48 8", does="resets between two frames",
      play=acts(data, "RST"), **RESET),
    M(name="rst-inside-a-frame", rfc="48 8", does="resets inside a frame",
      play=acts(cut(10), "RST"), **RESET),
    M(name="rst-behind-own-finp", rfc="48 8",
      does="resets behind its FINp, before the subject's end",
      play=acts(fin, "RST"), **RESET),
    M(name="rst-behind-own-fin", rfc="48 8", does="resets behind its FIN, before the subject's end",
      play=acts(fin, "FIN", "RST"), **RESET),
    M(name="rst-behind-the-subject-s-finp", rfc="48 8", does="resets when the subject has finished",
      play=acts("the subject finishes", "the host reads", "RST"), **RESET),
    M(name="rst-with-unsent-bytes", rfc="48 8",
      does="resets when both finished, and bytes are unsent",
      play=acts("the subject speaks", "the subject finishes", fin, "RST"), **RESET),
    M(name="rst-behind-both-ends", rfc="48 8", does="resets when both streams are over",
      play=acts("the subject finishes", "the host reads", fin, "FIN", "RST"), **ENDED),
    M(name="rst-behind-both-ends-without-fin", rfc="48 8", does="resets in place of its FIN",
      play=acts("the subject finishes", "the host reads", fin, "RST"), **ENDED),
)  # fmt: skip
