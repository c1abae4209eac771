"""TCP segments in IP packets; scapy, which shares no code, is the oracle."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP, IPOption_Timestamp, in4_chksum
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    in6_chksum,
)
from support.outcome import outcome

from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.wire.segment import Segment, TcpFlags
from tcpcrypt.wire.tcpopt import insert_option

pytestmark = pytest.mark.usefixtures("fast_twin")

SYN_OPTIONS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
LINUX_SYN = bytes.fromhex("020405b4 0402 080a0000000100000000 01 030307")
ENO = bytes.fromhex("4504 01 23")

V4 = IP(src="192.0.2.1", dst="198.51.100.2", ttl=64, id=7, flags="DF")
V4_OPTIONS = IP(src="192.0.2.1", dst="198.51.100.2", options=[IPOption_NOP(), IPOption_Timestamp()])
V6 = IPv6(src="2001:db8::1", dst="2001:db8:1::2", fl=0x12345, tc=0xB8)
V6_HOP = V6 / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
V6_DESTINATION = V6 / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])
V6_ROUTING = V6 / IPv6ExtHdrRouting(type=0, segleft=0, addresses=["2001:db8::9"])
V6_ALL = (
    V6
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrRouting(type=0, segleft=0, addresses=["2001:db8::9", "2001:db8::a"])
    / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 20)])
)
NETWORKS = {
    "ipv4": V4,
    "ipv4-options": V4_OPTIONS,
    "ipv6": V6,
    "ipv6-hop-by-hop": V6_HOP,
    "ipv6-destination": V6_DESTINATION,
    "ipv6-routing": V6_ROUTING,
    "ipv6-all": V6_ALL,
}
EACH_NETWORK = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())


def tcp(**fields: Any) -> Any:
    return TCP(sport=40000, dport=443, seq=0xFEDCBA98, ack=0x01234567, **fields)


def raw(network: Any, *, payload: bytes = b"", **fields: Any) -> bytes:
    return bytes(network.copy() / tcp(**fields) / payload)


def recomputed(packet: bytes) -> bytes:
    """`packet` with all lengths and checksums as scapy computes them."""
    layer = (IP if packet[0] >> 4 == 4 else IPv6)(packet)
    for field in ("len", "chksum") if packet[0] >> 4 == 4 else ("plen",):
        delattr(layer, field)
    del layer[TCP].chksum
    del layer[TCP].dataofs
    return bytes(layer)


def reason_of(packet: bytes) -> PeerReason:
    with pytest.raises(PeerError) as caught:
        Segment.parse(packet)
    return caught.value.reason


@EACH_NETWORK
@pytest.mark.parametrize("payload", [b"", b"x", b"GET / HTTP/1.1\r\n", bytes(1001), b"\xff" * 4096])
def test_fields_and_checksums(network: Any, payload: bytes) -> None:
    packet = raw(network, flags="SA", options=SYN_OPTIONS, payload=payload)
    segment = Segment.parse(packet)
    assert segment.version == network.version
    assert str(segment.source) == network.src
    assert str(segment.destination) == network.dst
    assert (segment.source_port, segment.destination_port) == (40000, 443)
    assert segment.flow == (segment.source.packed, 40000, segment.destination.packed, 443)
    assert (segment.seq, segment.ack) == (0xFEDCBA98, 0x01234567)
    assert segment.flags == TcpFlags.SYN | TcpFlags.ACK
    assert segment.data_offset == 40
    assert segment.options == LINUX_SYN
    assert segment.payload == payload
    assert segment.checksum_ok()


@pytest.mark.parametrize("network", [IP(), IPv6()])
def test_the_fields_that_an_engine_needs(network: Any) -> None:
    segment = Segment.parse(raw(network, window=0x1234, urgptr=0x5678))
    assert (segment.window, segment.urgent_pointer) == (0x1234, 0x5678)
    assert segment.header_at == len(network)


def test_addresses_are_objects() -> None:
    assert Segment.parse(raw(V4)).source == IPv4Address("192.0.2.1")
    assert Segment.parse(raw(V6)).destination == IPv6Address("2001:db8:1::2")


@pytest.mark.parametrize("name", ["fin", "syn", "rst", "psh", "ack"])
def test_flags_by_name(name: str) -> None:
    flags = Segment.parse(raw(V4, flags=name[0].upper())).flags
    assert [n for n in ("fin", "syn", "rst", "psh", "ack") if getattr(flags, n)] == [name]


def test_views_copy_nothing() -> None:
    packet = bytearray(raw(V4, options=SYN_OPTIONS, payload=b"payload"))
    segment = Segment.parse(packet)
    segment.payload[:1] = b"P"
    segment.options[:1] = b"\x01"
    assert packet.endswith(b"Payload")
    assert packet[40] == 1


@EACH_NETWORK
@pytest.mark.parametrize("payload", [b"", b"x", b"ab", bytes(1001)])
@pytest.mark.parametrize("options", [SYN_OPTIONS, []], ids=["options", "bare"])
def test_with_options_is_what_scapy_makes_of_it(
    network: Any, payload: bytes, options: list[Any]
) -> None:
    """RFC 9293 section 3.1, RFC 8200 section 8.1: lengths, offset, both checksums."""
    segment = Segment.parse(raw(network, flags="S", options=options, payload=payload))
    region = insert_option(segment.options, ENO)
    assert region is not None
    changed = segment.with_options(region)
    assert changed == recomputed(changed)
    again = Segment.parse(changed)
    assert again.checksum_ok()
    assert again.options == region
    assert again.payload == payload
    assert (again.seq, again.ack, again.flags) == (segment.seq, segment.ack, segment.flags)
    assert (again.source, again.destination) == (segment.source, segment.destination)


@EACH_NETWORK
def test_with_the_same_options_nothing_changes(network: Any) -> None:
    packet = raw(network, flags="S", options=SYN_OPTIONS, payload=b"odd")
    assert Segment.parse(packet).with_options(LINUX_SYN) == packet


@EACH_NETWORK
def test_options_can_go_and_fill_the_header(network: Any) -> None:
    segment = Segment.parse(raw(network, flags="A", options=SYN_OPTIONS, payload=b"data"))
    for region in (b"", b"\x01" * 40):
        changed = segment.with_options(region)
        assert Segment.parse(changed).data_offset == 20 + len(region)
        assert Segment.parse(changed).options == region
        assert Segment.parse(changed).checksum_ok()


@EACH_NETWORK
def test_payload_dropped(network: Any) -> None:
    """RFC 8547 section 4.7: data in a SYN with ENO are discarded."""
    segment = Segment.parse(raw(network, flags="S", options=SYN_OPTIONS, payload=b"early"))
    packet = segment.with_payload_dropped()
    assert packet == raw(network, flags="S", options=SYN_OPTIONS)


@EACH_NETWORK
def test_a_checksum_that_is_left_to_an_interface_is_known(network: Any) -> None:
    packet = bytearray(raw(network, flags="A", options=SYN_OPTIONS, payload=b"data"))
    whole = Segment.parse(packet)
    assert not whole.checksum_left()
    length = whole.data_offset + len(whole.payload)
    sides = whole.source.packed + whole.destination.packed
    total = sum(int.from_bytes(sides[at : at + 2], "big") for at in range(0, len(sides), 2))
    total += length + 6
    at = whole.header_at + 16
    packet[at : at + 2] = (total % 0xFFFF).to_bytes(2, "big")
    assert Segment.parse(packet).checksum_left()
    assert not Segment.parse(packet).checksum_ok()


def test_a_checksum_left_to_hardware_is_mended() -> None:
    packet = bytearray(raw(V4, options=SYN_OPTIONS, payload=b"data"))
    good = bytes(packet)
    packet[36:38] = b"\x12\x34"
    segment = Segment.parse(packet)
    assert not segment.checksum_ok()
    assert segment.with_options(LINUX_SYN) == good


def test_bits_beside_the_data_offset_are_kept() -> None:
    packet = bytearray(raw(V6, options=SYN_OPTIONS))
    packet[52] |= 0x01
    assert Segment.parse(packet).with_options(b"")[52] == 0x51


@given(
    st.sampled_from(list(NETWORKS.values())),
    st.binary(max_size=120),
    st.integers(0, 10).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n)),
)
def test_any_options_over_any_payload(network: Any, payload: bytes, region: bytes) -> None:
    changed = Segment.parse(raw(network, flags="S", payload=payload)).with_options(region)
    segment = Segment.parse(changed)
    assert segment.checksum_ok()
    assert segment.options == region
    assert segment.payload == payload
    # The checksum alone, as scapy has it over exactly these bytes.
    layer = (IP if segment.version == 4 else IPv6)(changed)
    assert layer[TCP].chksum == int.from_bytes(recomputed_checksum(changed, segment), "big")


def recomputed_checksum(packet: bytes, segment: Segment) -> bytes:
    """The TCP checksum by scapy's own sum, its options left as bytes."""
    start = len(packet) - len(segment.payload) - segment.data_offset
    zeroed = packet[start : start + 16] + bytes(2) + packet[start + 18 :]
    if segment.version == 4:
        value = in4_chksum(6, IP(packet), zeroed)
    else:
        under = IPv6(src=str(segment.source), dst=str(segment.destination), nh=6)
        value = in6_chksum(6, under, zeroed)
    return int(value).to_bytes(2, "big")


