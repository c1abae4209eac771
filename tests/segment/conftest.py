"""Every test of the engine alone, and with the usual segments left to the extension."""

from __future__ import annotations

import os

import pytest
from segment import path

from tcpcrypt import _fast

PURE_PYTHON = os.environ.get("TCPCRYPT_PUREPYTHON", "") not in ("", "0")
# Whose subject is the extension.
collect_ignore = ["test_lanes.py", "test_twins.py"] if PURE_PYTHON else []


def lanes() -> _fast.Lanes:
    """As many as are wanted.  An extension that was not built is a failure, never a skip."""
    made = _fast.make_lanes()
    if made is None:
        pytest.fail("the extension is not built (TCPCRYPT_PUREPYTHON=1 leaves it out)")
    return made


@pytest.fixture(autouse=True, params=["py"] if PURE_PYTHON else ["py", "c"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "c":
        monkeypatch.setattr(path, "make_lanes", lanes)
    return name
