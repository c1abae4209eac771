"""The segment plane between two hosts, with programs that know nothing of it."""

import contextlib
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from netns.network import Network
from netns.segmenting import SegmentHost

from tcpcrypt.errors import LocalError
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


def test_what_is_encrypted_is_reset_when_it_ends_and_nothing_is_left(pair: Network) -> None:
    ours, theirs = SegmentHost(pair.client), SegmentHost(pair.server)
    with pair.listen() as listener, pair.connect() as sock, Capture(pair.client_end) as wire:
        other, _ = listener.accept()
        with other:
            sock.sendall(LINE)
            assert other.recv(len(LINE)) == LINE
            assert ours.stop() == 0
            # Never an end (EOF), and never in clear afterwards.
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            with pytest.raises(BrokenPipeError):
                sock.sendall(LINE)
        packets = wire.settled()
    assert free_of(packets, LINE) == [LINE]
    assert ours.events("stopped")
    assert "TCPCRYPT" not in pair.client.run("iptables-save").stdout
    assert theirs.stop() == 0


def test_if_it_is_killed_segments_are_dropped_and_not_sent_in_clear(pair: Network) -> None:
    ours, _theirs = SegmentHost(pair.client), SegmentHost(pair.server)
    with pair.listen() as listener, pair.connect() as sock, Capture(pair.client_end) as wire:
        other, _ = listener.accept()
        with other:
            sock.sendall(b"?")
            assert other.recv(1) == b"?"
            pair.client.stop(ours.process, signal.SIGKILL)
            sock.sendall(LINE)
            other.settimeout(1)
            with pytest.raises(TimeoutError):
                other.recv(1)
        packets = wire.settled()
    assert free_of(packets, LINE) == [LINE]
    # Who comes after it knows nothing of that connection, and resets it.
    again = SegmentHost(pair.client)
    with pair.conversation():
        assert len(again.wait_for("encrypted")) == 1


@pytest.mark.parametrize("family", [4, 6])
def test_what_was_encrypted_does_not_outlive_the_rules(pair: Network, family: int) -> None:
    """`tcpcrypt down` after a kill: without the rules the kernel would go on in clear."""
    ours, _theirs = SegmentHost(pair.client), SegmentHost(pair.server)
    with pair.listen(family) as listener, pair.connect(family) as sock:
        other, _ = listener.accept()
        with other, Capture(pair.client_end) as wire:
            sock.sendall(b"?")
            assert other.recv(1) == b"?"
            pair.client.stop(ours.process, signal.SIGKILL)
            pair.client.run(sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "down", cwd="/")
            assert "TCPCRYPT" not in pair.client.run("iptables-save").stdout
            with pytest.raises(ConnectionAbortedError):
                sock.sendall(LINE)
            packets = wire.settled()
    assert free_of(packets, LINE) == [LINE]


def test_two_do_not_serve_one_host(pair: Network) -> None:
    SegmentHost(pair.client)
    with pytest.raises(LocalError, match="another tcpcryptd serves this network namespace"):
        SegmentHost(pair.client)


def test_firewalls_that_drop_what_tracking_calls_invalid(pair: Network, tmp_path: Path) -> None:
    content = LINE * 10_000
    (tmp_path / "page").write_bytes(content)
    pair.web(tmp_path)
    tracking = ("-p", "tcp", "-m", "conntrack", "--ctstate")
    for host in (pair.client, pair.server):
        for chain in ("INPUT", "OUTPUT"):
            host.run("iptables", "-A", chain, *tracking, "INVALID", "-j", "DROP")
    ours, theirs = (SegmentHost(host, mode="require") for host in (pair.client, pair.server))
    assert pair.curl("/page").encode() == content
    assert ours.errors() == theirs.errors() == ""
    setting = ("cat", "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
    assert pair.client.run(*setting).stdout == "1\n"
    ours.stop()
    assert pair.client.run(*setting).stdout == "0\n"


def test_an_interface_that_is_not_there_is_said(pair: Network) -> None:
    with pytest.raises(LocalError, match="this host has no interface 'eth77'"):
        SegmentHost(pair.client, inner="eth77")


def test_it_ends_in_the_middle_of_a_stream_and_nothing_follows_in_clear(pair: Network) -> None:
    ours, _theirs = SegmentHost(pair.client), SegmentHost(pair.server)
    with pair.listen() as listener, pair.connect() as sock, Capture(pair.client_end) as wire:
        other, _ = listener.accept()
        stopped = threading.Event()

        def talk(speaker: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while not stopped.is_set():
                    speaker.sendall(LINE * 100)

        def hear(listening: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while listening.recv(1 << 16):
                    pass

        threads = [
            threading.Thread(target=what, args=(each,))
            for what in (talk, hear)
            for each in (sock, other)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert ours.stop() == 0
        # Both programs have heard of it: nobody sends any more.
        threads[0].join(10)
        assert not threads[0].is_alive()
        stopped.set()
        other.close()
        for thread in threads[1:]:
            thread.join(10)
        packets = wire.settled()
    assert free_of(packets, LINE) == [LINE]
