"""RFC 8548 section 5: key pairs of the four TEPs, public keys as on the wire."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

WIRE_LEN = {0x21: 35, 0x22: 69, 0x23: 32, 0x24: 56}
_CURVES = {0x21: (ec.SECP256R1(), 31), 0x22: (ec.SECP521R1(), 65)}

P25519 = 2**255 - 19
P448 = 2**448 - 2**224 - 1
P256 = 2**256 - 2**224 + 2**192 + 2**96 - 1
B256 = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
P521 = 2**521 - 1
B521 = int(
    "51953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e"
    "156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
    16,
)
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
"""The two u-coordinates of Curve25519 whose points have order 8."""


class KeyPair:
    """An ephemeral key of one TEP, from `random`."""

    def __init__(self, tep: int, random) -> None:
        self.tep = tep
        if tep == 0x23:
            self._key = x25519.X25519PrivateKey.from_private_bytes(random(32))
        elif tep == 0x24:
            self._key = x448.X448PrivateKey.from_private_bytes(random(56))
        else:
            curve, scalar_len = _CURVES[tep]
            scalar = int.from_bytes(random(scalar_len), "big") + 1
            self._key = ec.derive_private_key(scalar, curve)

    @property
    def wire(self) -> bytes:
        """Section 5: the raw u-coordinate, or a length and a compressed point."""
        public = self._key.public_key()
        if self.tep in _CURVES:
            point = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
            return (2 + len(point)).to_bytes(2, "big") + point
        return public.public_bytes_raw()

    @property
    def uncompressed(self) -> bytes:
        """NIST curves: the point in the form that RFC 8548 does not use."""
        form = PublicFormat.UncompressedPoint
        return self._key.public_key().public_bytes(Encoding.X962, form)

    def shared(self, wire: bytes) -> bytes:
        """ES with the other's key.  `ValueError` if that is no key."""
        if self.tep == 0x23:
            return self._key.exchange(x25519.X25519PublicKey.from_public_bytes(wire))
        if self.tep == 0x24:
            return self._key.exchange(x448.X448PublicKey.from_public_bytes(wire))
        curve, _ = _CURVES[self.tep]
        other = ec.EllipticCurvePublicKey.from_encoded_point(curve, wire[2:])
        return self._key.exchange(ec.ECDH(), other)


def off_curve(tep: int) -> int:
    """The smallest x of no point of the TEP's NIST curve (Euler's criterion)."""
    p, b = (P256, B256) if tep == 0x21 else (P521, B521)
    x = 0
    while pow(x**3 - 3 * x + b, (p - 1) // 2, p) != p - 1:
        x += 1
    return x
