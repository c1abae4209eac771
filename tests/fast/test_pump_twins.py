"""What both twins say about pumps; the pump itself: tests/runtime/test_pump.py."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.mark.parametrize("threads", [0, 65])
def test_a_pump_has_1_to_64_threads(twin: ModuleType, threads: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        twin.make_pump(threads)


def test_only_the_extension_has_one(twin: ModuleType) -> None:
    pump = twin.make_pump(1)
    assert (pump is None) == (twin.IMPLEMENTATION == "python")
    if pump is not None:
        pump.close()
