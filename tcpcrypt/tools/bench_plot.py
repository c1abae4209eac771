"""The picture of `tcpcrypt bench --plot`; needs matplotlib (the extra `bench`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tcpcrypt.errors import LocalError

__all__ = ["draw", "require"]

_PLAIN: Final = "#9a9a9a"
_FRESH: Final = "#7fb3d5"
_RESUMED: Final = "#1f618d"


def require() -> None:
    """Raise `LocalError` unless a picture can be drawn."""
    try:
        import matplotlib  # noqa: F401, PLC0415 (only where it is asked for)
    except ImportError as error:
        raise LocalError("a picture needs matplotlib: pip install 'tcpcrypt[bench]'") from error


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Draw the figures of `bench.measure` into a file, of the kind that its name ends in.

    Raises `LocalError` without matplotlib, for an unknown kind, and where it cannot be written.
    """
    require()
    from matplotlib.figure import Figure  # noqa: PLC0415 (see `require`)

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    bulk, trip = figures["bulk"], figures["round_trip"]
    _bars(left, "bulk, Gbit/s", {"plain": bulk["plain_gbit_s"], "encrypted": bulk["gbit_s"]})
    left.set_xlabel(f"ratio {bulk['ratio_to_plain']:.2f}, {bulk['cpu_s_per_gb']:.2f} CPU s/GB")
    opened = figures["connections"]
    kinds = {kind: opened[f"{kind}_per_s"] for kind in ("plain", "fresh", "resumed")}
    _bars(middle, "connections a second", kinds)
    middle.set_xlabel(f"{opened['at_once']} at once")
    _bars(right, "round trip, us", {"plain": trip["plain_us"], "encrypted": trip["us"]})
    right.set_xlabel(f"{trip['bytes']} bytes")
    machine, plane = figures["machine"], figures["plane"]
    figure.suptitle(
        f"tcpcrypt {machine['version']}, {plane['backend']}, both hosts on "
        f"{machine['processors']} x {machine['processor']}",
        fontsize=10,
    )
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise LocalError(f"{path}: {error}") from error


def _bars(axes: Any, title: str, values: Mapping[str, float]) -> None:
    colours = {"plain": _PLAIN, "fresh": _FRESH}
    bars = axes.bar(
        list(values), list(values.values()), color=[colours.get(n, _RESUMED) for n in values]
    )
    axes.bar_label(bars, labels=[f"{value:,.4g}" for value in values.values()])
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
