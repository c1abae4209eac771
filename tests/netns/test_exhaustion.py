"""Descriptors and queues run out: bounded, counted, nothing in clear under `require`."""

import contextlib
import socket
import time
from pathlib import Path

from netns.network import PORT, Network
from netns.observed import segments

from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, free_of, wait_until

SECRET = b"nobody shall read this on the wire"
DESCRIPTORS = 420
ROOM = 60
MANY = 150


def processes(daemon: LabDaemon) -> list[int]:
    """The daemon's process and all that come of it."""
    found = [daemon.process.pid]
    for known in found:
        for task in Path(f"/proc/{known}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in task.read_text().split() if int(pid) not in found]
    return found


def open_many(network: Network, count: int) -> tuple[list[socket.socket], int]:
    """`count` connections begun at once, each of which says the secret; and how many failed."""
    begun = []
    for _ in range(count):
        sock = network.client.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect_ex((network.server_end.v4, PORT))
        begun.append(sock)
    up, failed = [], 0
    end = time.monotonic() + 20
    while begun and time.monotonic() < end:
        for sock in tuple(begun):
            try:
                sock.send(SECRET)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                if error.errno == 107:  # ENOTCONN: still waiting
                    continue
                failed += 1
                sock.close()
            else:
                up.append(sock)
            begun.remove(sock)
        time.sleep(0.02)
    for sock in begun:  # no answer yet, as when a SYN was dropped
        failed += 1
        sock.close()
    return up, failed


def test_descriptors_run_out_under_require(pair: Network) -> None:
    pair.daemon(pair.server, "--mode", "require")
    limit = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
    ours = LabDaemon(pair.client, "--port", str(PORT), "--mode", "require", through=limit)
    pair.daemons.append(ours)
    with pair.listen() as listener, Capture(pair.client_end) as capture:
        listener.listen(MANY)
        up, failed = open_many(pair, MANY)
        for sock in up:
            sock.close()
        assert up, "some have room"
        assert len(up) <= ROOM < len(up) + failed
        told = ours.events("failed", "exhausted")
        assert any("open files" in line["reason"] for line in told)
        # It recovers by itself, once both sides of those have ended.
        listener.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                listener.accept()[0].close()
        listener.settimeout(3)
        wait_until(lambda: works(pair, listener), "connection after the rush", 20, 0.3)
    assert free_of(capture.packets, SECRET) == [SECRET]
    assert all(process_alive(pid) for pid in processes(ours))


def works(pair: Network, listener: socket.socket) -> bool:
    """One more connection comes through."""
    try:
        with pair.connect(timeout=3) as sock:
            sock.sendall(b"once more")
            end = time.monotonic() + 3
            while time.monotonic() < end:
                other, _address = listener.accept()
                with other:
                    other.settimeout(1)
                    with contextlib.suppress(OSError):
                        if other.recv(100) == b"once more":
                            return True
    except OSError:
        return False
    return False


def process_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_rush_larger_than_the_queue_is_only_slower(pair: Network) -> None:
    """What the queue has no room for is dropped, never let go; TCP sends it again."""
    ours, _theirs = pair.both("--mode", "require")
    for pid in processes(ours):
        ours.host.run("kill", "-STOP", str(pid))
    try:
        with pair.listen() as listener, Capture(pair.client_end) as capture:
            listener.listen(300)
            begun = []
            for _ in range(300):
                sock = pair.client.socket(socket.AF_INET, socket.SOCK_STREAM)
                sock.setblocking(False)
                sock.connect_ex((pair.server_end.v4, PORT))
                begun.append(sock)
            time.sleep(0.3)
            assert not [s for s in segments(capture.packets) if s.flags.syn]
            for pid in processes(ours):
                ours.host.run("kill", "-CONT", str(pid))
            count = len(ours.wait_for("enabled", count=300, timeout=30))
            assert count == 300
            for sock in begun:
                sock.close()
    finally:
        for pid in processes(ours):
            ours.host.run("kill", "-CONT", str(pid))
