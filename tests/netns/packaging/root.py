"""A root file system of its own: what is written in it is gone afterwards."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from tcpcrypt.tools.netns import Host, wait_until

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
# The upper layer is in memory: one below its own lower layer is not allowed.
LAYER = """
set -e
mount -t tmpfs -o mode=755 tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
cd "$2/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
for directory in run tmp; do
    mount -t tmpfs -o mode=1777 tmpfs $directory
done
chmod 755 run
"""
# Not chroot: who is in one cannot make namespaces of users, and services have them.
ENTER = """
pivot_root . .
cd /
umount -l .
"""
IDLE = (
    """
mount --rbind /dev dev
mount --make-rprivate dev
"""
    + ENTER
    + """
echo ready
exec sleep infinity
"""
)


class Root:
    """`lower` with a fresh layer above, in namespaces of mounts and processes, on `host`.

    A context manager.  Leaving it ends every process in it and lets the layer go.
    Takes root.
    """

    BEGIN = LAYER + IDLE
    """What makes it, as a script of `lower` and `place`; its last program is the first process."""
    SPACES = ("mount", "pid")
    """Namespaces of its own, beside the network's."""

    def __init__(self, host: Host, lower: Path, place: Path) -> None:
        assert os.geteuid() == 0, "a root file system of one's own takes root: run this as root"
        self.host = host
        place.mkdir()
        self._place = place
        self._holder = host.start(
            *self._within("unshare", *(f"--{space}" for space in self.SPACES)),
            *("--fork", "--kill-child", "sh", "-c", self.BEGIN, "sh", str(lower), str(place)),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        said = self._holder.stdout.readline()
        assert said == "ready\n", said + self._holder.stdout.read()
        # unshare's child is the first process of the namespace.
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        self._first = wait_until(lambda: children.read_text().split(), "first process")[0]

    def _within(self, *argv: str) -> tuple[str, ...]:
        """A command that is to have the same limits as all that runs in it."""
        return argv

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # unshare is deaf to anything less while it waits for its child, which goes with it.
        self.host.stop(self._holder, signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):  # pytest tidies up, too
            self._place.rmdir()

    @property
    def path(self) -> Path:
        """By which this process reaches its files."""
        return Path(f"/proc/{self._first}/root")

    def run(
        self,
        *argv: str,
        check: bool = True,
        network: bool = True,
        timeout: float = 300,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in it; without `network` of its own: in that of this process."""
        names = (*self.SPACES, "root", "wd", *(("net",) if network else ()))
        spaces = (f"--{name}" for name in names)
        done = subprocess.run(
            self._within("nsenter", "--target", self._first, *spaces, "--", *argv),
            env={**ENVIRONMENT, **variables}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done

    def rules(self) -> list[str]:
        """Everything of ours in the kernel: firewall rules and policy routes."""
        found = []
        for command in ("iptables-save", "ip6tables-save"):
            found += [line for line in self.run(command).stdout.splitlines() if "TCPCRYPT" in line]
        for family in ("-4", "-6"):
            lines = self.run("ip", family, "rule").stdout.splitlines()
            found += [line for line in lines if "fwmark" in line]
        return found

    def daemons(self) -> list[str]:
        """Process numbers of every process of a daemon."""
        return self.run("pgrep", "-f", "tcpcryptd", check=False).stdout.split()
