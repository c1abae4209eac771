"""Capture files: formats, link types, and what is no capture."""

import gzip
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from support.captures import CLIENT6, SERVER6, Tape, ethernet, record, write, write_ng
from support.decoding import check, decode, store, talk
from support.hosts import Host

from tcpcrypt.tools.decode import capture
from tcpcrypt.tools.decode.capture import CaptureError, read_capture
from tcpcrypt.tools.decode.link import ip_packet


def tagged(*kinds: int):
    """Ethernet with VLAN tags in front of the packet."""

    def frame(packet: bytes) -> bytes:
        tags = b"".join(struct.pack("!HH", kind, 7) for kind in kinds)
        return ethernet(packet)[:12] + tags + protocol(packet) + packet

    return frame


def protocol(packet: bytes) -> bytes:
    return b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"


LINKS = {
    "ethernet": (1, ethernet),
    "vlan": (1, tagged(0x8100)),
    "q-in-q": (1, tagged(0x88A8, 0x8100)),
    "raw": (101, bytes),
    "raw-bsd": (12, bytes),
    "sll": (113, lambda p: struct.pack("!HHHQ", 0, 1, 6, 0) + protocol(p) + p),
    "sll2": (276, lambda p: protocol(p) + bytes(18) + p),
    "null": (0, lambda p: struct.pack("<I", 2) + p),
    "loop": (108, lambda p: struct.pack(">I", 2) + p),
}


@pytest.mark.parametrize("link", LINKS, ids=str)
@pytest.mark.parametrize("ends", [None, (CLIENT6, SERVER6)], ids=["IPv4", "IPv6"])
def test_every_link_type(link: str, ends, tmp_path: Path) -> None:
    recorded = talk(record(Host(), Host(), tape=Tape(*ends) if ends else None))
    link_type, frame = LINKS[link]
    path = write(tmp_path / "x.pcap", recorded.packets, link_type=link_type, frame=frame)
    packets = list(read_capture(path))
    assert [packet.number for packet in packets] == list(range(1, len(packets) + 1))
    check(recorded, [bytes(packet.data) for packet in packets])


def test_frames_without_ip_are_passed_over() -> None:
    for frame in (Ether() / ARP(), Ether() / Dot1Q() / ARP(), Ether(type=0x1234) / b"x"):
        assert ip_packet(1, memoryview(bytes(frame))) is None
    endless = bytes(Ether(type=0x8100)) + bytes.fromhex("00018100") * 10
    assert ip_packet(1, memoryview(endless)) is None
    assert ip_packet(1, memoryview(b"")) is None


def test_pcapng_gzip_and_nanoseconds(tmp_path: Path) -> None:
    recorded = talk(record(Host(), Host()))
    plain = write(tmp_path / "plain.pcap", recorded.packets)
    (tmp_path / "packed.pcap.gz").write_bytes(gzip.compress(plain.read_bytes()))
    paths = [
        plain,
        tmp_path / "packed.pcap.gz",
        write(tmp_path / "nano.pcap", recorded.packets, nano=True),
        write_ng(tmp_path / "new.pcapng", recorded.packets),
    ]
    for path in paths:
        packets = list(read_capture(path))
        check(recorded, [bytes(packet.data) for packet in packets])
        assert not any(packet.cut for packet in packets)
    times = [packet.time for packet in read_capture(plain)]
    assert times == pytest.approx([n * 1e-6 for n in range(len(times))])
    times = [packet.time for packet in read_capture(paths[2])]
    assert times == pytest.approx([n * 1e-9 for n in range(len(times))])


def test_segments_that_an_interface_would_have_cut(tmp_path: Path) -> None:
    """Offloads: up to 64 KiB in one packet, and checksums that are not there yet."""
    recorded = record(Host(), Host(), tape=Tape(mss=65_000))
    recorded.say(True, bytes(400_000))
    recorded.close()
    packets = []
    for packet in recorded.packets:
        changed = bytearray(packet)
        changed[36:38] = b"\0\0"
        packets.append(bytes(changed))
    assert max(map(len, packets)) > 65_000
    path = write(tmp_path / "x.pcap", packets)
    check(recorded, [bytes(packet.data) for packet in read_capture(path)])


