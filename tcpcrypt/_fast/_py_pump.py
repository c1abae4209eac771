"""The pump of the Python twin: there is none, and a relay moves its bytes itself."""

from __future__ import annotations

__all__ = ["make_pump"]


def make_pump(threads: int) -> None:
    """None; `ValueError` where the extension raises it."""
    if not 1 <= threads <= 64:
        raise ValueError("a pump has 1 to 64 threads")
