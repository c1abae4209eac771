"""Gateways: connections of hosts that know nothing are encrypted on their way."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.road import Road, make_road
from netns.segmenting import SegmentHost

from tcpcrypt.tools.netns import Capture, free_of

LINE = b"nobody between the two is to read this line\n"


@pytest.fixture
def road() -> Iterator[Road]:
    with make_road() as road:
        yield road


@pytest.mark.parametrize("family", [4, 6])
def test_two_gateways(road: Road, tmp_path: Path, family: int) -> None:
    content = LINE * 20_000
    (tmp_path / "page").write_bytes(content)
    road.network.web(tmp_path)
    west, east = road.gateways()
    with Capture(road.between[0]) as wire:
        assert road.network.curl("/page", family).encode() == content
        packets = wire.settled()
    assert free_of(packets, LINE, b"GET /page") == [LINE, b"GET /page"]
    sessions = [gateway.wait_for("encrypted")[0]["session"] for gateway in (west, east)]
    assert sessions[0] == sessions[1]
    assert west.errors() == east.errors() == ""


def test_a_gateway_and_a_host(road: Road, tmp_path: Path) -> None:
    content = LINE * 20_000
    (tmp_path / "page").write_bytes(content)
    road.network.web(tmp_path)
    west = SegmentHost(road.west, inner=road.inside[0].device)
    server = SegmentHost(road.network.server)
    with Capture(road.network.server_end) as wire:
        assert road.network.curl("/page").encode() == content
        packets = wire.settled()
    assert free_of(packets, LINE, b"GET /page") == [LINE, b"GET /page"]
    sessions = [each.wait_for("encrypted")[0]["session"] for each in (west, server)]
    assert sessions[0] == sessions[1]
    assert west.errors() == server.errors() == ""
