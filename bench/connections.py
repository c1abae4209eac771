"""Connections a second through two daemons, beside the same without them.

    python bench/connections.py [--quick] [--json] [--against PYTHON]

Two hosts in network namespaces, a generator and a service written in C
(`tcpcrypt/tools/traffic.c`), one daemon on each host; everything shares the processors
of this machine.  Each connection is opened, carries 16 bytes there and back,
and is closed.  The kinds take turns, and the median round counts: plain TCP,
tcpcrypt with a fresh key exchange and resumed, and fresh exchanges in which both
hosts prove who they are, `authenticated` by X25519, `hybrid` with ML-KEM beside it.

"CPU us" is processor time of the daemons for each connection, after
/proc/PID/stat; `load` is that of generator and service together, which is what
plain TCP costs as well.

With `--against`, the interpreter of another installation, each kind has a second pair of
hosts, whose daemons are those of that version; it takes its turn right beside the first,
so that what the machine does meanwhile happens to both.  What is told are medians of what
rounds that lie side by side give: connections a second and processor time of both daemons,
this version's in parts of the other's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcpcrypt.daemon.client import Client
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Host, Lab, become_root
from tcpcrypt.tools.traffic import Traffic, cpu_of

PORT = 80
KINDS = ("plain", "fresh", "resumed", "authenticated", "hybrid")
ON_DEMAND = ("sockops", "mixed", "mixed-resumed")
"""Measured when asked for by name: the option is carried by a BPF program, at both ends or
at the opener alone; fresh exchanges but for the last."""
OPTIONS = {
    "fresh": ("--no-resume",),
    "sockops": ("--no-resume", "--backend", "sockops"),
    "mixed": ("--no-resume", "--backend", "mixed"),
    "mixed-resumed": ("--backend", "mixed"),
}
POST_QUANTUM = {"authenticated": "off", "hybrid": "require"}
FILE = """\
[daemon]
state = "{directory}/state"
control = "{directory}/c"
guard = "remove"

[crypto]
resumption = false

[[policy]]
mode = "require"
auth = "tofu"
pq = "{pq}"
match.ports = {port}
"""
CONCURRENCIES = (1, 8, 64)
AGAINST = "-before"
"""Behind the name of a kind: by the daemons of the other version."""
WARM_UP = 0.5
"""Seconds: caches of secrets fill, sockets' memory is set up."""


@dataclass
class Site:
    """Two hosts; with daemons unless `kind` is plain."""

    kind: str
    client: Host
    server: Host
    address: str
    service: subprocess.Popen[str]
    daemons: tuple[LabDaemon, ...]
    control: Path
    """The control socket of the opening daemon."""

    def cpu(self) -> list[float]:
        """Seconds of processor time so far: the opening daemon, the accepting one, the service."""
        processes = [daemon.process.pid for daemon in self.daemons] + [self.service.pid]
        return [cpu_of(pid) for pid in processes]

    def counters(self) -> dict[str, int]:
        """Those of the opening daemon."""
        with Client(self.control) as client:
            found: dict[str, int] = client.status()["counters"]
        return found


@contextlib.contextmanager
def sites(
    kinds: tuple[str, ...] = KINDS, against: str = ""
) -> Iterator[tuple[Traffic, dict[str, Site]]]:
    """The generator, and a pair of hosts for each kind; all of it at once.

    `against`: the interpreter of another version, which gets pairs of its own.
    """
    with tempfile.TemporaryDirectory(prefix="tcpcrypt-bench-") as directory, Lab() as lab:
        os.chmod(directory, 0o755)
        traffic = Traffic(Path(directory))
        found = {}
        for kind in kinds:
            found[kind] = _site(lab, traffic, kind, Path(directory))
            if against and kind != "plain":
                before = _site(lab, traffic, kind, Path(directory), against)
                found[kind + AGAINST] = before
        yield traffic, found


