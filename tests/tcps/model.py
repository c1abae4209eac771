"""The TCP/S kernel module as its published design has it, faults included.

Written from that alone: it imports nothing of tcpcrypt, and computes what it
can in another way (the tag in limbs of 26 bits, as the module does).  Packets
are IPv4, as bytes; `local_out` and `pre_routing` are the module's two hooks and
give the packet that goes on, or None where it is dropped.
"""

import os
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

FIN, SYN, RST, ACK = 1, 2, 4, 16
MASK32 = (1 << 32) - 1
MASK26 = (1 << 26) - 1


def keystream(key, position, length):
    block, skip = divmod(position, 64)
    nonce = struct.pack("<QQ", block, 0)
    encryptor = Cipher(algorithms.ChaCha20(key, nonce), None).encryptor()
    return encryptor.update(bytes(skip + length))[skip:]


def xor(one, other):
    return bytes(x ^ y for x, y in zip(one, other, strict=True))


def kdf(shared, position, label, number, isns):
    block = bytearray(64)
    block[: len(label)] = label
    struct.pack_into(">IIB", block, 32, *isns, number)
    return xor(block, keystream(shared, position, 64))[:32]


def limbs(number):
    return [(number >> 26 * i) & MASK26 for i in range(5)]


def tag(key, position, flags, ciphertext):
    """Like poly1305-donna-32, up to its end."""
    clamped = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    r, h = limbs(clamped), [0] * 5

    def block(octets, high):
        number = int.from_bytes(octets, "little") + (high << 128)
        a = [x + y for x, y in zip(h, limbs(number), strict=True)]
        d = [
            sum(a[j] * (r[i - j] if j <= i else 5 * r[5 + i - j]) for j in range(5))
            for i in range(5)
        ]
        for i in range(4):
            d[i + 1] += d[i] >> 26
            d[i] &= MASK26
        d[0] += 5 * (d[4] >> 26)
        d[4] &= MASK26
        for i in range(4):
            d[i + 1] += d[i] >> 26
            d[i] &= MASK26
        h[:] = d

    block(struct.pack("<QBB", position, flags, 1) + bytes(6), 0)
    for at in range(0, len(ciphertext), 16):
        part = ciphertext[at : at + 16]
        if len(part) == 16:
            block(part, 1)
        else:
            block((part + b"\x01").ljust(16, b"\0"), 0)
    block(struct.pack("<QQ", 8, len(ciphertext)), 1)
    out, carry = b"", 0
    for limb, word in zip(h[:4], struct.unpack("<4I", key[16:]), strict=True):
        carry = limb + word + (carry >> 32)
        out += struct.pack("<I", carry & MASK32)
    return out


