"""Short HTTP connections a second: nginx and curl, through each plane beside plain TCP.

    python bench/http.py [--requests N] [--rounds N] [--at-once N] [--seconds S] [--json]

Two hosts in network namespaces for each kind, and one nginx on each server; the kinds
take turns, and the median of the rounds' ratios to plain TCP counts.  What is
measured: `curl -Z` asks for a page of 100 bytes N times, each on a connection of its
own that the server closes (`keepalive_timeout 0`), AT-ONCE of them under way.
Sessions are resumed, as a cache's first connections do not count.  The same is
measured with a `curl` for each request, one after another, as scripts have it
(`script`), and with the generator of `tcpcrypt/tools/traffic.c` instead of curl and
nginx (`once`), which costs less, so that what is between them weighs more.

`relay` and `segments` are tcpcryptd on both hosts with that plane; `one process` is
`tcpcrypt segment`, which has the same engine without the separation of processes.
`queue` encrypts nothing: every packet waits in a netfilter queue of both hosts for
`accepting.c`, which lets it pass as it is.  No plane of segments can be faster.

Beside each rate stands its ratio to plain TCP's, and the processor time of both
hosts' processes of that kind for one connection, in microseconds: their own, and the
kernel's for them.  The second has part of the connection's own in it: the kernel hands
a packet on while it takes the verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcpcrypt.tools.bench import machine
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Host, Lab, become_root, wait_until
from tcpcrypt.tools.traffic import Traffic

PLAIN = "plain"
HTTP, ONCE = 80, 81
QUEUE = 7
SCRIPT = 'n=0; while [ $n -lt "$1" ]; do curl -sf "$2" || exit; n=$((n + 1)); done'
NGINX = """\
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_timeout 0;
    client_body_temp_path {directory};
    proxy_temp_path {directory};
    fastcgi_temp_path {directory};
    uwsgi_temp_path {directory};
    scgi_temp_path {directory};
    server {{
        listen 80 backlog=4096;
        location / {{ return 200 "{page}"; }}
    }}
}}
"""
PAGE = "a" * 99 + "\\n"
POLICY = """\
[daemon]
state = "{directory}/state"
control = "{directory}/c"
guard = "remove"

[[policy]]
mode = "require"
plane = "{plane}"
match.ports = [80, 81]
"""

Start = Callable[[Host, Path], int]
"""Returns the process that is at work, whose children are, too."""


def daemon(plane: str) -> Start:
    def start(host: Host, directory: Path) -> int:
        directory.mkdir(mode=0o700)
        file = directory / "tcpcrypt.toml"
        file.write_text(POLICY.format(directory=directory, plane=plane))
        return LabDaemon(host, "--config", str(file)).process.pid

    return start


def accepting(host: Host, directory: Path) -> int:
    directory.mkdir()
    program = directory / "accepting"
    source = Path(__file__).with_name("accepting.c")
    subprocess.run((os.environ.get("CC", "cc"), "-O2", "-o", program, source), check=True)
    process = host.start(str(program), str(QUEUE), stdout=subprocess.PIPE, text=True)
    if process.stdout is None or process.stdout.readline() != "ready\n":
        raise SystemExit(f"{host.name}: no queue")
    iptables = shutil.which("iptables-legacy") or "iptables"
    for hook in ("INPUT", "OUTPUT"):
        for way in ("--sports", "--dports"):
            words = ("-p", "tcp", "-m", "multiport", way, f"{HTTP},{ONCE}")
            target = ("-j", "NFQUEUE", "--queue-num", str(QUEUE))
            host.run(iptables, "-w", "-t", "mangle", "-A", hook, *words, *target)
    return process.pid


def one_process(host: Host, directory: Path) -> int:
    directory.mkdir()
    log = directory / "log"
    argv = (sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "segment", "--mode", "require")
    ports = ("--port", str(HTTP), "--port", str(ONCE))
    with log.open("w") as file:
        process = host.start(*argv, *ports, stdout=file, stderr=file, cwd="/")
    wait_until(lambda: "started" in log.read_text(), "start of the segment plane", 60)
    return process.pid


def family(pid: int) -> list[int]:
    """A process and those that came of it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


KINDS: dict[str, Start | None] = {
    PLAIN: None,
    "queue": accepting,
    "relay": daemon("relay"),
    "segments": daemon("segment"),
    "one process": one_process,
}


@dataclass
class Site:
    """Two hosts with nginx and the generator's service on one."""

    client: Host
    address: str
    traffic: Traffic
    workers: list[int]
    """Processes on both hosts of what is measured."""

    def http(self, requests: int, at_once: int) -> float:
        """Connections a second of curl's."""
        url = f"http://{self.address}:{HTTP}/[1-{requests}]"
        argv = ("curl", "-Z", "--parallel-max", str(at_once), "--no-progress-meter")
        began = time.monotonic()
        done = self.client.run(*argv, "-H", "Connection: close", "--max-time", "60", url)
        took = time.monotonic() - began
        pages = done.stdout.count(PAGE.replace("\\n", "\n"))
        if pages != requests:
            raise SystemExit(f"{pages} of {requests} pages came")
        return requests / took

    def script(self, requests: int) -> float:
        """Connections a second of a shell that starts a curl for each."""
        began = time.monotonic()
        url = f"http://{self.address}:{HTTP}/"
        done = self.client.run("sh", "-c", SCRIPT, "sh", str(requests), url)
        took = time.monotonic() - began
        pages = done.stdout.count(PAGE.replace("\\n", "\n"))
        if pages != requests:
            raise SystemExit(f"{pages} of {requests} pages came")
        return requests / took

    def once(self, at_once: int, seconds: float) -> float:
        """Connections a second of the generator's."""
        said = self.traffic.open(self.client, (self.address, ONCE), at_once, seconds)
        return float(said["ok"] / said["seconds"])

    def used(self) -> list[float]:
        """Microseconds of processor time that the workers have had: their own, the kernel's."""
        tick = 1e6 / os.sysconf("SC_CLK_TCK")
        found = [0.0, 0.0]
        for pid in self.workers:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[0] += int(fields[11]) * tick
            found[1] += int(fields[12]) * tick
        return found


