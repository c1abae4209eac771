"""TCP-ENO and tcpcrypt as scapy layers: to look at what is there, and to make what is not.

```python
from scapy.all import IP, TCP
from tcpcrypt.contrib.scapy import ENO, EnoGlobal, EnoTep, Init1, eno_of, split

syn = IP(dst="192.0.2.7") / TCP(flags="S", options=[ENO(suboptions=[EnoTep(tep=0x23)]).option()])
eno_of(syn).show()          # the suboptions of any TCP header that has option 69
split(stream)               # Init1 or Init2 and the frames at the start of a TCP stream
```

RFC 8547 section 4.1: suboptions are a list, of which each item is an `EnoGlobal` (a byte
below 0x20), an `EnoTep` (bit v = 0), an `EnoSized` (a length byte, then v = 1) or an
`EnoLast` (v = 1, data up to the end).  RFC 8548 section 4: `Init1`, `Init2`, `Frame`, and
with a `TrafficKey` the `FramePlaintext` in it.

What a field does not say is computed (lengths); what it says is sent, however wrong, for
this is a tool of tests.  Needs scapy: pip install 'tcpcrypt[decode]'.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

# It warns at import of networks that this machine does not have.
logging.getLogger("scapy").setLevel(logging.ERROR)

from cryptography.exceptions import InvalidTag  # noqa: E402
from scapy.fields import (  # noqa: E402
    BitField,
    BitFieldLenField,
    ByteEnumField,
    ConditionalField,
    FieldLenField,
    FieldListField,
    IntField,
    PacketListField,
    ShortEnumField,
    ShortField,
    StrField,
    StrFixedLenField,
    StrLenField,
    XIntField,
)
from scapy.layers.inet import TCP, TCPOptions  # noqa: E402
from scapy.packet import Packet, Raw  # noqa: E402

from tcpcrypt.crypto.aead import aead as parameters_of  # noqa: E402
from tcpcrypt.crypto.schedule import SessionSecret  # noqa: E402
from tcpcrypt.crypto.secret import Secret  # noqa: E402
from tcpcrypt.errors import IntegrityError, LocalError, PeerError, PeerReason  # noqa: E402
from tcpcrypt.registry import (  # noqa: E402
    ENO_EXID,
    FRAME_HEADER_LEN,
    INIT1_MAGIC,
    INIT2_MAGIC,
    NONCE_LEN,
    SUBOPTION_V,
    TCP_OPTION_ENO,
    TCP_OPTION_EXPERIMENT,
    TEP_FIRST,
    AeadId,
    Tep,
)
from tcpcrypt.wire.messages import message_length  # noqa: E402
from tcpcrypt.wire.profile import RFC8548, NonceForm, WireProfile  # noqa: E402

__all__ = [
    "ENO",
    "EnoGlobal",
    "EnoLast",
    "EnoSized",
    "EnoTep",
    "Frame",
    "FramePlaintext",
    "Init1",
    "Init2",
    "TrafficKey",
    "eno_of",
    "split",
    "traffic_keys",
]

_TEPS: Final = {int(tep): tep.name for tep in Tep}
_TEPS_V: Final = {SUBOPTION_V | tep: f"{name}+v" for tep, name in _TEPS.items()}
_AEADS: Final = {int(identifier): identifier.name for identifier in AeadId}
_SIZED_END: Final = SUBOPTION_V | TEP_FIRST
"""Bytes from 0x80 up to here announce a length."""
_OPTION_NAME: Final = "ENO"
_INIT_MAX: Final = 1 << 20

TCPOptions[0][TCP_OPTION_ENO] = (_OPTION_NAME, None)
TCPOptions[1][_OPTION_NAME] = TCP_OPTION_ENO


class _Part(Packet):
    """A layer behind which the next one of the same list stands."""

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        return b"", s


# --- RFC 8547 section 4: the option -----------------------------------------------------


class EnoGlobal(_Part):
    """RFC 8547 section 4.2: a global suboption."""

    name = "Global suboption"
    fields_desc: ClassVar[list[Any]] = [
        BitField("prefix", 0, 3),
        BitField("reserved", 0, 3),
        BitField("a", 0, 1),
        BitField("b", 0, 1),
    ]


class EnoTep(_Part):
    """RFC 8547 section 4.1: a TEP identifier alone, bit v = 0."""

    name = "TEP"
    fields_desc: ClassVar[list[Any]] = [ByteEnumField("tep", int(Tep.ECDHE_CURVE25519), _TEPS)]


class EnoSized(_Part):
    """RFC 8547 section 4.1: a length byte, a TEP identifier with v = 1, 1 to 32 bytes of data."""

    name = "TEP with data"
    fields_desc: ClassVar[list[Any]] = [
        BitField("marker", 4, 3),
        BitFieldLenField("size", None, 5, length_of="data", adjust=lambda _pkt, n: n - 1),
        ByteEnumField("tep", SUBOPTION_V | Tep.ECDHE_CURVE25519, _TEPS_V),
        StrLenField("data", b"", length_from=lambda pkt: pkt.size + 1),
    ]


class EnoLast(_Part):
    """RFC 8547 section 4.1: a TEP identifier with v = 1, and data to the end of the option."""

    name = "TEP with the rest as data"
    fields_desc: ClassVar[list[Any]] = [
        ByteEnumField("tep", SUBOPTION_V | Tep.ECDHE_CURVE25519, _TEPS_V),
        StrField("data", b""),
    ]


def _next_suboption(_packet: Any, _before: Any, _last: Any, rest: bytes) -> type[Packet] | None:
    if not rest:
        return None
    if rest[0] < TEP_FIRST:
        return EnoGlobal
    if rest[0] < SUBOPTION_V:
        return EnoTep
    if rest[0] >= _SIZED_END:
        return EnoLast
    whole = 2 + rest[0] - SUBOPTION_V + 1
    # Section 4.4: ill-formed, and no suboption.
    return EnoSized if len(rest) >= whole and rest[1] >= _SIZED_END else Raw


class ENO(Packet):
    """RFC 8547 section 4.1: what follows kind and length; empty in the non-SYN form.

    What is ill-formed (section 4.4) ends the list as `Raw`.
    """

    name = "TCP-ENO"
    fields_desc: ClassVar[list[Any]] = [
        PacketListField("suboptions", [], next_cls_cb=_next_suboption)
    ]

    def option(self) -> tuple[str, bytes]:
        """An item of the `options` of scapy's `TCP`."""
        return _OPTION_NAME, bytes(self)


