"""Making `tcpcrypt-vectors-1` vectors: every TEP with every AEAD of RFC 8548.

All that a real host draws at random comes from a seed here, so that anybody can
make the published files again, byte for byte.  Never use these keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tcpcrypt.crypto.aead import AeadParameters, aead
from tcpcrypt.crypto.groups import EphemeralKey, Group, group
from tcpcrypt.crypto.kdf import cprf, extract
from tcpcrypt.crypto.schedule import MasterKey, SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.registry import CONST_REKEY, GLOBAL_A, GLOBAL_B, K_LEN, NONCE_LEN, AeadId, Tep
from tcpcrypt.wire.eno import Suboption, SynOption
from tcpcrypt.wire.frame import max_data, sealed_size
from tcpcrypt.wire.messages import Init1, Init2

__all__ = ["SEED", "TEPS", "generate"]

SEED: Final = "tcpcrypt-vectors-1"
"""The seed of the published files."""

TEPS: Final = {
    "p256": Tep.ECDHE_P256,
    "p521": Tep.ECDHE_P521,
    "x25519": Tep.ECDHE_CURVE25519,
    "x448": Tep.ECDHE_CURVE448,
}
"""The TEPs by the names that go into file names."""

_GENERATIONS: Final = 3
_CIPHERS: Final = (
    (),
    (AeadId.AES_128_GCM, AeadId.AES_256_GCM, AeadId.CHACHA20_POLY1305),
    (0xFFFE,),  # one that nobody knows yet
    (AeadId.CHACHA20_POLY1305, AeadId.AES_128_GCM),
    (0x0003, AeadId.AES_256_GCM, 0x1234),
)
"""What A offers besides the algorithm that B takes, by turns."""
_TAILS: Final = ((0, 0), (5, 0), (0, 300), (1, 1))
"""Lengths of what follows Pub_A and Pub_B, to be ignored (section 4.1)."""
_NONCES: Final = ((8, 8), (0, 8), (8, 0), (5, 8), (0, 0), (1, 7), (8, 3), (2, 2), (6, 8))
"""Lengths of nonce_a and nonce_b; each host picks its own (section 3.5)."""


class _Source:
    """Bytes by label from the seed."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    def octets(self, label: str, length: int) -> bytes:
        return hashlib.shake_256(f"{self._seed}/{label}".encode()).digest(length)

    def under(self, label: str) -> _Source:
        return _Source(f"{self._seed}/{label}")

    def key(self, curve: Group, label: str) -> tuple[bytes, EphemeralKey]:
        raw = self.octets(label, curve.shared_len)
        if curve.name == "P-256":
            raw = b"\x00" + raw[1:]  # below the order
        elif curve.name == "P-521":
            raw = bytes((raw[0] & 1,)) + raw[1:]
        return raw, curve.from_private(raw)


@dataclass(frozen=True, slots=True)
class _Frame:
    """What one frame is to hold; `rekey` goes to the sender's next generation."""

    sender: str
    data: bytes = b""
    rekey: bool = False
    fin: bool = False
    urgent: int | None = None


def generate(tep: int, seed: str = SEED) -> dict[str, Any]:
    """The file of one TEP: for each AEAD a session resumed with roles kept, and swapped."""
    vectors = []
    for number, algorithm in enumerate(AeadId):
        for swapped in (False, True):
            name = f"tep-{tep:02x}-aead-{algorithm:04x}-{'swapped' if swapped else 'kept'}"
            # Each turn differs in as many ways as it can from the others.
            turn = 6 * (tep - Tep.ECDHE_P256) + 2 * number + swapped
            maker = _Maker(_Source(seed).under(name), tep, aead(algorithm), turn)
            vectors.append({"name": name, **maker.session(swapped=swapped)})
    return {"format": "tcpcrypt-vectors-1", "vectors": vectors}


