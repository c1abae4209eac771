"""A root file system in which systemd is the first process, as on most hosts."""

import os
import subprocess
from pathlib import Path
from types import TracebackType

from netns.packaging.root import ENTER, LAYER, Root

from tcpcrypt.tools.netns import Host, wait_until

# Devices of its own, for this machine's are not systemd's to manage; settings of the
# kernel that are not the network's own are not to be changed; no unit that this machine
# has enabled, nor its word that packages are to start none; nothing on a console that it
# does not have.
BOOT = (
    """
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,rw proc/sys/net
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
mount -t cgroup2 none sys/fs/cgroup
rm -rf etc/systemd/system/*.wants var/log/journal usr/sbin/policy-rc.d
"""
    + ENTER
    + """
echo ready
export container=other
exec /lib/systemd/systemd --unit=basic.target >/dev/null
"""
)
_MOUNTS = Path("/proc/self/mounts")


def unified() -> Path:
    """Where this machine has its control groups of version 2."""
    for line in _MOUNTS.read_text().splitlines():
        words = line.split()
        if words[2] == "cgroup2":
            return Path(words[1])
    raise AssertionError("systemd needs control groups, version 2; none are mounted here")


class Booted(Root):
    """`Root` with systemd in it."""

    BEGIN = LAYER + BOOT
    SPACES = (*Root.SPACES, "uts", "ipc", "cgroup")

    def __init__(self, host: Host, lower: Path, place: Path) -> None:
        self._group = unified() / f"tcpcrypt-test-{os.getpid()}"
        self._group.mkdir()
        super().__init__(host, lower, place)
        wait_until(self._is_up, "systemd that has started", timeout=60)

    def _is_up(self) -> bool:
        said = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return said in {"running", "degraded"}

    def _within(self, *argv: str) -> tuple[str, ...]:
        """In the group that systemd takes for the whole machine."""
        move = 'echo $$ >"$0/cgroup.procs"; exec "$@"'
        return ("sh", "-c", move, str(self._group), *argv)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, value, trace)
        wait_until(self._group_is_gone, "end of all processes in it", timeout=30)

    def _group_is_gone(self) -> bool:
        for directory, _names, _files in os.walk(self._group, topdown=False):
            try:
                Path(directory).rmdir()
            except OSError:
                return False
        return True

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", *words, check=check)

    def property_of(self, unit: str, name: str) -> str:
        """As `systemctl show` has it."""
        return self.systemctl("show", unit, f"--property={name}", "--value").stdout.strip()

    def journal(self, unit: str, *words: str) -> str:
        return self.run("journalctl", "--unit", unit, "--no-pager", *words).stdout
