"""A hostile middlebox: each of its faults on fresh, resumed and authenticated connections.

Both streams are intact or there is an error; nothing is in clear once a host
has enabled encryption, and no end of file is forged.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from middlebox.cells import Cell, Middle, Result, outcome
from middlebox.fault import Kind, Mode, Outcome
from middlebox.handshake_faults import HANDSHAKE_FAULTS
from middlebox.path_faults import PATH_FAULTS
from middlebox.stream_faults import STREAM_FAULTS
from netns.network import routed

FAULTS = PATH_FAULTS + HANDSHAKE_FAULTS + STREAM_FAULTS
MATRIX = [(fault, kind, mode) for fault in FAULTS for kind in Kind for mode in Mode]
CELLS = [
    Cell(fault, kind, mode, number) for number, (fault, kind, mode) in enumerate(MATRIX, start=1)
]
OVER_IPV6 = [replace(cell, family=6) for cell in CELLS]
_EACH = len(Kind) * len(Mode)
SAMPLE = {cell for at, cell in enumerate(OVER_IPV6) if at % _EACH == at // _EACH % _EACH}
"""Each fault once, the kinds and modes in turn."""
ALL = [
    *CELLS,
    *(cell if cell in SAMPLE else pytest.param(cell, marks=pytest.mark.long) for cell in OVER_IPV6),
]


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[Cell, Result]:
    """All cells that are to be judged, those over one IP version at once."""
    wanted = [
        item.callspec.params["cell"]
        for item in request.session.items
        if item.path == request.path and "cell" in getattr(item, "callspec", item).params
    ]
    found: dict[Cell, Result] = {}
    for family in sorted({cell.family for cell in wanted}):
        cells = [cell for cell in wanted if cell.family == family]
        with routed() as network:
            found |= Middle(network, tmp_path_factory.mktemp("middle"), cells, family).run()
    return found


@pytest.mark.parametrize("cell", ALL, ids=lambda cell: cell.name)
def test_intact_or_an_error_and_nothing_in_clear(results: dict[Cell, Result], cell: Cell) -> None:
    result = results[cell]
    came = outcome(cell, result)
    expected = cell.fault.expected(cell.kind, cell.mode)
    if result.fault.too_late:
        expected |= {Outcome.ENCRYPTED}
    assert came in expected, f"{came.name}: {result}"
