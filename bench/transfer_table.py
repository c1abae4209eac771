"""Figures of bench/transfer.py as a table."""

from __future__ import annotations

from typing import Any

WHATS = ("bulk", "small", "delay")
GOALS = {
    ("bulk", "socket+digest"): 0.8,
    ("bulk", "scp"): 1.0,
    ("bulk", "rsync"): 1.0,
    ("small", "scp"): 2.0,
    ("delay", "stop-and-wait"): 10.0,
}
"""How many times as fast as that stx-send is to be."""
ROW = "{:<18}{:>9}{:>9}{:>8}{:>12}{:>7}{:>8}"


def table(figures: dict[str, Any]) -> str:
    """Seconds, rates, seconds of processors; and how fast stx-send is beside each."""
    return "\n\n".join(
        _part(what, figures[what], figures["files"]) for what in WHATS if what in figures
    )


def _part(what: str, part: dict[str, Any], files: int) -> str:
    head = {
        "bulk": f"one file, {part['amount'] >> 20} MiB",
        "small": f"{files:,} files of 4 KiB",
        "delay": f"{part['amount'] >> 20} MiB, 50 ms away",
    }[what]
    lines = [head, ROW.format("", "seconds", "MiB/s", "CPU s", "stx-send is", "of CPU", "goal")]
    for kind, values in part["kinds"].items():
        ratio, used = (part[name].get(kind) for name in ("ratios", "processor_ratios"))
        processors = values.get("processor_seconds")
        goal = GOALS.get((what, kind))
        lines.append(
            ROW.format(
                "stx-send" if kind == "stx" else kind,
                f"{values['seconds']:.2f}",
                f"{values['mib_s']:.1f}",
                "" if processors is None else f"{processors:.2f}",
                "" if ratio is None else f"{ratio:.2f} x",
                "" if used is None else f"{used:.2f} x",
                "" if goal is None else f"{goal:g} x",
            ).rstrip()
        )
    return "\n".join(lines)
