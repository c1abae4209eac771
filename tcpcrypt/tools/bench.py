"""`tcpcrypt bench`: what encryption costs on this machine, beside the same without it.

    client ===== server        three such pairs: without daemons; with them;
                               with daemons that never resume a session

Everything is measured in alternation and medians are reported: on a machine
that does other work too, ratios within one run say more than rates.  Both hosts,
daemons and traffic programs share the processors of this machine.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tcpcrypt import __version__, _fast
from tcpcrypt.daemon.client import Client
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Host, Lab, become_root
from tcpcrypt.tools.traffic import Target, Traffic, cpu_of

__all__ = ["Extent", "machine", "measure"]

_ONCE, _ECHO, _SINK = 80, 81, 82
_PORTS: Final[Mapping[str, int]] = {"once": _ONCE, "echo": _ECHO, "sink": _SINK}
_PLAIN, _RESUMED, _FRESH = "plain", "resumed", "fresh"
_PING: Final = 100
"""Bytes there and back."""
_WARM_UP: Final = 0.5
"""Seconds: caches of secrets fill, sockets' memory is set up."""
_GIGABYTE: Final = 1e9

Progress = Callable[[str], None]
"""Takes what is being measured."""
Rounds = dict[str, list[dict[str, float]]]
"""By kind of site, what each round came to."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rounds: int = 7
    seconds: float = 2.0
    """Of each measurement."""
    at_once: tuple[int, ...] = (4, 64)
    """Connections under way; those of the last are the headline."""
    budget: float = math.inf
    """Seconds for all of it; where they do not suffice there are fewer rounds, but one."""

    @classmethod
    def quick(cls) -> Extent:
        """What ends within 45 seconds, on a busy machine too."""
        return cls(rounds=3, seconds=0.6, budget=36.0)


class _Site:
    """A pair of hosts and the services on one of them."""

    def __init__(self, lab: Lab, traffic: Traffic, kind: str, directory: Path) -> None:
        self._traffic = traffic
        self.client, server = lab.host(f"client-{kind}"), lab.host(f"server-{kind}")
        far = lab.join(self.client, server)[1]
        for host in (self.client, server):
            _prepare(host)
        self.daemons: tuple[LabDaemon, ...] = ()
        self._control = directory / f"{kind}.sock"
        if kind != _PLAIN:
            ports = [word for port in _PORTS.values() for word in ("--port", str(port))]
            words = (*ports, *(("--no-resume",) if kind == _FRESH else ()))
            self.daemons = (
                LabDaemon(self.client, *words, "--control", str(self._control)),
                LabDaemon(server, *words),
            )
        self.to: dict[str, Target] = {name: (far.v4, port) for name, port in _PORTS.items()}
        self._services = {name: traffic.serve(server, at, name) for name, at in self.to.items()}

    def status(self) -> dict[str, Any]:
        """Of the daemon that opens connections."""
        with Client(self._control) as daemon:
            return daemon.status()

    def _exchanges(self) -> tuple[int, int]:
        """Connections so far, by how they began."""
        counters = self.status()["counters"] if self.daemons else {}
        return counters.get("fresh", 0), counters.get("resumed", 0)

    @contextlib.contextmanager
    def cost(self, service: str) -> Iterator[list[float]]:
        """Seconds of processor time of the daemons and of one service within the block."""
        processes: list[subprocess.Popen[Any]] = [daemon.process for daemon in self.daemons]
        processes.append(self._services[service])
        before = [cpu_of(process.pid) for process in processes]
        spent: list[float] = []
        yield spent
        spent += [cpu_of(p.pid) - b for p, b in zip(processes, before, strict=True)]

    def bulk(self, seconds: float) -> dict[str, float]:
        with self.cost("sink") as spent:
            said = self._traffic.bulk(self.client, self.to["sink"], 1, seconds)
        return {
            "gbit_s": said["bytes"] * 8 / said["seconds"] / 1e9,
            "cpu_s_per_gb": (said["cpu_s"] + sum(spent)) / (said["bytes"] / _GIGABYTE),
        }

    def ping(self, seconds: float) -> dict[str, float]:
        said = self._traffic.ping(self.client, self.to["echo"], _PING, seconds)
        return {"us": said["p50_us"]}

    def connections(self, at_once: int, seconds: float) -> dict[str, float]:
        before = self._exchanges()
        with self.cost("once") as spent:
            said = self._traffic.open(self.client, self.to["once"], at_once, seconds)
        fresh, resumed = (now - b for now, b in zip(self._exchanges(), before, strict=True))
        return {
            "resumed_share": resumed / max(fresh + resumed, 1),
            "per_s": said["ok"] / said["seconds"],
            "failed": said["failed"],
            "p50_ms": said["p50_ms"],
            "cpu_us": (said["cpu_s"] + sum(spent)) / max(said["ok"], 1) * 1e6,
        }


def _prepare(host: Host) -> None:
    # One address on either side: ports in TIME_WAIT must not run out.
    host.sysctl("net.ipv4.ip_local_port_range", "32768 65000")
    host.sysctl("net.ipv4.tcp_tw_reuse", "1")
    host.sysctl("net.core.somaxconn", "65535")


def measure(extent: Extent, progress: Progress = lambda _what: None) -> dict[str, Any]:
    """The figures in the form of `--json`.

    Raises `LocalError` or `OSError` where hosts or daemons cannot be set up.
    """
    become_root()
    with tempfile.TemporaryDirectory(prefix="tcpcrypt-bench-") as name, Lab() as lab:
        directory = Path(name)
        directory.chmod(0o755)
        rounds = _Rounds(extent, 2 + len(extent.at_once))
        progress("setting up")
        traffic = Traffic(directory)
        sites = {kind: _Site(lab, traffic, kind, directory) for kind in (_PLAIN, _RESUMED, _FRESH)}
        for site in sites.values():
            site.connections(max(extent.at_once), _WARM_UP)
        pair = {kind: sites[kind] for kind in (_PLAIN, _RESUMED)}
        progress("bulk data")
        bulk = rounds.measure(pair, lambda site: site.bulk(extent.seconds))
        progress("round trips")
        ping = rounds.measure(pair, lambda site: site.ping(extent.seconds / 4))
        opened = {}
        for at_once in extent.at_once:
            progress(f"connections, {at_once} at once")
            opening = functools.partial(_Site.connections, at_once=at_once, seconds=extent.seconds)
            found = rounds.measure(sites, opening)
            opened[at_once] = _connections(sites, found, at_once)
        status = sites[_RESUMED].status()
    return {
        "bulk": _bulk(bulk[_PLAIN], bulk[_RESUMED]),
        "connections": {
            **opened[extent.at_once[-1]],
            "by_concurrency": {str(at_once): found for at_once, found in opened.items()},
        },
        "round_trip": {
            "bytes": _PING,
            "us": _median(ping[_RESUMED], "us"),
            "plain_us": _median(ping[_PLAIN], "us"),
        },
        "rounds": len(bulk[_PLAIN]),
        "plane": {"backend": status["backend"], "steering": status["steering"]},
        "machine": machine(),
    }


class _Rounds:
    """Measures in alternation, within the time that there is."""

    def __init__(self, extent: Extent, parts: int) -> None:
        self._extent = extent
        self._parts = parts
        self._end = time.monotonic() + extent.budget

    def measure(
        self, sites: Mapping[str, _Site], measure_one: Callable[[_Site], dict[str, float]]
    ) -> Rounds:
        """What each site came to in each round; every other one goes the other way round."""
        found: Rounds = {kind: [] for kind in sites}
        order = list(sites)
        begun = time.monotonic()
        due = begun + (self._end - begun) / self._parts
        self._parts -= 1
        for done in range(1, self._extent.rounds + 1):
            for kind in order:
                found[kind].append(measure_one(sites[kind]))
            order.reverse()
            now = time.monotonic()
            if now + (now - begun) / done > due:
                break
        return found


def _connections(sites: Mapping[str, _Site], found: Rounds, at_once: int) -> dict[str, Any]:
    return {
        "at_once": at_once,
        **{f"{kind}_per_s": round(_median(found[kind], "per_s"), 1) for kind in sites},
        **{f"{kind}_p50_ms": round(_median(found[kind], "p50_ms"), 3) for kind in sites},
        **{f"{kind}_cpu_us": round(_median(found[kind], "cpu_us"), 1) for kind in sites},
        # A backend that has no room for the answer makes fresh exchanges of them.
        "resumed_share": round(_median(found[_RESUMED], "resumed_share"), 3),
        "failed": sum(int(said["failed"]) for rounds in found.values() for said in rounds),
    }


def _bulk(plain: Sequence[dict[str, float]], ours: Sequence[dict[str, float]]) -> dict[str, float]:
    # Of each round by itself: what the machine did meanwhile, both had to bear.
    ratios = [mine["gbit_s"] / its["gbit_s"] for its, mine in zip(plain, ours, strict=True)]
    return {
        "ratio_to_plain": round(statistics.median(ratios), 4),
        "gbit_s": round(_median(ours, "gbit_s"), 3),
        "plain_gbit_s": round(_median(plain, "gbit_s"), 3),
        "cpu_s_per_gb": round(_median(ours, "cpu_s_per_gb"), 3),
        "plain_cpu_s_per_gb": round(_median(plain, "cpu_s_per_gb"), 3),
    }


def _median(rounds: Sequence[dict[str, float]], name: str) -> float:
    return statistics.median(said[name] for said in rounds)


def machine() -> dict[str, Any]:
    """What the figures were made on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processors": os.cpu_count(),
        "processor": names[0] if names else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "implementation": _fast.IMPLEMENTATION,
        "version": __version__,
    }