def _site(lab: Lab, traffic: Traffic, kind: str, directory: Path, against: str = "") -> Site:
    name = kind + AGAINST if against else kind
    python = against or sys.executable
    client, server = lab.host(f"client-{name}"), lab.host(f"server-{name}")
    _end, far = lab.join(client, server)
    for host in (client, server):
        # One address on either side: ports in TIME_WAIT must not run out.
        host.sysctl("net.ipv4.ip_local_port_range", "32768 65000")
        host.sysctl("net.ipv4.tcp_tw_reuse", "1")
        host.sysctl("net.core.somaxconn", "65535")
    arguments = ("--port", str(PORT), *OPTIONS.get(kind, ()))
    daemons: tuple[LabDaemon, ...] = ()
    control = directory / f"{name}.sock"
    if kind in POST_QUANTUM:
        ours, theirs = (_configured(host, kind, directory, python) for host in (client, server))
        daemons, control = (ours[0], theirs[0]), ours[1]
    elif kind != "plain":
        at = ("--control", str(control))
        daemons = (
            LabDaemon(client, *arguments, *at, python=python),
            LabDaemon(server, *arguments, python=python),
        )
    service = traffic.serve(server, (far.v4, PORT), "once")
    return Site(kind, client, server, far.v4, service, daemons, control)


def _configured(host: Host, kind: str, directory: Path, python: str) -> tuple[LabDaemon, Path]:
    """A daemon that authenticates, and its control socket."""
    place = directory / host.name
    place.mkdir(mode=0o700)
    file = place / "tcpcrypt.toml"
    file.write_text(FILE.format(directory=place, pq=POST_QUANTUM[kind], port=PORT))
    return LabDaemon(host, "--config", str(file), python=python), place / "c"


def run(traffic: Traffic, site: Site, concurrency: int, seconds: float) -> dict[str, Any]:
    """One round; what the generator says, and what it cost."""
    before, counted = site.cpu(), site.counters() if site.daemons else {}
    said = traffic.open(site.client, (site.address, PORT), concurrency, seconds)
    *daemons, service = (b - a for a, b in zip(before, site.cpu(), strict=True))
    count = max(said["ok"], 1)
    said["per_s"] = said["ok"] / said["seconds"]
    said["load_us"] = (said["cpu_s"] + service) / count * 1e6
    said["cpu_us"] = [spent / count * 1e6 for spent in daemons]
    if site.daemons:
        counters = site.counters()
        resumed, fresh = (counters[name] - counted[name] for name in ("resumed", "fresh"))
        said["resumed_share"] = resumed / max(resumed + fresh, 1)
    return said


