"""Misbehaviours of RFC 8547 section 4.6: order, repetition, and the first ACK."""

from __future__ import annotations

from typing import Final

from peer.host import Host
from peer.misbehaviour import Misbehaviour as M
from peer.options import eno, pad
from peer.scripts import (
    ACK,
    Script,
    Subject,
    acks,
    connect,
    crossed,
    exchange,
    negotiate,
    syn_acks,
    syns,
    truth,
)

NO_ACK: Final = "plain NO_ENO_IN_FIRST_ACK"
CHANGED: Final = "plain SYN_CHANGED"


def other(host: Host) -> bytes:
    """A valid option, and not the one sent before."""
    return pad(eno(host.global_byte + b"\x7e\x23"))


def moved(host: Host) -> bytes:
    """The same option at another place of the header."""
    return b"\x01\x01\x02\x04\x05\xb4" + host.syn_form() + b"\x01"


def nops(host: Host) -> bytes:
    return host.syn_form() + b"\x01" * 5


def first_segment(syn: bool, ack: bool, region: bytes) -> Script:
    """A: this, and no SYN before it."""

    def play(host: Host, subject: Subject) -> None:
        subject.segment(syn, ack, region)

    return play


def before_the_syn_ack(*regions: bytes) -> Script:
    """B: segments without SYN before the SYN-ACK, which TCP would not take."""

    def play(host: Host, subject: Subject) -> None:
        subject.option(True, False)
        for region in regions:
            subject.segment(False, True, region)
        if negotiate(host, subject):
            exchange(host, subject)

    return play


def later(*segments: tuple[bool, bool, bytes]) -> Script:
    """Behind the keys: segments that want to change what is settled."""

    def play(host: Host, subject: Subject) -> None:
        if connect(host, subject):
            for segment in segments:
                subject.segment(*segment)

    return play


def syn_ack_for_an_ack(region) -> Script:
    """A: answers the SYN-ACK with a SYN-ACK."""

    def play(host: Host, subject: Subject) -> None:
        subject.segment(True, False, host.says(None))
        subject.option(True, True)
        subject.segment(True, True, region(host))

    return play


def silence_then_ack(host: Host, subject: Subject) -> None:
    """A: an ACK with ENO behind a SYN without."""
    subject.segment(True, False, b"")
    subject.option(True, True)
    subject.segment(False, True, ACK)


SYN_B, SYN_A = pad(eno("0123")), pad(eno("0023"))

