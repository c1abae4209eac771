"""Have connection tracking believe sequence numbers while segments are changed.

It sees those of one side in one direction and those of the other in the
other, and would call segments invalid that firewalls drop then.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

__all__ = ["LiberalTracking"]

_SETTING: Final = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")


class LiberalTracking:
    """The sysctl, and what it was before."""

    def __init__(self, setting: Path = _SETTING) -> None:
        self._setting = setting
        self._before = ""
        self._wanted = False
        self._refused = False
        """Whether it may not be set, as where /proc/sys can only be read."""

    def install(self) -> None:
        """Idempotent."""
        self._wanted = True
        # Where there is no connection tracking there is no such file; it may come later.
        with contextlib.suppress(OSError):
            before = self._setting.read_text()
            self._refused = True
            self._setting.write_text("1")
            self._refused = False
            self._before = self._before or before

    def missing(self) -> bool:
        """Whether it is wanted and not so: tracking has come since, or somebody has changed it.

        Not where it may not be set: that would be no use a second time.
        """
        try:
            return self._wanted and not self._refused and self._setting.read_text().strip() != "1"
        except OSError:
            return False

    def remove(self) -> None:
        """As it was.  Idempotent."""
        self._wanted = False
        before, self._before = self._before, ""
        if before:
            with contextlib.suppress(OSError):
                self._setting.write_text(before)