def checksum(octets):
    octets += bytes(len(octets) % 2)
    total = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Packet:
    def __init__(self, octets):
        octets = bytes(octets)
        self.ip = bytearray(octets[: (octets[0] & 15) * 4])
        rest = octets[len(self.ip) : int.from_bytes(octets[2:4], "big")]
        doff = (rest[12] >> 4) * 4
        self.tcp, self.options, self.payload = bytearray(rest[:20]), rest[20:doff], rest[doff:]
        self.sport, self.dport, self.seq, self.ack = struct.unpack_from(">HHII", self.tcp)
        self.source, self.destination = bytes(self.ip[12:16]), bytes(self.ip[16:20])

    @property
    def flags(self):
        return self.tcp[13]

    @property
    def key(self):
        ends = (self.source, self.sport), (self.destination, self.dport)
        return min(ends), max(ends)

    def find(self, magic, length):
        at = 0
        while at < len(self.options) and (kind := self.options[at]):
            if kind == 1:
                at += 1
                continue
            size = self.options[at + 1] if at + 1 < len(self.options) else 0
            if size < 2:
                return None
            option = self.options[at : at + size]
            if option[:4] == bytes((253, length)) + magic and len(option) == length:
                return option[4:]
            at += size
        return None

    def build(self):
        self.tcp[12] = (5 + len(self.options) // 4) << 4 | self.tcp[12] & 15
        struct.pack_into(">H", self.tcp, 16, 0)
        tcp = bytes(self.tcp) + self.options + self.payload
        pseudo = self.source + self.destination + struct.pack(">HH", 6, len(tcp))
        struct.pack_into(">H", self.tcp, 16, checksum(pseudo + tcp))
        struct.pack_into(">H", self.ip, 2, len(self.ip) + len(tcp))
        struct.pack_into(">H", self.ip, 10, 0)
        struct.pack_into(">H", self.ip, 10, checksum(bytes(self.ip)))
        return bytes(self.ip) + bytes(self.tcp) + self.options + self.payload


@dataclass
class Stream:
    isn: int = 0
    wrap: int = 0
    highest: int = 0
    fin: bool = False

    def position(self, seq):
        position = (self.wrap << 32) + ((seq - self.isn - 1) & MASK32)
        if self.highest > 0 and position + 2**31 < self.highest:
            self.wrap += 1
            position += 2**32
        self.highest = max(self.highest, position)
        return position


@dataclass
class Entry:
    state: str
    client: bool
    private: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    c2s: Stream = field(default_factory=Stream)
    s2c: Stream = field(default_factory=Stream)
    peer: bytes = b""
    keys: dict = field(default_factory=dict)
    identified: bool = False

    @property
    def out(self):
        return self.c2s if self.client else self.s2c

    @property
    def into(self):
        return self.s2c if self.client else self.c2s

    def name(self, outgoing):
        return "c2s" if self.client == outgoing else "s2c"

    @property
    def public(self):
        return self.private.public_key().public_bytes_raw()

    def derive(self):
        try:
            shared = self.private.exchange(X25519PublicKey.from_public_bytes(self.peer))
        except ValueError:
            self.state = "DEAD"
            return
        names = (b"TCPS enc_c2s", b"TCPS enc_s2c", b"TCPS mac_c2s", b"TCPS mac_s2c")
        for i, name in enumerate(names):
            numbers = self.c2s.isn, self.s2c.isn
            self.keys[name[5:].decode()] = kdf(shared, 2**63 + 64 * i, name, i + 1, numbers)
        self.state = "ENCRYPTED"


class Module:
    """One host with the module loaded."""

    def __init__(self, enforce=0, tofu_enforce=1):
        self.enforce, self.tofu_enforce = enforce, tofu_enforce
        self.static = X25519PrivateKey.from_private_bytes(os.urandom(32))
        self.tofu = {}
        self.entries = {}
        self.failures = 0

    @property
    def states(self):
        return [entry.state for entry in self.entries.values()]

    @property
    def public(self):
        return self.static.public_key().public_bytes_raw()

    def auth_tag(self, peer, entry, is_client):
        shared = self.static.exchange(X25519PublicKey.from_public_bytes(peer))
        said = (
            struct.pack(">II", entry.c2s.isn, entry.s2c.isn) + b"TAUT" + bytes((is_client, 0, 0, 0))
        )
        return xor(said, keystream(shared, 3 << 62, 16))[:4]

    # --- out -------------------------------------------------------------------

    def local_out(self, octets):
        packet = Packet(octets)
        entry, flags = self.entries.get(packet.key), packet.flags
        if flags & SYN and not flags & ACK:
            if entry is None or entry.state == "DEAD":
                entry = self.entries[packet.key] = Entry("SYN_SENT", True)
                entry.c2s.isn = packet.seq
            if entry.state == "SYN_SENT":
                return self.with_key(packet, entry)
            return octets
        if entry is None or entry.state == "DEAD":
            return octets
        if flags & SYN:
            if entry.state == "SYN_RECV":
                entry.s2c.isn = packet.seq
                entry.derive()
                return self.with_key(packet, entry)
            return octets  # repeated: without its key
        if entry.state not in ("ENCRYPTED", "AUTHENTICATED"):
            return octets
        if flags & RST:
            entry.state = "DEAD"
            return octets
        if packet.payload or flags & FIN:
            return self.protect(packet, entry)
        if entry.state == "ENCRYPTED" and not entry.identified:
            known = self.tofu.get(packet.destination)
            tag4 = self.auth_tag(known, entry, entry.client) if known else bytes(4)
            packet.options = b"\xfd\x28TI" + self.public + tag4
            return packet.build()
        return octets

    def with_key(self, packet, entry):
        kept = b""
        found = {}
        at = 0
        while at < len(packet.options) and (kind := packet.options[at]):
            size = 1 if kind == 1 else packet.options[at + 1]
            found.setdefault(kind, packet.options[at : at + size])
            at += size
        if 2 in found:
            mss = int.from_bytes(found[2][2:], "big")
            kept = b"\x02\x04" + struct.pack(">H", mss - 20 if mss > 20 else mss)
        elif 4 in found:
            kept = found[4]
        elif 3 in found:
            kept = found[3]
        options = kept + b"\xfd\x24TC" + entry.public
        packet.options = options + b"\x01" * (-len(options) % 4)
        return packet.build()

    def protect(self, packet, entry):
        name = entry.name(True)
        position = entry.out.position(packet.seq)
        stream = keystream(entry.keys["enc_" + name], position, len(packet.payload))
        packet.payload = xor(packet.payload, stream)
        key = keystream(entry.keys["mac_" + name], 2**62 + position, 32)
        if len(packet.options) + 20 > 40:
            return None
        made = tag(key, position, packet.flags, packet.payload)
        packet.options += b"\xfd\x14TM" + made
        if packet.flags & FIN:
            entry.out.fin = True
            self.both(entry)
        return packet.build()

    @staticmethod
    def both(entry):
        if entry.c2s.fin and entry.s2c.fin:
            entry.state = "DEAD"

    # --- in --------------------------------------------------------------------

    def pre_routing(self, octets):
        packet = Packet(octets)
        entry, flags = self.entries.get(packet.key), packet.flags
        if flags & SYN and not flags & ACK:
            offered = packet.find(b"TC", 36)
            if offered is None:
                return None if self.enforce else octets
            if entry is None or entry.state == "DEAD":
                entry = self.entries[packet.key] = Entry("SYN_RECV", False, peer=offered)
                entry.c2s.isn = packet.seq
            return octets
        if entry is None or entry.state == "DEAD":
            return octets
        if flags & SYN:
            if entry.state == "SYN_SENT":
                offered = packet.find(b"TC", 36)
                if offered is None:
                    entry.state = "DEAD"
                    return None if self.enforce else octets
                entry.s2c.isn, entry.peer = packet.seq, offered
                entry.derive()
            return octets
        if entry.state not in ("ENCRYPTED", "AUTHENTICATED"):
            return octets
        if flags & RST:
            return None
        if entry.state == "ENCRYPTED" and not entry.identified:
            shown = packet.find(b"TI", 40)
            if shown is not None and not self.identify(packet, entry, shown):
                self.failures += 1
                entry.state = "DEAD"
                return None
        if packet.payload or flags & FIN:
            return self.verify(packet, entry)
        return octets

    def identify(self, packet, entry, shown):
        entry.identified = True
        public, said = shown[:32], shown[32:]
        known = self.tofu.setdefault(packet.source, public)
        fresh = known is public
        good = fresh or (known == public and said == self.auth_tag(public, entry, not entry.client))
        if not good and self.tofu_enforce:
            return False
        entry.state = "AUTHENTICATED"
        return True

    def verify(self, packet, entry):
        name = entry.name(False)
        position = entry.into.position(packet.seq)
        key = keystream(entry.keys["mac_" + name], 2**62 + position, 32)
        said = packet.find(b"TM", 20)
        if said is None or said != tag(key, position, packet.flags, packet.payload):
            self.failures += 1
            return None
        stream = keystream(entry.keys["enc_" + name], position, len(packet.payload))
        packet.payload = xor(packet.payload, stream)
        if packet.flags & FIN:
            entry.into.fin = True
            self.both(entry)
        return packet.build()
