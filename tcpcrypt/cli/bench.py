"""`tcpcrypt bench`: what encryption costs on this machine."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tcpcrypt.cli.table import print_table
from tcpcrypt.errors import LocalError
from tcpcrypt.tools import bench, bench_plot

__all__ = ["configure", "run"]

_ALL: Final = 0.95
"""Share from which on no word is lost about the few that were not resumed."""


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter rounds; ends within 45 seconds"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the figures too, as PNG, SVG or PDF by the file's name; needs matplotlib",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    if arguments.plot is not None:
        bench_plot.require()  # before the minutes that it takes
    extent = bench.Extent.quick() if arguments.quick else bench.Extent()
    progress = _tell if sys.stderr.isatty() and not arguments.json else _nothing
    try:
        figures = bench.measure(extent, progress)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalError(str(error)) from error
    if arguments.plot is not None:
        bench_plot.draw(figures, arguments.plot)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        _show(figures)
    failed: int = sum(o["failed"] for o in figures["connections"]["by_concurrency"].values())
    if failed:
        print(f"tcpcrypt bench: {failed} connections failed", file=sys.stderr)
    return 1 if failed else 0


def _tell(what: str) -> None:
    print(f"{what} ...", file=sys.stderr)


def _nothing(_what: str) -> None:
    """Nobody watches."""


def _show(figures: Mapping[str, Any]) -> None:
    bulk, trip, machine = figures["bulk"], figures["round_trip"], figures["machine"]
    rows: list[tuple[str, str, str, str]] = [
        (
            "bulk, Gbit/s",
            f"{bulk['plain_gbit_s']:.2f}",
            f"{bulk['gbit_s']:.2f}",
            f"{bulk['ratio_to_plain']:.3f}",
        ),
        (
            "bulk, CPU s/GB",
            f"{bulk['plain_cpu_s_per_gb']:.2f}",
            f"{bulk['cpu_s_per_gb']:.2f}",
            f"{bulk['cpu_s_per_gb'] / bulk['plain_cpu_s_per_gb']:.2f}",
        ),
        (
            f"round trip of {trip['bytes']} B, us",
            f"{trip['plain_us']:.1f}",
            f"{trip['us']:.1f}",
            f"{trip['us'] / trip['plain_us']:.2f}",
        ),
    ]
    for at_once, opened in figures["connections"]["by_concurrency"].items():
        plain = opened["plain_per_s"]
        for kind in ("fresh", "resumed"):
            rate = opened[f"{kind}_per_s"]
            what = f"{kind} connections/s, {at_once} at once"
            if kind == "resumed" and opened["resumed_share"] < _ALL:
                what += f" ({opened['resumed_share']:.0%} were)"
            rows.append((what, f"{plain:,.0f}", f"{rate:,.0f}", f"{rate / plain:.3f}"))
    print_table(("", "PLAIN", "ENCRYPTED", "RATIO"), rows)
    print()
    print(
        f"medians of {figures['rounds']} rounds, in alternation; both hosts, daemons and traffic "
        f"programs share {machine['processors']} x {machine['processor']}"
    )
    print(
        f"backend {figures['plane']['backend']}, steering {figures['plane']['steering']}, "
        f"hot path in {machine['implementation']}, Linux {machine['kernel']}"
    )
