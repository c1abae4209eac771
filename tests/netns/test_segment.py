"""The segment plane between two hosts, with programs that know nothing of it."""

from pathlib import Path

import pytest
from netns.network import Network
from netns.segmenting import SegmentHost

from tcpcrypt.tools.netns import Capture, free_of

LINE = b"nobody between the two is to read this line\n"


@pytest.mark.parametrize("family", [4, 6])
def test_curl_between_two_hosts(pair: Network, tmp_path: Path, family: int) -> None:
    content = LINE * 20_000
    (tmp_path / "page").write_bytes(content)
    pair.web(tmp_path)
    ours, theirs = SegmentHost(pair.client), SegmentHost(pair.server)
    with Capture(pair.client_end) as wire:
        for _ in range(2):
            assert pair.curl("/page", family).encode() == content
        packets = wire.settled()
    assert free_of(packets, LINE, b"GET /page") == [LINE, b"GET /page"]
    assert wire.dropped == 0
    mine, its = ours.wait_for("encrypted", 2), theirs.wait_for("encrypted", 2)
    assert [event["session"] for event in mine] == [event["session"] for event in its]
    assert [event["resumed"] for event in mine] == [False, True]
    ours.wait_for("closed", 2)
    theirs.wait_for("closed", 2)
    assert ours.errors() == theirs.errors() == ""
