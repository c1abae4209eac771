"""Idle encrypted connections: what each costs in memory and descriptors, and that all still work.

    python bench/idle.py [--connections 10000] [--json]

Two hosts in network namespaces with a daemon on each.  A program opens the
connections, has one byte echoed on each, lets them rest, and at the end has
another byte echoed on every one.  Each connection takes two descriptors of
each daemon; memory is that of all processes of a daemon (VmRSS), the growth
since before the first connection divided by their number.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import operator
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Host, Lab, become_root

PORT = 80
AT_ONCE = 64
PATIENCE = 60.0
SPARE = 200
"""Descriptors of a daemon that are not for connections."""


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def memory(pid: int) -> int:
    """Resident bytes of a process and its descendants.

    The least of three looks: a child that lives for a moment only, as one that looks after
    the rules, has pages of its parent and is no part of it.
    """
    looks = [_resident(pid)]
    for _ in range(2):
        time.sleep(0.1)
        looks.append(_resident(pid))
    return min(looks)


def _resident(pid: int) -> int:
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError):  # it may have ended
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
    return total


def descriptors(pid: int) -> int:
    """Open descriptors of the one process among them that has most."""
    found = [0]
    for one in family(pid):
        with contextlib.suppress(OSError):
            found.append(len(os.listdir(f"/proc/{one}/fd")))
    return max(found)


def echo(address: str) -> None:
    """The service: gives every byte back.  Does not return."""
    listener = socket.create_server((address, PORT), backlog=4096)
    listener.setblocking(False)
    epoll, open_ones = select.epoll(), {}
    epoll.register(listener, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        for fd, _events in epoll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                open_ones[sock.fileno()] = sock
                epoll.register(sock, select.EPOLLIN)
            elif data := open_ones[fd].recv(4096):
                open_ones[fd].sendall(data)
            else:
                epoll.unregister(fd)
                open_ones.pop(fd).close()


def ask(sockets: Iterable[socket.socket]) -> int:
    """Have a byte echoed on each of these; how many did."""
    epoll = select.epoll()
    waiting = {sock.fileno(): sock for sock in sockets}
    for fd, sock in waiting.items():
        sock.send(b"?")
        epoll.register(fd, select.EPOLLIN)
    good, end = 0, time.monotonic() + PATIENCE
    while waiting and time.monotonic() < end:
        for fd, _events in epoll.poll(1):
            epoll.unregister(fd)
            good += waiting.pop(fd).recv(1) == b"?"
    epoll.close()
    return good


def open_all(host: Host, to: tuple[str, int], count: int) -> list[socket.socket]:
    """`count` connections on which a byte was echoed; stops at the first that fails."""
    opened: list[socket.socket] = []
    while len(opened) < count:
        batch = [
            host.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            for _ in range(min(AT_ONCE, count - len(opened)))
        ]
        connecting = select.epoll()
        for sock in batch:
            sock.connect_ex(to)
            connecting.register(sock, select.EPOLLOUT)
        left, end = len(batch), time.monotonic() + PATIENCE
        while left and time.monotonic() < end:
            for fd, _events in connecting.poll(1):
                connecting.unregister(fd)
                left -= 1
        connecting.close()
        if left or ask(batch) != len(batch):
            raise SystemExit(f"of {count} connections {len(opened)} could be opened")
        opened += batch
    return opened


def possible(count: int) -> int:
    """As many connections as RLIMIT_NOFILE lets a daemon have; raises it where it can."""
    hard, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[1], 2 * count + SPARE
    for limit in (max(hard, needed), hard):
        try:
            # What is started from here inherits it.
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (PermissionError, ValueError):
            continue
        if limit < needed:
            count = (limit - SPARE) // 2
            print(f"RLIMIT_NOFILE is {limit}: {count} connections", file=sys.stderr)
        break
    return count


def measure(count: int) -> dict[str, Any]:
    count = possible(count)
    with Lab() as lab:
        client, server = lab.host("client"), lab.host("server")
        _end, far = lab.join(client, server)
        client.sysctl("net.ipv4.ip_local_port_range", "20000 65000")
        daemons = [LabDaemon(host, "--port", str(PORT)) for host in (client, server)]
        service = server.start(
            sys.executable, __file__, "--serve", far.v4, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        for sock in open_all(client, (far.v4, PORT), AT_ONCE):
            sock.close()
        time.sleep(1)
        pids = [daemon.process.pid for daemon in daemons]
        before, descriptors_before = [memory(p) for p in pids], [descriptors(p) for p in pids]
        begun = time.monotonic()
        sockets = open_all(client, (far.v4, PORT), count)
        seconds = time.monotonic() - begun
        time.sleep(2)
        figures = {
            "connections": count,
            "seconds_to_open": seconds,
            "rss_bytes_each": [
                (memory(pid) - b) / count for pid, b in zip(pids, before, strict=True)
            ],
            "rss_mib": [memory(pid) / 2**20 for pid in pids],
            "descriptors_before": descriptors_before,
            "descriptors": [descriptors(pid) for pid in pids],
            "still_work": ask(sockets),
        }
        for sock in sockets:
            sock.close()
        end = time.monotonic() + PATIENCE
        # Sockets that a daemon has made ready for connections to come are more or fewer.
        most = [before + 64 for before in descriptors_before]
        while any(map(operator.gt, map(descriptors, pids), most)) and time.monotonic() < end:
            time.sleep(0.2)
        figures["descriptors_after"] = [descriptors(pid) for pid in pids]
        figures["rss_mib_after"] = [memory(pid) / 2**20 for pid in pids]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=10_000, metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--serve", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        echo(arguments.serve)
    become_root()
    figures = measure(arguments.connections)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            values = value if isinstance(value, list) else [value]
            print(f"{name:20}", "  ".join(f"{v:>12,.1f}" for v in values))
    return 0 if figures["still_work"] == figures["connections"] else 1


if __name__ == "__main__":
    sys.exit(main())