def site(lab: Lab, kind: str, start: Start | None, root: Path, traffic: Traffic) -> Site:
    name = kind.replace(" ", "-")
    client, server = lab.host(f"client-{name}"), lab.host(f"server-{name}")
    _near, far = lab.join(client, server)
    workers: list[int] = []
    for host in (client, server):
        host.sysctl("net.ipv4.ip_local_port_range", "20000 65000")
        host.sysctl("net.ipv4.tcp_tw_reuse", "1")
        host.sysctl("net.core.somaxconn", "65535")
        if start is not None:
            workers += family(start(host, root / f"{host.name}-{name}"))
    place = root / f"nginx-{name}"
    place.mkdir()
    (place / "nginx.conf").write_text(NGINX.format(directory=place, page=PAGE))
    with (place / "log").open("w") as log:
        argv = ("nginx", "-p", str(place), "-c", str(place / "nginx.conf"))
        server.start(*argv, stdout=log, stderr=log)
    traffic.serve(server, ("0.0.0.0", ONCE), "once")
    here = Site(client, far.v4, traffic, workers)
    wait_until(lambda: server.run("ss", "-Hltn", "sport", f"= {HTTP}").stdout, "nginx", 20)
    return here


@dataclass
class Round:
    """What one kind did in one round: connections a second, and processor time of each."""

    rate: float
    own: float
    kernel: float


def one_round(here: Site, way: Callable[[Site], float], count: Callable[[float], float]) -> Round:
    """`count` tells from a rate how many connections there were."""
    before = here.used()
    rate = way(here)
    own, kernel = (now - then for now, then in zip(here.used(), before, strict=True))
    number = count(rate)
    return Round(rate, own / number, kernel / number)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians by kind and way, and what they are of plain TCP's in the same round."""
    taken: dict[str, dict[str, list[Round]]] = {}
    scripted = max(arguments.requests // 20, 1)
    with tempfile.TemporaryDirectory(prefix="tcpcrypt-bench-") as temporary, Lab() as lab:
        os.chmod(temporary, 0o755)
        root = Path(temporary)
        (root / "programs").mkdir()
        traffic = Traffic(root / "programs")
        kinds = [kind for kind in KINDS if kind == PLAIN or kind in arguments.only]
        sites = {kind: site(lab, kind, KINDS[kind], root, traffic) for kind in kinds}
        ways: dict[str, tuple[Callable[[Site], float], Callable[[float], float]]] = {
            "http": (
                lambda here: here.http(arguments.requests, arguments.at_once),
                lambda _rate: arguments.requests,
            ),
            "script": (lambda here: here.script(scripted), lambda _rate: scripted),
            "once": (
                lambda here: here.once(arguments.at_once, arguments.seconds),
                lambda rate: rate * arguments.seconds,
            ),
        }
        for here in sites.values():  # caches of sessions fill
            here.http(4 * arguments.at_once, arguments.at_once)
            here.once(arguments.at_once, 0.3)
        for number in range(arguments.rounds):
            for way, (one, count) in ways.items():
                for kind in kinds if number % 2 == 0 else reversed(kinds):
                    print(f"round {number + 1}: {way}, {kind}", file=sys.stderr, flush=True)
                    done = one_round(sites[kind], one, count)
                    taken.setdefault(kind, {}).setdefault(way, []).append(done)
    return {
        kind: {
            way: {
                "per_s": statistics.median(done.rate for done in rounds),
                "ratio": statistics.median(
                    done.rate / plain.rate
                    for done, plain in zip(rounds, taken[PLAIN][way], strict=True)
                ),
                "own_us": statistics.median(done.own for done in rounds),
                "kernel_us": statistics.median(done.kernel for done in rounds),
            }
            for way, rounds in ways_of.items()
        }
        for kind, ways_of in taken.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument(
        "--only",
        action="append",
        choices=[kind for kind in KINDS if kind != PLAIN],
        help="beside plain TCP; may be repeated (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    arguments.only = arguments.only or list(KINDS)
    become_root()
    found = measure(arguments)
    if arguments.json:
        print(json.dumps({"http": found, "machine": machine()}, indent=2))
        return 0
    for kind, ways in found.items():
        told = [
            f"{way} {f['per_s']:6.0f}/s {f['ratio']:.3f} {f['own_us']:5.0f}+{f['kernel_us']:<5.0f}"
            for way, f in ways.items()
        ]
        print(f"{kind:12} {'  '.join(told)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
