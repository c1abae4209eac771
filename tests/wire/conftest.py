"""Every test of `tcpcrypt.wire` that reaches the accelerated functions runs on both twins."""

from __future__ import annotations

from types import ModuleType

import pytest

from tcpcrypt import _fast


@pytest.fixture
def fast_twin(twin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Let `tcpcrypt.wire` call the functions of `twin`."""
    for name in (
        *("parse_eno", "walk_options", "checksum"),
        *("parse_segment", "rebuild_segment"),
    ):
        monkeypatch.setattr(_fast, name, getattr(twin, name))
    return twin
