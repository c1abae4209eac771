"""Misbehaviours of TEP 0x20 (docs/authenticated-tep.md): who one is, and the proof of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from peer.authenticating import (
    EVIL_STATIC,
    HINT,
    HOST_STATIC,
    PSK,
    SUBJECT_STATIC,
    AuthenticatingHost,
    public,
)
from peer.groups import ORDER_8, P25519
from peer.host import Host
from peer.misbehaviour import Misbehaviour, both
from peer.options import eno, pad
from peer.scripts import Script, Subject, exchange, init, negotiated, option

NO_TEP: Final = both("plain NO_COMMON_TEP")
TAIL: Final = both("abort INIT_TAIL")
BAD: Final = both("abort BAD_PUBLIC_KEY")
ZERO: Final = both("abort ZERO_SHARED_SECRET")
NOT_PROVED: Final = both("abort AUTHENTICATION")
UNPROVED: Final = {"a": "abort FRAME_TAG", "b": "abort AUTHENTICATION"}
"""A is found out by its first frame, B by its proof."""
WORKS: Final = both("works")
ID: Final = "5a" * 9
OWN_PSK: Final = {"psk": (HINT, PSK)}


def M(version: int = 1, **more) -> Misbehaviour:
    return Misbehaviour(rfc="47 11", teps=(0x20,), version=version, **more)


def resized(change: Callable[[AuthenticatingHost, bytes], bytes]) -> Script:
    """Another tail, and a message_len that fits."""

    def mangle(host: Host, message: bytes) -> bytes:
        assert isinstance(host, AuthenticatingHost)
        whole = message[: host.tail_at] + change(host, message[host.tail_at :])
        return whole[:4] + len(whole).to_bytes(4, "big") + whole[8:]

    return init(mangle)


def ephemeral(key: Callable[[AuthenticatingHost], bytes]) -> Script:
    """Another X25519 key; what stands before it in version 2 stays."""

    def mangle(host: Host, message: bytes) -> bytes:
        assert isinstance(host, AuthenticatingHost)
        return message[: host.tail_at - 32] + key(host) + message[host.tail_at :]

    return init(mangle)


def flipped(at: int, bit: int = 1) -> Script:
    """A bit of the tail changed on its way."""

    def change(host: AuthenticatingHost, tail: bytes) -> bytes:
        octets = bytearray(tail)
        octets[at] ^= bit
        return bytes(octets)

    return resized(change)


def kem_changed(host: Host, message: bytes) -> bytes:
    """Version 2: the first byte of key or ciphertext."""
    at = host.key_at
    return message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]


def kem_of_ones(host: Host, message: bytes) -> bytes:
    """Version 2: coefficients that are not below the modulus."""
    at = host.key_at
    return message[:at] + b"\xff" * 1000 + message[at + 1000 :]


def silent_then(act: Callable[[Subject], None]) -> Script:
    """A: everything but the first frame, which is its proof."""

    def play(host: Host, subject: Subject) -> None:
        subject.receive(host.init1())
        subject.sent()
        act(subject)

    return negotiated(play)


def u(value: int) -> bytes:
    return value.to_bytes(32, "little")


def shows(key: bytes) -> dict[str, bytes]:
    """The host shows a key whose private one it does not have."""
    return {"shown": key}


REFLECTS: Final = ephemeral(lambda host: host.peer_key[-32:])

AUTHENTICATION: Final = (
    *(M(version, name=f"ta-honest-{version}",
      does="does nothing wrong", **WORKS) for version in (1, 2)),
    M(name="ta-honest-without-static", does="shows no key where none is asked for",
      host={"static": None}, **WORKS),
    M(name="ta-honest-with-psk",
      does="uses the pre-shared key", host=OWN_PSK, terms=OWN_PSK, **WORKS),
    M(name="ta-honest-resumed", does="resumes", resumes=1, **both("resumed")),
    # --- options ------------------------------------------------------------------------------
    *(M(name=f"ta-{name}", does=does, play=option(contents), **NO_TEP) for name, contents, does in (
        ("without-v", "g20", "sends no data"),
        ("without-data", "ga0", "sets v and sends no data"),
        ("magic-cut", "ga054", "sends half of the magic"),
        ("without-version", "ga05441", "sends no version"),
        ("magic-wrong", "ga0544201", "sends another magic"),
        ("version-0", "ga0544100", "names version 0"),
        ("version-3", "ga0544103", "names a version that there is not"),
        ("version-not-accepted", "ga0544102", "names a version that the subject does not take"),
        ("a-byte-too-many", "ga054410100", "sends a byte behind the version"),
        ("identifier-without-nonce", "ga0544101" + ID, "sends no nonce"),
        ("nonce-of-3", "ga0544101" + ID + "000102", "sends a nonce of three bytes"),
        ("nonce-of-9", "ga0544101" + ID * 2, "sends a nonce of nine bytes"),
        ("twice", "g83a0544101a0544101", "names the TEP twice"),
        ("and-bare", "g20a0544101", "names the TEP without data, too"),
        ("plain-tep-instead", "g23", "names a plain TEP alone"))),
    M(2, name="ta-version-lowered", does="answers version 2 with version 1",
      play=option("ga0544101"), **NO_TEP),
    M(name="ta-resumes-unknown", does="resumes what is not known",
      play=option("ga0544101" + ID + "0001020304"), a="fresh", b="plain RESUMPTION_MISMATCH"),
    M(name="ta-resumes-as-version-2", does="resumes under another version", resumes=1,
      play=option(lambda h: pad(eno(h.global_byte + h.resumption().replace(b"TA\x01", b"TA\x02")))),
      **NO_TEP),
    # --- the tails: exactly what the flags say ------------------------------------------------
    M(name="ta-tail-absent", does="sends no tail", play=resized(lambda h, t: b""), **TAIL),
    M(name="ta-tail-cut",
      does="cuts its tail by a byte", play=resized(lambda h, t: t[:-1]), **TAIL),
    M(name="ta-tail-extended", does="sends a byte behind its tail",
      play=resized(lambda h, t: t + b"\x00"), **TAIL),
    M(name="ta-tail-flag-2", does="sets a reserved flag", play=flipped(0, 0x04), **TAIL),
    M(name="ta-tail-flag-7", does="sets the highest reserved flag", play=flipped(0, 0x80), **TAIL),
    M(name="ta-tail-static-not-flagged", does="sends a static and clears its flag",
      play=flipped(0, 0x01), **TAIL),
    M(name="ta-tail-static-flagged-only", does="flags a static and sends none",
      play=resized(lambda h, t: b"\x01" + (b"" if h.role == "A" else t[-32:])), **TAIL),
    M(name="ta-tail-psk-without-static", does="flags a PSK without a static", host={"static": None},
      play=resized(lambda h, t: b"\x02" + (HINT if h.role == "A" else t[-32:])), **TAIL),
    M(name="ta-tail-psk-unasked", does="as B, uses a PSK that was not offered",
      play=flipped(0, 0x02), b="abort INIT_TAIL"),
    M(name="ta-tail-hint-cut", does="as A, sends a hint of seven bytes", host=OWN_PSK,
      play=resized(lambda h, t: t[:-1]), a="abort INIT_TAIL"),
    M(2, name="ta-tail-in-version-2", does="sends a byte behind its tail in version 2",
      play=resized(lambda h, t: t + b"\x00"), **TAIL),
    # --- ephemeral keys -----------------------------------------------------------------------
    M(name="ta-ephemeral-zero", does="sends an ephemeral key of zero",
      play=ephemeral(lambda h: bytes(32)), **ZERO),
    M(name="ta-ephemeral-of-order-8", does="sends an ephemeral key of order 8",
      play=ephemeral(lambda h: u(ORDER_8[0])), **ZERO),
    M(name="ta-ephemeral-not-canonical", does="sends an ephemeral key above the prime",
      play=ephemeral(lambda h: u(P25519 + 9)), **BAD),
    M(name="ta-ephemeral-high-bit", does="sets the high bit of its ephemeral key",
      play=ephemeral(lambda h: u(9 + (1 << 255))), **BAD),
    M(name="ta-ephemeral-reflected", does="as B, sends A's ephemeral key back",
      play=REFLECTS, b="abort AUTHENTICATION"),
    M(2, name="ta-ephemeral-zero-in-version-2", does="has an X25519 half of zero",
      play=ephemeral(lambda h: bytes(32)), **ZERO),
    M(2, name="ta-ephemeral-reflected-in-version-2", does="as B, sends A's X25519 half back",
      play=REFLECTS, b="abort AUTHENTICATION"),
    M(2, name="ta-ml-kem-key-invalid", does="as A, sends an encapsulation key that is none",
      play=init(kem_of_ones), a="abort BAD_PUBLIC_KEY"),
    M(2, name="ta-ml-kem-changed", does="changes a bit of the ciphertext",
      play=init(kem_changed), b="abort AUTHENTICATION"),
    # --- static keys --------------------------------------------------------------------------
    M(name="ta-static-of-the-subject", does="shows the subject's own key",
      host={"static": SUBJECT_STATIC}, **NOT_PROVED),
    M(name="ta-static-zero", does="shows a key of zero", host=shows(bytes(32)), **ZERO),
    M(name="ta-static-of-order-8",
      does="shows a key of order 8", host=shows(u(ORDER_8[1])), **ZERO),
    M(name="ta-static-not-canonical",
      does="shows a key above the prime", host=shows(u(P25519 + 9)), **BAD),
    M(name="ta-static-high-bit", does="shows a key with the high bit",
      host=shows(u(9 + (1 << 255))), **BAD),
    M(name="ta-static-of-another", does="shows a key whose private key it does not have",
      host=shows(public(EVIL_STATIC)), **UNPROVED),
    M(name="ta-static-not-accepted", does="shows its own key where another is pinned",
      terms={"only": public(EVIL_STATIC)}, **NOT_PROVED),
    M(name="ta-static-changed-since", does="shows its own key where another one is remembered",
      terms={"only": public(EVIL_STATIC), "changed": True}, **both("abort IDENTITY_CHANGED")),
    M(name="ta-static-pinned-and-not-had", does="shows the pinned key without the private one",
      host=shows(public(EVIL_STATIC)), terms={"only": public(EVIL_STATIC)}, **UNPROVED),
    M(name="ta-static-withheld", does="shows no key where one is pinned", host={"static": None},
      terms={"only": public(HOST_STATIC)}, **NOT_PROVED),
    M(name="ta-static-sealed-at-nonce-1", does="as B, seals its key with another nonce",
      b="abort AUTHENTICATION"),
    M(name="ta-static-sealed-without-ad", does="as B, seals its key without associated data",
      b="abort AUTHENTICATION"),
    M(name="ta-static-changed", does="as B, has a bit of C_B changed on its way",
      play=flipped(1), b="abort AUTHENTICATION"),
    M(name="ta-static-tag-changed", does="as B, has a bit of C_B's tag changed",
      play=flipped(48), b="abort AUTHENTICATION"),
    # --- proofs -------------------------------------------------------------------------------
    M(name="ta-proof-changed", does="as B, has the last bit of V_B changed",
      play=flipped(-1), b="abort AUTHENTICATION"),
    M(name="ta-proof-zero", does="as B, sends a V_B of zeros",
      play=resized(lambda h, t: t[:-32] + bytes(32)), b="abort AUTHENTICATION"),
    M(name="ta-proof-of-another-constant", does="as B, derives V_B with the other constant",
      b="abort AUTHENTICATION"),
    M(name="ta-proof-without-static-changed", does="as B, shows no key and has V_B changed",
      host={"static": None}, play=flipped(-1), b="abort AUTHENTICATION"),
    *(M(name=name, does=does, **UNPROVED) for name, does in (
        ("ta-prk-without-se", "leaves se out of PRK"),
        ("ta-prk-without-es", "leaves es out of PRK"),
        ("ta-prk-statics-swapped", "swaps se and es"),
        ("ta-prk-psk-first", "puts the PSK first"),
        ("ta-prk-without-psk", "leaves the place of the PSK out"),
        ("ta-prk-without-ephemerals", "leaves ES out"),
        ("ta-prk-without-transcript", "leaves the options out"),
        ("ta-prk-as-rfc-8548", "derives PRK as a plain TEP does"))),
    M(2, name="ta-prk-halves-swapped", does="swaps the halves of ES", **UNPROVED),
    M(2, name="ta-prk-without-ml-kem", does="leaves ML-KEM's secret out", **UNPROVED),
    M(name="ta-silent-behind-init2", does="as A, never sends the frame that proves it",
      play=silent_then(lambda s: s.too_late()), a="abort TIMEOUT"),
    M(name="ta-fin-behind-init2", does="as A, ends its stream before its proof",
      play=silent_then(lambda s: s.eof()), a="abort FIN_DURING_EXCHANGE"),
    M(name="ta-reset-behind-init2", does="as A, resets before its proof",
      play=silent_then(lambda s: s.reset()), a="abort RESET"),
    M(name="ta-junk-behind-init2", does="as A, sends a forged frame for its proof",
      play=silent_then(lambda s: s.receive(b"\x00\x00\x11" + bytes(17))), a="abort FRAME_TAG"),
    M(name="ta-half-a-frame-behind-init2", does="as A, sends half of a frame and waits",
      play=silent_then(lambda s: (s.receive(b"\x00\x00\x11\x00"), s.too_late())),
      a="abort TIMEOUT"),
    # --- pre-shared keys ----------------------------------------------------------------------
    M(name="ta-psk-wrong", does="has another key under the right hint",
      host={"psk": (HINT, bytes(32))}, terms=OWN_PSK, **UNPROVED),
    M(name="ta-psk-unknown", does="knows another PSK where none is demanded",
      host={"psk": (b"unlikely", PSK)}, terms=OWN_PSK, **WORKS),
    M(name="ta-psk-unknown-and-demanded", does="knows another PSK where one is demanded",
      host={"psk": (b"unlikely", PSK)}, terms={**OWN_PSK, "needs_psk": True}, **NOT_PROVED),
    M(name="ta-psk-withheld", does="uses no PSK where one is demanded",
      terms={**OWN_PSK, "needs_psk": True}, **NOT_PROVED),
    # --- resumption ---------------------------------------------------------------------------
    *(M(name=name, does=does, resumes=1, **both("abort FRAME_TAG")) for name, does in (
        ("ta-resumed-without-options", "leaves the hash of the options out of sn[i]"),
        ("ta-resumed-without-nonces", "leaves the nonces out of sn[i]"),
        ("ta-resumed-nonces-swapped", "swaps the nonces"))),
    M(name="ta-resumed-and-silent", does="sends no frame in a resumed session", resumes=1,
      play=negotiated(lambda h, s: (exchange(h, s), s.too_late())), a="abort TIMEOUT"),
)  # fmt: skip
