"""curl and an HTTP server that know nothing of encryption, through two daemons."""

import hashlib
import random
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from netns.network import PORT, Network
from netns.observed import eno, segments

from tcpcrypt.registry import INIT1_MAGIC, INIT2_MAGIC
from tcpcrypt.tools.netns import Capture, free_of, wait_until
from tcpcrypt.wire.segment import Segment

PAGE = b"<h1>a page that nobody else may read</h1>"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "page.html").write_bytes(PAGE)
    return tmp_path


@pytest.mark.parametrize("family", [4, 6])
def test_a_page_fresh_then_resumed(pair: Network, site: Path, family: int) -> None:
    pair.spare_room()
    pair.web(site)
    ours, theirs = pair.both()
    with Capture(pair.client_end) as capture:
        for _ in range(6):
            assert pair.curl("/page.html", family).encode() == PAGE
    assert capture.dropped == 0
    mine = ours.wait_for("enabled", count=6)
    others = theirs.wait_for("enabled", count=6)
    assert [line["session"] for line in mine] == [line["session"] for line in others]
    assert len({line["session"] for line in mine}) == 6
    assert [line["start"] for line in mine] == ["fresh"] + 5 * ["resumed"]
    assert [line["start"] for line in others] == ["fresh"] + 5 * ["resumed"]
    assert {line["role"] for line in mine} == {"A"}
    assert {line["role"] for line in others} == {"B"}
    assert free_of(capture.packets, b"GET /page", b"HTTP/1", b"nobody else") == [
        b"GET /page",
        b"HTTP/1",
        b"nobody else",
    ]
    for daemon in (ours, theirs):
        for line in daemon.wait_for("closed", count=6):
            assert line["how"] == "closed"
    assert int(ours.events("closed")[0]["received"]) > len(PAGE)


def test_eno_is_where_rfc_8547_section_4_6_wants_it(pair: Network, site: Path) -> None:
    pair.web(site)
    pair.spare_room()
    ours, _theirs = pair.both()
    with Capture(pair.client_end) as capture:
        pair.curl("/page.html")
        pair.curl("/page.html")
    ours.wait_for("closed", count=2)
    connections: dict[int, list] = {}
    for segment in segments(capture.packets):
        client = segment.source_port if segment.destination_port == 80 else segment.destination_port
        connections.setdefault(client, []).append(segment)
    assert len(connections) == 2
    for number, connection in enumerate(connections.values()):
        syn, syn_ack = connection[0], connection[1]
        assert syn.flags.syn
        assert not syn.flags.ack
        assert eno(syn)
        assert syn_ack.flags.syn
        assert syn_ack.flags.ack
        # The passive opener sets bit b in a global suboption.
        assert eno(syn_ack)[0] & 0x01
        heard = False
        for segment in connection[2:]:
            if segment.source_port == 80:
                heard = True
                assert eno(segment) is None
            elif not heard:
                assert eno(segment) == b""
        assert any(eno(s) == b"" and s.payload for s in connection if s.destination_port == 80)
        magics = [bytes(s.payload[:4]) for s in connection]
        if number == 0:
            for magic in (INIT1_MAGIC, INIT2_MAGIC):
                # RFC 8548 section 3.3: PSH on the segment that ends Init1 and Init2.
                init = connection[magics.index(magic)]
                assert int.from_bytes(init.payload[4:8], "big") == len(init.payload)
                assert init.flags.psh
        else:
            assert INIT1_MAGIC not in magics
            assert INIT2_MAGIC not in magics
        # RFC 8548 section 3.7: FIN on the segment that ends the frame with FINp.
        for port in (80, syn.source_port):
            last = next(s for s in connection if s.source_port == port and s.flags.fin)
            assert last.payload


def test_a_large_file_keeps_every_byte(pair: Network, site: Path) -> None:
    content = random.Random(1).randbytes(20_000_000)
    (site / "large").write_bytes(content)
    pair.web(site)
    ours, theirs = pair.both()
    with Capture(pair.server_end) as capture:
        pair.curl("/large", 4, "--output", str(site / "got"))
    assert hashlib.sha256((site / "got").read_bytes()).digest() == hashlib.sha256(content).digest()
    assert capture.dropped == 0
    needles = tuple(content[at : at + 24] for at in range(0, len(content) - 24, 500_000))
    assert free_of(capture.packets, *needles) == list(needles)
    assert int(ours.wait_for("closed")[0]["received"]) > len(content)
    assert int(theirs.wait_for("closed")[0]["sent"]) > len(content)


