"""What the rules of a killed process tell of the connections that only they keep from going on."""

from __future__ import annotations

from pathlib import Path

from tcpcrypt.runtime.left_behind import segment_ports
from tcpcrypt.runtime.older import connections_by_port

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


def test_ports_as_iptables_and_nft_tell_them() -> None:
    assert segment_ports(IPTABLES.splitlines()) == [range(80, 81), range(8000, 8100)]
    assert segment_ports(NFT.splitlines()) == [range(80, 81), range(8000, 8100)]


def test_what_a_gateway_forwards_is_no_connection_of_this_host() -> None:
    assert segment_ports([GATEWAY]) == []


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
    found = connections_by_port([range(80, 81)], tmp_path)
    assert [(c.local_port, c.remote_port) for c in found] == [(5000, 80), (80, 5001)]
