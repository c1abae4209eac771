"""A look into the memory of another process."""

from __future__ import annotations

import os
import re
from pathlib import Path

PIECE = 1 << 22


def found(pid: int, needles: dict[str, bytes]) -> set[str]:
    """Which of these lie in writable memory of a process."""
    there: set[str] = set()
    longest = max(map(len, needles.values()))
    maps = Path(f"/proc/{pid}/maps").read_text()
    searched = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw", maps, re.M):
            at, last = int(start, 16), int(end, 16)
            rest = b""
            while at < last:
                try:
                    piece = os.pread(memory.fileno(), min(PIECE, last - at), at)
                except OSError:
                    break  # a page that nobody may read, such as of the kernel
                if not piece:
                    break
                searched += len(piece)
                there |= {name for name, needle in needles.items() if needle in rest + piece}
                rest, at = piece[-longest:], at + len(piece)
    assert searched > 1 << 20, "nothing was searched"
    return there
