"""Diagrams of the docs as SVG: a line for each state or host, an arrow for each step.

The docs have their diagrams in mermaid's notation, from the tables that the code
runs on (`tcpcrypt.tools.diagrams`).  The built site draws them by this, so that
a reader's browser fetches nothing and needs no script.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

__all__ = ["Arrow", "drawing", "ladder"]

_FENCE: Final = re.compile(
    r"^```mermaid\n(stateDiagram-v2|sequenceDiagram)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_STATE: Final = re.compile(r"^\s*(\S+) --> (\w+)(?:: (.*))?$")
_MESSAGE: Final = re.compile(r"^\s*(\w+)(--?>>)(\w+): (.*)$")
_PARTICIPANT: Final = re.compile(r"^\s*participant (\w+) as (.*)$")
_NOTE: Final = re.compile(r"^\s*Note over (\w+),(\w+): (.*)$")
_CHARACTER: Final = 6.4
"""Pixels that a character of a label takes; one of a name, which is bold, takes more."""
_NAME_CHARACTER: Final = 8.0
_COLUMN_MIN: Final = 120
_ROW: Final = 34
_TOP: Final = 54
_HEAD: Final = 26
_START: Final = "[*]"


class Arrow(NamedTuple):
    """One step; columns count from 0, equal ones are a remark across both."""

    origin: int
    target: int
    label: str
    remark: bool = False


def drawing(markdown: str) -> str:
    """`markdown` with each mermaid diagram replaced by its SVG.

    Raises `ValueError` for a line of a diagram that it does not know.
    """
    return _FENCE.sub(lambda found: _draw(found[1], found[2]), markdown)


def _draw(kind: str, text: str) -> str:
    names: dict[str, str] = {}
    arrows: list[Arrow] = []

    def column(name: str) -> int:
        names.setdefault(name, name)
        return list(names).index(name)

    for line in text.splitlines():
        if kind == "stateDiagram-v2" and (found := _STATE.match(line)):
            if found[1] == _START:
                column(found[2])
            else:
                arrows.append(Arrow(column(found[1]), column(found[2]), found[3] or ""))
        elif kind == "sequenceDiagram" and (found := _PARTICIPANT.match(line)):
            names[found[1]] = found[2]
        elif kind == "sequenceDiagram" and (found := _MESSAGE.match(line)):
            arrows.append(Arrow(column(found[1]), column(found[3]), found[4]))
        elif kind == "sequenceDiagram" and (found := _NOTE.match(line)):
            arrows.append(Arrow(column(found[1]), column(found[2]), found[3], remark=True))
        else:
            raise ValueError(f"{kind}: cannot draw {line!r}")
    return ladder(list(names.values()), arrows)


def ladder(columns: Sequence[str], arrows: Sequence[Arrow]) -> str:
    """One diagram, on one line of HTML."""
    step = max(_COLUMN_MIN, *(int(_NAME_CHARACTER * len(name)) + 24 for name in columns))
    if len(columns) == 2:
        step = max(step, *(int(_CHARACTER * len(arrow.label)) + 40 for arrow in arrows))
    width = step * len(columns)
    height = _TOP + _ROW * len(arrows) + 12
    parts = [
        f'<div class="ladder"><svg viewBox="0 0 {width} {height}" role="img"'
        f' style="max-width:{width}px" xmlns="http://www.w3.org/2000/svg">'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"'
        ' markerHeight="8" orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>'
    ]
    for number, name in enumerate(columns):
        middle = step * number + step // 2
        parts.append(
            f'<path class="life" d="M{middle} {_HEAD}V{height}"/>'
            f'<rect x="{middle - step // 2 + 6}" y="2" width="{step - 12}" height="{_HEAD}"'
            f' rx="5"/><text class="name" x="{middle}" y="20">{escape(name)}</text>'
        )
    for row, arrow in enumerate(arrows):
        y = _TOP + _ROW * row + 12
        one, other = (step * end + step // 2 for end in (arrow.origin, arrow.target))
        half = _CHARACTER * len(arrow.label) / 2 + 6
        # A label longer than its arrow stays on the picture.
        across = min(max((one + other) / 2, half), max(half, width - half))
        if not arrow.remark:
            parts.append(f'<path class="step" d="M{one} {y}H{other}" marker-end="url(#head)"/>')
        style = "remark" if arrow.remark else "label"
        parts.append(
            f'<text class="{style}" x="{across:g}" y="{y - 6}">{escape(arrow.label)}</text>'
        )
    return "".join([*parts, "</svg></div>"])
