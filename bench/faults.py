"""The segment plane beside plain TCP on a path that harms segments: what is left of its rate.

    python bench/faults.py [--fault NAME]... [--share P]... [--rounds N] [--seconds S] [--json]
                           [--megabits N] [--delay MS] [--congestion NAME] [--python]

Each chain has two hosts of its own and a path between them of so many megabits
and milliseconds there and back (`tests/middlebox/slow_path.c`), which harms the same
share of segments in both directions.  The chains take turns, and the
median of the rounds' ratios counts.  SYNs pass: their timers are no matter of bulk.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from middlebox.slow_path import FAULTS, Line, SlowPath, compiled
from planes import (
    AT_ONCE,
    CONGESTION,
    PLAIN,
    PORTS,
    PYTHON,
    Chain,
    plain,
    say,
    segments,
    surrounded,
)
from rivals import Ground
from segments import OURS, summary

from tcpcrypt.tools.bench import machine
from tcpcrypt.tools.netns import Lab, become_root
from tcpcrypt.tools.traffic import Traffic

SHARES = (0.001, 0.01, 0.1)
_SEND_BUFFER = "4096 16384 600000"
"""What waits in a host when the time is over has to arrive, too."""


class SlowChain(Chain):
    """A chain whose hosts have a slow path between them."""

    def __init__(self, program: Path, line: Line, *given: Any, **named: Any) -> None:
        self._program, self._line = program, line
        super().__init__(*given, **named)

    def _prepare(self, lab: Lab, root: Path) -> Ground:
        directory = root / str(len(list(root.iterdir())))
        directory.mkdir()
        self.path = path = SlowPath(lab, self._program, self.name, self._line)
        for host in (path.client, path.server):
            host.sysctl(f"net.ipv4.{CONGESTION}", self._congestion)
            host.sysctl("net.ipv4.tcp_wmem", _SEND_BUFFER)
            host.sysctl("net.ipv4.tcp_no_metrics_save", "1")
        return Ground(path.client, path.server, path.server_end.v4, PORTS, directory)

    def harmed(self, fault: str, share: float, seconds: float) -> dict[str, float]:
        """Bulk data under a fault."""
        self.path.harm(fault, share, syns=False)
        found = self.bulk(1, seconds)
        seen, harmed = self.path.harm()
        return found | {"mbit_s": found["gbit_s"] * 1e3, "harmed": harmed / max(seen, 1)}


def measure(
    cells: list[tuple[str, float]], line: Line, rounds: int, seconds: float, congestion: str
) -> dict[str, Any]:
    """By fault and share: rates of both chains, and their ratio."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tcpcrypt-bench-") as temporary, Lab() as lab:
        root = Path(temporary)
        root.chmod(0o755)
        (root / "programs").mkdir()
        traffic, program = Traffic(root / "programs"), compiled(root / "programs")
        chains = [
            SlowChain(program, line, lab, traffic, name, start, root, congestion=congestion)
            for name, start in ((PLAIN, plain), (OURS, segments))
        ]
        for chain in chains:
            chain.open(min(AT_ONCE), 0.3)
        for fault, share in cells:
            taken = []
            for turn in range(rounds):
                say(f"{fault} {share:.1%}, round {turn + 1} of {rounds}")
                taken.append([chain.harmed(fault, share, seconds) for chain in chains])
            found[f"{fault}/{share:.1%}"] = summary(taken, "mbit_s")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fault", action="append", choices=FAULTS, help="(default: all)")
    parser.add_argument("--share", type=float, action="append", help="(default: 0.001 0.01 0.1)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each (default: 2)")
    parser.add_argument("--megabits", type=float, default=200.0, help="(default: 200)")
    parser.add_argument("--delay", type=float, default=10.0, help="there and back (default: 10)")
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
    cells = [("none", 0.0)] + [
        (fault, share) for fault in arguments.fault or FAULTS for share in arguments.share or SHARES
    ]
    line = Line(megabits=arguments.megabits, milliseconds=arguments.delay / 2)
    with surrounded(PYTHON if arguments.python else {}):
        found = measure(cells, line, arguments.rounds, arguments.seconds, arguments.congestion)
    if arguments.json:
        print(json.dumps({"faults": found, "machine": machine()}, indent=2))
        return 0
    for what, figures in found.items():
        print(
            f"{what:14} {figures['ratio']:.2f} of plain [{figures['least']:.2f}"
            f"-{figures['most']:.2f}], Mbit/s {figures[f'{OURS} mbit_s']:6.1f}"
            f" and {figures[f'{PLAIN} mbit_s']:6.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
