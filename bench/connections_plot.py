"""The figures of bench/connections.py as a picture: connections a second, by kind, side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

_ROW = re.compile(r"^(\w+) +(\d+) +([\d,]+) +([\d.]+) +([\d.]+) ", re.MULTILINE)
_COLOURS = ("#9a9a9a", "#7fb3d5", "#1f618d", "#7dcea0", "#e59866")
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "tcpcrypt", "font.size": 9}
"""Letters stay letters, and the same figures give the same file."""


def rows(text: str) -> dict[str, dict[int, int]]:
    """Connections a second, by kind and then by how many are open at once."""
    found: dict[str, dict[int, int]] = {}
    for kind, at_once, rate, _p50, _p99 in _ROW.findall(text):
        found.setdefault(kind, {})[int(at_once)] = int(rate.replace(",", ""))
    return found


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture of a result as SVG.

    Plain TCP is left out of the bars, which it would make too short to tell
    apart, and stands in the title.
    """
    kinds = rows(result["text"])
    plain = kinds.pop("plain", {})
    numbers = sorted({number for rates in kinds.values() for number in rates})
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.5, 3.6), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(kinds)
        for place, ((kind, rates), colour) in enumerate(
            zip(kinds.items(), _COLOURS[1:], strict=False)
        ):
            at = [index + (place - (len(kinds) - 1) / 2) * width for index in range(len(numbers))]
            values = [rates.get(number, 0) for number in numbers]
            bars = axes.bar(at, values, width * 0.92, color=colour, label=kind)
            axes.bar_label(bars, [f"{value:,}" for value in values], fontsize=7, padding=1)
        axes.set_xticks(range(len(numbers)), [f"{number} at once" for number in numbers])
        axes.set_ylabel("connections a second")
        beside = ", ".join(f"{plain[number]:,}" for number in numbers if number in plain)
        axes.set_title(
            "Two hosts in namespaces that share two cores, a daemon on each; measured on"
            f" {result['when']}\nplain TCP without a daemon: {beside}",
            fontsize=8.5,
        )
        axes.legend(frameon=False, ncols=len(kinds), loc="upper left", fontsize=8)
        axes.margins(y=0.18)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})