def test_packets_that_were_cut_are_told_of(tmp_path: Path) -> None:
    recorded = talk(record(Host(), Host()))
    path = write(tmp_path / "x.pcap", recorded.packets)
    octets = bytearray(path.read_bytes())
    out, at = octets[:24], 24
    while at < len(octets):
        sec, usec, caplen, wirelen = struct.unpack_from("<IIII", octets, at)
        kept = min(caplen, 200)
        out += struct.pack("<IIII", sec, usec, kept, wirelen) + octets[at + 16 : at + 16 + kept]
        at += 16 + caplen
    path.write_bytes(out)
    packets = list(read_capture(path))
    assert len(packets) == len(recorded.packets)
    assert any(packet.cut for packet in packets)
    from tcpcrypt.tools.decode.decoder import Decoder

    decoder = Decoder(store(*recorded.lines))
    for packet in packets:
        decoder.packet(packet)
    (report,) = decoder.finish()
    assert any("tcpdump -s 0" in error for error in report.errors)
    assert report.session_id == recorded.one.session_id, "the Init messages were short enough"
    assert bytes(recorded.heard[True]) == b"question"
    assert report.client_to_server.bytes == len(b"question")
    assert report.server_to_client.authenticated is False


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "neither a pcap nor a pcapng file"),
        (b"not a capture, whatever it is", "neither a pcap nor a pcapng file"),
        (bytes.fromhex("d4c3b2a1020004000000000000000000ffff0000"), "neither a pcap"),
        (b"\x1f\x8bnot gzip", "neither a pcap"),
    ],
)
def test_what_is_no_capture(octets: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(octets)
    with pytest.raises(CaptureError, match=why):
        list(read_capture(path))


def test_a_file_that_is_not_there_and_a_link_type_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="No such file"):
        list(read_capture(tmp_path / "missing"))
    path = write(tmp_path / "x.pcap", [b"x" * 40], link_type=147, frame=bytes)
    with pytest.raises(CaptureError, match="frame 1 is of link type 147"):
        list(read_capture(path))


def test_a_file_that_ends_anywhere(tmp_path: Path) -> None:
    """What is whole is read."""
    recorded = talk(record(Host(), Host()))
    for writer in (write, write_ng):
        path = writer(tmp_path / "x", recorded.packets[:5])
        whole = path.read_bytes()
        full = len(list(read_capture(path)))
        for end in range(200, len(whole), 29):
            path.write_bytes(whole[:end])
            with suppress(CaptureError):
                assert len(list(read_capture(path))) <= full


def test_other_packets_do_no_harm() -> None:
    recorded = talk(record(Host(), Host()))
    noise = [
        bytes(IP() / UDP()),
        b"\x45",
        b"\x00" * 40,
        bytes(IP(proto=6) / b"short"),
        bytes(IP(flags="MF", proto=6) / bytes(40)),
        bytes(200),
    ]
    mixed = [p for packet in recorded.packets for p in (packet, noise[len(packet) % len(noise)])]
    check(recorded, mixed)


def test_fragments_are_named_where_something_is_missing() -> None:
    recorded = talk(record(Host(), Host()))
    at = [n for n, s in enumerate(recorded.tape.sent) if s.from_client and s.payload][1]
    packets = recorded.packets
    head = IP(packets[at])
    packets[at] = bytes(
        IP(src=head.src, dst=head.dst, flags="MF", proto=6) / bytes(head.payload)[:32]
    )
    (report,), _ = decode(packets, store(*recorded.lines))
    assert "IP fragments between these hosts were captured" in report.errors[-1]


def section(*blocks: bytes) -> bytes:
    """A pcapng file; each block is its type and its body."""
    start = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    framed = []
    for block in blocks:
        length = struct.pack("<I", len(block) + 8)
        framed.append(block[:4] + length + block[4:] + length)
    return start + b"".join(framed)


RAW_INTERFACE = struct.pack("<IHHI", 1, 101, 0, 0)


@pytest.mark.parametrize("many", ["bytes", "interfaces"])
def test_a_packed_file_does_not_fill_the_memory(
    many: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand times as much may come out of gzip as lies on the disk."""
    monkeypatch.setattr(capture, "_BETWEEN_MAX", 100_000)
    monkeypatch.setattr(capture, "_INTERFACES_MAX", 100)
    blocks = [RAW_INTERFACE, struct.pack("<I", 0x99) + bytes(200_000)]
    why = "more than 100000 bytes without a packet"
    if many == "interfaces":
        packet = struct.pack("<6I", 6, 0, 0, 0, 4, 4) + bytes(4)
        blocks = ([RAW_INTERFACE] * 90 + [packet]) * 3
        why = "more than 100 interfaces"
    path = tmp_path / "x.pcapng.gz"
    path.write_bytes(gzip.compress(section(*blocks)))
    with pytest.raises(CaptureError, match=why):
        list(read_capture(path))
