from __future__ import annotations

from pathlib import Path

import pytest
from aio.ends import LOOPS, Ends


@pytest.fixture(params=sorted(LOOPS))
def ends(tmp_path: Path, request: pytest.FixtureRequest) -> Ends:
    """A client's and a server's keys, on each event loop."""
    return Ends(tmp_path, request.param)
