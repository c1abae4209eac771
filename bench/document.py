"""Figures in docs/: what stands between their marks, from results that lie in bench/results/.

    python bench/document.py                    write the documents anew from the results
    python bench/document.py --measure all      measure all of it before (an hour, quiet machine)
    python bench/document.py --measure planes   measure this part alone

What stands between `<!-- NAME -->` and `<!-- end of NAME -->` is written here;
all else in the documents is written by hand and stays.  `transfer` stands in
docs/transfer.md, `sockets` in docs/sockets.md, all else in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import connections_plot
import planes_table
import sockets_table
import targets_table
import transfer_table
from planes import PLAIN
from rivals import STANFORD as BINARY
from targets_table import OURS, STANFORD

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCUMENT = HERE.parent / "docs" / "performance.md"
TRANSFER = HERE.parent / "docs" / "transfer.md"
SOCKETS = HERE.parent / "docs" / "sockets.md"
PICTURE = HERE.parent / "docs" / "planes.png"
CHART = HERE.parent / "docs" / "connections.svg"


def measured(*words: str | Path) -> str:
    """What a benchmark prints."""
    print("measuring:", *(getattr(word, "name", word) for word in words), file=sys.stderr)
    done = subprocess.run(
        (sys.executable, *words), stdout=subprocess.PIPE, text=True, cwd=HERE.parent, check=True
    )
    return done.stdout


def functions() -> Any:
    said = measured("-m", "pytest", "bench", "--benchmark-only", "-q", "-p", "no:cacheprovider")
    rates = re.search(r"^=+ rates =+\n(.*?)(?=^=+|^\d+ passed)", said, re.DOTALL | re.MULTILINE)
    if rates is None:
        raise SystemExit("the benchmarks of functions printed no rates")
    return {"text": rates[1].strip()}


def connections() -> Any:
    return {"text": measured(HERE / "connections.py").rstrip()}


def idle() -> Any:
    return {"text": measured(HERE / "idle.py").rstrip()}


def planes() -> Any:
    return json.loads(measured(HERE / "planes.py", "--json", "--plot", PICTURE))


def stanford() -> Any:
    if not os.environ.get(BINARY):
        print(f"not measured: {BINARY} names no built daemon", file=sys.stderr)
        return None
    chains = [word for name in (PLAIN, OURS, STANFORD) for word in ("--only", name)]
    return json.loads(measured(HERE / "planes.py", "--json", *chains, "--what", "bulk/1"))


def transfer() -> Any:
    return json.loads(measured(HERE / "transfer.py", "--json"))


def sockets() -> Any:
    return json.loads(measured(HERE / "sockets.py", "--brief", "--json"))


def bench() -> Any:
    said = measured("-m", "tcpcrypt.cli.tcpcrypt", "bench", "--json")
    return {"text": json.dumps(json.loads(said), indent=2)}


def as_it_is(result: dict[str, Any]) -> str:
    return f"```\n{result['text']}\n```"


def on(machine: dict[str, Any]) -> str:
    return f"{machine['processors']} x {machine['processor']}, Linux {machine['kernel']}"


def transfers(result: dict[str, Any]) -> str:
    rounds = ", ".join(str(result[what]["rounds"]) for what in transfer_table.WHATS)
    return (
        f"```\n{transfer_table.table(result)}\n```\n\n"
        f"{on(result['machine'])}; medians of {rounds} rounds, files in"
        f" {result['place']}, digests by {result['digest']}."
    )


def secured(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"```\n{sockets_table.table(result)}\n```\n\n"
        f"{on(machine)}, Python {machine['python']}, {machine['openssl']};"
        f" medians of {result['rounds']} rounds."
    )


def chains(result: dict[str, Any]) -> str:
    return (
        f"```\n{planes_table.table(result)}\n```\n\n"
        f"{on(result['machine'])}, congestion control "
        f"{result['machine']['tcp_congestion_control']}; "
        f"medians of {result['rounds']} rounds of {result['seconds']:g} s.\n\n"
        f"![the same as a picture]({PICTURE.name})"
    )


def beside(result: dict[str, Any]) -> str:
    if STANFORD not in result["chains"]:
        return f"Not measured: {result['left_out'][STANFORD]}."
    rates = {name: said["bulk/1"]["gbit_s"] for name, said in result["chains"].items()}
    return (
        f"One flow, medians of {result['rounds']} rounds of {result['seconds']:g} s: plain TCP"
        f" {rates[PLAIN]:.2f} Gbit/s, this daemon {rates[OURS]:.2f}, the Stanford daemon on both"
        f" hosts {rates[STANFORD]:.3f}: {rates[OURS] / rates[STANFORD]:.1f} times its rate, and"
        f" {result['chains'][OURS]['bulk/1']['cpu_s_per_gb']:.2f} s of processor time a gigabyte"
        f" beside {result['chains'][STANFORD]['bulk/1']['cpu_s_per_gb']:.2f} s."
    )


def charted(result: dict[str, Any]) -> str:
    return f"{as_it_is(result)}\n\n![the connections a second as a picture]({CHART.name})"


PARTS: dict[str, tuple[Callable[[], Any], Callable[[dict[str, Any]], str]]] = {
    "functions": (functions, as_it_is),
    "bench": (bench, as_it_is),
    "planes": (planes, chains),
    "stanford": (stanford, beside),
    "connections": (connections, charted),
    "idle": (idle, as_it_is),
    "transfer": (transfer, transfers),
    "sockets": (sockets, secured),
}
"""How each part is measured, and written."""
_ELSEWHERE = {TRANSFER: ["transfer"], SOCKETS: ["sockets"]}
DOCUMENTS = {
    DOCUMENT: [name for name in PARTS if [name] not in _ELSEWHERE.values()],
    **_ELSEWHERE,
}
"""The parts that stand in each."""


def between(text: str, name: str, figures: str) -> str:
    """`text` with `figures` between the marks of `name`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _old, ended, after = rest.partition(end)
    if not found or not ended:
        raise SystemExit(f"there is no place for {name}: {begin} ... {end}")
    return f"{before}{begin}\n{figures}\n{end}{after}"


def written(document: Path) -> str:
    """The document with the figures of all results that there are."""
    text = document.read_text()
    if document is DOCUMENT:
        paths = {name: RESULTS / f"{name}.json" for name in PARTS}
        results = {name: json.loads(p.read_text()) for name, p in paths.items() if p.exists()}
        text = between(text, "targets", targets_table.table(results))
    for name in DOCUMENTS[document]:
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            when = f"Measured on {result['when']}{result.get('remark', '')}."
            text = between(text, name, f"{when}\n\n{PARTS[name][1](result)}")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--measure", action="append", choices=("all", *PARTS), default=[], help="measure before"
    )
    parser.add_argument("--remark", default="", help="stands after the date, as `, preliminary`")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for name, (measure, _write) in PARTS.items():
        if {name, "all"} & set(arguments.measure):
            result = measure()
            if result is None:
                continue
            result |= {"when": time.strftime("%Y-%m-%d"), "remark": arguments.remark}
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    connections_plot.draw(json.loads((RESULTS / "connections.json").read_text()), CHART)
    for document in DOCUMENTS:
        document.write_text(written(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
