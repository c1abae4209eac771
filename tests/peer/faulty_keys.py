"""Misbehaviours of RFC 8548 section 5: public keys that are none, or none to accept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from peer.groups import ORDER_8, P256, P448, P521, P25519, off_curve
from peer.host import Host
from peer.misbehaviour import Misbehaviour as M
from peer.misbehaviour import both
from peer.scripts import init, public_key

ZERO: Final = both("abort ZERO_SHARED_SECRET")
BAD: Final = both("abort BAD_PUBLIC_KEY")
LENGTH: Final = both("abort INIT_PUBLIC_KEY_LENGTH")
SHORT: Final = both("abort INIT_TOO_SHORT")
WORKS: Final = both("works")


def u(value: int, size: int) -> Callable[[Host], bytes]:
    """A u-coordinate of RFC 7748, little-endian."""
    return lambda host: value.to_bytes(size, "little")


def low_order(curve: str, tep: int, size: int, values: dict[str, int]) -> tuple[M, ...]:
    return tuple(
        M(
            name=f"{curve}-key-{name}",
            rfc="48 5",
            does="sends a point that makes the shared secret zero",
            play=public_key(u(value, size)),
            teps=(tep,),
            **ZERO,
        )
        for name, value in values.items()
    )


def point(x: Callable[[int], int], *, lead: int = 2) -> Callable[[Host], bytes]:
    """A compressed point with this lead byte and x coordinate."""

    def key(host: Host) -> bytes:
        honest = host.key.wire
        return honest[:2] + bytes([lead]) + x(host.tep).to_bytes(len(honest) - 3, "big")

    return key


def lead(value: int) -> Callable[[Host], bytes]:
    """The honest point behind another lead byte."""
    return lambda host: host.key.wire[:2] + bytes([value]) + host.key.wire[3:]


def length(value: int | Callable[[bytes], int]) -> Callable[[Host], bytes]:
    """Another value of pubkey_len before the honest point."""

    def key(host: Host) -> bytes:
        said = value if isinstance(value, int) else value(host.key.wire)
        return said.to_bytes(2, "big") + host.key.wire[2:]

    return key


def uncompressed(host: Host) -> bytes:
    return (2 + len(host.key.uncompressed)).to_bytes(2, "big") + host.key.uncompressed


def negated(host: Host) -> bytes:
    """The point with the other y, whose x the shared secret does not tell apart."""
    wire = host.key.wire
    return wire[:2] + bytes([wire[2] ^ 1]) + wire[3:]


def nist(tep: int, curve: str, p: int) -> tuple[M, ...]:
    """The same faults on both curves."""
    rows = (
        ("length-zero", "says pubkey_len 0", length(0), LENGTH),
        ("length-one-too-small", "says a pubkey_len between the two readings",
         length(lambda w: len(w) - 1), LENGTH),
        ("length-one-too-large", "says a pubkey_len of one more", length(lambda w: len(w) + 1),
         LENGTH),
        ("length-65535", "says pubkey_len 65535", length(0xFFFF), LENGTH),
        ("length-little-endian", "says pubkey_len little-endian", length(lambda w: len(w) << 8),
         LENGTH),
        ("length-of-the-point", "does not count pubkey_len itself", length(lambda w: len(w) - 2),
         WORKS),
        ("absent", "sends no public key at all", lambda h: b"", SHORT),
        ("without-length", "sends the point without pubkey_len", lambda h: h.key.wire[2:], SHORT),
        ("uncompressed", "sends an uncompressed point", uncompressed, LENGTH),
        ("uncompressed-lead", "marks a compressed point as uncompressed", lead(4), BAD),
        ("hybrid-lead", "marks a compressed point as hybrid", lead(6), BAD),
        ("infinity-lead", "marks its point as the one at infinity", lead(0), BAD),
        ("lead-5", "sends the lead byte 05", lead(5), BAD),
        ("lead-ff", "sends the lead byte ff", lead(0xFF), BAD),
        ("off-curve", "sends an x that is on no point", point(off_curve), BAD),
        ("x-is-p", "sends an x equal to the prime", point(lambda t: p), BAD),
        ("x-is-p-plus-one", "sends an x above the prime", point(lambda t: p + 1), BAD),
        ("x-all-ones", "sends an x of all ones",
         lambda h: h.key.wire[:3] + b"\xff" * (len(h.key.wire) - 3), BAD),
        ("negated", "sends the point with the other y", negated, WORKS),
    )  # fmt: skip
    return tuple(
        M(name=f"{curve}-key-{name}", rfc="48 5",
          does=does, play=public_key(key), teps=(tep,), **ends)
        for name, does, key, ends in rows
    )  # fmt: skip


def tep_of_another(host: Host, message: bytes) -> bytes:
    """Curve448 was negotiated; a key of Curve25519 stands there."""
    whole = message[: host.key_at] + b"\x09" + bytes(31)
    return whole[:4] + len(whole).to_bytes(4, "big") + whole[8:]


KEYS: Final = (
    *low_order("x25519", 0x23, 32, {
        "zero": 0, "one": 1, "order-8": ORDER_8[0], "other-order-8": ORDER_8[1],
        "minus-one": P25519 - 1, "prime": P25519, "prime-plus-one": P25519 + 1,
        "zero-with-high-bit": 1 << 255, "one-with-high-bit": (1 << 255) + 1,
        "minus-one-with-high-bit": (1 << 255) + P25519 - 1,
    }),
    *low_order("x448", 0x24, 56, {
        "zero": 0, "one": 1, "minus-one": P448 - 1, "prime": P448, "prime-plus-one": P448 + 1,
    }),
    *nist(0x21, "p256", P256),
    *nist(0x22, "p521", P521),
    M(name="key-of-another-tep", rfc="48 5", does="sends a key of Curve25519 for Curve448",
      play=init(tep_of_another), teps=(0x24,), **SHORT),
    M(name="x25519-key-with-high-bit", rfc="RFC 7748 5", does="sets the bit that is to be ignored",
      play=public_key(lambda h: h.key.wire[:31] + bytes([h.key.wire[31] | 0x80])), **WORKS),
)  # fmt: skip
