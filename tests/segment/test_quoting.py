"""ICMP errors: which segments they quote, and which of them leave."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segment.path import CLIENT, CLIENT6, SERVER, SERVER6, Path, Setup

from tcpcrypt._fast import checksum
from tcpcrypt.core.config import Config
from tcpcrypt.segment.opening import Side
from tcpcrypt.segment.packets import Header, make_packet
from tcpcrypt.segment.quoting import quoted
from tcpcrypt.segment.table import Table
from tcpcrypt.wire.segment import Segment, TcpFlags

OPENED = (SERVER, 80, CLIENT, 4000)


def of_peer(flow: tuple[bytes, int, bytes, int], flags: TcpFlags = TcpFlags.ACK) -> bytes:
    return make_packet(flow, Header(seq=1, ack=1, flags=flags, window=9), b"in clear")


def error(quote: bytes, kind: int = 3, *, six: bool = False) -> bytes:
    """What a host behind the engine, or the engine's own, says to the peer."""
    message = bytes((kind, 0)) + bytes(6) + quote
    if six:
        return struct.pack("!IHBB", 6 << 28, len(message), 58, 64) + CLIENT6 + SERVER6 + message
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, 1, 0)
    return head + CLIENT + SERVER + message


def extended(packet: bytes) -> bytes:
    """With a header of destination options before TCP."""
    options = bytes((6, 1)) + bytes(14)
    return packet[:6] + bytes((60,)) + packet[7:40] + options + packet[40:]


def fragment(packet: bytes, offset: int) -> bytes:
    """With a fragment header, or as IPv4 has it."""
    if packet[0] >> 4 == 4:
        return packet[:6] + struct.pack("!H", offset) + packet[8:]
    head = struct.pack("!BBHI", 6, 0, offset << 3, 1)
    return packet[:6] + bytes((44,)) + packet[7:40] + head + packet[40:]


def flow_of(packet: bytes) -> tuple[bytes, int, bytes, int]:
    found = quoted(packet)
    assert found is not None
    return found.flow


def test_the_segment_that_is_quoted_is_found() -> None:
    assert flow_of(error(of_peer(OPENED))) == OPENED
    assert flow_of(error(of_peer(OPENED)[:28])) == OPENED  # RFC 792: eight bytes at least
    flow = (SERVER6, 80, CLIENT6, 4000)
    for kind in (1, 2, 3, 4):
        assert flow_of(error(of_peer(flow), kind, six=True)) == flow
    assert flow_of(error(extended(of_peer(flow)), 1, six=True)) == flow
    assert flow_of(error(fragment(of_peer(flow), 0), 1, six=True)) == flow


def test_other_protocols_are_nobodys() -> None:
    packet = of_peer(OPENED)
    assert quoted(error(packet[:9] + bytes((17,)) + packet[10:])) is None
    assert quoted(error(b"")) is None


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        of_peer(OPENED),
        error(of_peer(OPENED), 8),
        error(of_peer(OPENED))[:25],
        error(of_peer(OPENED)[:19]),
        error(of_peer(OPENED)[:22]),
        error(extended(of_peer((SERVER6, 80, CLIENT6, 4000)))[:44], 1, six=True),
        error(of_peer(OPENED), 135, six=True),
        error(fragment(of_peer(OPENED), 3)),
        error(fragment(of_peer((SERVER6, 80, CLIENT6, 4000)), 3), 1, six=True),
    ],
)
def test_what_does_not_say_is_no_error(packet: bytes) -> None:
    with pytest.raises(ValueError, match=r"no ICMP|no IP|no ports"):
        quoted(packet)


@given(st.binary(max_size=120), st.booleans())
def test_anything(octets: bytes, six: bool) -> None:
    for packet in (octets, error(octets, six=six)):
        try:
            found = quoted(packet)
        except ValueError:
            continue
        if found is None:
            continue
        assert len(found.flow) == 4
        assert found.mtu is None or found.mtu >= 552
        if found.seq is not None:
            again = quoted(found.with_numbers(found.seq + 5, 1300))
            assert again is not None
            assert again.seq == (found.seq + 5) % (1 << 32)
            assert again.data == found.data


