"""Peers and paths without TCP-ENO: plain TCP where policy allows, nothing where not.

RFC 8547 section 4.6 says which missing option ends in what.
"""

import os
import signal
import socket
import struct
import threading
from pathlib import Path

import pytest
from netns.network import Network
from netns.observed import eno, segments

from tcpcrypt.errors import LocalError
from tcpcrypt.registry import INIT1_MAGIC
from tcpcrypt.tools.netns import Capture, free_of, wait_until
from tcpcrypt.wire.segment import Segment

PAGE = b"a page"
REQUEST = b"GET /page"

SYN = ("-p", "tcp", "--tcp-flags", "SYN,ACK", "SYN")
SYN_ACK = ("-p", "tcp", "--tcp-flags", "SYN,ACK", "SYN,ACK")
ACK = ("-p", "tcp", "--tcp-flags", "SYN,ACK", "ACK")
STRIP = ("-j", "TCPOPTSTRIP", "--strip-options", "69")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "page").write_bytes(PAGE)
    return tmp_path


@pytest.mark.parametrize("family", [4, 6])
def test_a_peer_without_encryption_is_served_in_clear(
    pair: Network, site: Path, family: int
) -> None:
    pair.web(site)
    ours = pair.daemon(pair.client)
    assert pair.curl("/page", family).encode() == PAGE
    assert "SYN-ACK" in ours.wait_for("fallback")[0]["reason"]
    assert ours.wait_for("closed")[0]["how"] == "closed"


def test_a_plain_client_reaches_the_service_without_us(pair: Network, site: Path) -> None:
    """No ENO in the SYN: the daemon does not touch the connection."""
    pair.web(site)
    theirs = pair.daemon(pair.server)
    assert pair.curl("/page").encode() == PAGE
    assert not theirs.events("fallback", "enabled", "failed")


def test_require_refuses_a_peer_without_encryption(pair: Network, site: Path) -> None:
    pair.web(site)
    ours = pair.daemon(pair.client, "--mode", "require")
    with Capture(pair.client_end) as capture, pytest.raises(LocalError, match="curl"):
        pair.curl("/page")
    assert "SYN-ACK" in ours.wait_for("refused")[0]["reason"]
    assert free_of(capture.packets, REQUEST) == [REQUEST]


@pytest.mark.parametrize("family", [4, 6])
def test_require_on_the_server_refuses_a_plain_client(
    pair: Network, site: Path, family: int
) -> None:
    pair.web(site)
    pair.daemon(pair.server, "--mode", "require")
    with pytest.raises(LocalError, match=r"exited 7"):  # curl: connection refused
        pair.curl("/page", family)


@pytest.mark.parametrize("family", [4, 6])
def test_require_on_both_sides_encrypts(pair: Network, site: Path, family: int) -> None:
    pair.web(site)
    ours, theirs = pair.both("--mode", "require")
    assert pair.curl("/page", family).encode() == PAGE
    assert ours.wait_for("enabled")[0]["session"] == theirs.wait_for("enabled")[0]["session"]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("stripped", [SYN, SYN_ACK], ids=["syn", "syn-ack"])
def test_option_stripped_from_the_syn_exchange_gives_plain_tcp(
    path: Network, site: Path, family: int, stripped: tuple[str, ...]
) -> None:
    ours_say, theirs_say = {SYN: ("SYN-ACK", None), SYN_ACK: ("SYN-ACK", "first ACK")}[stripped]
    path.web(site)
    ours, theirs = path.both()
    path.meddle(*stripped, *STRIP)
    with Capture(path.client_end) as capture:
        assert path.curl("/page", family).encode() == PAGE
    assert ours_say in ours.wait_for("fallback")[0]["reason"]
    if theirs_say is None:
        assert not theirs.events("fallback")  # it went to the service itself
    else:
        assert theirs_say in theirs.wait_for("fallback")[0]["reason"]
    # Section 4.6: no further ENO option once encryption is disabled.
    late = [s for s in segments(capture.packets) if not s.flags.syn]
    assert all(eno(segment) is None for segment in late)


