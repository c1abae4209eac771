"""What the rules of a killed process tell of the connections that only they keep from going on."""

from __future__ import annotations

from pathlib import Path

from tcpcrypt.core.policy import SEGMENT, Match, Mode, Policy
from tcpcrypt.runtime.left_behind import diverted_by
from tcpcrypt.runtime.older import diverted_connections

IPTABLES = """
-A TCPCRYPT-OUTPUT -p tcp -m mark --mark 0x900000/0xf00000 -j RETURN
-A TCPCRYPT-OUTPUT ! -o lo -p tcp -m tcp --dport 80 -j NFQUEUE --queue-num 29790
-A TCPCRYPT-OUTPUT ! -o lo -p tcp -m tcp --sport 80 -j NFQUEUE --queue-num 29790
-A TCPCRYPT-OUTPUT ! -o lo -p tcp -m tcp --dport 8000:8099 -j NFQUEUE --queue-num 29790
-A TCPCRYPT-INPUT ! -i lo -p tcp -m tcp --dport 443 -j NFQUEUE --queue-num 29791
-A TCPCRYPT-OUTPUT -p tcp -m tcp --dport 22 -j NFQUEUE --queue-num 29795
"""
NFT = """
add rule inet tcpcrypt mangle-output oifname != "lo" tcp dport 80 queue num 29790
add rule inet tcpcrypt mangle-output oifname != "lo" tcp sport 8000-8099 queue to 29790
"""
GATEWAY = "-A TCPCRYPT-FORWARD -i eth1 -p tcp -m tcp --dport 80 -j NFQUEUE --queue-num 29790"
HEAD = "  sl  local_address rem_address   st tx_queue\n"


def told(lines: str) -> list[tuple[str, list[range]]]:
    found = diverted_by(lines.splitlines())
    return [
        (str(p.match.direction and p.match.direction.value), list(p.match.ports)) for p in found
    ]


def test_ports_as_iptables_and_nft_tell_them() -> None:
    assert told(IPTABLES) == [
        ("outgoing", [range(80, 81)]),
        ("incoming", [range(80, 81)]),
        ("outgoing", [range(8000, 8100)]),
    ]
    assert told(NFT) == [("outgoing", [range(80, 81)]), ("incoming", [range(8000, 8100)])]
    several = (
        "-A TCPCRYPT-OUTPUT ! -o lo -d 10.0.0.0/8 -p tcp -m multiport --dports 80,90:91"
        " -j NFQUEUE --queue-num 29790"
    )
    (one,) = diverted_by([several])
    assert (one.plane, [str(n) for n in one.match.remote]) == (SEGMENT, ["10.0.0.0/8"])
    assert one.match.ports == (range(80, 81), range(90, 92))


def test_what_a_gateway_forwards_is_no_connection_of_this_host() -> None:
    assert diverted_by([GATEWAY]) == []


def test_connections_of_either_port_but_not_over_the_loopback(tmp_path: Path) -> None:
    # 10.0.0.1 and 10.0.0.2, ports 80, 443 and 5000; 127.0.0.1; fe80::1 is left out of it
    (tmp_path / "tcp").write_text(
        HEAD
        + "   0: 0100000A:1388 0200000A:0050 01 00000000\n"
        + "   1: 0100000A:0050 0200000A:1389 01 00000000\n"
        + "   2: 0100000A:138A 0200000A:01BB 01 00000000\n"
        + "   3: 0100007F:138B 0100007F:0050 01 00000000\n"
        + "   4: 00000000:0050 00000000:0000 0A 00000000\n"
        + "   5: 0100000A:138C 0200000A:0050 06 00000000\n"  # TIME-WAIT: nothing of it can leave
    )
    policy = Policy(Mode.REQUIRE, Match(ports=(range(80, 81),)), plane=SEGMENT)
    found = diverted_connections([policy], [], tmp_path)
    assert [(c.local_port, c.remote_port) for c in found] == [(5000, 80), (80, 5001)]
