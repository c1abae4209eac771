"""Whole chains beside each other: plain TCP, ours, and what a user would take instead.

    python bench/planes.py [--quick] [--only NAME]... [--what NAME]... [--json]
                           [--output FILE] [--plot FILE]

Each chain has two hosts of its own in network namespaces, and all of them share
the processors of this machine.  Traffic programs in C (`tcpcrypt/tools/traffic.c`)
send bulk data, open connections and wait for round trips; the chains take
turns, round by round, and medians count.  "CPU" is processor time of all
processes that take part: traffic programs and the chain's own.

A chain whose program is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import idle
from rivals import RIVALS, STANFORD, Ground, Start, Targets, stanford

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.bench import machine
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Host, Lab, Link, become_root, wait_until
from tcpcrypt.tools.traffic import KINDS, Traffic, cpu_of

PORTS = dict(zip(KINDS, (80, 81, 82), strict=True))
FLOWS = (1, 4, 64)
AT_ONCE = (4, 64)
LOSSES = (0.0005, 0.005, 0.01)
PING = 100
"""Bytes there and back."""
PLAIN = "plain"
"""What ratios are to."""
LOSSY = "plain, no offloads"
"""What ratios under loss are to: a segment a packet, as then in every chain."""
PYTHON = {"TCPCRYPT_PUREPYTHON": "1"}
CONGESTION = "tcp_congestion_control"


def plain(ground: Ground) -> Targets:
    return ground.direct()


def ours(*arguments: str, **environment: str) -> Start:
    """Our daemon on both hosts."""

    def start(ground: Ground) -> Targets:
        ports = [word for port in ground.ports.values() for word in ("--port", str(port))]
        with surrounded(environment):
            for host in (ground.client, ground.server):
                daemon = LabDaemon(host, *ports, *arguments)
                ground.processes.append(daemon.process)
        return ground.direct()

    return start


def segments(ground: Ground) -> Targets:
    """The segment plane on both hosts."""
    ports = [word for port in ground.ports.values() for word in ("--port", str(port))]
    argv = (sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "segment", "--mode", "require")
    for host in (ground.client, ground.server):
        ground.start(host, *argv, *ports)

    def told() -> int:
        if any(process.poll() is not None for process in ground.processes):
            raise LocalError((ground.directory / "log").read_text())
        return (ground.directory / "log").read_text().count("started") == 2

    wait_until(told, "start of the segment plane", 30)
    return ground.direct()


def chains() -> dict[str, Start]:
    """All that can be measured here.  What is new is added here, and nowhere else."""
    found: dict[str, Start] = {PLAIN: plain, LOSSY: plain}
    backends = {"nfqueue": "ours, nfqueue", "sockops": "ours, sockops", "mixed": "ours, mixed"}
    for backend, name in backends.items():
        found[name] = ours("--backend", backend)
        found[f"{name}, fresh"] = ours("--backend", backend, "--no-resume")
    found["ours, segments"] = segments
    found["ours, all Python"] = ours("--backend", "nfqueue", **PYTHON)
    found |= {name: start for name, (start, _program) in RIVALS.items()}
    if os.environ.get(STANFORD):
        found["Stanford"] = stanford
    return found


def missing(name: str) -> str:
    """Why a chain cannot be measured; empty if it can."""
    program = RIVALS[name][1] if name in RIVALS else ""
    return f"{program} is not installed" if program and not shutil.which(program) else ""


@contextlib.contextmanager
def surrounded(environment: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Chain:
    """One chain, running, with its hosts and services."""

    def __init__(
        self,
        lab: Lab,
        traffic: Traffic,
        name: str,
        start: Start,
        root: Path,
        *,
        congestion: str,
    ) -> None:
        self.name = name
        self._traffic = traffic
        self._congestion = congestion
        self._ground = self._prepare(lab, root)
        self._services = {
            kind: traffic.serve(self._ground.server, ("0.0.0.0", port), kind)
            for kind, port in PORTS.items()
        }
        self.to = start(self._ground)
        if name == LOSSY:
            self._segment_a_packet()

    def _prepare(self, lab: Lab, root: Path) -> Ground:
        number = len(list(root.iterdir()))
        directory = root / str(number)
        directory.mkdir()
        client, server = lab.host(f"client {self.name}"), lab.host(f"server {self.name}")
        self._ends: tuple[Link, Link] = lab.join(client, server)
        for host in (client, server):
            host.sysctl("net.ipv4.ip_local_port_range", "20000 65000")
            host.sysctl("net.ipv4.tcp_tw_reuse", "1")
            host.sysctl("net.core.somaxconn", "65535")
            host.sysctl(f"net.ipv4.{CONGESTION}", self._congestion)
        return Ground(client, server, self._ends[1].v4, PORTS, directory)

    @property
    def client(self) -> Host:
        return self._ground.client

    def _segment_a_packet(self, count: str = "1") -> None:
        for end in self._ends:
            end.host.run("ip", "link", "set", end.device, "gso_max_segs", count)

    @contextlib.contextmanager
    def losing(self, share: float) -> Iterator[None]:
        """Packets are lost on their way to the server: `share` of them, at random."""
        rule = (
            *("PREROUTING", "-i", self._ends[1].device, "-p", "tcp", "-m", "statistic"),
            *("--mode", "random", "--probability", str(share), "-j", "DROP"),
        )
        self._segment_a_packet()
        self._ground.server.run("iptables", "-t", "raw", "-A", *rule)
        try:
            yield
        finally:
            self._ground.server.run("iptables", "-t", "raw", "-D", *rule)
            self._segment_a_packet("1" if self.name == LOSSY else "65535")

    def _spent(self, service: str) -> float:
        processes = [*self._ground.processes, self._services[service]]
        return sum(cpu_of(process.pid) for process in processes)

    def bulk(self, flows: int, seconds: float) -> dict[str, float]:
        before = self._spent("sink")
        said = self._traffic.bulk(self.client, self.to["sink"], flows, seconds)
        spent = self._spent("sink") - before + said["cpu_s"]
        return {
            "gbit_s": said["bytes"] * 8 / said["seconds"] / 1e9,
            "cpu_s_per_gb": spent / (said["bytes"] / 1e9),
        }

    def open(self, at_once: int, seconds: float) -> dict[str, float]:
        before = self._spent("once")
        said = self._traffic.open(self.client, self.to["once"], at_once, seconds)
        spent = self._spent("once") - before + said["cpu_s"]
        if not said["ok"]:
            raise LocalError(f"none of {said['failed']} connections came about")
        return {
            "per_s": said["ok"] / said["seconds"],
            "p50_ms": said["p50_ms"],
            "failed": said["failed"],
            "cpu_us": spent / max(said["ok"], 1) * 1e6,
        }

    def warm(self, at_once: int) -> None:
        """Have so many sessions that can be resumed."""
        if at_once:
            self.open(at_once, 0.5)

    def ping(self, seconds: float) -> dict[str, float]:
        said = self._traffic.ping(self.client, self.to["echo"], PING, seconds)
        return {"p50_us": said["p50_us"], "p99_us": said["p99_us"]}

    def memory(self, counts: Sequence[int]) -> dict[str, int]:
        """Resident bytes of the chain's processes with so many idle connections."""
        found, opened = {}, []
        for count in sorted(counts):
            opened += idle.open_all(self.client, self.to["echo"], count - len(opened))
            if idle.ask(opened) != count:
                raise LocalError(f"{self.name}: not all of {count} connections work")
            found[str(count)] = sum(idle.memory(p.pid) for p in self._ground.processes)
        for sock in opened:
            sock.close()
        return found


