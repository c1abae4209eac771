"""What an honest client waits while a flood of SYNs with the option comes to its service.

    python bench/flood.py --backend nfqueue --rates 0 500 2000 10000 50000 --rounds 3

client ---- middle ---- server        both ends run tcpcryptd under `require`; SYNs that
                                      nobody has sent come from `middle`, which drops
                                      what is answered to them

The rates take turns.  A time is from connect() to the echo of the first words; a
connection that has none after some seconds counts as that long.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Host, Lab, Link, become_root

PORT = 80
SOURCE = Path(__file__).with_name("syn_flood.c")
NOBODY = "10.96.0.0/16"
SECRET = b"not a byte of this in clear"
OFFER = bytes((2, 4, 5, 180, 69, 5, 0x21, 0x22, 0x23, 0, 0, 0))
"""MSS 1460, and three TEPs."""
SETTLING = 1.5


def template(destination: str, resuming: bool) -> tuple[bytes, int]:
    """A SYN, but for what `syn_flood` puts in; and from where on its bytes are any."""
    # For a session that there is not: nothing but a look shows it.
    options = bytes((2, 4, 5, 180, 1, 1, 1, 1, 69, 20, 0xA3)) + bytes(17) if resuming else OFFER
    size = 20 + len(options)
    tcp = struct.pack("!HHIIBBHHH", 0, PORT, 0, 0, size << 2, 2, 64_000, 0, 0) + options
    source, to = socket.inet_aton(NOBODY.partition("/")[0]), socket.inet_aton(destination)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + size, 0, 0x4000, 63, 6, 0, source, to)
    packet = head + tcp
    return packet, len(packet) - 17 if resuming else len(packet)


def serve() -> None:
    """The service: says the first words of each connection back."""
    listener = socket.create_server(("", PORT), backlog=1024)
    print("ready", flush=True)

    def answer(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(60)
            while data := sock.recv(100):
                sock.sendall(data)

    while True:
        sock, _address = listener.accept()
        threading.Thread(target=answer, args=(sock,), daemon=True).start()


def honest(client: Host, address: str, patience: float) -> float:
    """Seconds until the echo; `patience` if there is none."""
    began = time.monotonic()
    with client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience)
        try:
            sock.connect((address, PORT))
            sock.sendall(SECRET)
            if sock.recv(100) != SECRET:
                return patience
        except OSError:
            return patience
    return min(time.monotonic() - began, patience)


class Flood:
    """A context manager; `sent` SYNs in `seconds`."""

    def __init__(self, middle: Host, program: Path, packet: Path, at: int, rate: int) -> None:
        self.sent, self.seconds = 0, 0.0
        self._middle, self._rate = middle, rate
        self._command = (str(program), str(packet), str(at), str(rate))

    def __enter__(self) -> Flood:
        if self._rate:
            self._process = self._middle.start(*self._command, stdout=subprocess.PIPE, text=True)
            time.sleep(SETTLING)
        return self

    def __exit__(self, *_: object) -> None:
        if self._rate:
            self._process.terminate()
            said, _ = self._process.communicate(timeout=20)
            sent, seconds = said.split()
            self.sent, self.seconds = int(sent), float(seconds)


@contextlib.contextmanager
def network() -> Iterator[tuple[Host, Host, Host, Link]]:
    with Lab() as lab:
        client, middle, server = lab.host("client"), lab.host("middle"), lab.host("server")
        _client_end, near = lab.join(client, middle)
        far, server_end = lab.join(middle, server)
        middle.sysctl("net.ipv4.ip_forward", "1")
        for host, end in ((client, near), (server, far)):
            host.run("ip", "route", "add", "default", "via", end.v4)
        middle.run("ip", "route", "add", "blackhole", NOBODY)
        yield client, middle, server, server_end


def quantile(times: list[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(part * len(times)))]


def measure(arguments: argparse.Namespace) -> dict[int, dict[str, object]]:
    times: dict[int, list[float]] = {rate: [] for rate in arguments.rates}
    told: dict[int, list[float]] = {rate: [] for rate in arguments.rates}
    with network() as (client, middle, server, end), tempfile.TemporaryDirectory() as name:
        program, packet = Path(name) / "syn_flood", Path(name) / "packet"
        subprocess.run(("cc", "-O2", "-o", program, SOURCE), check=True)
        syn, at = template(end.v4, arguments.resuming)
        packet.write_bytes(syn)
        daemon = ("--port", str(PORT), "--mode", "require")
        daemons = [
            LabDaemon(client, *daemon, "--backend", arguments.client_backend),
            LabDaemon(server, *daemon, "--backend", arguments.backend),
        ]
        with contextlib.ExitStack() as stack:
            for one in daemons:
                stack.callback(one.stop)
            service = server.start(
                sys.executable, __file__, "--serve", stdout=subprocess.PIPE, text=True
            )
            assert service.stdout is not None
            service.stdout.readline()
            for _ in range(10):
                honest(client, end.v4, arguments.patience)
            for _ in range(arguments.rounds):
                for rate in arguments.rates:
                    with Flood(middle, program, packet, at, rate) as flood:
                        until = time.monotonic() + arguments.seconds
                        for _ in range(arguments.honest):
                            times[rate].append(honest(client, end.v4, arguments.patience))
                            if time.monotonic() > until:
                                break
                    if rate:
                        told[rate].append(flood.sent / flood.seconds)
                    time.sleep(arguments.pause)
            bugs = [line for one in daemons for line in one.events("bug")]
        assert not bugs, bugs
    return {
        rate: {
            "connections": len(found),
            "failed": sum(t >= arguments.patience for t in found),
            "second_syn": sum(0.9 <= t < arguments.patience for t in found),
            "p50_ms": round(quantile(found, 0.5) * 1000, 1),
            "p99_ms": round(quantile(found, 0.99) * 1000, 1),
            "sent_per_s": round(sum(told[rate]) / len(told[rate])) if told[rate] else 0,
        }
        for rate, found in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="nfqueue", help="of the server's daemon")
    parser.add_argument("--client-backend", default="nfqueue")
    parser.add_argument("--rates", type=int, nargs="+", default=[0, 500, 2000, 10_000, 50_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--honest", type=int, default=100, help="connections in each cell, at most")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each cell, at most")
    parser.add_argument("--patience", type=float, default=8.0)
    parser.add_argument("--pause", type=float, default=0.5)
    parser.add_argument("--resuming", action="store_true", help="SYNs ask for sessions, too")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    become_root()
    load = os.getloadavg()[0]
    found = measure(arguments)
    if arguments.json:
        print(json.dumps({"backend": arguments.backend, "load": load, "rates": found}))
        return
    print(f"{arguments.backend}; load before {load:.1f}, {os.cpu_count()} processors")
    for rate, row in found.items():
        print(rate, *(f"{key}={value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
