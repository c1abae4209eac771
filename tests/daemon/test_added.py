"""What the parent sends for a worker, and what it does not."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

import pytest

from tcpcrypt.core.policy import SEGMENT, FlowDirection, Match, Mode, Policy
from tcpcrypt.daemon.added import Added
from tcpcrypt.daemon.verdicts import ADDED, VerdictRelay, verdict_pair
from tcpcrypt.daemon.words import NonsenseError
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.segment.packets import Header, make_packet
from tcpcrypt.wire.segment import TcpFlags

HERE, THERE = (ipaddress.ip_address(text).packed for text in ("10.0.0.1", "10.0.0.2"))
SIX = ipaddress.ip_address("2001:db8::1").packed
HTTP = (range(80, 81),)
HOST = Policy(Mode.REQUIRE, Match(FlowDirection.OUTGOING, ports=HTTP), plane=SEGMENT)
GATEWAY = Policy(
    Mode.OPPORTUNISTIC,
    Match(local=(ipaddress.ip_network("192.168.0.0/16"),), ports=(range(22, 23),), inner=("eth1",)),
    plane=SEGMENT,
)
BEHIND = ipaddress.ip_address("192.168.0.7").packed


def packet(
    ends: tuple[bytes, int, bytes, int] = (HERE, 4000, THERE, 80),
    flags: TcpFlags = TcpFlags.ACK,
    data: bytes = b"sealed",
) -> bytes:
    return make_packet(ends, Header(seq=1, ack=2, flags=flags, window=3), data)


def asked(octets: bytes, *policies: Policy) -> list[bytes]:
    """What is sent if a worker asks for it."""
    sent: list[bytes] = []
    added = Added(lambda: policies or (HOST, GATEWAY), lambda view: sent.append(bytes(view)))
    added(memoryview(octets))
    return sent


@pytest.mark.parametrize(
    "ends",
    [
        (HERE, 4000, THERE, 80),
        (THERE, 80, HERE, 4000),
        (SIX, 4000, SIX[:-1] + b"\2", 80),
        (BEHIND, 4000, THERE, 22),
        (BEHIND, 22, THERE, 4000),
        (THERE, 4000, BEHIND, 22),
    ],
)
def test_segments_of_connections_that_are_named_in_either_direction(
    ends: tuple[bytes, int, bytes, int],
) -> None:
    octets = packet(ends)
    assert asked(octets) == [octets]


@pytest.mark.parametrize(
    "ends", [(HERE, 4000, THERE, 443), (HERE, 4000, THERE, 22), (HERE, 22, THERE, 22)]
)
def test_no_segments_of_others(ends: tuple[bytes, int, bytes, int]) -> None:
    assert asked(packet(ends)) == []


def test_none_of_connections_of_this_host_with_itself() -> None:
    for one, other in (("127.0.0.1", "127.0.0.1"), ("10.0.0.1", "127.9.9.9"), ("::1", "::1")):
        ends = [ipaddress.ip_address(text).packed for text in (one, other)]
        assert asked(packet((ends[0], 4000, ends[1], 80))) == []
        assert asked(packet((ends[1], 80, ends[0], 4000))) == []


def test_of_no_other_plane_and_nothing_that_is_left_alone() -> None:
    relay = Policy(Mode.REQUIRE, Match(ports=HTTP))
    never = Policy(Mode.NEVER, Match(ports=HTTP), plane=SEGMENT)
    assert asked(packet(), relay, never) == []


def test_what_no_worker_of_ours_asks_for_ends_it() -> None:
    udp = bytearray(packet())
    udp[9] = 17
    fragment = bytearray(packet())
    fragment[6:8] = b"\x20\0"
    short = bytearray(packet())
    short[2:4] = struct.pack("!H", 40)
    for wrong in (
        bytes(udp),
        bytes(fragment),
        bytes(short),
        packet() + b"more",
        packet(flags=TcpFlags.SYN),
        packet(flags=TcpFlags.SYN | TcpFlags.ACK),
        b"",
        os.urandom(19),
    ):
        with pytest.raises(NonsenseError):
            asked(wrong)


def test_none_with_options_of_ip() -> None:
    plain = packet()
    routed = bytearray(plain[:20] + b"\x83\x03\x04\0" + plain[20:])
    routed[0] = 0x46
    routed[2:4] = struct.pack("!H", len(routed))
    assert asked(bytes(routed)) == []


def test_policies_that_change_are_heeded_and_little_is_remembered() -> None:
    sent: list[bytes] = []
    policies: list[tuple[Policy, ...]] = [(HOST,)]
    added = Added(lambda: policies[0], lambda view: sent.append(bytes(view)))
    for port in range(1, 5000):
        added(memoryview(packet((HERE, port, THERE, 80))))
    assert len(sent) == 4999
    assert len(added._known) <= 4096
    policies[0] = (GATEWAY,)
    added(memoryview(packet((HERE, 1, THERE, 80))))
    assert len(sent) == 4999


def test_over_the_channel_and_only_over_that_of_the_segment_plane() -> None:
    octets = packet()
    for plane in (True, False):
        loop, lost = Loop(), list[str]()
        sent: list[bytes] = []
        ours, theirs = verdict_pair()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as kernel, theirs:
            added = Added(lambda: (HOST,), lambda view, sent=sent: sent.append(bytes(view)))
            relay = VerdictRelay(
                loop, ours, kernel.fileno(), {1}, lost.append, add=added if plane else None
            )
            theirs.send(ADDED + octets)
            loop.step(1)
            assert sent == [octets] * plane
            assert len(lost) == (not plane)
            if plane:
                theirs.send(ADDED + octets + b"more")
                loop.step(1)
                assert lost == ["a packet to be added has another length than it says"]
            relay.close()
        loop.close()