@pytest.mark.parametrize("mode", ["opportunistic", "require"])
def test_a_path_that_drops_syns_with_the_option(path: Network, site: Path, mode: str) -> None:
    """RFC 8547 section 4.6: a SYN may be repeated without ENO, where policy allows."""
    path.web(site)
    ours = path.daemon(path.client, "--mode", mode)
    path.meddle(*SYN, "--tcp-option", "69", "-j", "DROP")
    with Capture(path.client_end) as capture:
        if mode == "opportunistic":
            assert path.curl("/page").encode() == PAGE
            assert "retransmitted" in ours.wait_for("fallback")[0]["reason"]
        else:
            with pytest.raises(LocalError):
                path.curl("/page", 4, "--max-time", "8")
    syns = [eno(s) for s in segments(capture.packets) if s.flags.syn and not s.flags.ack]
    assert len(syns) >= 4
    assert syns[0]
    assert syns[:3] == 3 * [syns[0]]
    assert syns[3] == (None if mode == "opportunistic" else syns[0])


def opened(capture: Capture) -> list[Segment]:
    """The SYNs, without those that answer."""
    return [s for s in segments(capture.packets) if s.flags.syn and not s.flags.ack]


@pytest.mark.usefixtures("accepted_by_queue")  # by sockops the kernel alone answers it
def test_a_peer_that_is_stopped_for_a_while_is_not_taken_for_a_path_that_drops(
    path: Network, site: Path
) -> None:
    """Its kernel would answer a SYN without the option at once, in clear."""
    path.web(site)
    ours, theirs = path.both()
    assert path.curl("/page").encode() == PAGE
    ours.wait_for("closed")
    with Capture(path.client_end) as capture:

        def go_on() -> None:
            try:
                wait_until(lambda: len(opened(capture)) > 3, "fourth SYN", 20)
            finally:
                os.kill(theirs.worker, signal.SIGCONT)

        os.kill(theirs.worker, signal.SIGSTOP)
        going = threading.Thread(target=go_on)
        going.start()
        assert path.curl("/page").encode() == PAGE
        going.join()
    assert len({eno(syn) for syn in opened(capture)} - {None}) == 1
    assert all(eno(syn) for syn in opened(capture))
    assert PAGE not in b"".join(bytes(segment.payload) for segment in segments(capture.packets))
    assert len(ours.wait_for("enabled", count=2)) == 2
    assert not ours.events("fallback")


def test_a_path_that_begins_to_drop_syns_with_the_option_costs_six(
    path: Network, site: Path
) -> None:
    path.web(site)
    ours, _theirs = path.both()
    assert path.curl("/page").encode() == PAGE
    ours.wait_for("closed")
    path.meddle(*SYN, "--tcp-option", "69", "-j", "DROP")
    with Capture(path.client_end) as capture:
        # Seconds where Linux repeats SYNs once a second, a minute where it does not.
        assert path.curl("/page", 4, "--max-time", "100").encode() == PAGE
    assert "retransmitted" in ours.wait_for("fallback")[0]["reason"]
    assert [bool(eno(syn)) for syn in opened(capture)] == [*6 * [True], False]


@pytest.mark.usefixtures("accepted_by_queue")  # sockops refuses who answers a cookie without it
@pytest.mark.parametrize("cookies", ["1", "2"])
def test_option_stripped_from_the_first_ack_aborts(path: Network, cookies: str) -> None:
    """The opener has enabled encryption, the other side has not (RFC 8547 section 9,
    "type 2" failure): no request in clear, and an error instead of an answer."""
    path.server.sysctl("net.ipv4.tcp_syncookies", cookies)
    ours, theirs = path.both()
    path.meddle(*ACK, *STRIP)
    with (
        Capture(path.client_end) as capture,
        path.listen() as listener,
        path.connect() as one,
    ):
        one.sendall(REQUEST)
        other, _address = listener.accept()
        with other:
            # The service gets the opener's Init1, for that it is now plain TCP.
            assert other.recv(4) == INIT1_MAGIC
            other.sendall(b"what is that supposed to mean?")
            with pytest.raises(ConnectionResetError):
                one.recv(10)
    assert "first ACK" in theirs.wait_for("fallback")[0]["reason"]
    assert ours.wait_for("aborted")
    assert free_of(capture.packets, REQUEST) == [REQUEST]