def test_nothing_that_was_opened_is_quoted_to_the_wire() -> None:
    table = Table(lambda _key, _side, _forwarded: Config())
    said = error(of_peer(OPENED))

    def passes(packet: bytes, side: Side = Side.INNER) -> bool:
        key, outcome = table.take(side, packet)
        assert key is None
        assert outcome.packets == []
        return outcome.passed

    assert passes(said)  # of a connection that is not ours
    table.take(Side.INNER, of_peer((*OPENED[2:], *OPENED[:2]), TcpFlags.SYN))
    assert not passes(said)
    assert passes(error(of_peer((SERVER, 81, CLIENT, 4000))))
    # What does not say which packet it quotes stays here, and so does what is no error.
    assert not passes(error(of_peer(OPENED)[:22]))
    assert not passes(error(b"ping", 8))
    assert not passes(said, Side.OUTER)
    table.flows[(*OPENED[2:], *OPENED[:2])].plain = True
    assert passes(said)


# --- of what was sealed -------------------------------------------------------------------


def too_big(quote: bytes, mtu: int = 1300, *, six: bool = False) -> bytes:
    """A router on the wire, to the host that sent so long a packet; its checksum is right."""
    router, host = (SERVER6, CLIENT6) if six else (SERVER, CLIENT)
    if six:
        message = bytearray(struct.pack("!BBHI", 2, 0, 0, mtu) + quote[:1200])
        pseudo = router + host + struct.pack("!II", len(message), 58)
        head = struct.pack("!IHBB", 6 << 28, len(message), 58, 64) + router + host
    else:
        message = bytearray(struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quote[:500])
        pseudo = b""
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, 1, 0) + router + host
    message[2:4] = struct.pack("!H", ~checksum(bytes(message), checksum(pseudo)) & 0xFFFF)
    return head + bytes(message)


def is_good(packet: bytes) -> bool:
    six = packet[0] >> 4 == 6
    message = packet[40:] if six else packet[20:]
    pseudo = packet[8:40] + struct.pack("!II", len(message), 58) if six else b""
    return checksum(message, checksum(pseudo)) == 0xFFFF


def under_way(**setup: object) -> tuple[Path, list[bytes], list[bytes]]:
    """Data that the client has sent and nobody acknowledged: inside, and on the wire."""
    path = Path(Setup(**setup))  # type: ignore[arg-type]
    path.open()
    path.world.run(1)
    path.client.write(bytes(5000))
    path.world.run(2)
    inside: list[bytes] = []
    wire: list[bytes] = []
    path.meddle = lambda from_client, packet: wire.append(packet) or [] if from_client else [packet]
    output = path.client.output
    path.client.output = lambda packet: (inside.append(packet), output(packet))[1]
    path.client.write(bytes(4000))
    path.world.run(0.05)
    assert len(inside) == len(wire) == 3
    return path, inside, wire


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("forwards", [False, True])
def test_rfc1191_an_error_about_what_was_sealed_has_the_numbers_inside(
    family: int, forwards: bool
) -> None:
    path, inside, wire = under_way(family=family, forwards=forwards)
    flow, six = path.flow(True), family == 6
    for index in (0, 2):
        error = quoted(too_big(wire[index], six=six))
        assert error is not None
        [(to, said)] = flow.quoted(Side.OUTER, error).packets
        found = quoted(said)
        assert found is not None
        assert (to, is_good(said), found.flow) == (Side.INNER, True, error.flow)
        assert found.seq == Segment.parse(inside[index]).seq
        # Who is behind a gateway has to leave room for a frame; a host finds out itself.
        assert found.mtu == (1300 if not forwards else 1280 if six else 1276)
    # What is repeated goes out in pieces that the path takes, though there is no room for a frame.
    path.client.peer_mss = 1300 - (60 if six else 40)
    wire.clear()
    path.world.run(5)
    assert wire
    assert max(map(len, wire)) <= 1300


def test_rfc8201_headers_that_nobody_sent_make_no_path_narrower() -> None:
    path, _inside, wire = under_way(family=6)
    flow, quote = path.flow(True), wire[0]
    chain = b"".join(bytes((60, 15)) + bytes(126) for _ in range(8)) + bytes((6, 15)) + bytes(126)
    long = quote[:6] + bytes((60,)) + quote[7:40] + chain + quote[40:]
    error = quoted(too_big(long, 1280, six=True))
    assert error is not None
    assert error.seq == Segment.parse(quote).seq
    assert flow.quoted(Side.OUTER, error).packets
    assert flow._opening.segment >= 1280 - 60 - 20