@EACH_NETWORK
@given(data=st.data())
def test_a_flipped_bit_shows_in_a_checksum(network: Any, data: st.DataObject) -> None:
    packet = bytearray(raw(network, flags="SA", options=SYN_OPTIONS, payload=b"payload"))
    # From the addresses on IPv6 is covered, extension headers excepted.
    tcp_at = len(packet) - 47
    covered = [*range(12, 20), *range(tcp_at, len(packet))]
    if network.version == 6:
        covered = [*range(8, 40), *range(tcp_at, len(packet))]
    at = data.draw(st.sampled_from(covered))
    packet[at] ^= 1 << data.draw(st.integers(0, 7))
    segment = outcome(Segment.parse, packet)
    assert isinstance(segment, PeerReason) or not segment.checksum_ok()


def test_a_bad_ip_header_checksum_shows() -> None:
    packet = bytearray(raw(V4))
    packet[8] ^= 1
    assert not Segment.parse(packet).checksum_ok()


@pytest.mark.parametrize("region", [b"\x01", b"\x01" * 3, b"\x01" * 41, b"\x01" * 44])
def test_a_region_is_whole_words_and_at_most_40_bytes(region: bytes) -> None:
    with pytest.raises(LocalError):
        Segment.parse(raw(V4)).with_options(region)


