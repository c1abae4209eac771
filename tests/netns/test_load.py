"""Floods and kills: an honest client is served, nothing grows, and nothing is in clear.

client ---- veth1 ---- middle ---- veth2 ---- server

The middle sends what no host has said, and keeps back what the client says.
Three kills; with TCPCRYPT_TEST_PROFILE=long sixty.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from middlebox.box import Box
from middlebox.fault import Harmless, Out
from middlebox.packet import ENO, FIN, RST, Packet
from netns.flood import FACTOR, SECRET, SPARE, SynFlood, latency, nobody_there, service
from netns.network import PORT, Network
from netns.processes import descriptors, resident

from tcpcrypt.daemon.client import Client
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, free_of, wait_until

LONG = os.environ.get("TCPCRYPT_TEST_PROFILE") == "long"
KILLS = 60 if LONG else 3
SYNS = 3500
SLOW = 150
"""Handshakes that never get to their end."""
GROWTH_MAX = SYNS * 4096
"""Bytes.  A handshake that goes no further is kept for two minutes, in some 2 KiB."""


class Dripping(Harmless):
    """Of what the client says behind its SYN a byte a second goes on: no Init1 ever ends."""

    def segment(self, packet: Packet, forward: bool) -> Iterable[Out]:
        if forward and packet.flags & (RST | FIN):
            return []  # the server is to find out by itself
        if not forward or not packet.payload:
            return [packet]
        offset = self.offset(packet, True)
        if offset == self.done and self.done < 40:
            self.done += 1
            self.later(float(self.done), packet.piece(0, 1))
        return [] if offset or packet.option(ENO) is None else [packet.with_payload(b"")]


def connections(path: Path) -> int:
    with Client(path) as client:
        return int(client.status()["connections"])


def test_floods_leave_an_honest_client_its_latency_and_the_daemon_its_size(
    path: Network, tmp_path: Path
) -> None:
    """SYNs from nobody by the thousand; then Init1 byte by byte from many, until the deadline."""
    assert path.middle is not None
    nobody_there(path)
    path.client.run("ip", "route", "add", "local", "10.97.0.0/16", "dev", "lo")
    path.middle.run("ip", "route", "add", "10.97.0.0/16", "via", path.client_end.v4)
    tmp_path.chmod(0o755)
    control = tmp_path / "server.sock"
    own = tmp_path / "client.sock"
    path.daemon(path.client, "--mode", "require", "--control", str(own))
    theirs = path.daemon(path.server, "--mode", "require", "--control", str(control))
    pid = theirs.process.pid
    with service(path):
        latency(path)  # warm
        alone = latency(path)
        held, size = descriptors(pid), resident(pid)
        with SynFlood(path, SYNS) as flood:
            wait_until(lambda: flood.sent > 500, "flood")
            flooded = latency(path)
            wait_until(lambda: flood.sent == SYNS, "flood", 30)
        assert flooded <= FACTOR * alone + SPARE
        with Client(own) as asked:
            asked.flush()  # all of them exchange keys
        slow = []
        with Box(path.middle, bytes((10, 97))) as box:
            for number in range(SLOW):
                address = bytes((10, 97)) + number.to_bytes(2)
                box.faults[address] = Dripping(box.later)
                sock = path.client.socket(socket.AF_INET, socket.SOCK_STREAM)
                slow.append(sock)
                sock.bind((socket.inet_ntoa(address), 0))
                sock.setblocking(False)
                sock.connect_ex((path.server_end.v4, PORT))
            wait_until(lambda: connections(control) >= SLOW, "slow handshakes", 20)
            besieged = latency(path)
            assert besieged <= FACTOR * alone + SPARE
            # Each has its time, and no more.
            wait_until(lambda: connections(control) == 0, "deadlines", 40)
            aborted = theirs.events("aborted")
            assert len(aborted) == SLOW
            assert {line["reason"] for line in aborted} == {"handshake deadline passed"}
            assert not box.problems
        for sock in slow:
            sock.close()
        wait_until(lambda: connections(control) == 0, "end of all", 20)
        assert resident(pid) - size < GROWTH_MAX
        wait_until(lambda: descriptors(pid) <= held + 64, "descriptors given back", 20)
        assert latency(path) <= FACTOR * alone + SPARE
    assert not theirs.events("bug")


def talk(network: Network, stop: threading.Event, done: list[str]) -> None:
    """One connection after another; what happens to each."""
    while not stop.is_set():
        try:
            with network.connect(timeout=3) as sock:
                sock.sendall(SECRET * 100)
                data = sock.recv(len(SECRET))
                done.append("answered" if data == SECRET else "ended" if not data else "partial")
        except TimeoutError:
            done.append("timeout")
        except OSError as error:
            done.append(type(error).__name__)
        stop.wait(0.01)


def test_killed_again_and_again_and_never_in_clear(path: Network) -> None:
    """SIGKILL in mid-traffic, at either host; who starts it anew is encrypted again."""
    arguments = ("--port", str(PORT), "--mode", "require")
    daemons = {host: LabDaemon(host, *arguments) for host in (path.client, path.server)}
    stop, done = threading.Event(), []
    thread = threading.Thread(target=talk, args=(path, stop, done))
    chance = random.Random(9)
    with service(path), Capture(path.client_end) as near, Capture(path.server_end) as far:
        try:
            thread.start()
            for number in range(KILLS):
                host = (path.client, path.server)[number % 2]
                before = done.count("answered")
                wait_until(lambda before=before: done.count("answered") > before + 3, "answers", 30)
                time.sleep(chance.random() / 20)
                daemons[host].stop(signal.SIGKILL)
                daemons[host] = LabDaemon(host, *arguments)
            before = done.count("answered")
            wait_until(lambda: done.count("answered") > before + 3, "answers in the end", 30)
        finally:
            stop.set()
            thread.join(20)
        near.settled()
    assert near.dropped == far.dropped == 0
    assert free_of(near.packets + far.packets, SECRET) == [SECRET]
    # RFC 8548 section 3.7: what is cut off does not look like an end.
    assert not {"ended", "partial"} & set(done), done
    for daemon in daemons.values():
        assert daemon.stop() == 0


def test_memory_that_runs_out_ends_connections_and_is_no_way_into_the_clear(
    path: Network,
) -> None:
    """Hardly more address space than a daemon takes at rest, and many whom nobody reads.

    They are resumed: where the library for fresh exchanges finds no memory, it ends the
    worker with SIGABRT, and the daemon ends with it (docs/processes.md).
    """
    path.spare_room()
    path.daemon(path.server, "--mode", "require")
    arguments = ("--port", str(PORT), "--mode", "require")
    resting = LabDaemon(path.client, *arguments)
    status = Path(f"/proc/{resting.worker}/status").read_text()
    size = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmPeak"))
    assert resting.stop() == 0
    limit = (size << 10) + (1 << 20)
    ours = LabDaemon(path.client, *arguments, through=("prlimit", f"--as={limit}:{limit}"))
    path.daemons.append(ours)
    outcomes: list[str] = []
    with path.listen() as listener, Capture(path.client_end) as near:
        listener.listen(256)
        open_ = []
        for _ in range(400):
            try:
                sock = path.connect(timeout=2)
            except OSError as error:
                outcomes.append(type(error).__name__)
                if outcomes[-3:] == 3 * ["TimeoutError"]:
                    break  # they wait until there is memory again
                continue
            open_.append(sock)
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                for _ in range(4):
                    sock.send(SECRET * 4000)
            outcomes.append("open")
        for sock in open_:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        near.settled()
    assert "open" in outcomes
    assert near.dropped == 0
    assert free_of(near.packets, SECRET) == [SECRET]
    assert ours.events("failed", "aborted", "exhausted", "bug"), "memory did not run out"
    assert ours.process.poll() is None, ours.errors() + ours.log_text()[-2000:]
    # And goes on when there is room again.
    with path.conversation():
        pass
