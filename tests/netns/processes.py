"""What a daemon and the processes that it started take up, from /proc."""

from pathlib import Path


def family(pid: int) -> list[int]:
    """A process and those it started, and those they started."""
    found = [pid]
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
    """Bytes of memory of the whole family."""
    return sum(_resident(one) for one in family(pid))


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def descriptors(pid: int) -> int:
    """Open file descriptors of the whole family."""
    return sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in family(pid))
