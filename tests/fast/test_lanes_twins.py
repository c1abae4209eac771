"""Lanes are the extension's alone; what they do is tested in tests/segment."""

from types import ModuleType

from tcpcrypt._fast import _py_lanes


def test_the_python_twin_has_none(twin: ModuleType) -> None:
    lanes = twin.make_lanes()
    assert (lanes is None) is (twin.make_lanes is _py_lanes.make_lanes)
    assert lanes is None or len(lanes) == 0
