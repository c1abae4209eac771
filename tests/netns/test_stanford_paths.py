"""Two of our daemons in the Stanford profile, on paths where the real one fails.

Every connection is encrypted, refused or reset, and every byte is the right one;
captures are read again by the key log.
"""

import concurrent.futures
import contextlib
import hashlib
import random
import socket
import struct
from pathlib import Path

import pytest
from netns.mallory import Rewriter
from netns.network import PORT, Network
from netns.observed import segments

from tcpcrypt.daemon.client import Client
from tcpcrypt.errors import PeerReason
from tcpcrypt.registry import ENO_EXID, INIT1_MAGIC
from tcpcrypt.runtime.netlink import Verdict
from tcpcrypt.tools.decode.capture import Packet
from tcpcrypt.tools.decode.decoder import Decoder
from tcpcrypt.tools.decode.files import read_key_log
from tcpcrypt.tools.decode.keys import KeyStore
from tcpcrypt.tools.decode.report import ConnectionReport
from tcpcrypt.tools.labdaemon import BACKEND, LabDaemon
from tcpcrypt.tools.netns import Capture, Host, wait_until
from tcpcrypt.wire.profile import STANFORD
from tcpcrypt.wire.segment import Segment

FIRST = ("-m", "statistic", "--mode", "nth", "--every", "1000000", "--packet", "0")
CLASSIC_ACK = ("-p", "tcp", "--tcp-flags", "SYN,ACK", "ACK", "--dport", "80")


@pytest.fixture(autouse=True)
def _nfqueue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile needs it, whatever else is tested by another backend."""
    monkeypatch.delenv(BACKEND, raising=False)


class Two:
    """Both daemons, by configuration files."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network, self.directory = network, directory

    def begin(self) -> "Two":
        self.server = self.start(self.network.server)
        self.client = self.start(self.network.client)
        return self

    def start(self, host: Host, mode: str = "require") -> LabDaemon:
        path = self.directory / f"{host.name}.toml"
        path.write_text(
            f'[daemon]\ncontrol = "{self.directory}/{host.name}.sock"\n'
            f'keylog = "{self.keys(host)}"\n'
            f'[[policy]]\nmode = "{mode}"\nprofile = "stanford"\nmatch = {{ ports = {PORT} }}\n'
        )
        daemon = LabDaemon(host, "--config", str(path))
        self.network.daemons.append(daemon)
        return daemon

    def keys(self, host: Host) -> Path:
        return self.directory / f"{host.name}.keys"

    def decoded(self, capture: Capture) -> list[ConnectionReport]:
        assert capture.dropped == 0
        store = KeyStore()
        assert read_key_log(self.keys(self.network.client), store) == []
        decoder = Decoder(store)
        for number, packet in enumerate(capture.packets, 1):
            decoder.packet(Packet(number, 0.0, memoryview(packet)))
        return [r for r in decoder.finish() if r.server.endswith(f":{PORT}")]


def check(report: ConnectionReport, *, resumed: bool) -> None:
    assert report.errors == []
    assert (report.profile, report.tep, report.resumed) == ("stanford", 0x21, resumed)
    assert report.client_to_server.authenticated is True
    assert report.server_to_client.authenticated is True


def test_fresh_then_resumed_ten_times(pair: Network, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"a page")
    pair.web(tmp_path)
    two = Two(pair, tmp_path).begin()
    with Capture(pair.client_end) as capture:
        for _ in range(11):
            assert pair.curl("/page") == "a page"
        two.client.wait_for("closed", count=11)
    with Client(tmp_path / "client.sock") as asked:
        assert asked.status()["keylog"] is True
    mine = two.client.wait_for("enabled", count=11)
    assert [line["start"] for line in mine] == ["fresh"] + 10 * ["resumed"]
    reports = two.decoded(capture)
    for number, report in enumerate(reports):
        check(report, resumed=number > 0)
        assert report.session_id is not None
        assert report.session_id.hex() == mine[number]["session"]
    assert len(reports) == 11


def test_ipv6(pair: Network, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"a page")
    pair.web(tmp_path)
    two = Two(pair, tmp_path).begin()
    with Capture(pair.client_end) as capture:
        assert pair.curl("/page", 6) == "a page"
        two.client.wait_for("closed")
    (report,) = two.decoded(capture)
    check(report, resumed=False)
    assert report.server.startswith("[fd99:")