def eno_of(packet: Packet) -> ENO | None:
    """The first ENO option of a packet, of kind 69 or in its experimental form; None: none."""
    if TCP not in packet:
        return None
    for kind, data in packet[TCP].options:
        if kind in (_OPTION_NAME, TCP_OPTION_ENO):
            return ENO(data)
        if kind == TCP_OPTION_EXPERIMENT and data.startswith(ENO_EXID):
            return ENO(data[len(ENO_EXID) :])
    return None


# --- RFC 8548 section 4.1: Init1 and Init2 ----------------------------------------------


class Init1(_Part):
    """RFC 8548 section 4.1: host A's message.

    `public` is all that follows the nonce: Pub_A, and what its TEP ignores or adds.
    """

    name = "Init1"
    fields_desc: ClassVar[list[Any]] = [
        XIntField("magic", int.from_bytes(INIT1_MAGIC, "big")),
        IntField("message_len", None),
        FieldLenField("nciphers", None, fmt="B", count_of="sym_ciphers"),
        FieldListField(
            "sym_ciphers",
            [],
            ShortEnumField("sym_cipher", 0, _AEADS),
            count_from=lambda pkt: pkt.nciphers,
        ),
        StrFixedLenField("nonce", bytes(NONCE_LEN), NONCE_LEN),
        StrLenField(
            "public",
            b"",
            length_from=lambda pkt: max(0, pkt.message_len - 9 - 2 * pkt.nciphers - NONCE_LEN),
        ),
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        return _with_length(self, pkt) + pay


class Init2(_Part):
    """RFC 8548 section 4.1: host B's message; `public` as in `Init1`."""

    name = "Init2"
    fields_desc: ClassVar[list[Any]] = [
        XIntField("magic", int.from_bytes(INIT2_MAGIC, "big")),
        IntField("message_len", None),
        ShortEnumField("sym_cipher", int(AeadId.AES_128_GCM), _AEADS),
        StrFixedLenField("nonce", bytes(NONCE_LEN), NONCE_LEN),
        StrLenField(
            "public", b"", length_from=lambda pkt: max(0, pkt.message_len - 10 - NONCE_LEN)
        ),
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        return _with_length(self, pkt) + pay


def _with_length(message: Packet, octets: bytes) -> bytes:
    if message.message_len is None:
        return octets[:4] + len(octets).to_bytes(4, "big") + octets[8:]
    return octets


# --- RFC 8548 section 4.2: frames -------------------------------------------------------


class Frame(_Part):
    """RFC 8548 section 4.2.1: control byte, `clen`, ciphertext with its tag."""

    name = "Encryption frame"
    fields_desc: ClassVar[list[Any]] = [
        BitField("reserved", 0, 7),
        BitField("rekey", 0, 1),
        FieldLenField("clen", None, fmt="H", length_of="ciphertext"),
        StrLenField("ciphertext", b"", length_from=lambda pkt: pkt.clen),
    ]


class FramePlaintext(_Part):
    """RFC 8548 section 4.2.2: what a frame protects."""

    name = "Frame plaintext"
    fields_desc: ClassVar[list[Any]] = [
        BitField("reserved", 0, 6),
        BitField("URGp", 0, 1),
        BitField("FINp", 0, 1),
        ConditionalField(ShortField("urgent", 0), lambda pkt: pkt.URGp == 1),
        StrField("data", b""),
    ]


@dataclass(frozen=True, slots=True)
class TrafficKey:
    """RFC 8548 section 3.3: k_ab[j] or k_ba[j], for what it seals and opens.

    `offset` is that of the frame's first byte in the TCP stream of its sender, as the
    profile counts it (section 4.2.3).
    """

    aead: int
    key: bytes = field(repr=False)
    """AEAD key and nonce randomizer."""
    profile: WireProfile = RFC8548

    def open(self, frame: Frame, offset: int) -> FramePlaintext:
        """The plaintext.  Raises `IntegrityError` for a tag that is wrong."""
        head, ciphertext = bytes(frame)[:FRAME_HEADER_LEN], bytes(frame)[FRAME_HEADER_LEN:]
        cipher, nonce = self._cipher(offset)
        try:
            return FramePlaintext(cipher.decrypt(nonce, ciphertext, head))
        except InvalidTag as error:
            raise IntegrityError(PeerReason.FRAME_TAG) from error

    def seal(self, plaintext: FramePlaintext, offset: int, **fields: int) -> Frame:
        """A frame; `fields` are those of its header that are not to be computed."""
        octets = bytes(plaintext)
        tag_len = parameters_of(self.aead).tag_len
        frame = Frame(clen=len(octets) + tag_len)
        for name, value in fields.items():
            setattr(frame, name, value)
        cipher, nonce = self._cipher(offset)
        frame.ciphertext = cipher.encrypt(nonce, octets, bytes(frame)[:FRAME_HEADER_LEN])
        return frame

    def _cipher(self, offset: int) -> tuple[Any, bytes]:
        """Section 4.2.3: the cipher and the nonce of a frame."""
        parameters = parameters_of(self.aead)
        if len(self.key) != parameters.traffic_key_len:
            raise LocalError(f"{parameters.name} has keys of {parameters.traffic_key_len} bytes")
        cipher = parameters.construct(self.key[: parameters.key_len])
        if self.profile.nonce_form is NonceForm.LITTLE_ENDIAN_8:
            return cipher, offset.to_bytes(8, "little")
        randomizer = int.from_bytes(self.key[parameters.key_len :], "big")
        return cipher, (randomizer ^ offset).to_bytes(parameters.nonce_len, "big")


def traffic_keys(
    ss: bytes, tep_byte: int, aead: int, *, sn: bytes = b"", generation: int = 0,
    profile: WireProfile = RFC8548,
) -> tuple[TrafficKey, TrafficKey]:  # fmt: skip
    """RFC 8548 sections 3.3, 3.5 and 3.8: k_ab[j] and k_ba[j] from ss[i], as key logs have it.

    `sn` is empty in a fresh session.  Raises `LocalError` for values that cannot be.
    """
    secret = SessionSecret(Secret(ss), 1 if sn else 0)
    _session_id, master, following = secret.use(tep_byte, sn)
    following.wipe()
    for _ in range(generation):
        master = master.advance()
    keys = master.traffic_keys(parameters_of(aead))
    master.wipe()
    ab, ba = (TrafficKey(aead, bytes(key.view()), profile) for key in (keys.ab, keys.ba))
    keys.wipe()
    return ab, ba


def split(stream: bytes) -> list[Packet]:
    """What lies at the start of a TCP stream: an Init message if there is one, then frames.

    Bytes that are not a whole one end the list as `Raw`.
    """
    found: list[Packet] = []
    for magic, layer in ((INIT1_MAGIC, Init1), (INIT2_MAGIC, Init2)):
        if stream.startswith(magic):
            length = _init_len(stream, magic)
            if length is None:
                return [Raw(stream)]
            found.append(layer(stream[:length]))
            stream = stream[length:]
            break
    while len(stream) >= FRAME_HEADER_LEN:
        whole = FRAME_HEADER_LEN + int.from_bytes(stream[1:FRAME_HEADER_LEN], "big")
        if len(stream) < whole:
            break
        found.append(Frame(stream[:whole]))
        stream = stream[whole:]
    return [*found, Raw(stream)] if stream else found


def _init_len(stream: bytes, magic: bytes) -> int | None:
    """Of the Init message at the start; None: it is not there as a whole, or malformed."""
    try:
        length = message_length(stream, magic, _INIT_MAX)
    except PeerError:
        return None
    return None if length is None or length > len(stream) else length