Measure = Callable[[Chain], dict[str, float]]


def measures(seconds: float) -> dict[str, Measure]:
    """What is measured in rounds, by its name in the results."""
    found: dict[str, Measure] = {}
    for flows in FLOWS:
        found[f"bulk/{flows}"] = lambda chain, n=flows: chain.bulk(n, seconds)
    for at_once in AT_ONCE:
        found[f"open/{at_once}"] = lambda chain, n=at_once: chain.open(n, seconds)
    found["first byte"] = lambda chain: chain.open(1, seconds / 2)
    found["ping"] = lambda chain: chain.ping(seconds / 2)

    def lossy(chain: Chain, share: float) -> dict[str, float]:
        with chain.losing(share):
            return chain.bulk(1, seconds)

    for share in LOSSES:
        found[f"loss/{share:.2%}"] = lambda chain, p=share: lossy(chain, p)
    return found


def measure(
    names: Sequence[str],
    whats: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    idle_counts: Sequence[int],
    congestion: str,
) -> Any:
    """Medians by chain and measurement; what failed has its reason in place of figures."""
    wanted = {what: one for what, one in measures(seconds).items() if what in whats}
    most = max((int(what.split("/")[1]) for what in wanted if what.startswith("open/")), default=0)
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    memory: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    if not os.environ.get(STANFORD):
        left_out["Stanford"] = f"{STANFORD} names no built daemon"
    with tempfile.TemporaryDirectory(prefix="tcpcrypt-bench-") as temporary, Lab() as lab:
        root = Path(temporary)
        root.chmod(0o755)
        (root / "programs").mkdir()
        traffic = Traffic(root / "programs")
        running = []
        for name in names:
            say(f"starting {name}")
            why = missing(name)
            try:
                if why:
                    raise LocalError(why)
                running.append(
                    Chain(lab, traffic, name, chains()[name], root, congestion=congestion)
                )
                running[-1].warm(most)
            except (LocalError, OSError) as error:
                left_out[name] = str(error)
                running = [chain for chain in running if chain.name != name]
        for number in range(rounds):
            for what, one in wanted.items():
                say(f"round {number + 1} of {rounds}: {what}")
                for chain in list(running if number % 2 == 0 else reversed(running)):
                    try:
                        said = one(chain)
                    except LocalError as error:
                        say(f"{chain.name}: {what}: {error}")
                        continue
                    except subprocess.TimeoutExpired:
                        # The others would wait as long for it in each measurement to come.
                        left_out[chain.name] = f"stalled in {what} of round {number + 1}"
                        running.remove(chain)
                        continue
                    found.setdefault(chain.name, {}).setdefault(what, []).append(said)
        for chain in running:
            if not idle_counts or chain.name in (PLAIN, LOSSY) or chain.name.endswith("fresh"):
                continue
            say(f"idle connections: {chain.name}")
            try:
                memory[chain.name] = chain.memory((0, *idle_counts))
            except (LocalError, OSError, SystemExit) as error:
                memory[chain.name] = {"error": str(error)}
    return {
        "chains": {
            name: {what: medians(said) for what, said in found[name].items()}
            for name in names
            if name in found
        },
        "memory": memory,
        "left_out": left_out,
        "rounds": rounds,
        "seconds": seconds,
        "machine": machine() | {CONGESTION: congestion},
    }


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(said[name] for said in rounds) for name in rounds[0]}


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one short round; some minutes")
    parser.add_argument("--only", action="append", metavar="NAME", help="these chains alone")
    parser.add_argument(
        "--what",
        action="append",
        choices=tuple(measures(0)),
        metavar="NAME",
        help=f"measure this alone: {', '.join(measures(0))}".replace("%", "%%"),
    )
    parser.add_argument("--rounds", type=int, help="(default: 7, or 1 with --quick)")
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument(
        "--idle",
        type=int,
        metavar="N",
        help="idle connections (default: 10000, or none with --what)",
    )
    parser.add_argument(
        "--congestion",
        default=Path(f"/proc/sys/net/ipv4/{CONGESTION}").read_text().strip(),
        metavar="NAME",
        help="congestion control of all hosts (default: this machine's, %(default)s)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON there too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them; needs matplotlib")
    arguments = parser.parse_args()
    names = arguments.only or list(chains())
    if unknown := set(names) - set(chains()):
        parser.error(f"no such chain: {', '.join(unknown)}; there are: {', '.join(chains())}")
    become_root()
    wanted = 0 if arguments.what else 1_000 if arguments.quick else 10_000
    if arguments.idle is not None:
        wanted = arguments.idle
    most = idle.possible(wanted)
    figures = measure(
        names,
        arguments.what or tuple(measures(0)),
        rounds=arguments.rounds or (1 if arguments.quick else 7),
        seconds=arguments.seconds or (0.5 if arguments.quick else 2.0),
        idle_counts=sorted({count for count in (1_000, most) if 0 < count <= most}),
        congestion=arguments.congestion,
    )
    text = json.dumps(figures, indent=2)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    if arguments.plot:
        from planes_plot import draw  # noqa: PLC0415 (matplotlib)

        draw(figures, arguments.plot)
    if arguments.json:
        print(text)
    else:
        from planes_table import table  # noqa: PLC0415

        print(table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
