"""The adversary's own packets are what scapy takes them for."""

from __future__ import annotations

from dataclasses import replace

from middlebox.fault import Stream
from middlebox.packet import ACK, ENO, FIN, MSS, PSH, SYN, TIMESTAMPS, Packet, after
from scapy.layers.inet import IP, TCP

DATA = bytes(range(256)) * 5
ONE = Packet(
    *(bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), 4000, 80, 0xFFFFFF00, 7, ACK | PSH | FIN),
    *(500, 0, ((MSS, b"\x05\xb4"), (TIMESTAMPS, bytes(8)), (ENO, b"\x21\x23")), DATA),
)


def sums(packet: bytes) -> tuple[int, int]:
    """Both checksums, as scapy computes them."""
    parsed = IP(packet)
    del parsed.chksum, parsed[TCP].chksum
    again = IP(bytes(parsed))
    return again.chksum, again[TCP].chksum


def test_what_is_built_is_what_is_parsed() -> None:
    built = ONE.build()
    assert Packet.parse(built) == ONE
    assert Packet.parse(built + b"padding of the link") == ONE
    seen = IP(built)
    assert (seen.chksum, seen[TCP].chksum) == sums(built)
    assert bytes(seen[TCP].payload) == DATA
    # Its name is a number or, once the layers of contrib are loaded, ENO.
    assert b"\x21\x23" in [value for _name, value in seen[TCP].options]
    assert IP(ONE.build(spoilt=True))[TCP].chksum != sums(built)[1]


def test_pieces_and_fragments_hold_all_of_it() -> None:
    pieces = [ONE.piece(at, at + 500) for at in range(0, len(DATA), 500)]
    assert b"".join(piece.payload for piece in pieces) == DATA
    assert [piece.seq for piece in pieces] == [0xFFFFFF00, 0xF4, 0x2E8]
    assert [piece.flags for piece in pieces] == [ACK, ACK, ACK | PSH | FIN]
    assert pieces[-1].end == ONE.end
    parts = [IP(part) for part in ONE.fragments(480)]
    assert len({part.id for part in parts}) == 1
    assert [part.frag for part in parts] == [0, 60, 120]
    assert [bool(part.flags.MF) for part in parts] == [True, True, False]
    whole = b"".join(bytes(part.payload) for part in parts)
    assert whole == ONE.build()[20:]


def test_options_are_taken_out_and_put_in() -> None:
    assert ONE.option(ENO) == b"\x21\x23"
    assert ONE.without(ENO, TIMESTAMPS).options == ((MSS, b"\x05\xb4"),)
    changed = ONE.with_option(ENO, b"\x2a")
    assert Packet.parse(changed.build()).option(ENO) == b"\x2a"
    assert after(3, 0xFFFFFFFF) == 4
    assert after(0xFFFFFFFF, 3) == -4


def test_an_eavesdropper_finds_the_ends_of_frames_in_any_order() -> None:
    init = bytes.fromhex("15101a0e") + (20).to_bytes(4, "big") + bytes(12)
    frames = b"".join(b"\x00" + size.to_bytes(2) + bytes(size) for size in (17, 300))
    stream = Stream()
    stream.note(replace(ONE, flags=SYN, seq=99, payload=b""))
    for at, stop in ((50, 343), (0, 30), (20, 60)):
        stream.note(replace(ONE, flags=ACK, seq=100 + at, payload=(init + frames)[at:stop]))
    assert stream.init
    assert stream.ends == [20, 40, 343]
    assert bytes(stream.data) == init + frames