@pytest.mark.parametrize("stripped", [SYN, SYN_ACK, ACK], ids=["syn", "syn-ack", "ack"])
def test_require_lets_nothing_out_in_clear(
    path: Network, site: Path, stripped: tuple[str, ...]
) -> None:
    path.web(site)
    path.both("--mode", "require")
    path.meddle(*stripped, *STRIP)
    with (
        Capture(path.client_end) as near,
        Capture(path.server_end) as far,
        pytest.raises(LocalError),
    ):
        path.curl("/page")
    packets = near.packets + far.packets
    assert segments(packets)
    assert free_of(packets, REQUEST, PAGE) == [REQUEST, PAGE]


def test_a_syn_with_data_and_eno_loses_the_data(pair: Network) -> None:
    """RFC 8547 section 4.7: SYN data with ENO must be discarded by the receiver."""
    pair.daemon(pair.server)
    tcp = struct.pack("!HHIIBBHHH", 40999, 80, 7, 0, 0x50, 0x02, 65535, 0, 0)
    source, destination = (socket.inet_aton(end.v4) for end in (pair.client_end, pair.server_end))
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 60, 0, 0, 64, 6, 0, source, destination)
    packet = Segment.parse(header + tcp + b"data in the SYN, 20b").with_options(
        bytes.fromhex("020405b445032300")
    )
    with (
        pair.listen(),
        Capture(pair.client_end) as capture,
        pair.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        raw.sendto(packet, (pair.server_end.v4, 0))
        answer = wait_until(
            lambda: [s for s in segments(capture.packets) if s.flags.syn and s.flags.ack],
            "SYN-ACK",
        )[0]
    assert eno(answer)
    assert answer.ack == 8  # the SYN alone


def test_a_forged_ack_does_not_downgrade(path: Network) -> None:
    """An ACK without ENO from somebody who does not see the connection, and so has its
    numbers wrong, must not count as the first ACK."""
    assert path.middle is not None
    ours, theirs = path.both()
    block = ("iptables", "-t", "mangle", "%s", "FORWARD", *ACK, "--dport", "80", "-j", "DROP")
    path.middle.run(*(word.replace("%s", "-A") for word in block))
    with Capture(path.server_end) as capture, path.listen() as listener, path.connect() as one:
        one.sendall(b"hello")
        syn = wait_until(
            lambda: [s for s in segments(capture.packets) if s.flags.syn and not s.flags.ack],
            "SYN",
        )[0]
        tcp = struct.pack(
            *("!HHIIBBHHH", syn.source_port, 80, (syn.seq + 1) % (1 << 32), 0x01020304),
            *(0x50, 0x10, 500, 0, 0),
        )
        header = struct.pack(
            *("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0),
            *(syn.source.packed, syn.destination.packed),
        )
        with path.middle.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(Segment.parse(header + tcp).with_options(b""), (path.server_end.v4, 0))
        wait_until(lambda: [s for s in segments(capture.packets) if s.ack == 0x01020304], "forgery")
        path.middle.run(*(word.replace("%s", "-D") for word in block))
        other, _address = listener.accept()
        with other:
            assert other.recv(10) == b"hello"
    assert ours.wait_for("enabled")[0]["session"] == theirs.wait_for("enabled")[0]["session"]


def test_link_local_is_left_alone(pair: Network) -> None:
    """Its addresses mean nothing without their link, which is lost on the way to us."""
    ours, theirs = pair.both()

    def address() -> str:
        text = pair.server.run(
            *("ip", "-6", "-oneline", "address", "show", "dev", pair.server_end.device),
            *("scope", "link", "-tentative"),
        ).stdout
        return text.split("inet6 ")[1].split("/")[0] if "inet6" in text else ""

    target = wait_until(address, "link-local address")
    with pair.listen(6) as listener, pair.client.socket(socket.AF_INET6) as one:
        one.settimeout(10)
        with pair.client.entered():
            scope = socket.if_nametoindex(pair.client_end.device)
        one.connect((target, 80, 0, scope))
        one.sendall(b"hello")
        other, _address = listener.accept()
        with other:
            assert other.recv(10) == b"hello"
    assert not ours.events("enabled", "fallback", "failed")
    assert not theirs.events("enabled", "fallback", "failed")
