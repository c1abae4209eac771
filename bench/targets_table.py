"""What was to be reached, beside what the last measurements show, as a table.

Everything is taken from bench/results/: whole chains (planes.py, the Stanford daemon in a
run of its own), connections (connections.py), many idle connections (idle.py) and
functions.  A figure that was not measured stands as `-`, and its target counts as not shown.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from planes import PLAIN

Results = Mapping[str, Mapping[str, Any]]
"""What was measured, by the name of the part."""

BACKENDS = ("nfqueue", "sockops")
OURS, STANFORD = "ours, nfqueue", "Stanford"
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Target:
    """One line; `found` gives a figure for each backend, or one for both."""

    what: str
    sign: str
    goal: float
    found: tuple[float | None, ...]
    form: str = ".2f"

    def line(self) -> list[str]:
        """Cells of a table in Markdown."""
        figures = [figure for figure in self.found if figure is not None]
        reached = [_SIGNS[self.sign](figure, self.goal) for figure in figures]
        verdict = "not shown" if not reached else "yes" if all(reached) else "no"
        if any(reached) and not all(reached):
            verdict = "in part"
        sign = "at least" if self.sign == ">=" else "at most"
        cells = [format(figure, self.form) if figure is not None else "-" for figure in self.found]
        cells *= len(BACKENDS) // len(cells)
        return [self.what, f"{sign} {self.goal:g}", *cells, verdict]


def table(results: Results) -> str:
    """In Markdown."""
    head = ["", "target", *BACKENDS, "reached"]
    lines = [head, ["---"] * len(head), *(target.line() for target in _targets(results))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _targets(results: Results) -> Iterator[Target]:
    chains = results.get("planes", {}).get("chains", {})

    def of(chain: str, what: str, name: str) -> float | None:
        value: float | None = chains.get(chain, {}).get(what, {}).get(name)
        return value

    def each(what: str, name: str, to: tuple[str, str] | None = None, suffix: str = "") -> Any:
        """The figure of our chain by each backend; with `to` as a ratio to that chain's."""
        mine = [of(f"ours, {backend}{suffix}", what, name) for backend in BACKENDS]
        if to is None:
            return tuple(mine)
        others = [of(to[0].format(backend), to[1], name) for backend in BACKENDS]
        return tuple(map(_ratio, mine, others))

    bulk, rate = "bulk/1", "gbit_s"
    yield Target("one flow, of plain TCP's rate", ">=", 0.25, each(bulk, rate, (PLAIN, bulk)))
    yield Target("one flow, of stunnel's", ">=", 1.5, each(bulk, rate, ("stunnel", bulk)))
    beside = results.get("stanford", {}).get("chains", {})
    theirs = _ratio(*(beside.get(name, {}).get(bulk, {}).get(rate) for name in (OURS, STANFORD)))
    yield Target("one flow, of the Stanford daemon's", ">=", 5, (theirs, None), ".1f")
    yield Target("processor time, s/GB, both ends", "<=", 1.6, each(bulk, "cpu_s_per_gb"))
    for flows in (4, 64):
        found = each(f"bulk/{flows}", rate, ("ours, {}", bulk))
        yield Target(f"{flows} flows, of one flow's rate", ">=", 1, found)
    lost, lossy = "loss/0.50%", f"{PLAIN}, no offloads"
    found = each(lost, rate, (lossy, lost))
    yield Target("0.5 % lost, of plain TCP's under it", ">=", 0.7, found)
    found = each("open/4", "per_s", suffix=", fresh")
    yield Target("fresh connections a second, 4 at once", ">=", 1500, found, ",.0f")
    found = each("open/4", "per_s", ("ours, {}, fresh", "open/4"))
    yield Target("resumed of fresh, 4 at once", ">=", 1.5, found)
    found = each("first byte", "p50_ms", (PLAIN, "first byte"))
    yield Target("time to the echo, resumed, of plain's", "<=", 8, found, ".1f")
    for to, goal in ((PLAIN, 4), ("stunnel", 1)):
        found = each("ping", "p50_us", (to, "ping"))
        yield Target(f"ping-pong, of {to}'s time", "<=", goal, found)
    for kind, goal in (("resumed", 1500), ("fresh", 800)):
        figure = _opened(results.get("connections", {}).get("text", ""), kind)
        yield Target(f"{kind} connections a second, 64 at once", ">=", goal, (figure, None), ",.0f")
    text = results.get("functions", {}).get("text", "")
    yield Target("frames sealed, of libcrypto's rate, 16 KiB and more", ">=", 0.9, (_sealed(text),))
    idle = _idle(results.get("idle", {}).get("text", ""))
    yield Target("KiB of the daemon for an idle connection", "<=", 24, (idle, None), ".1f")


def _ratio(mine: float | None, other: float | None) -> float | None:
    return mine / other if mine and other else None


def _opened(text: str, kind: str) -> float | None:
    """Connections a second in the table of connections.py, the row with 64 at once."""
    row = re.search(rf"^{kind} +64 +([0-9,]+)", text, re.MULTILINE)
    return float(row[1].replace(",", "")) if row else None


def _sealed(text: str) -> float | None:
    """The lowest ratio of frames of 16 KiB and more that the extension seals."""
    part = re.search(r"sealed in batches of 1 MiB \(extension\)\n(.*?)(?:\n\n|\Z)", text, re.DOTALL)
    rows = re.findall(r"(?:16|64) KiB.* ([0-9.]+)$", part[1], re.MULTILINE) if part else []
    return min(map(float, rows)) if rows else None


def _idle(text: str) -> float | None:
    """KiB a connection, the larger of both ends, as idle.py prints them."""
    row = re.search(r"^rss_bytes_each +(.*)$", text, re.MULTILINE)
    return max(float(value.replace(",", "")) for value in row[1].split()) / 1024 if row else None