HANDSHAKES: Final = (
    # --- retransmissions (section 4.6: the option MUST NOT change) ----------------------------
    M(name="syn-repeated", rfc="47 4.6",
      does="repeats its SYN", play=syns(truth, truth, truth), a="works"),
    M(name="syn-repeated-late", rfc="47 4.6", does="repeats its SYN behind the SYN-ACK",
      play=syns(truth, truth, answered_before=1), a="works"),
    M(name="syn-repeated-with-other-padding", rfc="47 4.6",
      does="pads the repetition in another way",
      play=syns(truth, nops), a="works"),
    M(name="syn-repeated-in-other-order", rfc="47 4.6", does="moves the option in the repetition",
      play=syns(truth, moved), a="works"),
    M(name="syn-changed", rfc="47 4.6", does="changes its option in a repetition",
      play=syns(truth, other), a=CHANGED),
    M(name="syn-changed-late", rfc="47 4.6", does="changes its option behind the SYN-ACK",
      play=syns(truth, other, answered_before=1), a=CHANGED),
    M(name="syn-changed-and-back", rfc="47 4.6", does="changes its option, then changes it back",
      play=syns(truth, other, truth), a=CHANGED),
    M(name="syn-global-byte-made-explicit", rfc="47 4.6",
      does="adds a global byte of 0 in a repetition",
      play=syns(truth, SYN_A), a=CHANGED),
    M(name="syn-role-changed", rfc="47 4.6", does="changes bit b in a repetition",
      play=syns(truth, SYN_B), a=CHANGED),
    M(name="syn-option-dropped", rfc="47 4.6", does="repeats its SYN without ENO, as it may",
      play=syns(truth, b""), a="plain NO_ENO_IN_SYN"),
    M(name="syn-option-dropped-late", rfc="47 4.6", does="drops ENO behind the SYN-ACK",
      play=syns(truth, b"", answered_before=1), a="plain NO_ENO_IN_SYN"),
    M(name="syn-option-added", rfc="47 4.6", does="has ENO in the repetition alone",
      play=syns(b"", truth), a="plain NO_ENO_IN_SYN"),
    M(name="syn-option-doubled", rfc="47 4.6", does="repeats its SYN with two ENO options",
      play=syns(truth, lambda h: pad(h.syn_form() * 2)), a="plain DUPLICATE_ENO"),
    M(name="syn-ill-formed-late", rfc="47 4.6",
      does="repeats its SYN with options that do not parse",
      play=syns(truth, b"\x45\x00\x00\x00", answered_before=1), a="plain ILL_FORMED"),
    M(name="syn-ack-repeated", rfc="47 4.6", does="repeats its SYN-ACK",
      play=syn_acks(truth, truth), b="works"),
    M(name="syn-ack-changed", rfc="47 4.6",
      does="changes its option in a repetition of the SYN-ACK",
      play=syn_acks(truth, other), b="works"),
    M(name="syn-ack-option-dropped", rfc="47 4.6", does="repeats its SYN-ACK without ENO",
      play=syn_acks(truth, b""), b="works"),
    M(name="syn-ack-option-added", rfc="47 4.6", does="has ENO in the repeated SYN-ACK alone",
      play=syn_acks(b"", truth), b="plain NO_ENO_IN_SYN_ACK"),
    M(name="syn-ack-ill-formed-then-good", rfc="47 4.6", does="mends its SYN-ACK in the repetition",
      play=syn_acks(pad(eno("0180")), truth), b="plain ILL_FORMED"),
    # --- the first ACK of A -------------------------------------------------------------------
    M(name="ack-without-eno", rfc="47 4.6",
      does="leaves ENO out of its first ACK", play=acks(b""), a=NO_ACK),
    M(name="ack-without-eno-then-with", rfc="47 4.6", does="adds ENO in the second ACK",
      play=acks(b"", ACK), a=NO_ACK),
    M(name="ack-with-other-options-alone", rfc="47 4.6", does="acknowledges with timestamps alone",
      play=acks(bytes.fromhex("0101080a0000000100000001")), a=NO_ACK),
    M(name="ack-with-legacy-option", rfc="47 11", does="acknowledges with kind 253",
      play=acks(bytes.fromhex("fd04454e")), a=NO_ACK),
    M(name="ack-option-behind-end", rfc="47 4.1", does="hides the ACK's ENO behind an EOL",
      play=acks(b"\x00\x45\x02\x00"), a=NO_ACK),
    M(name="ack-option-length-zero", rfc="47 4.1", does="gives the ACK's ENO the length 0",
      play=acks(b"\x45\x00\x01\x01"), a="plain ILL_FORMED"),
    M(name="ack-other-option-past-end", rfc="47 4.1",
      does="puts an option past the header behind ENO",
      play=acks(ACK + b"\x08\x0a"), a="plain ILL_FORMED"),
    M(name="ack-with-contents", rfc="47 4.1",
      does="fills the non-SYN form", play=acks(eno("0123")), a="works"),
    M(name="ack-with-ill-formed-contents", rfc="47 4.1",
      does="fills it with what a SYN may not hold",
      play=acks(eno("8080")), a="works"),
    M(name="ack-with-two-options", rfc="47 4.1", does="sends two ENO options in one ACK",
      play=acks(ACK + ACK), a="works"),
    M(name="ack-with-legacy-beside", rfc="47 4.1", does="sends kind 253 beside ENO in its ACK",
      play=acks(ACK + bytes.fromhex("fd04454e")), a="works"),
    M(name="ack-is-a-syn-ack", rfc="47 4.6", does="answers the SYN-ACK with a SYN-ACK",
      play=syn_ack_for_an_ack(truth), a="plain OUT_OF_ORDER"),
    M(name="ack-is-another-syn-ack", rfc="47 4.6", does="answers with a SYN-ACK and another option",
      play=syn_ack_for_an_ack(other), a=CHANGED),
    M(name="ack-is-a-syn-ack-without-eno", rfc="47 4.6", does="answers with a SYN-ACK without ENO",
      play=syn_ack_for_an_ack(lambda h: b""), a="plain NO_ENO_IN_SYN_ACK"),
    M(name="ack-with-eno-behind-a-plain-syn", rfc="47 4.6",
      does="acknowledges ENO that nobody sent",
      play=silence_then_ack, a="plain NO_ENO_IN_SYN"),
    # --- segments out of place ----------------------------------------------------------------
    M(name="first-segment-is-an-ack", rfc="47 4.6", does="begins with an ACK with ENO",
      play=first_segment(False, True, ACK), a="plain OUT_OF_ORDER"),
    M(name="first-segment-is-a-plain-ack", rfc="47 4.6", does="begins with an ACK",
      play=first_segment(False, True, b""), a=NO_ACK),
    M(name="first-segment-is-a-syn-ack", rfc="47 4.6", does="begins with a SYN-ACK",
      play=first_segment(True, True, SYN_A), a="plain OUT_OF_ORDER"),
    M(name="challenge-ack-first", rfc="RFC 9293 3.10.7.3", does="sends ACKs before its SYN-ACK",
      play=before_the_syn_ack(b"", ACK), b="works"),
    M(name="challenge-ack-that-does-not-parse", rfc="RFC 9293 3.10.7.3",
      does="sends an ACK with broken options before its SYN-ACK",
      play=before_the_syn_ack(b"\x45\x00"), b="works"),
    # --- once encryption is on, for ever ------------------------------------------------------
    M(name="late-segment-without-eno", rfc="47 4.6", does="sends segments without ENO afterwards",
      play=later((False, True, b"")), a="works", b="works"),
    M(name="late-eno", rfc="47 4.6", does="keeps ENO in its segments, contents too",
      play=later((False, True, ACK), (False, True, eno("80"))), a="works", b="works"),
    M(name="late-broken-options", rfc="47 4.6", does="sends options that do not parse",
      play=later((False, True, b"\x45\x00\x02")), a="works", b="works"),
    M(name="late-plain-syn", rfc="47 4.6", does="sends a SYN without ENO",
      play=later((True, False, b"")), a="works", b="works"),
    M(name="late-other-syn-ack", rfc="47 4.6", does="sends a SYN-ACK that falls back",
      play=later((True, True, pad(eno("00"))), (True, True, b"")), a="works", b="works"),
    # --- simultaneous open --------------------------------------------------------------------
    M(name="crossed-honest", rfc="47 4.3", does="opens at the same time, as B",
      play=crossed(SYN_B, SYN_B), b="works"),
    M(name="crossed-without-b", rfc="47 4.3", does="opens at the same time, and neither plays B",
      play=crossed(SYN_A, SYN_A), b="plain SAME_ROLE"),
    M(name="crossed-both-b", rfc="47 4.3", does="opens at the same time, and both play B",
      play=crossed(SYN_B, SYN_B), subject={"active_b": True}, b="plain SAME_ROLE"),
    M(name="crossed-plain-syn", rfc="47 4.6", does="opens at the same time without ENO",
      play=crossed(b"", b""), b="plain NO_ENO_IN_SYN"),
    M(name="crossed-changed", rfc="47 4.6",
      does="has another option in its SYN-ACK than in its SYN",
      play=crossed(SYN_B, pad(eno("017e23"))), b=CHANGED),
    M(name="crossed-role-changed", rfc="47 4.6",
      does="has another b in its SYN-ACK than in its SYN",
      play=crossed(SYN_B, SYN_A), b=CHANGED),
    M(name="crossed-dropped", rfc="47 4.6", does="has no ENO in its SYN-ACK",
      play=crossed(SYN_B, b""), b="plain NO_ENO_IN_SYN_ACK"),
    M(name="crossed-vacuous", rfc="47 4.6", does="opens at the same time with no TEP",
      play=crossed(pad(eno("01")), pad(eno("01"))), b="plain NO_COMMON_TEP"),
)  # fmt: skip
