"""The segment plane beside plain TCP, in turns: how much of its rate is left.

    python bench/segments.py [--flows N]... [--rounds N] [--seconds S] [--python] [--json]
                             [--congestion NAME]

Two hosts in network namespaces, with offloads on; each round has both, so that
what else the machine does meets both.  The median of the rounds' ratios counts.
`--python` leaves the extension out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from planes import AT_ONCE, CONGESTION, PLAIN, PYTHON, Chain, plain, say, segments, surrounded

from tcpcrypt.tools.bench import machine
from tcpcrypt.tools.netns import Lab, become_root
from tcpcrypt.tools.traffic import Traffic

OURS = "segments"


def measure(
    flows: list[int], rounds: int, seconds: float, *, python: bool, congestion: str
) -> dict[str, Any]:
    """Medians by measurement: rates, ratio, and processor time of both chains."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tcpcrypt-bench-") as temporary, Lab() as lab:
        root = Path(temporary)
        root.chmod(0o755)
        (root / "programs").mkdir()
        traffic = Traffic(root / "programs")
        with surrounded(PYTHON if python else {}):
            chains = [
                Chain(lab, traffic, name, start, root, congestion=congestion)
                for name, start in ((PLAIN, plain), (OURS, segments))
            ]
        for chain in chains:
            chain.open(min(AT_ONCE), 0.3)
        for number in flows:
            taken = []
            for turn in range(rounds):
                say(f"{number} flows, round {turn + 1} of {rounds}")
                taken.append([chain.bulk(number, seconds) for chain in chains])
            found[f"bulk/{number}"] = summary(taken, "gbit_s")
        taken = []
        for turn in range(rounds):
            say(f"connections, round {turn + 1} of {rounds}")
            taken.append([chain.open(min(AT_ONCE), seconds) for chain in chains])
        found["open"] = summary(taken, "per_s")
    return found


def summary(rounds: list[list[dict[str, float]]], rate: str) -> dict[str, float]:
    """Plain and ours, and the median, least and most of what ours is of plain."""
    ratios = sorted(ours[rate] / plain[rate] for plain, ours in rounds)
    found = {"ratio": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
    for index, name in enumerate((PLAIN, OURS)):
        for figure in rounds[0][0]:
            found[f"{name} {figure}"] = statistics.median(both[index][figure] for both in rounds)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flows", type=int, action="append", metavar="N", help="(default: 1, 4)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each (default: 1)")
    parser.add_argument("--python", action="store_true", help="without the extension")
    parser.add_argument(
        "--congestion",
        default=Path(f"/proc/sys/net/ipv4/{CONGESTION}").read_text().strip(),
        metavar="NAME",
        help="congestion control of both hosts (default: this machine's, %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    become_root()
    found = measure(
        arguments.flows or [1, 4],
        arguments.rounds,
        arguments.seconds,
        python=arguments.python,
        congestion=arguments.congestion,
    )
    if arguments.json:
        print(json.dumps({"segments": found, "machine": machine()}, indent=2))
        return 0
    for what, figures in found.items():
        rate = "per_s" if what == "open" else "gbit_s"
        print(
            f"{what:8} {figures['ratio']:.3f} of plain [{figures['least']:.3f}"
            f"-{figures['most']:.3f}], {rate} {figures[f'{OURS} {rate}']:.3g}"
            f" and {figures[f'{PLAIN} {rate}']:.3g}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