def test_fifty_connections_at_once(pair: Network, site: Path) -> None:
    """Twice: at first all are fresh, then there is a secret that only one may resume."""
    (site / "some").write_bytes(random.Random(2).randbytes(100_000))
    pair.web(site)
    pair.spare_room()
    ours, theirs = pair.both()
    urls = [f"http://{pair.server_end.v4}/some?{i}" for i in range(50)]
    outputs = [word for i in range(50) for word in ("--output", str(site / f"got{i}"))]
    want = (site / "some").read_bytes()
    for count in (50, 100):
        pair.client.run(
            *("curl", "--silent", "--show-error", "--fail", "--max-time", "60"),
            *("--parallel", "--parallel-immediate", "--parallel-max", "50"),
            *outputs,
            *urls,
        )
        assert all((site / f"got{i}").read_bytes() == want for i in range(50))
        mine = {line["session"] for line in ours.wait_for("enabled", count=count)}
        assert mine == {line["session"] for line in theirs.wait_for("enabled", count=count)}
        assert len(mine) == count
    assert any(line["start"] == "resumed" for line in ours.events("enabled"))
    for daemon in (ours, theirs):
        assert not daemon.events("aborted", "fallback", "failed", "bug")


def test_other_ports_are_left_alone(pair: Network) -> None:
    ours, _theirs = pair.both()
    with (
        Capture(pair.client_end) as capture,
        pair.listen(port=8080) as listener,
        pair.connect(port=8080) as one,
    ):
        other, _address = listener.accept()
        with other:
            one.sendall(b"in the open")
            assert other.recv(100) == b"in the open"
    assert all(eno(segment) is None for segment in segments(capture.packets, 8080))
    assert not ours.events("enabled", "fallback", "failed")


def test_help_and_usage() -> None:
    command = [sys.executable, "-m", "tcpcrypt.cli.tcpcryptd"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "examples:" in done.stdout
    for wrong in (["--mode", "require"], ["--port", "0"], ["--port", "9-8"], ["--port", "x"]):
        assert subprocess.run([*command, *wrong], capture_output=True, check=False).returncode == 2


def test_full_segments_keep_room_for_the_option(path: Network) -> None:
    """A resumed session sends at once; RFC 8547 section 4.6 wants ENO in each segment
    until the peer's first one without SYN, which is held back here for a while."""
    assert path.middle is not None
    for end in (path.client_end, path.server_end):
        end.host.run("ip", "link", "set", end.device, "gso_max_segs", "1")
    path.spare_room()
    path.both()
    data = random.Random(6).randbytes(60_000)
    with path.conversation():
        pass
    block = ("-p", "tcp", "--sport", str(PORT), "--tcp-flags", "SYN", "NONE", "-j", "DROP")
    path.meddle(*block)
    with Capture(path.client_end) as capture, path.listen() as listener, path.connect() as one:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)

        def full() -> list[Segment]:
            return [s for s in segments(capture.packets) if len(s.payload) > 1400]

        # TCP's initial window is ten segments.
        before = [eno(segment) for segment in wait_until(lambda: len(full()) >= 8 and full(), "8")]
        path.middle.run("iptables", "-t", "mangle", "-D", "FORWARD", *block)
        other, _address = listener.accept()
        with other:
            assert other.makefile("rb").read() == data
    assert set(before) == {b""}
    assert max(len(packet) for packet in capture.packets) == 1500


def test_syn_cookies_do_not_stand_in_the_way(pair: Network, site: Path) -> None:
    """The kernel keeps no state for the SYN; the daemon does."""
    pair.server.sysctl("net.ipv4.tcp_syncookies", "2")
    pair.web(site)
    ours, theirs = pair.both()
    for _ in range(3):
        assert pair.curl("/page.html").encode() == PAGE
    mine = [line["session"] for line in ours.wait_for("enabled", count=3)]
    assert mine == [line["session"] for line in theirs.wait_for("enabled", count=3)]


def test_few_ports_used_over_and_over(pair: Network) -> None:
    """Stale entries of connection tracking and TIME_WAIT lead no connection astray."""
    pair.client.sysctl("net.ipv4.ip_local_port_range", "50000 50015")
    pair.client.sysctl("net.ipv4.tcp_tw_reuse", "1")
    ours, theirs = pair.both()
    with pair.listen() as listener:
        for number in range(60):
            with pair.connect() as one:
                one.sendall(b"%d" % number)
                other, _address = listener.accept()
                with other:
                    assert other.recv(10) == b"%d" % number
                    if number % 2:
                        other.shutdown(socket.SHUT_WR)
                        assert one.recv(1) == b""
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert len(ours.wait_for("enabled", count=60)) == 60
    assert len(theirs.wait_for("enabled", count=60)) == 60
    assert not ours.events("fallback", "failed", "aborted")