def test_rfc5927_whoever_does_not_know_what_is_under_way_narrows_no_path() -> None:
    path, _inside, wire = under_way()
    flow = path.flow(True)
    quote = bytearray(wire[0])
    for off in (-10_000, -1, 4100, 1 << 31):
        seq = (Segment.parse(wire[0]).seq + off) % (1 << 32)
        quote[24:28] = seq.to_bytes(4, "big")
        error = quoted(too_big(bytes(quote), 600))
        assert error is not None
        assert flow.quoted(Side.OUTER, error).packets == []
    cut = quoted(too_big(wire[0][:26]))  # no number
    assert cut is not None
    assert flow.quoted(Side.OUTER, cut).packets == []
    wire.clear()
    path.meddle = lambda from_client, packet: (
        wire.append(packet) or [packet] if from_client else [packet]
    )
    path.client.write(bytes(20_000))
    path.world.run(20)
    assert max(map(len, wire)) > 1490


def test_a_gateway_finds_out_itself_before_it_has_sealed_and_after() -> None:
    path, inside, wire = under_way(forwards=True)
    flow = path.flow(True)
    for packet in (inside[1], wire[1]):
        error = quoted(too_big(packet))
        assert error is not None
        [(to, said)] = flow.quoted(Side.INNER, error).packets
        found = quoted(said)
        assert found is not None
        assert (to, found.seq, found.mtu) == (Side.OUTER, Segment.parse(inside[1]).seq, 1276)
    far = bytearray(inside[1])
    far[24:28] = ((Segment.parse(inside[1]).seq + (1 << 30)) % (1 << 32)).to_bytes(4, "big")
    error = quoted(too_big(bytes(far)))
    assert error is not None
    assert flow.quoted(Side.INNER, error).packets == []


def test_damage_is_not_covered_by_a_new_checksum() -> None:
    path, _inside, wire = under_way()
    damaged = bytearray(too_big(wire[0]))
    damaged[27] ^= 1  # the MTU
    error = quoted(bytes(damaged))
    assert error is not None
    [(_, said)] = path.flow(True).quoted(Side.OUTER, error).packets
    assert not is_good(said)


def test_errors_from_the_wire_reach_the_connections_that_they_are_about() -> None:
    table = Table(lambda _key, _side, _forwarded: Config())
    left = of_peer((*OPENED[2:], *OPENED[:2]), TcpFlags.SYN)
    # Of a connection that is not ours, or is not encrypted yet.
    assert table.take(Side.OUTER, too_big(left))[1].passed
    table.take(Side.INNER, left)
    assert table.take(Side.OUTER, too_big(left))[1].passed
    path, inside, wire = under_way()
    flow = path.flow(True)
    key = Segment.parse(wire[0]).flow
    table.flows[key] = flow
    found, outcome = table.take(Side.OUTER, too_big(wire[0]))
    assert found == key
    about = quoted(outcome.packets[0][1])
    assert about is not None
    assert about.seq == Segment.parse(inside[0]).seq
    flow.plain = True
    assert table.take(Side.OUTER, too_big(wire[0]))[1].passed


@pytest.mark.parametrize("family", [4, 6])
def test_who_sends_too_much_for_a_link_behind_a_gateway_hears_of_it_without_what_was_opened(
    family: int,
) -> None:
    six = family == 6
    path = Path(Setup(family=family, forwards=True))
    path.open()
    path.world.run(1)
    opened: list[bytes] = []
    sealed: list[bytes] = []
    path.meddle = lambda mine, packet: [packet] if not mine else sealed.append(packet) or [packet]
    path.server.input = opened.append  # type: ignore[method-assign]
    path.client.write(b"in clear" * 500)
    path.world.run(0.1)
    assert len(sealed) == len(opened) == 3
    table = Table(lambda _key, _side, _forwarded: Config())
    there = Segment.parse(opened[0]).flow
    table.flows[there[2:] + there[:2]] = path.flow(False)
    for index in (0, 1, 2):
        key, outcome = table.take(Side.INNER, too_big(opened[index], 1290, six=six))
        assert key == there[2:] + there[:2]
        [(to, said)] = outcome.packets
        about = quoted(said)
        assert about is not None
        assert (to, about.mtu, is_good(said), len(about.data)) == (Side.OUTER, 1290, True, 0)
        assert b"in clear" not in said
        # What its sender's engine makes of it is believed there.
        [(_, inside)] = path.flow(True).quoted(Side.OUTER, about).packets
        again = quoted(inside)
        assert again is not None
        assert again.seq == Segment.parse(opened[index]).seq
    # What the peer does not shorten itself is cut from now on, where the engine repeats it.
    assert path.flow(False).quoted_open(about).packets != []
    far = bytearray(opened[0])
    at = 44 if six else 24
    far[at : at + 4] = bytes(4)
    error = quoted(too_big(bytes(far), six=six))
    assert error is not None
    assert path.flow(False).quoted_open(error).packets == []
