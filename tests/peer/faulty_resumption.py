"""Misbehaviours of RFC 8548 section 3.5: resumption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from peer.host import INIT1_MAGIC, INIT2_MAGIC, Host
from peer.keys import other
from peer.misbehaviour import Misbehaviour as M
from peer.misbehaviour import both
from peer.options import eno, pad
from peer.scripts import Script, Subject, crossed, keyed, option, syns, truth

UNKNOWN: Final = {"a": "fresh", "b": "plain RESUMPTION_MISMATCH"}
NOT_VALID: Final = {"a": "fresh", "b": "plain NO_COMMON_TEP"}
NO_TEP: Final = both("plain NO_COMMON_TEP")
RESUMED: Final = both("resumed")
TAG: Final = both("abort FRAME_TAG")
TRUNCATED: Final = both("abort TRUNCATED")


def sub(make: Callable[[Host], bytes]) -> Script:
    """These suboptions behind the global byte of the role."""
    return option(lambda host: pad(eno(host.global_byte + make(host))))


def identified(make: Callable[[Host], bytes], nonce: bytes = bytes(8)) -> Script:
    """A resumption suboption of the right TEP with this identifier."""

    def suboption(host: Host) -> bytes:
        host.own_nonce = nonce
        return bytes([host.remembered.tep | 0x80]) + make(host) + nonce

    return sub(suboption)


def half(host: Host) -> bytes:
    return host.remembered.secret.half(host.remembered.role)


def other_half(host: Host) -> bytes:
    return host.remembered.secret.half(other(host.remembered.role))


def half_of_previous(host: Host) -> bytes:
    return host.previous.half(host.remembered.role)


def ahead(count: int) -> Script:
    """Resume with a secret that many indices further on."""

    def region(host: Host) -> bytes:
        for _ in range(count):
            kept = host.remembered
            host.remembered = replace(kept, secret=kept.secret.following())
        return pad(eno(host.global_byte + host.resumption()))

    return option(region)


def with_nonce(length: int) -> Script:
    return identified(half, bytes(range(1, length + 1)))


def announced(host: Host) -> bytes:
    """The resumption with the length byte that it needs before another suboption."""
    suboption = host.resumption()
    return bytes([0x80 | (len(suboption) - 2)]) + suboption


def announced_twice(host: Host) -> bytes:
    return announced(host) + host.resumption()


def sends(make: Callable[[Host], bytes], then: Callable[[Subject], None] | None = None) -> Script:
    """These bytes at the start of a resumed stream."""

    def play(host: Host, subject: Subject) -> None:
        subject.receive(make(host))
        if then is not None:
            then(subject)

    return keyed(play)


def ends(subject: Subject) -> None:
    subject.eof()


def resets(subject: Subject) -> None:
    subject.reset()


def an_init(host: Host) -> bytes:
    """An Init message where a frame belongs."""
    magic = INIT1_MAGIC if host.role == "A" else INIT2_MAGIC
    return magic + (75).to_bytes(4, "big") + bytes(67)


def changed_nonce(host: Host) -> bytes:
    """The same offer with another nonce."""
    whole = host.syn_form()
    return pad(whole[:-1] + bytes([whole[-1] ^ 1]))


def unknown(host: Host) -> bytes:
    """A resumption of no session."""
    return pad(eno("01a3" + "5a" * 17))


RESUMPTION: Final = (
    M(name="resume-honest", rfc="48 3.5", does="resumes, as it may", resumes=1, **RESUMED),
    M(name="resume-honest-with-roles-swapped", rfc="48 3.5", does="resumes in the other role",
      resumes=1, swapped=True, **RESUMED),
    # --- identifiers --------------------------------------------------------------------------
    M(name="resume-unknown-identifier", rfc="48 3.5", does="sends an identifier of no session",
      play=identified(lambda h: b"\x5a" * 9), resumes=1, **UNKNOWN),
    M(name="resume-zero-identifier", rfc="48 3.5", does="sends an identifier of zeros",
      play=identified(lambda h: bytes(9)), resumes=1, **UNKNOWN),
    M(name="resume-identifier-first-bit", rfc="48 3.5",
      does="flips the first bit of the identifier",
      play=identified(lambda h: bytes([half(h)[0] ^ 0x80]) + half(h)[1:]), resumes=1, **UNKNOWN),
    M(name="resume-identifier-last-bit", rfc="48 3.5", does="flips the last bit of the identifier",
      play=identified(lambda h: half(h)[:8] + bytes([half(h)[8] ^ 1])), resumes=1, **UNKNOWN),
    M(name="resume-wrong-half", rfc="48 3.5", does="sends the half that the other has to send",
      play=identified(other_half), resumes=1, **UNKNOWN),
    M(name="resume-half-by-present-role", rfc="48 3.5", does="takes the half of its present role",
      play=identified(other_half), resumes=1, swapped=True, **UNKNOWN),
    M(name="resume-both-halves", rfc="48 3.5", does="sends all 18 bytes of resume[i]",
      play=identified(lambda h: half(h) + other_half(h), b""), resumes=1, **NOT_VALID),
    M(name="resume-identifier-of-8", rfc="48 3.5", does="cuts the identifier to eight bytes",
      play=identified(lambda h: half(h)[:8], b""), resumes=1, **NOT_VALID),
    M(name="resume-first-secret", rfc="48 3.5", does="resumes with ss[0]",
      play=identified(half_of_previous), resumes=1, **UNKNOWN),
    M(name="resume-spent-secret", rfc="48 3.5", does="resumes once more with what was resumed",
      play=identified(half_of_previous), resumes=2, **UNKNOWN),
    M(name="resume-spent-secret-with-roles-swapped", rfc="48 3.5",
      does="resumes once more with what was resumed in other roles",
      play=identified(half_of_previous), resumes=2, swapped=True, **UNKNOWN),
    M(name="resume-one-ahead", rfc="48 3.5", does="resumes one index ahead",
      play=ahead(1), resumes=1, a="resumed", b="plain RESUMPTION_MISMATCH"),
    M(name="resume-three-ahead", rfc="48 3.5",
      does="resumes three indices ahead, the last that is known",
      play=ahead(3), resumes=1, a="resumed", b="plain RESUMPTION_MISMATCH"),
    M(name="resume-four-ahead", rfc="48 3.5", does="resumes four indices ahead", play=ahead(4),
      resumes=1, **UNKNOWN),
    M(name="resume-a-thousand-ahead", rfc="48 3.5", does="resumes a thousand indices ahead",
      play=ahead(1000), resumes=1, **UNKNOWN),
    # --- nonces -------------------------------------------------------------------------------
    M(name="resume-without-nonce", rfc="48 3.5", does="sends no nonce, as it may",
      play=with_nonce(0), resumes=1, **RESUMED),
    M(name="resume-nonce-of-1", rfc="48 3.5", does="sends a nonce of one byte",
      play=with_nonce(1), resumes=1, **RESUMED),
    M(name="resume-nonce-of-9", rfc="48 3.5", does="sends a nonce of nine bytes",
      play=with_nonce(9), resumes=1, **NOT_VALID),
    M(name="resume-nonce-of-23", rfc="48 3.5", does="fills 32 data bytes", play=with_nonce(23),
      resumes=1, **NOT_VALID),
    M(name="resume-nonce-changed", rfc="47 4.6", does="changes its nonce in a repeated SYN",
      play=syns(truth, changed_nonce), resumes=1, a="plain SYN_CHANGED"),
    M(name="resume-nonce-changed-late", rfc="47 4.6", does="changes its nonce behind the SYN-ACK",
      play=syns(truth, changed_nonce, answered_before=1), resumes=1, a="plain SYN_CHANGED"),
    # --- the suboption ------------------------------------------------------------------------
    M(name="resume-under-another-tep", rfc="48 3.5",
      does="resumes a session of Curve25519 as Curve448",
      play=sub(lambda h: b"\xa4" + h.resumption()[1:]), teps=(0x23, 0x24), resumes=1, **UNKNOWN),
    M(name="resume-announced", rfc="47 4.4", does="resumes behind a length byte, not last",
      play=sub(lambda h: announced(h) + b"\x7f"), resumes=1, **RESUMED),
    M(name="resume-twice-in-one-option", rfc="48 3.5", does="sends its resumption twice",
      play=sub(announced_twice), resumes=1, **NO_TEP),
    M(name="resume-and-fresh-of-one-tep", rfc="48 3.5", does="names the TEP fresh, and resumes it",
      play=sub(lambda h: b"\x23" + h.resumption()), resumes=1, **NO_TEP),
    M(name="resume-without-length-byte", rfc="47 4.4",
      does="puts a TEP behind data without a length",
      play=sub(lambda h: h.resumption() + b"\x24"), teps=(0x23, 0x24), resumes=1, **NOT_VALID),
    M(name="resume-declined", rfc="48 3.5",
      does="answers a resumption with a fresh exchange, as it may",
      play=sub(lambda h: b"\x23"), resumes=1, b="fresh"),
    M(name="resume-declined-for-another-tep", rfc="48 3.5",
      does="answers with another TEP, as it may",
      play=sub(lambda h: b"\x24"), teps=(0x23, 0x24), resumes=1, b="fresh"),
    M(name="resume-where-it-is-off", rfc="48 3.5", does="resumes where the subject does not",
      play=identified(half), subject={"resume": False}, resumes=1, **UNKNOWN),
    M(name="resume-where-nothing-is-kept", rfc="48 3.5",
      does="resumes what the subject did not keep",
      play=identified(half), subject={"cache": False}, resumes=1, **UNKNOWN),
    # --- simultaneous open ---------------------------------------------------------------------
    M(name="crossed-resume-honest", rfc="48 3.5", does="opens at the same time and resumes",
      play=crossed(truth, truth), resumes=1, b="resumed"),
    M(name="crossed-resume-with-roles-swapped", rfc="48 3.5",
      does="opens at the same time and resumes in the other role",
      play=crossed(truth, truth), resumes=1, swapped=True, b="resumed"),
    M(name="crossed-resume-unknown", rfc="48 3.5", does="crosses SYNs, resumes the unknown",
      play=crossed(unknown, unknown), resumes=1, b="fresh"),
    M(name="crossed-resume-unlike", rfc="47 4.6", does="resumes in its SYN, and not in its SYN-ACK",
      play=crossed(truth, pad(eno("0123"))), resumes=1, b="plain SYN_CHANGED"),
    M(name="crossed-resume-fresh", rfc="48 3.5", does="opens at the same time, with a fresh offer",
      play=crossed(pad(eno("0123")), pad(eno("0123"))), resumes=1, b="fresh"),
    # --- the streams of a resumed session -----------------------------------------------------
    M(name="resumed-with-another-aead", rfc="48 3.5",
      does="uses another AEAD than the original session",
      aeads=(0x0001, 0x0010), resumes=1, **TAG),
    *(M(name=name, rfc="48 3.5", does=does, resumes=1, **TAG) for name, does in (
        ("resumed-nonces-swapped", "puts nonce_b before nonce_a"),
        ("resumed-without-nonces", "leaves the nonces out of sn[i]"),
        ("resumed-with-own-nonce-alone", "leaves the other's nonce out of sn[i]"),
        ("resumed-under-the-previous-secret", "derives its keys from ss[i-1]"),
        ("resumed-under-the-following-secret", "derives its keys from ss[i+1]"),
        ("resumed-offset-as-if-init-were-sent", "counts offsets as if Init had been sent"))),
    M(name="resumed-keys-by-present-role", rfc="48 3.5", does="takes the keys of its present role",
      resumes=1, swapped=True, **TAG),
    M(name="resumed-and-sends-init", rfc="48 3.5",
      does="sends an Init message in a resumed session",
      play=sends(an_init, ends), resumes=1, **TRUNCATED),
    M(name="resumed-and-sends-init-and-more", rfc="48 3.5",
      does="sends an Init message and far more",
      play=sends(lambda h: an_init(h) + bytes(70_000)), resumes=1, **TAG),
    M(name="resumed-and-says-nothing", rfc="48 3.7", does="ends a resumed stream without FINp",
      play=sends(lambda h: b"", ends), resumes=1, **TRUNCATED),
    M(name="resumed-and-resets", rfc="48 8", does="resets a resumed connection",
      play=sends(lambda h: b"\x00", resets), resumes=1, **both("abort RESET")),
    M(name="resumed-and-plain-text", rfc="47 4.6", does="sends plain text in a resumed session",
      play=sends(lambda h: b"GET /" + b" " * 70_000), resumes=1, **TAG),
)  # fmt: skip
