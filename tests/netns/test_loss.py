"""Lossy paths: TCP mends them, and what it sends again is the same bytes."""

import hashlib
import random
from pathlib import Path

import pytest
from netns.network import Network
from netns.observed import eno, segments

from tcpcrypt.tools.netns import Capture

SYN = ("-p", "tcp", "--tcp-flags", "SYN,ACK", "SYN")
SYN_ACK = ("-p", "tcp", "--tcp-flags", "SYN,ACK", "SYN,ACK")
FROM_CLIENT = ("-p", "tcp", "--tcp-flags", "SYN,ACK", "ACK", "--dport", "80")
FIRST = ("-m", "statistic", "--mode", "nth", "--every", "1000000", "--packet", "0")


@pytest.mark.parametrize(
    "lost", [SYN, SYN_ACK, FROM_CLIENT], ids=["first-syn", "first-syn-ack", "first-ack"]
)
def test_the_first_handshake_packet_is_lost(
    path: Network, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    (tmp_path / "page").write_bytes(b"a page")
    path.web(tmp_path)
    ours, theirs = path.both()
    path.meddle(*lost, *FIRST, "-j", "DROP")
    with Capture(path.client_end) as near, Capture(path.server_end) as far:
        assert path.curl("/page") == "a page"
    assert ours.wait_for("enabled")[0]["session"] == theirs.wait_for("enabled")[0]["session"]
    # RFC 8547 section 4.6: the SYN-form option never changes.
    for capture in (near, far):
        seen = segments(capture.packets)
        syns = {eno(s) for s in seen if s.flags.syn and not s.flags.ack}
        answers = {eno(s) for s in seen if s.flags.syn and s.flags.ack}
        assert len(syns) == len(answers) == 1
    syns_seen, answers_seen = (
        sum(s.flags.syn and s.flags.ack is ack for s in segments(near.packets + far.packets))
        for ack in (False, True)
    )
    # Of a SYN-ACK that was lost either end may repeat its own first.
    repeated = max(syns_seen, answers_seen) if lost == SYN_ACK else syns_seen
    assert (repeated > 2) is (lost in (SYN, SYN_ACK))


@pytest.mark.parametrize("family", [4, 6])
def test_five_percent_loss_each_way_keeps_every_byte(
    path: Network, tmp_path: Path, family: int
) -> None:
    content = random.Random(5).randbytes(1_500_000)
    (tmp_path / "file").write_bytes(content)
    for end in (path.client_end, path.server_end, *path.middle_ends):
        # One segment a packet, so that a loss is one segment.
        end.host.run("ip", "link", "set", end.device, "gso_max_segs", "1")
    path.web(tmp_path)
    ours, theirs = path.both("--mode", "require")
    path.meddle("-m", "statistic", "--mode", "random", "--probability", "0.05", "-j", "DROP")
    for number in range(3):
        output = tmp_path / f"got{number}"
        path.curl("/file", family, "--output", str(output), "--retry", "0")
        assert hashlib.sha256(output.read_bytes()).digest() == hashlib.sha256(content).digest()
    mine = {line["session"] for line in ours.wait_for("enabled", count=3)}
    assert mine == {line["session"] for line in theirs.wait_for("enabled", count=3)}
    assert not ours.events("aborted")
