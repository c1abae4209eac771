"""Checking a `tcpcrypt-authenticated-1` vector: one exchange of TEP 0x20, resumed once.

Both sides of the exchange are run again with the keys of the vector, and every
value that goes into their keys is computed beside.  What ML-KEM draws at random
when it encapsulates is the one thing that nobody can: there the ciphertext of
the vector is taken, and A's decapsulation of it compared.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tcpcrypt.auth.agreement import AuthenticatedAgreement, Ephemeral, Tail1, Tail2
from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.psk import Psk
from tcpcrypt.auth.tep import MAGIC
from tcpcrypt.auth.terms import VERSION_HYBRID, VERSION_X25519, PeerProof
from tcpcrypt.core.events import Role
from tcpcrypt.core.tep import Exchanged
from tcpcrypt.crypto.aead import AeadParameters, aead
from tcpcrypt.crypto.groups import EphemeralKey, group
from tcpcrypt.crypto.hybrid import HybridInitiator, HybridResponder
from tcpcrypt.crypto.kdf import cprf, extract
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import CONST_REKEY, K_LEN, RESUME_ID_LEN, SUBOPTION_V, Tep
from tcpcrypt.tools.session_vectors import Keys, Streams, negotiate, sender_of
from tcpcrypt.tools.vector_fields import Checker, Fields, Unverifiable
from tcpcrypt.wire.messages import Init1, Init2

__all__ = ["verify_authenticated"]

_X25519: Final = group(Tep.ECDHE_CURVE25519)
_Z: Final = bytes(32)
_PROOF_LEN: Final = 32
_PSK_NAME: Final = "vector"


@dataclass(frozen=True, slots=True)
class _Conditions:
    """`Terms` that ask for nothing."""

    identity: Identity | None
    versions: tuple[int, ...]
    psk: Psk | None = None
    known: Psk | None = None

    def find_psk(self, hint: bytes) -> Psk | None:
        return self.known if self.known is not None and self.known.hint == hint else None

    def judge(self, proof: PeerProof) -> None:
        """Everybody will do."""


def verify_authenticated(vector: Fields) -> Checker:
    """Check one vector.  Raises `VectorFileError` where a field is missing or malformed."""
    checker = Checker(vector.where)
    with suppress(Unverifiable):
        _Verifier(vector, checker).verify()
    return checker


class _Verifier:
    """One vector, step by step."""

    def __init__(self, vector: Fields, checker: Checker) -> None:
        self._vector = vector
        self._checker = checker
        self._version = vector.integer("version")
        if self._version not in {VERSION_X25519, VERSION_HYBRID}:
            raise checker.fault("version", self._version, "not a version of TEP 0x20")
        with checker.computing("aead", vector.integer("aead")):
            self._aead: AeadParameters = aead(vector.integer("aead"))
        with checker.computing("keys", b""):
            self._static = {side: self._identity(f"static_{side}") for side in "ab"}
            self._ephemeral = {side: self._x25519(f"private_{side}") for side in "ab"}
            self._psk = self._shared_key()

    def verify(self) -> None:
        vector, checker = self._vector, self._checker
        _offered, chosen = negotiate(vector, checker, "", ("eno_a", "eno_b"))
        checker.compare("tep", Tep.EXPERIMENTAL, chosen.tep, "eno_a, eno_b")
        data = MAGIC + bytes((self._version,))
        checker.compare("version", data, chosen.data or b"", "eno_b")

        prk = self._exchange()
        checker.compare("prk", vector.octets("prk"), _bytes(prk))
        mk0 = cprf(prk, CONST_REKEY, K_LEN)
        session_id, master, following = SessionSecret.from_prk(prk).use(chosen.first_byte, b"")
        checker.compare("session_id", vector.octets("session_id"), session_id)
        checker.compare("mk0", vector.octets("mk0"), _bytes(mk0))
        keys = Keys(master, self._aead)
        self._compare_keys(vector, "", keys)
        starts = {"A": len(vector.octets("init1")), "B": len(vector.octets("init2"))}
        Streams(checker, self._aead, keys, starts).verify("frames", vector.objects("frames"))
        checker.compare("resume1", vector.octets("resume1"), b"".join(following.resume_ids()))
        ss1 = following.take()
        checker.compare("ss1", vector.octets("ss1"), _bytes(ss1))
        self._resumed(vector.object("resumed"), ss1)

    def _exchange(self) -> Secret:
        """Both agreements, with the keys of the vector; returns PRK."""
        vector, checker = self._vector, self._checker
        used = vector.boolean("psk_used")
        terms_a = _Conditions(self._static["a"], (self._version,), psk=self._psk)
        known = self._psk if used else None
        terms_b = _Conditions(self._static["b"], (self._version,), known=known)
        message1, message2 = vector.octets("init1"), vector.octets("init2")
        with checker.computing("init1, init2", message1):
            a = AuthenticatedAgreement(terms_a, self._version, Role.A, ephemeral=self._key_of_a())
            b = AuthenticatedAgreement(terms_b, self._version, Role.B, ephemeral=self._key_of_b())
            ciphers = tuple(vector.integers("ciphers"))
            init1 = Init1(ciphers, vector.octets("n_a"), a.public_key, a.init1_tail())
            checker.compare("init1", message1, init1.build())
            eno = vector.octets("eno_a") + vector.octets("eno_b")
            exchanged = Exchanged(eno, self._aead.id, init1, message1)

            def assemble(tail: bytes) -> bytes:
                return Init2(self._aead.id, vector.octets("n_b"), b.public_key, tail).build()

            built, prk_b = b.respond(exchanged, assemble)
            checker.compare("init2", message2, built)
            init2 = Init2.parse(message2, a.peer_public_key_len)
            prk = a.complete(exchanged, init2, message2)
        checker.compare("prk of B", _bytes(prk), _bytes(prk_b))
        self._inside(exchanged, init2, message2)
        return prk

    def _inside(self, exchanged: Exchanged, init2: Init2, message2: bytes) -> None:
        """The values that neither message nor PRK shows by itself."""
        vector, checker = self._vector, self._checker
        tail1, tail2 = Tail1.parse(exchanged.init1.tail), Tail2.parse(init2.tail)
        part_a, part_b = exchanged.init1.public_key[-32:], init2.public_key[-32:]
        es_ephemeral = _bytes(self._ephemeral["a"].agree(part_b))
        if self._version == VERSION_HYBRID:
            es_ephemeral = vector.octets("mlkem_secret") + es_ephemeral
        static_a, static_b = self._static["a"], self._static["b"]
        se = _bytes(static_a.agree(part_b)) if static_a is not None else _Z
        es = _bytes(static_b.agree(part_a)) if static_b is not None else _Z
        checker.compare("es_ephemeral", vector.octets("es_ephemeral"), es_ephemeral)
        checker.compare("se", vector.octets("se"), se)
        checker.compare("es", vector.octets("es"), es)
        checker.compare("psk_used", vector.boolean("psk_used"), tail2.psk_used, "init2")
        if self._psk is not None:
            checker.compare("psk_hint", self._psk.hint, tail1.hint or b"", "init1")
        if tail2.sealed is not None:
            i2a = message2[: len(message2) - len(init2.tail) + 1]
            transcript = (exchanged.eno_transcript, exchanged.init1_message, i2a)
            with extract(exchanged.init1.nonce, *transcript, es_ephemeral, se) as k1:
                checker.compare("k1", vector.octets("k1"), _bytes(k1))
            checker.compare("c_b", vector.octets("c_b"), tail2.sealed, "init2")
        checker.compare("v_b", vector.octets("v_b"), message2[-_PROOF_LEN:], "init2")

    def _resumed(self, resumed: Fields, ss1: Secret) -> None:
        checker = self._checker
        opener = sender_of(resumed, "opener")
        passive = "B" if opener == "A" else "A"
        offered, chosen = negotiate(resumed, checker, "resumed.", ("eno_opener", "eno_passive"))
        offer = next((s.data for s in offered.suboptions if s.tep == chosen.tep), None)
        secret = SessionSecret(Secret(ss1.view()), 1)
        identifiers = dict(zip("AB", secret.resume_ids(), strict=True))
        nonces = {"A": resumed.octets("nonce_a"), "B": resumed.octets("nonce_b")}
        head = MAGIC + bytes((self._version,))
        for role, side, data in ((opener, "opener", offer), (passive, "passive", chosen.data)):
            expected = head + identifiers[role] + nonces[role]
            checker.compare(f"resumed.eno_{side}", data or b"", expected, "resume1, nonces")
            checker.compare(
                f"resumed.eno_{side}: nonce length",
                5 if side == "opener" else 4,
                len((data or b"")[len(head) + RESUME_ID_LEN :]),
            )
        eno = resumed.octets("eno_opener") + resumed.octets("eno_passive")
        sn = nonces["A"] + nonces["B"] + hashlib.sha256(eno).digest()
        checker.compare("resumed.sn", resumed.octets("sn"), sn)
        tep_byte = Tep.EXPERIMENTAL | SUBOPTION_V
        with checker.computing("resumed.sn", sn):
            session_id, master, _following = secret.use(tep_byte, sn)
        checker.compare("resumed.session_id", resumed.octets("session_id"), session_id)
        mk0 = cprf(ss1, CONST_REKEY + sn, K_LEN)
        checker.compare("resumed.mk0", resumed.octets("mk0"), _bytes(mk0))
        keys = Keys(master, self._aead)
        self._compare_keys(resumed, "resumed.", keys)
        streams = Streams(checker, self._aead, keys, {"A": 0, "B": 0})
        streams.verify("resumed.frames", resumed.objects("frames"))

    def _compare_keys(self, fields: Fields, prefix: str, keys: Keys) -> None:
        for name, direction in (("k_ab0", "A"), ("k_ba0", "B")):
            stated = fields.octets(name)
            self._checker.compare(prefix + name, stated, _bytes(keys.of(direction, 0)))

    # --- the keys that the vector states

    def _x25519(self, name: str) -> EphemeralKey:
        return _X25519.from_private(self._vector.octets(name))

    def _identity(self, name: str) -> Identity | None:
        raw = self._vector.octets(name, default=b"")
        return Identity.from_private(raw) if raw else None

    def _shared_key(self) -> Psk | None:
        key = self._vector.octets("psk", default=b"")
        return Psk(_PSK_NAME, self._vector.octets("psk_hint"), Secret(key)) if key else None

    def _key_of_a(self) -> Ephemeral:
        if self._version != VERSION_HYBRID:
            return self._ephemeral["a"]
        seed = self._vector.octets("mlkem_seed_a")
        return HybridInitiator.from_private(seed, self._vector.octets("private_a"))

    def _key_of_b(self) -> Ephemeral:
        if self._version != VERSION_HYBRID:
            return self._ephemeral["b"]
        secret = self._vector.octets("mlkem_secret")
        ciphertext = self._vector.octets("mlkem_ciphertext")
        return HybridResponder(self._x25519("private_b"), lambda _key: (secret, ciphertext))


def _bytes(secret: Secret) -> bytes:
    return bytes(secret.view())
