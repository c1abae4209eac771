"""The figures of planes.py as tables."""

from __future__ import annotations

from typing import Any

from planes import AT_ONCE, FLOWS, LOSSES, LOSSY, PLAIN

NONE = "-"


def table(figures: dict[str, Any]) -> str:
    """All tables, as text that stands in a document as it is."""
    parts = [_speed(figures), _loss(figures), _memory(figures)]
    left_out = [f"left out: {name} ({why})" for name, why in figures["left_out"].items()]
    left_out += [
        f"left out: idle connections, {name} ({found['error']})"
        for name, found in figures["memory"].items()
        if "error" in found
    ]
    return "\n\n".join([part for part in parts if part] + (["\n".join(left_out)] * bool(left_out)))


def _of(figures: dict[str, Any], chain: str, what: str, name: str) -> float | None:
    value: float | None = figures["chains"].get(chain, {}).get(what, {}).get(name)
    return value


def _cell(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _ratio(figures: dict[str, Any], chain: str, to: str, what: str) -> float | None:
    mine, its = (_of(figures, name, what, "gbit_s") for name in (chain, to))
    return mine / its if mine is not None and its else None


def _lines(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    )


def _speed(figures: dict[str, Any]) -> str:
    header = ["", "Gbit/s", "ratio", "CPU s/GB", *(f"{n} flows" for n in FLOWS[1:])]
    header += [f"conn/s, {n}" for n in AT_ONCE]
    header += ["CPU us", "echo ms", "ping us"]
    rows = []
    for chain in figures["chains"]:
        row = [
            chain,
            _cell(_of(figures, chain, "bulk/1", "gbit_s"), ".2f"),
            _cell(_ratio(figures, chain, PLAIN, "bulk/1"), ".3f"),
            _cell(_of(figures, chain, "bulk/1", "cpu_s_per_gb"), ".2f"),
            *(_cell(_of(figures, chain, f"bulk/{n}", "gbit_s"), ".2f") for n in FLOWS[1:]),
            *(_cell(_of(figures, chain, f"open/{n}", "per_s"), ",.0f") for n in AT_ONCE),
            _cell(_of(figures, chain, f"open/{AT_ONCE[-1]}", "cpu_us"), ",.0f"),
            _cell(_of(figures, chain, "first byte", "p50_ms"), ".2f"),
            _cell(_of(figures, chain, "ping", "p50_us"), ".1f"),
        ]
        rows.append(row)
    return _lines(header, rows)


def _loss(figures: dict[str, Any]) -> str:
    shares = [f"loss/{share:.2%}" for share in LOSSES]
    header = ["packets lost"]
    for share in LOSSES:
        header += [f"{share:.2%}", "ratio"]
    rows = []
    for chain in figures["chains"]:
        if chain == PLAIN:
            continue
        row = [chain]
        for what in shares:
            row.append(_cell(_of(figures, chain, what, "gbit_s"), ".2f"))
            row.append(_cell(_ratio(figures, chain, LOSSY, what), ".2f"))
        rows.append(row)
    return _lines(header, rows) if rows else ""


def _memory(figures: dict[str, Any]) -> str:
    memory = figures["memory"]
    counts = sorted({int(n) for found in memory.values() for n in found if n != "error"})[1:]
    if not counts:
        return ""
    header = ["idle connections", *(f"KiB each of {n:,}" for n in counts)]
    rows = []
    for chain, found in memory.items():
        if "error" in found:
            rows.append([chain, *([NONE] * len(counts))])
            continue
        # Both ends together; that of one is half of it.
        each = [(found[str(n)] - found["0"]) / n / 1024 for n in counts]
        rows.append([chain, *(f"{size:,.1f}" for size in each)])
    return _lines(header, rows)
