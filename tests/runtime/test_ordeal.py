"""Whatever an application, a peer and the path do, at whatever moment: RFC 8548 holds.

Each seed is a connection of its own kind, once through Python and once through
the pump; `support.ordeal` says what has to be true of both.
"""

from __future__ import annotations

import pytest
from conftest import PURE_PYTHON
from support.ordeal import Ordeal

from tcpcrypt.core import records
from tcpcrypt.runtime import relay

SEEDS = 60


@pytest.fixture(params=["py"] if PURE_PYTHON else ["py", "c"])
def pumps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With the pump: lent as soon and as often as can be."""
    monkeypatch.setattr(relay, "_LEND_AFTER", 1)
    monkeypatch.setattr(records, "LEASE_MIN", 100_000)
    return request.param == "c"


@pytest.mark.parametrize("faults", [False, True], ids=["good", "bad"])
def test_what_is_true_whatever_happens(pumps: bool, faults: bool) -> None:
    lent = 0
    for seed in range(SEEDS):
        ordeal = Ordeal(seed, pumps=pumps, faults=faults)
        try:
            ordeal.run()
            ordeal.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        lent += ordeal.lent > 0
    assert (lent > SEEDS // 3) == pumps