@pytest.mark.parametrize(("network", "most"), [(V4, 65535), (V6, 65575), (V6_HOP, 65575)])
def test_lengths_end_at_16_bits(network: Any, most: int) -> None:
    """RFC 791 counts the header, RFC 8200 does not."""
    payload = bytes(most - len(raw(network)))
    packet = raw(network, payload=payload)
    assert len(packet) == most
    assert Segment.parse(packet).with_options(b"") == packet
    with pytest.raises(LocalError):
        Segment.parse(packet).with_options(bytes(4))


@EACH_NETWORK
def test_every_cut_is_named(network: Any) -> None:
    packet = raw(network, flags="S", options=SYN_OPTIONS, payload=b"payload")
    for cut in range(len(packet)):
        assert reason_of(packet[:cut]) is PeerReason.SEGMENT_TRUNCATED


@EACH_NETWORK
def test_every_shorter_ip_length_is_named(network: Any) -> None:
    """The packet is all there, its IP header says that it is shorter."""
    packet = bytearray(raw(network, flags="S", options=SYN_OPTIONS))
    at, header = (2, 0) if network.version == 4 else (4, 40)
    for length in range(len(packet) - header):
        packet[at : at + 2] = length.to_bytes(2, "big")
        assert reason_of(bytes(packet)) in (
            PeerReason.SEGMENT_TRUNCATED,
            PeerReason.SEGMENT_MALFORMED,
        )


@EACH_NETWORK
def test_link_padding_is_left_out(network: Any) -> None:
    packet = raw(network, payload=b"data")
    segment = Segment.parse(packet + bytes(6))
    assert segment.payload == b"data"
    assert segment.checksum_ok()
    assert segment.with_options(b"") == packet


@pytest.mark.parametrize("version", [0, 3, 5, 7, 15])
def test_other_ip_versions_are_named(version: int) -> None:
    assert reason_of(bytes((version << 4 | 5,)) + raw(V4)[1:]) is PeerReason.SEGMENT_MALFORMED


@pytest.mark.parametrize("ihl", range(5))
def test_a_short_ihl_is_named(ihl: int) -> None:
    assert reason_of(bytes((0x40 | ihl,)) + raw(V4)[1:]) is PeerReason.SEGMENT_MALFORMED


def test_a_long_ihl_is_named() -> None:
    assert reason_of(b"\x4f" + raw(V4)[1:]) is PeerReason.SEGMENT_MALFORMED


@pytest.mark.parametrize("words", range(5))
@pytest.mark.parametrize("network", [V4, V6])
def test_a_short_data_offset_is_named(network: Any, words: int) -> None:
    assert reason_of(raw(network, dataofs=words)) is PeerReason.SEGMENT_MALFORMED


@pytest.mark.parametrize("words", range(6, 16))
@pytest.mark.parametrize("network", [V4, V6])
def test_a_long_data_offset_is_named(network: Any, words: int) -> None:
    assert reason_of(raw(network, dataofs=words)) is PeerReason.SEGMENT_TRUNCATED


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [("MF", 0), ("MF", 100), (0, 8191), *((0, 1 << bit) for bit in range(13))],
)
def test_ipv4_fragments_are_named(flags: Any, fragment: int) -> None:
    network = IP(src="192.0.2.1", dst="198.51.100.2", flags=flags, frag=fragment)
    assert reason_of(bytes(network / bytes(raw(V4)[20:]))) is PeerReason.SEGMENT_FRAGMENT


