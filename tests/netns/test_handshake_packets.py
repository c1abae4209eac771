"""Which packets a handshake takes, and which of them wait for the opening daemon."""

from __future__ import annotations

import os

import pytest
from netns.network import PORT, Network
from netns.observed import eno, segments

from tcpcrypt.registry import INIT1_MAGIC
from tcpcrypt.runtime.rules import QUEUE_NUMBER
from tcpcrypt.tools.labdaemon import BACKEND
from tcpcrypt.tools.netns import Capture, Host
from tcpcrypt.wire.segment import Segment

CONNECTIONS = 5
_SEEN = 7
"""Column of /proc/net/netfilter/nfnetlink_queue: packets so far."""


def queued(host: Host) -> int:
    """Packets of handshakes that have waited for the daemon of `host`."""
    table = host.run("cat", "/proc/net/netfilter/nfnetlink_queue").stdout
    rows = [row.split() for row in table.splitlines()]
    return sum(int(row[_SEEN]) for row in rows if int(row[0]) == QUEUE_NUMBER)


def sent_by_client(packets: list[bytes]) -> list[list[Segment]]:
    """What the client sent behind its SYN, for each connection."""
    flows: dict[int, list[Segment]] = {}
    for segment in segments(packets):
        if segment.destination_port == PORT and not segment.flags.syn:
            flows.setdefault(segment.source_port, []).append(segment)
    return list(flows.values())


@pytest.mark.parametrize("family", [4, 6])
def test_rfc8547_4_6_the_option_until_the_peer_is_heard(pair: Network, family: int) -> None:
    """The ACK is the first, alone: Init1 may be too long for the path."""
    pair.both("--no-resume")
    waited = []
    with Capture(pair.client_end) as capture:
        for _ in range(CONNECTIONS):
            before = queued(pair.client)
            with pair.conversation(family):
                pass
            waited.append(queued(pair.client) - before)
        flows = sent_by_client(capture.settled())
    assert len(flows) == CONNECTIONS
    for first, *_others, last in flows:
        assert eno(first) == b""
        assert eno(last) is None
    for first, second, *_others in flows:
        assert not first.payload
        assert bytes(second.payload[: len(INIT1_MAGIC)]) == INIT1_MAGIC
    if os.environ.get(BACKEND, "nfqueue") == "nfqueue":
        # SYN, SYN-ACK, ACK, and Init1.
        assert min(waited) == 4
