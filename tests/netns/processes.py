"""What a daemon and the processes that it started take up, from /proc."""

import contextlib
import time
from pathlib import Path

_LOOKS = 5
_PAUSE = 0.4


def family(pid: int) -> list[int]:
    """A process and those it started, and those they started."""
    found = [pid]
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def processor_time(pid: int) -> float:
    """Seconds of processor time of the whole family."""
    ticks = 0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100


def resident(pid: int) -> int:
    """Bytes of memory of the whole family.

    The least of several looks: every ten seconds a daemon has a child for a
    moment, which looks after its rules.
    """
    found = []
    for _ in range(_LOOKS):
        with contextlib.suppress(OSError):  # a child that has ended
            found.append(sum(_resident(one) for one in family(pid)))
        time.sleep(_PAUSE)
    return min(found)


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def descriptors(pid: int) -> int:
    """Open file descriptors of the whole family."""
    count = 0
    for one in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            count += len(list(Path(f"/proc/{one}/fd").iterdir()))
    return count
