"""What parsing a peer's bytes came to: a value or a named reason, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tcpcrypt.errors import PeerError, PeerReason

P = ParamSpec("P")
T = TypeVar("T")


def outcome(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | PeerReason:
    """The value of the call, or the reason of its `PeerError`; other errors pass."""
    try:
        return function(*args, **kwargs)
    except PeerError as error:
        return error.reason
