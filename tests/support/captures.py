"""Captures of connections that two hosts in memory make, as an eavesdropper's file.

`Tape` records segments; what a network does to them (order, loss, copies) is done
to the list; scapy builds the packets and writes the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter, RawPcapWriter

from support.hosts import ROOM, Host, region
from tcpcrypt.core.events import DataReceived
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.core.negotiation import Negotiated, Negotiation, Opener
from tcpcrypt.core.session import Session

MSS = 1400
CLIENT, SERVER = ("192.0.2.1", 40000), ("192.0.2.7", 80)
CLIENT6, SERVER6 = ("2001:db8::1", 40000), ("2001:db8::7", 80)
MAC = {True: "02:00:00:00:00:01", False: "02:00:00:00:00:02"}
ETHERNET = 1


@dataclass(frozen=True)
class Sent:
    """One captured segment; sequence numbers are absolute."""

    from_client: bool
    flags: str
    seq: int
    ack: int
    options: bytes = b""
    payload: bytes = b""


@dataclass
class Tape:
    """The segments of one connection, in the order in which they were captured."""

    client: tuple[str, int] = CLIENT
    server: tuple[str, int] = SERVER
    isn: dict[bool, int] = field(default_factory=lambda: {True: 1000, False: 0xFFFFFF00})
    sent: list[Sent] = field(default_factory=list)
    mss: int = MSS
    ack_options: bytes = b""
    """For the client's next segment without SYN."""

    def __post_init__(self) -> None:
        self.next = {side: (isn + 1) % 2**32 for side, isn in self.isn.items()}

    def syn(self, options: bytes, *, from_client: bool = True, ack: bool = False,
            data: bytes = b"") -> None:  # fmt: skip
        acked = self.next[not from_client] if ack else 0
        self.sent.append(
            Sent(from_client, "SA" if ack else "S", self.isn[from_client], acked, region(options),
                 data)
        )  # fmt: skip

    def say(self, from_client: bool, data: bytes, flags: str = "A") -> None:
        """Data, in segments; without data one segment."""
        for at in range(0, max(len(data), 1), self.mss):
            options = b""
            if from_client:
                options, self.ack_options = self.ack_options, b""
            self.sent.append(
                Sent(from_client, flags, self.next[from_client], self.next[not from_client],
                     region(options), data[at : at + self.mss])
            )  # fmt: skip
            self.next[from_client] = (
                self.next[from_client] + len(data[at : at + self.mss])
            ) % 2**32

    def fin(self, from_client: bool) -> None:
        self.say(from_client, b"", "FA")
        self.next[from_client] = (self.next[from_client] + 1) % 2**32

    def packets(self) -> list[bytes]:
        return [self.packet(sent) for sent in self.sent]

    def packet(self, sent: Sent) -> bytes:
        """From the IP header on."""
        source, destination = (
            (self.client, self.server) if sent.from_client else (self.server, self.client)
        )
        ip = (IPv6 if ":" in source[0] else IP)(src=source[0], dst=destination[0])
        tcp = TCP(sport=source[1], dport=destination[1], flags=sent.flags, seq=sent.seq,
                  ack=sent.ack, options=options_of(sent.options))  # fmt: skip
        return bytes(ip / tcp / sent.payload)


def options_of(octets: bytes) -> list[tuple[Any, Any]]:
    """Raw options as scapy takes them."""
    found: list[tuple[Any, Any]] = []
    while octets:
        if octets[0] < 2:
            found.append(("NOP" if octets[0] else "EOL", None))
            octets = octets[1:]
        else:
            found.append((octets[0], octets[2 : octets[1]]))
            octets = octets[octets[1] :]
    return found


def ethernet(packet: bytes, from_client: bool = True) -> bytes:
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    return bytes(Ether(src=MAC[from_client], dst=MAC[not from_client], type=kind)) + packet


