"""A hostile middlebox: each of its faults on fresh, resumed and authenticated connections.

Both streams are intact or there is an error; nothing is in clear once a host
has enabled encryption, and no end of file is forged.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from middlebox.cells import Cell, Middle, Result, outcome
from middlebox.fault import Kind, Mode
from middlebox.handshake_faults import HANDSHAKE_FAULTS
from middlebox.path_faults import PATH_FAULTS
from middlebox.stream_faults import STREAM_FAULTS
from netns.network import routed

FAULTS = PATH_FAULTS + HANDSHAKE_FAULTS + STREAM_FAULTS
CELLS = [
    Cell(fault, kind, mode, number)
    for number, (fault, kind, mode) in enumerate(
        ((fault, kind, mode) for fault in FAULTS for kind in Kind for mode in Mode), start=1
    )
]


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Cell, Result]]:
    """All cells that are to be judged, at once."""
    wanted = [
        item.callspec.params["cell"]
        for item in request.session.items
        if item.path == request.path and "cell" in getattr(item, "callspec", item).params
    ]
    with routed() as network:
        yield Middle(network, tmp_path_factory.mktemp("middle"), wanted).run()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_intact_or_an_error_and_nothing_in_clear(results: dict[Cell, Result], cell: Cell) -> None:
    result = results[cell]
    came = outcome(cell, result)
    assert came in cell.fault.expected(cell.kind, cell.mode), f"{came.name}: {result}"