def test_ecn(pair: Network, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"a page")
    pair.web(tmp_path)
    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.tcp_ecn", "1")
    two = Two(pair, tmp_path).begin()
    with Capture(pair.client_end) as capture:
        assert pair.curl("/page") == "a page"
        two.client.wait_for("closed")
    (report,) = two.decoded(capture)
    check(report, resumed=False)
    syn = next(s for s in segments(capture.packets) if s.flags.syn and not s.flags.ack)
    assert int(syn.flags) & 0xC0 == 0xC0, "ECN was asked for on the wire"


@pytest.mark.parametrize("lost", ["SYN", "SYN,ACK", "INIT1"])
def test_a_lost_packet_of_the_handshake(path: Network, tmp_path: Path, lost: str) -> None:
    """Of the real daemon the third ends the process."""
    (tmp_path / "page").write_bytes(b"a page")
    path.web(tmp_path)
    two = Two(path, tmp_path).begin()
    if lost == "INIT1":
        path.meddle(*CLASSIC_ACK, "-m", "length", "--length", "120:", *FIRST, "-j", "DROP")
    else:
        path.meddle("-p", "tcp", "--tcp-flags", "SYN,ACK", lost, *FIRST, "-j", "DROP")
    with Capture(path.client_end) as near:
        assert path.curl("/page") == "a page"
        two.client.wait_for("closed")
    (report,) = two.decoded(near)
    check(report, resumed=False)


def test_init1_that_is_repeated_with_the_number_of_the_syn(path: Network, tmp_path: Path) -> None:
    """So the real daemon repeats it, and its own takes no notice of numbers."""
    (tmp_path / "page").write_bytes(b"a page")
    path.web(tmp_path)
    two = Two(path, tmp_path).begin()
    assert path.middle is not None
    with Capture(path.client_end) as near, Lowered(path.middle) as lowered:
        assert path.curl("/page") == "a page"
        two.client.wait_for("closed")
    assert lowered.changed, "once, or again where the machine was slow"
    (report,) = two.decoded(near)
    check(report, resumed=False)


def test_loss_keeps_every_byte(path: Network, tmp_path: Path) -> None:
    content = random.Random(8).randbytes(1_000_000)
    (tmp_path / "file").write_bytes(content)
    for end in (path.client_end, path.server_end, *path.middle_ends):
        end.host.run("ip", "link", "set", end.device, "gso_max_segs", "1")
    path.web(tmp_path)
    two = Two(path, tmp_path).begin()
    assert path.middle is not None
    with Capture(path.client_end) as near, Losing(path.middle) as losing:
        for number in range(2):
            output = tmp_path / f"got{number}"
            path.curl("/file", 4, "--output", str(output), "--retry", "0")
            assert hashlib.sha256(output.read_bytes()).digest() == hashlib.sha256(content).digest()
        two.client.wait_for("closed", count=2)
    assert losing.changed
    assert not two.client.events("aborted")
    reports = two.decoded(near)
    assert len(reports) == 2
    for number, report in enumerate(reports):
        check(report, resumed=number > 0)
        assert report.server_to_client.bytes > len(content)


@pytest.mark.parametrize("lossy", [False, True], ids=["intact", "lossy"])
def test_of_a_peer_without_sack_no_byte_behind_a_gap_is_taken(
    path: Network, tmp_path: Path, lossy: bool
) -> None:
    """The real daemon's classic mode, which takes SACK out of its SYNs, seals what its
    kernel repeats in the wrong place, and its tag is right."""
    content = random.Random(8).randbytes(1_000_000)
    (tmp_path / "file").write_bytes(content)
    for end in (path.client_end, path.server_end, *path.middle_ends):
        end.host.run("ip", "link", "set", end.device, "gso_max_segs", "1")
    path.server.sysctl("net.ipv4.tcp_sack", "0")
    path.web(tmp_path)
    two = Two(path, tmp_path).begin()
    assert path.curl("/file", 4, "--range", "0-5", "--output", str(tmp_path / "few")) == ""
    if lossy:
        assert path.middle is not None
        (tmp_path / "got").write_bytes(b"")
        with Losing(path.middle):
            path.curl("/file", 4, "--output", str(tmp_path / "got"), "--retry", "0", check=False)
        (line,) = two.client.wait_for("aborted")
        assert line["reason"] == PeerReason.REPEATED_ANEW.value
        got = (tmp_path / "got").read_bytes()
        assert content.startswith(got)
        assert len(got) < len(content)
    else:
        # A busy machine loses or overtakes a packet at times.
        for _ in range(6):
            (tmp_path / "got").write_bytes(b"")
            path.curl("/file", 4, "--output", str(tmp_path / "got"), "--retry", "0", check=False)
            if (tmp_path / "got").read_bytes() == content:
                break
            assert content.startswith((tmp_path / "got").read_bytes())
        else:
            pytest.fail("no transfer was whole, on a path that loses nothing")
        reasons = {line["reason"] for line in two.client.events("aborted")}
        assert reasons <= {PeerReason.REPEATED_ANEW.value}


