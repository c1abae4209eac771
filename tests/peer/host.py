"""A host: honest, but for the one `quirk` it may have.

It plays `role` in this connection.  What it remembers of an earlier session
(`remembered`) it offers to resume as A, and recognises as B.
"""

from __future__ import annotations

import hashlib

from peer.frames import Frame, Reader, Refused, Writer
from peer.groups import WIRE_LEN, KeyPair
from peer.keys import Remembered, SessionSecret, extract, other
from peer.options import Sub, eno, find, negotiated, pad, read

INIT1_MAGIC = bytes.fromhex("15101a0e")
INIT2_MAGIC = bytes.fromhex("097105e0")
BEHIND_INIT = (
    "offset-behind-init",
    "offset-behind-init-and-rekey",
    "offset-behind-init-two-frames",
    "offset-behind-init-byte-by-byte",
    "offset-behind-init-forged",
)
"""The quirks that count a stream from the byte behind Init (open point E1)."""
WINDOW = 4
"""Indices ahead at which a passive host recognises a secret."""


class Host:
    data_prefix = b""
    """What precedes the identifier in a suboption that resumes."""

    def __init__(
        self,
        role: str,
        *,
        teps: tuple[int, ...] = (0x23,),
        aeads: tuple[int, ...] = (0x0001,),
        remembered: Remembered | None = None,
        nonce_len: int = 8,
        quirk: str = "",
        seed: str = "",
    ) -> None:
        self.role, self.teps, self.aeads, self.quirk = role, teps, aeads, quirk
        self.remembered, self.nonce_len = remembered, nonce_len
        self.resuming = False
        self.crossed = False
        """In a simultaneous open, whose resumptions both are offers: of a fresh exchange, too."""
        self.refusal: Refused | None = None
        self.frames: list[Frame] = []
        self._random_state = f"{role} {quirk} {seed}"
        self._drawn = 0
        self.own_option = self.peer_option = b""
        self.own_region = b""
        self.own_nonce = b""
        self._syn_form = b""

    def random(self, length: int) -> bytes:
        self._drawn += 1
        state = f"{self._random_state} {self._drawn}".encode()
        return hashlib.shake_256(state).digest(length)

    # --- RFC 8547 ------------------------------------------------------------------

    @property
    def global_byte(self) -> bytes:
        """Section 4.2: A may leave it out, B may not."""
        return b"\x01" if self.role == "B" else b""

    def syn_form(self) -> bytes:
        """The honest option for a SYN or SYN-ACK, the same each time (section 4.6)."""
        if not self._syn_form:
            chosen = self._offer() if self.role == "A" else self._answer()
            self._syn_form = eno(self.global_byte + chosen)
        return self._syn_form

    def _offer(self) -> bytes:
        if self.remembered is None:
            return b"".join(self.fresh(tep) for tep in self.teps)
        rest = bytes(tep for tep in self.teps if tep != self.remembered.tep)
        return rest + self.resumption()

    def _answer(self) -> bytes:
        offered = {sub.tep: sub for sub in read(self.peer_option)[1]}
        tep = next(tep for tep in self.teps if tep in offered)
        if self._recognises(offered[tep]):
            return self.resumption()
        return self.fresh(tep)

    def fresh(self, tep: int) -> bytes:
        """RFC 8548 section 3.2: the TEP alone."""
        return bytes([tep])

    def resumption(self) -> bytes:
        """RFC 8548 section 3.5: TEP with v = 1, own half, nonce."""
        kept = self.remembered
        self.own_nonce = self.own_nonce or self.random(self.nonce_len)
        half = kept.secret.half(kept.role)
        return bytes([kept.tep | 0x80]) + self.data_prefix + half + self.own_nonce

    def identifier(self, sub: Sub) -> bytes:
        """The half that a suboption shows; empty where it asks for no resumption."""
        data = sub.data or b""
        if not data.startswith(self.data_prefix):
            return b""
        data = data[len(self.data_prefix) :]
        return data[:9] if 9 <= len(data) <= 17 else b""

    def _recognises(self, sub: Sub) -> bool:
        """Whether the suboption asks for what is remembered, or for what follows it."""
        kept = self.remembered
        if kept is None or kept.tep != sub.tep or not self.identifier(sub):
            return False
        secret = kept.secret
        for _ in range(WINDOW):
            if secret.half(other(kept.role)) == self.identifier(sub):
                self.remembered = Remembered(secret, kept.role, kept.tep, kept.aead)
                return True
            secret = secret.following()
        return False

    def heard(self, region: bytes) -> None:
        """The other's SYN-form option."""
        self.peer_option = find(region)

    def says(self, region: bytes | None) -> bytes:
        """What goes into the own SYN; `region` is a lie to tell instead of the truth."""
        self.own_region = pad(self.syn_form()) if region is None else region
        return self.own_region

    def settle(self) -> None:
        """Sections 4.5 and 4.8: TEP, transcript, and whether to resume.

        Raises `Refused` if the two options agree on nothing.
        """
        self.own_option = find(self.own_region)
        a, b = self.own_option, self.peer_option
        if self.role == "B":
            a, b = b, a
        of_b = negotiated(a, b, self._valid)
        if of_b is None:
            raise Refused("the options agree on nothing")
        of_a = next(sub for sub in read(a)[1] if sub.tep == of_b.tep)
        self.tep, self.tep_byte = of_b.tep, of_b.byte
        self.transcript = a + b
        self.resuming = bool(self.identifier(of_b)) and self._resumes(of_a, of_b)
        if self.resuming:
            theirs = of_b if self.role == "A" else of_a
            self.peer_nonce = (theirs.data or b"")[len(self.data_prefix) + 9 :]

    def _valid(self, of_a: Sub, of_b: Sub) -> bool:
        if of_b.data is None or self.crossed:
            return True
        return self._resumes(of_a, of_b)

    def _resumes(self, of_a: Sub, of_b: Sub) -> bool:
        kept = self.remembered
        if kept is None or kept.tep != of_b.tep:
            return False
        halves = self.identifier(of_a), self.identifier(of_b)
        own, theirs = halves if self.role == "A" else halves[::-1]
        secret = kept.secret
        return own == secret.half(kept.role) and theirs == secret.half(other(kept.role))

    # --- RFC 8548 section 4.1 --------------------------------------------------------

    def init1(self) -> bytes:
        self.key = KeyPair(self.tep, self.random)
        ciphers = b"".join(aead.to_bytes(2, "big") for aead in self.aeads)
        rest = bytes([len(self.aeads)]) + ciphers + self.random(32) + self.key.wire
        return INIT1_MAGIC + (8 + len(rest)).to_bytes(4, "big") + rest

    def init2(self) -> bytes:
        """Behind `hear_init`: the choice among what A offers."""
        self.key = KeyPair(self.tep, self.random)
        self.aead = next(aead for aead in self.aeads if aead in self.offered)
        rest = self.aead.to_bytes(2, "big") + self.random(32) + self.key.wire
        return INIT2_MAGIC + (8 + len(rest)).to_bytes(4, "big") + rest

    @property
    def key_at(self) -> int:
        """Where the public key begins in the own Init message."""
        return 41 + 2 * len(self.aeads) if self.role == "A" else 42

    def hear_init(self, stream: bytes) -> bytes:
        """Read the other's Init message; returns what follows it."""
        magic = INIT1_MAGIC if self.role == "B" else INIT2_MAGIC
        if stream[:4] != magic:
            raise Refused("magic")
        length = int.from_bytes(stream[4:8], "big")
        at, key_len = 8, self.peer_key_len
        if self.role == "B":
            count = stream[8]
            ids = stream[9 : 9 + 2 * count]
            self.offered = [int.from_bytes(ids[i : i + 2], "big") for i in range(0, 2 * count, 2)]
            at = 9 + 2 * count
        else:
            self.aead = int.from_bytes(stream[8:10], "big")
            if self.aead not in self.aeads:
                raise Refused("AEAD")
            at = 10
        tail_at = at + 32 + key_len
        if not tail_at <= length <= len(stream):
            raise Refused("length")
        self.peer_init = stream[:length]
        self.peer_key = stream[at + 32 : tail_at]
        self.hear_tail(stream[tail_at:length])
        return stream[length:]

    @property
    def peer_key_len(self) -> int:
        return WIRE_LEN[self.tep]

    def hear_tail(self, tail: bytes) -> None:
        """Section 4.1: nothing is to be sent behind the key."""
        if tail:
            raise Refused("tail")

    # --- RFC 8548 sections 3.3 to 3.5 --------------------------------------------------

    def start_fresh(self, own_init: bytes) -> None:
        """Keys from the exchange; `own_init` as it went out."""
        init1, init2 = own_init, self.peer_init
        if self.role == "B":
            init1, init2 = init2, init1
        es = self.key.shared(self.peer_key)
        count = init1[8]
        n_a = init1[9 + 2 * count : 41 + 2 * count]
        prk = self._prk(n_a, self.transcript, init1, init2, es)
        self._start(SessionSecret(prk), b"", self.role, len(own_init), len(self.peer_init))

    def _prk(self, n_a: bytes, transcript: bytes, init1: bytes, init2: bytes, es: bytes) -> bytes:
        """PRK = Extract(N_A, eno_transcript | Init1 | Init2 | ES), or one of its misreadings."""
        own, theirs = self.own_option, self.peer_option
        a, b = (own, theirs) if self.role == "A" else (theirs, own)
        n_b, inits = init2[10:42], init1 + init2
        misread = {
            "prk-salted-with-n-b": (n_b, transcript + inits + es),
            "prk-salted-with-both-nonces": (n_a + n_b, transcript + inits + es),
            "prk-without-salt": (b"", transcript + inits + es),
            "prk-without-transcript": (n_a, inits + es),
            "prk-transcript-b-first": (n_a, b + a + inits + es),
            "prk-transcript-without-kind-and-length": (n_a, a[2:] + b[2:] + inits + es),
            "prk-transcript-padded": (n_a, pad(a) + pad(b) + inits + es),
            "prk-without-init1": (n_a, transcript + init2 + es),
            "prk-without-init2": (n_a, transcript + init1 + es),
            "prk-inits-swapped": (n_a, transcript + init2 + init1 + es),
            "prk-without-es": (n_a, transcript + inits),
            "prk-es-first": (n_a, es + transcript + inits),
            "prk-es-reversed": (n_a, transcript + inits + es[::-1]),
        }
        salt, ikm = misread.get(self.quirk, (n_a, transcript + inits + es))
        return extract(salt, ikm)

    def start_resumed(self) -> None:
        """Section 3.5: keys from ss[i] and both nonces, by the roles of old."""
        kept = self.remembered
        self.aead = kept.aead
        if self.quirk == "resumed-with-another-aead":
            self.aead = 0x0010
        nonces = self.own_nonce, self.peer_nonce
        if kept.role == "B":
            nonces = nonces[::-1]
        if self.quirk.endswith("resumed-nonces-swapped"):
            nonces = nonces[::-1]
        if self.quirk.endswith("resumed-without-nonces"):
            nonces = ()
        if self.quirk.endswith("resumed-with-own-nonce-alone"):
            nonces = (self.own_nonce,)
        sn = self.sn(b"".join(nonces))
        secret, role = kept.secret, kept.role
        if self.quirk == "resumed-under-the-previous-secret":
            secret = self.previous
        if self.quirk == "resumed-under-the-following-secret":
            secret = secret.following()
        if self.quirk == "resumed-keys-by-present-role":
            role = self.role
        self._start(secret, sn, role, 0, 0)
        if self.quirk == "resumed-offset-as-if-init-were-sent":
            self.writer.offset = 79

    def sn(self, nonces: bytes) -> bytes:
        return nonces

    def _start(self, secret: SessionSecret, sn: bytes, role: str, sent: int, received: int) -> None:
        self.session_id = secret.session_id(self.tep_byte, sn)
        mk = secret.master_key(sn)
        if self.quirk == "master-key-is-the-prk":
            mk = secret.ss
        sender = other(role) if self.quirk == "keys-of-the-other-direction" else role
        origin = {
            **dict.fromkeys(BEHIND_INIT, 0),
            "offset-one-too-high": sent + 1,
            "offset-one-too-low": sent - 1,
            "offset-counts-from-the-syn": sent + 1,
            "offset-of-the-peer": received,
            "offset-past-32-bits": sent + 2**32,
            "offset-past-63-bits": sent + 2**63,
        }.get(self.quirk, sent)
        self.writer = Writer(self.aead, sender, mk, origin, self.quirk)
        self.reader = Reader(self.aead, other(role), secret.master_key(sn), received, "")
        self.remembered = Remembered(secret.following(), role, self.tep, self.aead)
        self.previous = secret

    # --- RFC 8548 sections 3.6 to 3.8 --------------------------------------------------

    def read(self, stream: bytes) -> bytes:
        """Open what came; returns what section 3.8 makes this host answer at once."""
        answer = b""
        for frame in self.reader.feed(stream):
            self.frames.append(frame)
            if frame.rekey and self.reader.generation > self.writer.generation:
                answer += self.writer.frame(rekey=True)
        return answer

    @property
    def data(self) -> bytes:
        """The application data received so far."""
        return b"".join(frame.data for frame in self.frames)
