"""What the streams of all connections keep, and how much each may while that is a lot.

What is under way is kept until it was acknowledged, as far as its sink's window
goes.  Hosts that are in league could have a gateway keep a window for each of very many
connections: so windows are believed the less the more is kept, as a kernel does
(tcp_mem), and at last no more is taken than each needs to get on.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["WINDOW_MAX", "Memory"]

_SHARE: Final = 8
"""Of this machine's memory the eighth part."""
WINDOW_MAX: Final = 1 << 25
"""32 MiB: of a sink's window so much is believed at most."""
_WINDOW_MIN: Final = 1 << 16


class Memory:
    """Bytes kept, for all streams that were given it; `most` is what they are to stay below."""

    def __init__(self, most: int | None = None) -> None:
        self.most = _share_of_machine() if most is None else most
        self.taken = 0
        self.refused = 0
        """Segments that were dropped for it."""

    @property
    def full(self) -> bool:
        """Whether streams that keep something are to take no more."""
        return self.taken >= self.most

    @property
    def half_full(self) -> bool:
        """Whether nothing is to be taken that would wait behind a gap."""
        return self.taken >= self.most // 2

    @property
    def window(self) -> int:
        """Of a sink's window so much is believed now: all up to half of `most`, then less and less.

        What was told to a source before stays (RFC 9293 section 3.8.6).
        """
        left = max(self.most - self.taken, 0)
        if left >= self.most - left:
            return WINDOW_MAX
        return max(int(2.0 * left / self.most * WINDOW_MAX), _WINDOW_MIN)


def _share_of_machine() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _SHARE