def write(path: Path, packets: Iterable[bytes], *, link_type: int = ETHERNET,
          frame: Callable[[bytes], bytes] = ethernet, nano: bool = False) -> Path:  # fmt: skip
    """A pcap file of IP packets."""
    with RawPcapWriter(str(path), linktype=link_type, nano=nano) as writer:
        writer.write_header(None)
        for number, packet in enumerate(packets):
            data = frame(packet)
            sec, usec = divmod(number, 1000)
            writer.write_packet(data, sec=sec, usec=usec, caplen=len(data), wirelen=len(data))
    # scapy takes link type 0 for none.
    octets = bytearray(path.read_bytes())
    octets[20:24] = link_type.to_bytes(4, "little")
    path.write_bytes(octets)
    return path


def write_ng(path: Path, packets: Iterable[bytes]) -> Path:
    """A pcapng file of IP packets."""
    with PcapNgWriter(str(path)) as writer:
        for packet in packets:
            writer.write(Ether(ethernet(packet)))
    return path


@dataclass
class Recorded:
    """A connection in memory, on tape, with its key log and what each side received."""

    tape: Tape
    one: Session
    other: Session
    lines: list[str]
    heard: dict[bool, bytearray] = field(
        default_factory=lambda: {True: bytearray(), False: bytearray()}
    )
    """By sender: True what the client said."""

    def carry(self) -> None:
        """Every byte to the other side, and onto the tape."""
        for _ in range(100):
            quiet = True
            for from_client, sender, receiver in (
                (True, self.one, self.other),
                (False, self.other, self.one),
            ):
                while octets := bytes(sender.bytes_to_send()):
                    quiet = False
                    self.tape.say(from_client, octets, "PA")
                    receiver.receive_data(octets)
                while (event := receiver.next_event()) is not None:
                    if isinstance(event, DataReceived):
                        self.heard[from_client] += bytes(event.data)
            if quiet:
                return
        raise AssertionError("the two sessions never fall silent")

    def say(self, from_client: bool, data: bytes) -> None:
        (self.one if from_client else self.other).send_data(data)
        self.carry()

    def close(self) -> None:
        """Both finish, FINp first where the profile has it."""
        for from_client, session in ((True, self.one), (False, self.other)):
            session.finish()
            self.carry()
            self.tape.fin(from_client)

    @property
    def packets(self) -> list[bytes]:
        return self.tape.packets()


def record(client: Host, server: Host, *, tape: Tape | None = None, **more: Any) -> Recorded:
    """A connection of two hosts up to its keys; see `Recorded`."""
    tape = tape or Tape()
    lines: list[str] = []
    active = client.negotiation(Opener.ACTIVE)
    passive = server.negotiation(Opener.PASSIVE)
    handshake(tape, active, passive)
    assert isinstance(active.outcome, Negotiated), active.outcome
    assert isinstance(passive.outcome, Negotiated), passive.outcome

    def log(line: KeyLine) -> None:
        lines.append(line.build())

    recorded = Recorded(
        tape, client.session(active, key_log=log, **more), server.session(passive, **more), lines
    )
    recorded.carry()
    return recorded


def handshake(tape: Tape, active: Negotiation, passive: Negotiation) -> None:
    """Three-way, onto the tape; the third ACK is a segment of its own."""
    option = active.option_to_send(syn=True, ack=False, room=ROOM)
    tape.syn(option)
    passive.segment_received(syn=True, ack=False, options=region(option))
    option = passive.option_to_send(syn=True, ack=True, room=ROOM)
    tape.syn(option, from_client=False, ack=True)
    active.segment_received(syn=True, ack=True, options=region(option))
    tape.ack_options = option = active.option_to_send(syn=False, ack=True, room=ROOM)
    passive.segment_received(syn=False, ack=True, options=region(option))
    tape.say(True, b"")


def altered(sent: Sent, at: int, flip: int = 1) -> Sent:
    """The segment with one byte of its payload changed."""
    payload = bytearray(sent.payload)
    payload[at] ^= flip
    return replace(sent, payload=bytes(payload))
