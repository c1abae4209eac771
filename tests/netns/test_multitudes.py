"""Connections by the thousand under `require`: not one SYN, not one byte leaves in clear.

Some thousands; 200,000 with TCPCRYPT_TEST_PROFILE=long.  Everything that passes the wire
is captured and looked at, and a capture that lost a packet proves nothing.
"""

import os
from pathlib import Path

import pytest
from netns import kernel_programs
from netns.network import PORT, Network
from netns.observed import eno, segments

from tcpcrypt.tools.netns import Capture
from tcpcrypt.tools.traffic import Traffic

LONG = os.environ.get("TCPCRYPT_TEST_PROFILE") == "long"
CONNECTIONS = 200_000 if LONG else 2_000
SECONDS = 3.0
ROUNDS_MAX = 4_000 if LONG else 20
"""Many times what an idle machine takes; one with twenty other things to do needs 600."""
AT_ONCE = 64
PIECES = (b"01234567", b"89abcdef")
"""Of what `traffic.c` sends; either is long enough never to come up in ciphertext."""


@pytest.fixture(params=["nfqueue", "sockops", pytest.param("mixed", marks=pytest.mark.long)])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param != "nfqueue":
        kernel_programs.needed_by(request.param)
    name: str = request.param
    return name


def test_thousands_of_required_connections_and_nothing_of_them_in_clear(
    pair: Network, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TCPCRYPT_TEST_BACKEND", backend)
    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.ip_local_port_range", "32768 65000")
        host.sysctl("net.ipv4.tcp_tw_reuse", "1")
    traffic = Traffic(tmp_path)
    pair.both("--mode", "require")
    traffic.serve(pair.server, (pair.server_end.v4, PORT), "once")
    done = 0
    for _ in range(ROUNDS_MAX):
        with Capture(pair.client_end) as capture:
            said = traffic.open(pair.client, (pair.server_end.v4, PORT), AT_ONCE, SECONDS)
            capture.settled()
        assert capture.dropped == 0, "the capture has holes"
        assert said["failed"] == 0
        assert judge(capture.packets) >= said["ok"]
        done += said["ok"]
        if done >= CONNECTIONS:
            break
    assert done >= CONNECTIONS


def judge(packets: list[bytes]) -> int:
    """How many connections began there.  Fails on the first segment that is in clear."""
    begun = set()
    for segment in segments(packets, PORT):
        if segment.flags.syn:
            assert eno(segment), f"a SYN without the option: {segment}"
            if not segment.flags.ack:
                begun.add((segment.flow, segment.seq))
        payload = bytes(segment.payload)
        assert not any(piece in payload for piece in PIECES), f"in clear: {segment}"
    return len(begun)