def test_ipv4_do_not_fragment_is_no_fragment() -> None:
    assert Segment.parse(raw(V4)).checksum_ok()


@pytest.mark.parametrize("before", [V6, V6_HOP, V6_ROUTING])
@pytest.mark.parametrize(("offset", "more"), [(0, 0), (0, 1), (3, 0)])
def test_ipv6_fragments_are_named(before: Any, offset: int, more: int) -> None:
    """RFC 8200 section 4.5; an atomic fragment (RFC 6946) is one too."""
    network = before / IPv6ExtHdrFragment(offset=offset, m=more)
    assert reason_of(raw(network)) is PeerReason.SEGMENT_FRAGMENT


def test_ipv6_routing_still_under_way_is_named() -> None:
    """RFC 8200 section 8.1: the checksum covers the final destination, not this one."""
    network = V6 / IPv6ExtHdrRouting(type=0, segleft=1, addresses=["2001:db8::9"])
    assert reason_of(raw(network)) is PeerReason.SEGMENT_MALFORMED


@pytest.mark.parametrize("network", [V4, V6, V6_HOP])
def test_other_protocols_are_named(network: Any) -> None:
    assert reason_of(bytes(network / UDP())) is PeerReason.SEGMENT_NOT_TCP


@pytest.mark.parametrize("header", [59, 51, 50, 135])
def test_other_ipv6_headers_are_named(header: int) -> None:
    """No next header, AH, ESP, mobility: what lies behind is not a TCP segment."""
    packet = bytearray(raw(V6))
    packet[6] = header
    assert reason_of(bytes(packet)) is PeerReason.SEGMENT_NOT_TCP


@pytest.mark.parametrize("units", [0, 1, 2, 255])
def test_an_extension_header_past_the_end_is_named(units: int) -> None:
    """RFC 8200 section 4.3: the length is in units of 8 bytes, the first left out."""
    packet = bytearray(raw(V6_HOP))
    packet[41] = units
    if not units:
        assert Segment.parse(packet).destination_port == 443
    else:
        assert reason_of(bytes(packet)) is PeerReason.SEGMENT_TRUNCATED


def test_a_jumbogram_is_named() -> None:
    """RFC 2675: a payload length of 0 is another packet format."""
    packet = bytearray(raw(V6))
    packet[4:6] = bytes(2)
    assert reason_of(bytes(packet)) is PeerReason.SEGMENT_TRUNCATED


@given(st.binary(max_size=120), st.sampled_from([0x45, 0x46, 0x4F, 0x60, 0x6F]))
def test_random_bytes_end_in_a_value_or_a_named_reason(rest: bytes, first: int) -> None:
    check_parse(bytes((first,)) + rest)


@given(st.sampled_from(list(NETWORKS.values())), st.data())
def test_damaged_packets_end_in_a_value_or_a_named_reason(
    network: Any, data: st.DataObject
) -> None:
    packet = bytearray(raw(network, flags="S", options=SYN_OPTIONS, payload=b"payload"))
    for _ in range(data.draw(st.integers(1, 6))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    check_parse(bytes(packet[: data.draw(st.integers(0, len(packet)))]))


def check_parse(packet: bytes) -> None:
    segment = outcome(Segment.parse, packet)
    if isinstance(segment, PeerReason):
        assert segment.name.startswith("SEGMENT_")
        return
    assert 20 <= segment.data_offset <= 60
    assert len(segment.options) == segment.data_offset - 20
    segment.checksum_ok()
    rebuilt = Segment.parse(segment.with_options(segment.options))
    assert rebuilt.checksum_ok()
    assert rebuilt.options == segment.options
    assert rebuilt.payload == segment.payload


@EACH_NETWORK
def test_altered_has_the_header_fields_that_are_given(network: Any) -> None:
    packet = bytes(network / tcp(flags="PA", options=[("NOP", None)] * 4) / b"four bytes more")
    segment = Segment.parse(packet + b"padding")
    assert segment.altered(segment.options, segment.payload) == packet
    other = Segment.parse(segment.altered(b"\x01" * 8, b"other", flags=0x14, seq=7, window=9))
    assert (other.options, other.payload) == (b"\x01" * 8, b"other")
    assert (int(other.flags), other.seq, other.ack) == (0x14, 7, segment.ack)
    assert other.window == 9
    assert other.checksum_ok()
