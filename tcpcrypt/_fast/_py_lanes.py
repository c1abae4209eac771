"""The lanes of the Python twin: there are none, and the segment plane does all itself."""

from __future__ import annotations

__all__ = ["make_lanes"]


def make_lanes() -> None:
    """None: no connection is lent."""
