"""Columns under a header, as the query commands print them; colour only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TextIO

__all__ = ["coloured", "duration", "plural", "print_table", "printable", "table_lines"]

_COLOURS: Final[Mapping[str, str]] = {
    "encrypted": "\x1b[32m",
    "plain": "\x1b[33m",
    "refused": "\x1b[31m",
}
_PLAIN: Final = "\x1b[0m"
_BOLD: Final = "\x1b[1m"
_GAP: Final = "  "


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], stream: TextIO | None = None
) -> None:
    """Print `rows` under `header`.  Numbers stand right, None is a dash."""
    out = sys.stdout if stream is None else stream
    for line in table_lines(header, rows, coloured=coloured(out)):
        print(line, file=out)


def table_lines(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    coloured: bool,
    width: int | None = None,
) -> list[str]:
    """The lines of `print_table`; what goes beyond `width` columns is cut off."""
    rows = list(rows)
    table = [[printable(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *table, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[n], int | None) for row in rows)
        for n in range(len(header))
    ]
    lines = []
    for number, cells in enumerate([list(header), *table]):
        line, at = "", 0
        for cell, wide, to_the_right in zip(cells, widths, right, strict=True):
            word = cell.rjust(wide) if to_the_right else cell.ljust(wide)
            word = word if width is None else word[: max(0, width - at)]
            at += wide + len(_GAP)
            colour = _BOLD if number == 0 else _COLOURS.get(cell, "")
            if colour and coloured and cell in word:
                word = word.replace(cell, f"{colour}{cell}{_PLAIN}")
            line += word + _GAP
        lines.append(line.rstrip())
    return lines


def duration(seconds: float) -> str:
    """`seconds` as a person says it, in its two largest units."""
    left = max(0, int(seconds))
    words: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not words):
            words.append(f"{count} {unit}")
    return " ".join(words[:2])


def plural(count: int, one: str, many: str) -> str:
    """`1 peer`, `2 peers`."""
    return f"{count} {one if count == 1 else many}"


def printable(value: object) -> str:
    """`value` for a terminal, which obeys control characters; None is a dash."""
    if value is None or value == "":
        return "-"
    text = str(value)
    # What a peer said is among it, and a terminal obeys.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def coloured(stream: TextIO) -> bool:
    """Whether there are to be colours; NO_COLOR, if not empty, turns them off (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
