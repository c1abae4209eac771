"""What is below a folder that the caller names: no link on the way there is followed.

Whoever may write to the folder could otherwise put a link in the place of one
that has been looked at, and have files sent that are no business of theirs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tcpcrypt.transfer.names import Path

__all__ = ["Place"]

_STEP: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder; its methods raise `OSError`."""

    named: str | bytes
    """What the caller names; links are the caller's."""
    below: Path = ()
    """From there on; empty: that itself."""

    def open(self, flags: int) -> int:
        """A descriptor."""
        flags |= os.O_CLOEXEC
        if not self.below:
            return os.open(self.named, flags)
        with self._folder() as at:
            return os.open(self.below[-1], flags | os.O_NOFOLLOW, dir_fd=at)

    def open_folder(self) -> int:
        """A descriptor of a folder that can be read."""
        return self.open(os.O_RDONLY | os.O_DIRECTORY)

    def stat(self) -> os.stat_result:
        """What is there; below what is named a link stands for itself."""
        if not self.below:
            return os.stat(self.named)
        with self._folder() as at:
            return os.stat(self.below[-1], dir_fd=at, follow_symlinks=False)

    def inside(self, name: bytes) -> Place:
        """Something in this folder."""
        return Place(self.named, (*self.below, name))

    @contextlib.contextmanager
    def _folder(self) -> Iterator[int]:
        """The one that it is in."""
        at = os.open(self.named, _STEP)
        try:
            for name in self.below[:-1]:
                further = os.open(name, _STEP | os.O_NOFOLLOW, dir_fd=at)
                os.close(at)
                at = further
            yield at
        finally:
            os.close(at)
