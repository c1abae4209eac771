"""Figures of bench/sockets.py as tables."""

from __future__ import annotations

from typing import Any

ROW = "{:<14}{:>9}{:>11}{:>10}{:>9}{:>10}"
CALLS = {"calls": "", "calls, fresh": ", fresh", "calls, resumed": ", resumed"}
GOALS = {
    "bulk, to plain": 0.35,
    "bulk, to ssl": 1.0,
    "bulk, 2 threads, to plain": 0.5,
    "calls, fresh, to ssl": 1.0,
    "calls, resumed, to ssl": 1.0,
}
"""Of the blocking sockets."""


def table(result: dict[str, Any]) -> str:
    """Rates and costs of each kind, then what the targets speak of."""
    return "\n\n".join((_bulk(result["figures"]), _calls(result["figures"]), _ratios(result)))


def _bulk(figures: dict[str, Any]) -> str:
    lines = [ROW.format("", "Gbit/s", "2 threads", "client B", "server B", "open").rstrip()]
    for name, by_what in figures.items():
        if "bulk" in by_what:
            two, idle = by_what.get("bulk, 2 threads"), by_what.get("idle", {})
            many = idle.get("connections")
            lines.append(
                ROW.format(
                    name,
                    f"{by_what['bulk']['gbit_s']:.2f}",
                    "" if two is None else f"{two['gbit_s']:.2f}",
                    *(f"{idle[key]:,.0f}" if key in idle else "" for key in
                      ("client_bytes", "server_bytes")),
                    "" if many is None else f"{many:,.0f}",
                ).rstrip()
            )  # fmt: skip
    return "\n".join(lines)


def _calls(figures: dict[str, Any]) -> str:
    lines = [f"{'connect, echo, close':<26}{'a second':>9}{'CPU us, both ends':>20}"]
    for name, by_what in figures.items():
        for what, how in CALLS.items():
            if what in by_what:
                values = by_what[what]
                used = values.get("pair_cpu_us")
                cpu = "" if used is None else f"{used:,.0f}"
                lines.append(f"{name + how:<26}{values['per_s']:>9,.0f}{cpu:>20}".rstrip())
    return "\n".join(lines)


def _ratios(result: dict[str, Any]) -> str:
    lines = [f"{'tcpcrypt, times as fast':<36}{'goal':>14}"]
    for name, ratio in result["ratios"].items():
        goal = GOALS.get(name)
        lines.append(f"{name:<34}{ratio:>8.2f}{'' if goal is None else f'{goal:g}':>8}".rstrip())
    return "\n".join(lines)
