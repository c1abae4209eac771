"""TEP 0x20, the one that authenticates, once more: docs/authenticated-tep.md.

Options, tails, keys and proofs of both versions, from the document.  `static` is
the host's private key, `psk` a pair of hint and key.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from peer.frames import KEY_LEN, Refused
from peer.host import INIT1_MAGIC, INIT2_MAGIC, Host
from peer.keys import SessionSecret, cprf, extract
from peer.options import Sub

TEP = 0x20
Z = bytes(32)
HOST_STATIC, SUBJECT_STATIC, EVIL_STATIC = (bytes([n]) * 32 for n in (1, 2, 3))
"""Private keys: of the host, of the subject, of somebody else."""
HINT, PSK = b"the hint", b"a pre-shared key with 32 bytes.."
CIPHERTEXT_LEN, ENCAPSULATION_KEY_LEN = 1088, 1184


def public(private: bytes) -> bytes:
    key = x25519.X25519PrivateKey.from_private_bytes(private)
    return key.public_key().public_bytes_raw()


def dh(private: bytes, other: bytes) -> bytes:
    key = x25519.X25519PrivateKey.from_private_bytes(private)
    return key.exchange(x25519.X25519PublicKey.from_public_bytes(other))


class AuthenticatingHost(Host):
    """A host of TEP 0x20.

    `shown` replaces the static key that it shows, without the private one.
    """

    def __init__(
        self,
        role: str,
        *,
        version: int = 1,
        static: bytes | None = HOST_STATIC,
        shown: bytes | None = None,
        psk: tuple[bytes, bytes] | None = None,
        **more,
    ) -> None:
        super().__init__(role, **{**more, "teps": (TEP,)})
        self.nonce_len = 5 if role == "A" else 4
        self.version, self.static, self.psk = version, static, psk
        self.shown = shown or (public(static) if static else None)
        self.peer_static: bytes | None = None
        self.psk_used = False

    # --- options -----------------------------------------------------------------

    @property
    def data_prefix(self) -> bytes:
        return b"TA" + bytes([self.version])

    def fresh(self, tep: int) -> bytes:
        return bytes([TEP | 0x80]) + self.data_prefix

    def _valid(self, of_a: Sub, of_b: Sub) -> bool:
        if of_b.data == self.data_prefix:
            return (of_a.data or b"").startswith(self.data_prefix)
        return self._resumes(of_a, of_b)

    # --- messages ------------------------------------------------------------------

    @property
    def peer_key_len(self) -> int:
        first = {"A": CIPHERTEXT_LEN, "B": ENCAPSULATION_KEY_LEN}[self.role]
        return 32 + (first if self.version == 2 else 0)

    def init1(self) -> bytes:
        self.ephemeral = self.random(32)
        key = public(self.ephemeral)
        if self.version == 2:
            self.kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(self.random(64))
            key = self.kem.public_key().public_bytes_raw() + key
        ciphers = b"".join(aead.to_bytes(2, "big") for aead in self.aeads)
        rest = bytes([len(self.aeads)]) + ciphers + self.random(32) + key + self._tail1()
        return INIT1_MAGIC + (8 + len(rest)).to_bytes(4, "big") + rest

    def _tail1(self) -> bytes:
        if self.shown is None:
            return b"\x00"
        if self.psk is None:
            return b"\x01" + self.shown
        return b"\x03" + self.shown + self.psk[0]

    @property
    def tail_at(self) -> int:
        """Where the tail of the own Init message begins."""
        kem = {"A": ENCAPSULATION_KEY_LEN, "B": CIPHERTEXT_LEN}[self.role]
        return self.key_at + 32 + (kem if self.version == 2 else 0)

    def init2(self) -> bytes:
        self.aead = next(aead for aead in self.aeads if aead in self.offered)
        self.ephemeral = self.random(32)
        key, es_ephemeral = public(self.ephemeral), dh(self.ephemeral, self.peer_key[-32:])
        if self.version == 2:
            kem = mlkem.MLKEM768PublicKey.from_public_bytes(self.peer_key[:-32])
            secret, ciphertext = kem.encapsulate()
            key, es_ephemeral = ciphertext + key, secret + es_ephemeral
        self.psk_used = self.hint is not None and self.psk is not None and self.hint == self.psk[0]
        flags = (1 if self.shown else 0) | (2 if self.psk_used else 0)
        rest = self.aead.to_bytes(2, "big") + self.random(32) + key + bytes([flags])
        length = 8 + len(rest) + (48 if self.shown else 0) + 32
        i2a = INIT2_MAGIC + length.to_bytes(4, "big") + rest
        init1, se = self.peer_init, self._dh_static(self.ephemeral, self.peer_static)
        i2b = i2a
        if self.shown:
            cipher, ad = self._static_cipher(init1, i2a, es_ephemeral, se)
            nonce = bytes(11) + (
                b"\x01" if self.quirk == "ta-static-sealed-at-nonce-1" else b"\x00"
            )
            if self.quirk == "ta-static-sealed-without-ad":
                ad = b""
            i2b += cipher.encrypt(nonce, self.shown, ad)
        es = self._own_static(self.peer_key[-32:])
        self.prk = self._keys(init1, i2b, es_ephemeral, se, es)
        const = b"\x20" if self.quirk == "ta-proof-of-another-constant" else b"\x21"
        return i2b + cprf(self.prk, const, 32)

    def hear_tail(self, tail: bytes) -> None:
        flags = tail[0]
        if self.role == "B":
            self.peer_static = tail[1:33] if flags & 1 else None
            self.hint = tail[33:41] if flags & 2 else None
            if len(tail) != 1 + 32 * (flags & 1) + 4 * (flags & 2):
                raise Refused("tail")
        else:
            self.psk_used = bool(flags & 2)
            if len(tail) != 33 + 48 * (flags & 1) or (self.psk_used and self.psk is None):
                raise Refused("tail")

    def start_fresh(self, own_init: bytes) -> None:
        if self.role == "A":
            self._complete(own_init)
        secret = SessionSecret(self.prk)
        self._start(secret, b"", self.role, len(own_init), len(self.peer_init))

    def _complete(self, init1: bytes) -> None:
        """A: open C_B, derive PRK, compare V_B."""
        init2, key = self.peer_init, self.peer_key
        es_ephemeral = dh(self.ephemeral, key[-32:])
        if self.version == 2:
            es_ephemeral = self.kem.decapsulate(key[:-32]) + es_ephemeral
        se, es, i2b = self._own_static(key[-32:]), Z, init2[:-32]
        if len(init2) - self._peer_tail_at == 81:
            i2a = init2[:-80]
            cipher, ad = self._static_cipher(init1, i2a, es_ephemeral, se)
            try:
                self.peer_static = cipher.decrypt(bytes(12), init2[-80:-32], ad)
                es = dh(self.ephemeral, self.peer_static)
            except InvalidTag:
                if not self.quirk:
                    raise Refused("C_B") from None
        self.prk = self._keys(init1, i2b, es_ephemeral, se, es)
        if not self.quirk and cprf(self.prk, b"\x21", 32) != init2[-32:]:
            raise Refused("V_B")

    @property
    def _peer_tail_at(self) -> int:
        return 42 + self.peer_key_len

    # --- keys --------------------------------------------------------------------------

    def _own_static(self, other: bytes) -> bytes:
        """se of A, es of B."""
        if self.shown is None:
            return Z
        return dh(self.static, other)

    def _dh_static(self, private: bytes, static: bytes | None) -> bytes:
        return dh(private, static) if static else Z

    def _static_cipher(self, init1: bytes, i2a: bytes, es_ephemeral: bytes, se: bytes):
        """What C_B is sealed with, and its associated data."""
        n_a = init1[9 + 2 * init1[8] : 41 + 2 * init1[8]]
        k1 = extract(n_a, self.transcript + init1 + i2a + es_ephemeral + se)
        key = cprf(k1, b"\x20", KEY_LEN[self.aead])
        return (ChaCha20Poly1305 if self.aead == 0x0010 else AESGCM)(key), init1 + i2a

    def _keys(self, init1: bytes, i2b: bytes, es_ephemeral: bytes, se: bytes, es: bytes) -> bytes:
        """PRK, or one of its misreadings."""
        n_a = init1[9 + 2 * init1[8] : 41 + 2 * init1[8]]
        psk = self.psk[1] if self.psk is not None and self.psk_used else Z
        messages = self.transcript + init1 + i2b
        misread = {
            "ta-prk-without-se": messages + es_ephemeral + Z + es + psk,
            "ta-prk-without-es": messages + es_ephemeral + se + Z + psk,
            "ta-prk-statics-swapped": messages + es_ephemeral + es + se + psk,
            "ta-prk-psk-first": psk + messages + es_ephemeral + se + es,
            "ta-prk-without-psk": messages + es_ephemeral + se + es,
            "ta-prk-without-ephemerals": messages + se + es + psk,
            "ta-prk-without-transcript": init1 + i2b + es_ephemeral + se + es + psk,
            "ta-prk-as-rfc-8548": messages + es_ephemeral,
            "ta-prk-halves-swapped": messages
            + es_ephemeral[32:]
            + es_ephemeral[:32]
            + se
            + es
            + psk,
            "ta-prk-without-ml-kem": messages + es_ephemeral[-32:] + se + es + psk,
        }
        return extract(n_a, misread.get(self.quirk, messages + es_ephemeral + se + es + psk))

    def sn(self, nonces: bytes) -> bytes:
        if self.quirk == "ta-resumed-without-options":
            return nonces
        return nonces + hashlib.sha256(self.transcript).digest()