class _Maker:
    """Makes one vector; `turn` selects its variations."""

    def __init__(self, source: _Source, tep: int, parameters: AeadParameters, turn: int) -> None:
        self._source = source
        self._tep = tep
        self._parameters = parameters
        self._turn = turn

    def session(self, *, swapped: bool) -> dict[str, Any]:
        source, parameters, turn = self._source, self._parameters, self._turn
        raw_a, raw_b, key_a, es, key_b = self._keys()
        others = tuple(c for c in _CIPHERS[turn % len(_CIPHERS)] if c != parameters.id)
        ciphers = (*others[1:], parameters.id, *others[:1])
        tails = [
            source.octets(f"tail {i}", n) for i, n in enumerate(_TAILS[turn // 2 % len(_TAILS)])
        ]
        n_a, n_b = source.octets("n_a", NONCE_LEN), source.octets("n_b", NONCE_LEN)
        init1 = Init1(ciphers, n_a, key_a.public, tails[0]).build()
        init2 = Init2(parameters.id, n_b, key_b.public, tails[1]).build()
        eno_a, eno_b = self._eno_a(), self._eno_b()

        prk = extract(n_a, eno_a, eno_b, init1, init2, es)
        master_keys = _master_keys(prk, b"", _GENERATIONS)
        fields: dict[str, Any] = {
            "tep": self._tep,
            "aead": parameters.id,
            "ciphers": list(ciphers),
            "private_a": raw_a.hex(),
            "private_b": raw_b.hex(),
            "n_a": n_a.hex(),
            "n_b": n_b.hex(),
            "eno_a": eno_a.hex(),
            "eno_b": eno_b.hex(),
            "init1": init1.hex(),
            "init2": init2.hex(),
            "init1_ignored": tails[0].hex(),
            "init2_ignored": tails[1].hex(),
            "es": _hex(es),
            "prk": _hex(prk),
        }
        session_id, master, following = SessionSecret.from_prk(prk).use(self._tep, b"")
        framer = _Framer(parameters, master, {"A": len(init1), "B": len(init2)})
        fields |= {
            "session_id": session_id.hex(),
            "mk": master_keys,
            "k_ab": framer.keys("A"),
            "k_ba": framer.keys("B"),
            "ss2": _hex(following.peek_next().take()),
            "resume1": b"".join(following.resume_ids()).hex(),
            "frames": [framer.seal(frame, frame.sender) for frame in self._script()],
        }
        ss1 = following.take()
        fields["ss1"] = _hex(ss1)
        fields["resumed"] = self._resumed(ss1, "B" if swapped else "A")
        return fields

    def _keys(self) -> tuple[bytes, bytes, EphemeralKey, Secret, EphemeralKey]:
        """Both key pairs.  The first set of a NIST curve has an ES that begins with
        zeros: they count (section 5 leaves it to the reader, 1 in 256 to chance).
        """
        curve, source = group(self._tep), self._source
        raw_a, key_a = source.key(curve, "private_a")
        zeros = {"P-256": 1, "P-521": 2}.get(curve.name, 0) if self._turn % 6 == 0 else 0
        attempt = 0
        while True:
            raw_b, key_b = source.key(curve, f"private_b {attempt}")
            es = key_a.agree(key_b.public)
            if not any(es.view()[:zeros]):
                return raw_a, raw_b, key_a, es, key_b
            attempt += 1

    def _eno_a(self) -> bytes:
        """Options that offer more than the one TEP, in every arrangement in turn."""
        own = Suboption(self._tep)
        other = Suboption(Tep.ECDHE_P256 if self._tep != Tep.ECDHE_P256 else Tep.ECDHE_P521)
        unknown = Suboption(0x7F, self._source.octets("unknown", 1 + self._turn))
        option = (
            SynOption((own,)),
            SynOption((other, own)),
            SynOption((own, other), GLOBAL_A),
            SynOption((unknown, own)),
            SynOption((own, unknown)),
            # The offer of a resumption that the peer does not know is a fresh one.
            SynOption((other, Suboption(self._tep, self._source.octets("stale", 17)))),
            SynOption((own,), explicit_global=True),
        )[self._turn % 7]
        return option.build()

    def _eno_b(self) -> bytes:
        aware = GLOBAL_A if self._turn % 7 == 2 else 0
        own = Suboption(self._tep)
        lists = ((own,), (own,), (Suboption(0x7E), own))
        return SynOption(lists[self._turn % 3], GLOBAL_B | aware).build()

    def _script(self) -> Iterator[_Frame]:
        """Frames both ways, each kind at least once (sections 3.6 to 3.8)."""
        octets, turn = self._source.octets, self._turn
        yield _Frame("A", b"GET / HTTP/1.0\r\nHost: example.com\r\n\r\n")
        yield _Frame("B", octets("answer", 1400))
        yield _Frame("B")
        yield _Frame("A", b"stop!", urgent=5)
        yield _Frame("A", rekey=True)
        yield _Frame("B", b"rekeyed, as asked", rekey=True)
        yield _Frame("A", octets("more", 100 + turn))
        if self._tep == Tep.ECDHE_CURVE25519 and turn % 2 == 0:
            yield _Frame("A", octets("largest", max_data(self._parameters.tag_len)))
            yield _Frame("B", octets("urgent", 17), urgent=0xFFFF)
        yield _Frame("B", octets("own idea", 64), rekey=True)
        yield _Frame("A", b"agreed" if turn % 2 else b"", rekey=True)
        yield _Frame("B", urgent=0)
        yield _Frame("A", octets("last", 33))
        # The end of a stream comes with data, without, or with urgent data.
        yield _Frame("B", fin=True)
        last = b"bye" if turn % 3 else b""
        yield _Frame("A", last, fin=True, urgent=len(last) if turn % 3 == 2 else None)

    def _resumed(self, ss1: Secret, opener: str) -> dict[str, Any]:
        source, parameters = self._source.under("resumed"), self._parameters
        length_a, length_b = _NONCES[self._turn % len(_NONCES)]
        nonces = {"A": source.octets("nonce_a", length_a), "B": source.octets("nonce_b", length_b)}
        secret = SessionSecret(Secret(ss1.view()), 1)
        identifiers = dict(zip("AB", secret.resume_ids(), strict=True))
        passive = "B" if opener == "A" else "A"
        offer = Suboption(self._tep, identifiers[opener] + nonces[opener])
        answer = Suboption(self._tep, identifiers[passive] + nonces[passive])
        sn = nonces["A"] + nonces["B"]
        master_keys = _master_keys(ss1, sn, 1)
        session_id, master, _following = secret.use(answer.first_byte, sn)
        framer = _Framer(parameters, master, {"A": 0, "B": 0})
        # A fresh exchange with another TEP may be offered beside the resumption.
        also = Suboption(0x24 if self._tep != Tep.ECDHE_CURVE448 else 0x23)
        offers = (offer, also) if self._turn % 4 >= 2 else (offer,)
        frames = (
            _Frame(opener, b"hello again"),
            _Frame(passive, source.octets("answer", 50), urgent=50),
            _Frame(opener),
            _Frame(passive, b"good bye", fin=True),
            _Frame(opener, fin=True),
        )
        return {
            "opener": f"original {opener}",
            "eno_opener": SynOption(offers).build().hex(),
            "eno_passive": SynOption((answer,), GLOBAL_B).build().hex(),
            "nonce_a": nonces["A"].hex(),
            "nonce_b": nonces["B"].hex(),
            "session_id": session_id.hex(),
            "mk0": master_keys[0],
            "k_ab0": framer.keys("A")[0],
            "k_ba0": framer.keys("B")[0],
            "frames": [framer.seal(frame, f"original {frame.sender}") for frame in frames],
        }


class _Framer:
    """Seals both directions of one connection."""

    def __init__(
        self, parameters: AeadParameters, master: MasterKey, offsets: dict[str, int]
    ) -> None:
        self._parameters = parameters
        self._offsets = offsets
        self._generations = dict.fromkeys(offsets, 0)
        self._keys: dict[str, list[Secret]] = {"A": [], "B": []}
        for _ in range(_GENERATIONS):
            keys = master.traffic_keys(parameters)
            self._keys["A"].append(keys.ab)
            self._keys["B"].append(keys.ba)
            master = master.advance()

    def keys(self, sender: str) -> list[str]:
        return [_hex(key) for key in self._keys[sender]]

    def seal(self, frame: _Frame, sender: str) -> dict[str, Any]:
        who, offset = frame.sender, self._offsets[frame.sender]
        self._generations[who] += frame.rekey
        generation = self._generations[who]
        urgent = -1 if frame.urgent is None else frame.urgent
        frame_data = max(1, len(frame.data))
        size = sealed_size(len(frame.data), frame_data, self._parameters.tag_len, urgent >= 0)
        out = bytearray(size)
        sealer = self._parameters.sealer(self._keys[who][generation])
        sealer.seal(frame.data, out, offset, frame_data, frame.rekey, frame.fin, urgent)
        self._offsets[who] += size
        return {
            "sender": sender,
            "generation": generation,
            "offset": offset,
            "data": frame.data.hex(),
            "frame": out.hex(),
            "fin": frame.fin,
            "rekey": frame.rekey,
            "urgent": frame.urgent,
        }


def _master_keys(ss: Secret, sn: bytes, count: int) -> list[str]:
    """mk[0] and on, which a `MasterKey` does not show (section 3.3)."""
    masters = [cprf(ss, CONST_REKEY + sn, K_LEN)]
    while len(masters) < count:
        masters.append(cprf(masters[-1], CONST_REKEY, K_LEN))
    return [_hex(master) for master in masters]


def _hex(secret: Secret) -> str:
    return bytes(secret.view()).hex()