def measure(
    kinds: tuple[str, ...],
    rounds: int,
    seconds: float,
    concurrencies: tuple[int, ...] = CONCURRENCIES,
    against: str = "",
) -> dict[str, Any]:
    """Medians for each kind and concurrency."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    with sites(kinds, against) as (traffic, all_sites):
        for site in all_sites.values():
            run(traffic, site, max(concurrencies), WARM_UP)
        for _ in range(rounds):
            for concurrency in concurrencies:
                for kind, site in all_sites.items():
                    said = run(traffic, site, concurrency, seconds)
                    found.setdefault(kind, {}).setdefault(concurrency, []).append(said)
    figures = {
        kind: {str(concurrency): _median(said) for concurrency, said in by_concurrency.items()}
        for kind, by_concurrency in found.items()
    }
    for kind in POST_QUANTUM if "fresh" in found else ():
        for concurrency, said in found.get(kind, {}).items():
            figures[kind][str(concurrency)] |= _beside(said, found["fresh"][concurrency])
    for kind in kinds if against else ():
        for concurrency, before in found.get(kind + AGAINST, {}).items():
            figures[kind][str(concurrency)] |= _against(found[kind][concurrency], before)
    return figures


def _against(ours: list[dict[str, Any]], before: list[dict[str, Any]]) -> dict[str, float]:
    """What has become of it: medians of what rounds that lie side by side give."""
    pairs = list(zip(ours, before, strict=True))
    return {
        "rate_against": statistics.median(a["per_s"] / b["per_s"] for a, b in pairs),
        "cpu_against": statistics.median(sum(a["cpu_us"]) / sum(b["cpu_us"]) for a, b in pairs),
    }


def _beside(ours: list[dict[str, Any]], fresh: list[dict[str, Any]]) -> dict[str, float]:
    """What proving identities costs: medians of what rounds that lie side by side give."""
    pairs = list(zip(ours, fresh, strict=True))
    return {
        "time_beside_fresh": statistics.median(a["p50_ms"] / b["p50_ms"] for a, b in pairs),
        "cpu_beside_fresh": statistics.median(
            sum(a["cpu_us"]) / sum(b["cpu_us"]) for a, b in pairs
        ),
    }


def _median(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    # The round in the middle, whole: its figures belong together.
    ranked = sorted(rounds, key=lambda said: float(said["per_s"]))
    middle = dict(ranked[len(ranked) // 2])
    middle["per_s"] = statistics.median(said["per_s"] for said in rounds)
    middle["failed"] = sum(said["failed"] for said in rounds)
    return middle


def show(figures: dict[str, Any]) -> None:
    print(f"{'':14}{'at once':>8}{'conn/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}"
          f"{'resumed':>9}{'CPU us: opener':>16}{'acceptor':>10}{'load':>6}")  # fmt: skip
    for kind, by_concurrency in figures.items():
        for concurrency, said in by_concurrency.items():
            one, other = said["cpu_us"] or (0, 0)
            share = said.get("resumed_share")
            print(f"{kind:14}{concurrency:>8}{said['per_s']:>9,.0f}{said['p50_ms']:>9.2f}"
                  f"{said['p99_ms']:>9.2f}{said['failed']:>8}"
                  f"{'' if share is None else f'{share:.0%}':>9}"
                  f"{one:>16.0f}{other:>10.0f}{said['load_us']:>6.0f}")  # fmt: skip


def compare(figures: dict[str, Any]) -> None:
    """Authenticated connections beside fresh ones without."""
    for kind in POST_QUANTUM:
        for concurrency, said in figures.get(kind, {}).items():
            if "time_beside_fresh" in said:
                print(
                    f"{kind} beside fresh, {concurrency} at once:"
                    f" time {said['time_beside_fresh']:.2f}, CPU {said['cpu_beside_fresh']:.2f}"
                )


def progress(figures: dict[str, Any]) -> None:
    """This version beside the other one."""
    for kind, by_concurrency in figures.items():
        for concurrency, said in by_concurrency.items():
            if "rate_against" in said:
                print(
                    f"{kind} against the other version, {concurrency} at once:"
                    f" rate {said['rate_against']:.3f}, CPU {said['cpu_against']:.3f}"
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one round; some 25 seconds")
    parser.add_argument(
        "--kinds",
        default=",".join(KINDS),
        help="some of them (default: %(default)s), or " + ", ".join(ON_DEMAND),
    )
    parser.add_argument(
        "--at-once",
        default=",".join(map(str, CONCURRENCIES)),
        help="connections under way (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, help="rounds (default: 5, or 1 with --quick)")
    parser.add_argument("--seconds", type=float, default=None, help="of each measurement")
    parser.add_argument(
        "--against", default="", metavar="PYTHON", help="interpreter of another version"
    )
    arguments = parser.parse_args()
    become_root()
    kinds = tuple(arguments.kinds.split(","))
    if not set(kinds) <= {*KINDS, *ON_DEMAND}:
        parser.error(f"there are {', '.join((*KINDS, *ON_DEMAND))}")
    at_once = tuple(map(int, arguments.at_once.split(",")))
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    seconds = arguments.seconds or (1.0 if arguments.quick else 2.0)
    figures = measure(kinds, rounds, seconds, at_once, arguments.against)
    if arguments.json:
        print(json.dumps(figures))
    else:
        show(figures)
        compare(figures)
        progress(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
