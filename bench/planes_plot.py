"""The picture of planes.py; needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

PLAIN, OURS, OTHERS = "#9a9a9a", "#1f618d", "#c8a165"
SHOWN = {
    ("bulk/1", "gbit_s"): "bulk, one flow, Gbit/s",
    ("bulk/1", "cpu_s_per_gb"): "CPU s/GB, both ends",
    ("open/64", "per_s"): "connections a second, 64 at once",
    ("ping", "p50_us"): "round trip, us",
}


def draw(figures: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(13, 0.45 * len(figures["chains"]) + 1.8), layout="constrained")
    for axes, ((what, name), title) in zip(
        figure.subplots(1, len(SHOWN), sharey=True), SHOWN.items(), strict=True
    ):
        chains = [c for c, found in figures["chains"].items() if what in found]
        values = [figures["chains"][chain][what][name] for chain in chains]
        bars = axes.barh(chains, values, color=[_colour(chain) for chain in chains])
        labels = [f" {value:,.{2 if value < 100 else 0}f}" for value in values]
        axes.bar_label(bars, labels=labels, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xscale("log" if max(values, default=1) > 20 * min(values, default=1) else "linear")
    figure.axes[0].invert_yaxis()
    machine = figures["machine"]
    figure.suptitle(
        f"both hosts on {machine['processors']} x {machine['processor']}, "
        f"Linux {machine['kernel']}; median of {figures['rounds']}",
        fontsize=9,
    )
    figure.savefig(path, dpi=130)


def _colour(chain: str) -> str:
    if chain.startswith("plain"):
        return PLAIN
    return OURS if chain.startswith("ours") else OTHERS