def raw_syn(contents: bytes, source: str, destination: str, port: int) -> bytes:
    """A SYN with this ENO option."""
    option = bytes((0xFD, 4 + len(contents))) + ENO_EXID + contents
    option += bytes(-len(option) % 4)
    tcp = struct.pack("!HHIIBBHHH", port, PORT, 77, 0, 0x50, 0x02, 60000, 0, 0)
    ends = socket.inet_aton(source), socket.inet_aton(destination)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 7, 0, 64, 6, 0, *ends)
    return Segment.parse(head + tcp).with_options(option)


def test_syns_that_end_the_real_daemon(pair: Network, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"a page")
    pair.web(tmp_path)
    two = Two(pair, tmp_path)
    server_daemon = two.start(pair.server, "opportunistic")
    client, server = pair.client_end.v4, pair.server_end.v4
    contents = ("0121", "2321", "0123", "a1" + "07" * 9, "21a1" + "07" * 9, "", "9f", "ff" * 36)
    with (
        Capture(pair.server_end) as capture,
        pair.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        for number, text in enumerate(contents):
            raw.sendto(raw_syn(bytes.fromhex(text), client, server, 6000 + number), (server, 0))
        capture.settled()
        # A daemon here would not have let them pass.
        client_daemon = two.start(pair.client)
        assert pair.curl("/page") == "a page"
    answers = {
        s.destination_port: bytes(s.options)
        for s in segments(capture.packets)
        if s.flags.syn and s.flags.ack and s.destination_port < 6100
    }
    assert len(answers) == len(contents), "each is answered, encrypted or not"
    for number, text in enumerate(contents):
        agrees = ENO_EXID in answers[6000 + number]
        assert agrees is (text in {"0121", "2321", "a1" + "07" * 9, "21a1" + "07" * 9}), text
    assert server_daemon.process.poll() is None
    assert client_daemon.wait_for("enabled")[0]["profile"] == "stanford"


def test_a_tampered_segment_ends_in_a_reset(path: Network, tmp_path: Path) -> None:
    """Of the real daemon what follows is delivered in its place, or the end looks clean."""
    content = random.Random(9).randbytes(300_000)
    for end in (path.client_end, path.server_end, *path.middle_ends):
        end.host.run("ip", "link", "set", end.device, "gso_max_segs", "1")
    two = Two(path, tmp_path).begin()
    got = bytearray()
    with path.listen() as listener, path.connect() as one:
        one.sendall(b"?")
        other, _address = listener.accept()
        with other:
            other.settimeout(15)
            assert other.recv(1) == b"?"
            assert path.middle is not None
            with (
                Tamperer(path.middle) as tamperer,
                concurrent.futures.ThreadPoolExecutor(1) as pool,
            ):
                sent = pool.submit(_send, one, content)
                with pytest.raises(ConnectionError):
                    _receive(other, got)
                sent.result(20)
    assert tamperer.changed
    assert content.startswith(bytes(got))
    assert len(got) < len(content)
    assert two.server.wait_for("aborted")[0]["reason"]


def _send(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)


def _receive(sock: socket.socket, got: bytearray) -> None:
    while data := sock.recv(1 << 16):
        got += data


class Lowered(Rewriter):
    """Gives Init1 a sequence number that is one too low."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, lambda _segment: None)

    def _rule(self, what: str) -> None:
        self._host.run(
            *("iptables", "-t", "mangle", what, "FORWARD", "-p", "tcp", "--dport", str(PORT)),
            *("-j", "NFQUEUE", "--queue-num", "7"),
        )

    def _decide(self, packet: object) -> None:
        segment = Segment.parse(packet.payload)  # type: ignore[attr-defined]
        changed = None
        if segment.payload[:4] == INIT1_MAGIC:
            self.changed += 1
            options = bytes(segment.options)
            changed = segment.altered(options, bytes(segment.payload), seq=segment.seq - 1)
        self._queue.verdict(packet, Verdict.ACCEPT, changed)  # type: ignore[arg-type]


class Losing(Rewriter):
    """Loses three packets in a hundred: segments, for the queue cuts what was merged."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, lambda _segment: None)
        self._random = random.Random(3)

    def _rule(self, what: str) -> None:
        self._host.run(
            *("iptables", "-t", "mangle", what, "FORWARD", "-p", "tcp"),
            *("-j", "NFQUEUE", "--queue-num", "7"),
        )

    def _decide(self, packet: object) -> None:
        lost = self._random.random() < 0.03
        self.changed += lost
        verdict = Verdict.DROP if lost else Verdict.ACCEPT
        self._queue.verdict(packet, verdict)  # type: ignore[arg-type]


class Tamperer(Rewriter):
    """Changes one byte of a stream on its way, in every copy of it.

    It is chosen by its place, however the kernel merges or cuts what passes.  The
    checksum is right again.
    """

    BEHIND = 60_000
    """Bytes that pass as they are; what is changed stands in the next ones."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, lambda _segment: None)
        self._passed = 0
        self._target: int | None = None

    def _rule(self, what: str) -> None:
        self._host.run(
            *("iptables", "-t", "mangle", what, "FORWARD", "-p", "tcp", "--dport", str(PORT)),
            *("-j", "NFQUEUE", "--queue-num", "7"),
        )

    def _decide(self, packet: object) -> None:
        octets = bytearray(packet.payload)  # type: ignore[attr-defined]
        segment = Segment.parse(octets)
        size = len(segment.payload)
        self._passed += size
        if self._target is None and self._passed > self.BEHIND and size >= 100:
            self._target = segment.seq + size - 20
        changed = None
        if self._target is not None:
            place = (self._target - segment.seq) % (1 << 32)
            if place < size:
                self.changed += 1
                octets[place - size] ^= 1
                changed = Segment.parse(octets).with_options(bytes(segment.options))
        self._queue.verdict(packet, Verdict.ACCEPT, changed)  # type: ignore[arg-type]


def test_many_connections_in_a_short_time(pair: Network, tmp_path: Path) -> None:
    """Of the real daemon 1024 within ten seconds end the process."""
    two = Two(pair, tmp_path).begin()
    count = 3000

    def one_connection(number: int) -> bool:
        with pair.connect() as one:
            one.sendall(number.to_bytes(4, "big"))
            return one.recv(4) == number.to_bytes(4, "big")

    with pair.listen() as listener, concurrent.futures.ThreadPoolExecutor(21) as pool:
        listener.listen(256)

        def serve() -> None:
            for _ in range(count):
                other, _address = listener.accept()
                with other:
                    other.settimeout(15)
                    other.sendall(other.recv(4))

        served = pool.submit(serve)
        assert all(pool.map(one_connection, range(count)))
        served.result(60)
    for daemon, host in ((two.client, "client"), (two.server, "server")):
        assert daemon.process.poll() is None
        assert not daemon.events("aborted", "failed")
        with Client(tmp_path / f"{host}.sock") as asked:
            counters = asked.status()["counters"]
        assert counters["fresh"] + counters["resumed"] == count


def test_so_many_are_opened_to_one_service_at_a_time(pair: Network, tmp_path: Path) -> None:
    """Its proxy fails what comes beside them."""
    most = STANFORD.openings_at_once
    assert most is not None
    two = Two(pair, tmp_path).begin()
    drop = ("-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    pair.server.run("iptables", *drop)
    with contextlib.ExitStack() as stack, Capture(pair.client_end) as capture:
        ours = []
        for _ in range(most + 9):
            one = stack.enter_context(pair.client.socket(socket.AF_INET, socket.SOCK_STREAM))
            one.setblocking(False)
            one.connect_ex((pair.server_end.v4, PORT))
            ours.append(one)

        def asked() -> int:
            return len({s.source_port for s in segments(capture.packets) if s.flags.syn})

        wait_until(lambda: asked() >= most, "the first SYNs")
        with Client(tmp_path / "client.sock") as client:
            wait_until(lambda: client.status()["queue"]["held"] == len(ours), "the others")
        capture.settled()
        assert asked() == most
    assert two.client.process.poll() is None
