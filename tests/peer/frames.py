"""RFC 8548 sections 3.6 to 3.8: the frames of one direction."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from peer.keys import cprf

KEY_LEN = {0x0001: 16, 0x0002: 32, 0x0010: 32}
NR_LEN = 12
CONST = {"A": b"\x04", "B": b"\x05"}
"""CONST_KEY_A, under which original A encrypts, and CONST_KEY_B."""


class Refused(Exception):
    """The other host sent what this one has to refuse."""


@dataclass(frozen=True)
class Frame:
    control: int
    flags: int
    urgent: int | None
    data: bytes

    @property
    def rekey(self) -> bool:
        return bool(self.control & 1)

    @property
    def fin(self) -> bool:
        return bool(self.flags & 1)


class Direction:
    """Keys and position of one half of a connection."""

    def __init__(self, aead: int, sender: str, mk: bytes, offset: int, quirk: str) -> None:
        self.aead, self.sender, self.quirk = aead, sender, quirk
        self.masters = [mk]
        self.generation = 0
        self.offset = offset

    def traffic_key(self, generation: int) -> tuple[bytes, bytes]:
        """AEAD key and nonce randomizer of k_ab[j] or k_ba[j]."""
        while len(self.masters) <= generation:
            self.masters.append(cprf(self.masters[-1], self._rekey_info(), 32))
        key_len = KEY_LEN[self.aead]
        length = key_len + NR_LEN
        if self.quirk == "traffic-key-without-randomizer":
            return cprf(self.masters[generation], CONST[self.sender], key_len), bytes(NR_LEN)
        if self.quirk == "traffic-key-randomizer-first":
            key = cprf(self.masters[generation], CONST[self.sender], length)
            return key[NR_LEN:], key[:NR_LEN]
        key = cprf(self.masters[generation], CONST[self.sender], length)
        return key[:key_len], key[key_len:]

    def _rekey_info(self) -> bytes:
        return b"\x01" if self.quirk == "rekey-with-const-nextk" else b"\x03"

    def nonce(self, nr: bytes, offset: int) -> bytes:
        """Section 4.2.3: the frame ID XOR NR."""
        head, order = bytes(4), "big"
        if self.quirk == "nonce-with-frame-id-magic":
            head = b"DATA"
        if self.quirk == "nonce-offset-little-endian":
            order = "little"
        if self.quirk == "nonce-not-randomized":
            nr = bytes(12)
        frame_id = head + offset.to_bytes(8, order)
        if self.quirk == "nonce-offset-in-front":
            frame_id = offset.to_bytes(8, "big") + head
        return bytes(x ^ y for x, y in zip(frame_id, nr, strict=True))

    def cipher(self, generation: int):
        key, nr = self.traffic_key(generation)
        return (ChaCha20Poly1305 if self.aead == 0x0010 else AESGCM)(key), nr


class Writer(Direction):
    """Makes frames; each argument can be made to lie."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.application = 0
        """Bytes of data in the frames so far."""
        self.urgent: list[int] = []
        """Where in the application's stream urgent data ended (open point E6)."""

    def seal(
        self,
        plaintext: bytes,
        *,
        control: int = 0,
        offset: int | None = None,
        generation: int | None = None,
        aad: bytes | None = None,
        clen: int | None = None,
    ) -> bytes:
        """A frame with this plaintext, at the present position unless told otherwise."""
        cipher, nr = self.cipher(self.generation if generation is None else generation)
        length = len(plaintext) + 16
        header = bytes([control]) + (length if clen is None else clen).to_bytes(2, "big")
        if self.quirk == "aad-empty":
            aad = b""
        if self.quirk == "aad-without-control":
            aad = header[1:]
        if self.quirk == "aad-reserved-control-cleared":
            aad = bytes([control & 1]) + header[1:]
        nonce = self.nonce(nr, self.offset if offset is None else offset)
        out = header + cipher.encrypt(nonce, plaintext, header if aad is None else aad)
        if self.quirk != "offset-counts-application-bytes":
            self.offset += len(out)
        else:
            self.offset += len(plaintext) - 1
        return out

    def frame(
        self,
        data: bytes = b"",
        *,
        fin: bool = False,
        urgent: int | None = None,
        rekey: bool = False,
    ) -> bytes:
        """An honest frame; `rekey` goes to the next generation first (section 3.8)."""
        if rekey:
            self.generation += 1
        if rekey and self.quirk == "rekey-restarts-the-offset":
            self.offset = 0
        flags = (1 if fin else 0) | (0 if urgent is None else 2)
        if urgent is not None:
            self.urgent.append(self.application + urgent)
        self.application += len(data)
        field = b"" if urgent is None else urgent.to_bytes(2, "big")
        return self.seal(bytes([flags]) + field + data, control=1 if rekey else 0)


class Reader(Direction):
    """Opens the other's frames."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.stream = b""
        self.finished = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now.  Raises `Refused`."""
        self.stream += data
        found = []
        while len(self.stream) >= 3:
            length = int.from_bytes(self.stream[1:3], "big")
            if length < 17:
                raise Refused("clen")
            if len(self.stream) < 3 + length:
                break
            found.append(self._open(self.stream[: 3 + length]))
            self.stream = self.stream[3 + length :]
        return found

    def _open(self, wire: bytes) -> Frame:
        if self.finished:
            raise Refused("frame after FINp")
        control = wire[0]
        generation = self.generation + (control & 1)
        cipher, nr = self.cipher(generation)
        try:
            plain = cipher.decrypt(self.nonce(nr, self.offset), wire[3:], wire[:3])
        except InvalidTag:
            raise Refused("tag") from None
        self.generation = generation
        self.offset += len(wire)
        if control & 0xFE or plain[0] & 0xFC:
            raise Refused("reserved bits are sent as zero")
        self.finished = bool(plain[0] & 1)
        if plain[0] & 2:
            return Frame(control, plain[0], int.from_bytes(plain[1:3], "big"), plain[3:])
        return Frame(control, plain[0], None, plain[1:])
