"""Hosts in network namespaces, joined by veth pairs, with captures on the wire.

A `Lab` makes hosts and links for one run; leaving it ends every process that
was started in it.  A namespace is held by a file descriptor of this process
alone: it has no name in the file system and is gone when this process is,
however it ends.  Works as root, and without root inside a user namespace of
its own (`become_root`).

Needs `ip` (iproute2) and `nsenter`, `setpriv` (util-linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tcpcrypt.errors import LocalError

__all__ = ["Capture", "Host", "Lab", "Link", "become_root", "free_of", "wait_until"]

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_OWN_NETWORK: Final = "/proc/thread-self/ns/net"
_ETHERNET_LEN: Final = 14
_ETH_P_ALL: Final = 3
_SO_RCVBUFFORCE: Final = 33
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_PACKET_IGNORE_OUTGOING: Final = 23
_SETTLING: Final = 0.2
_SETTLING_TRIES: Final = 50
_GRACE: Final = 5.0
"""Seconds that a process has to end when told to."""

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def become_root() -> None:
    """Be root in a user namespace of one's own, unless one is root already.

    The process leaves the network it was in, because only a namespace that
    the new root owns can be left and entered again.  To be called while the
    process has one thread.  Raises `OSError` where the system forbids user
    namespaces.
    """
    if os.geteuid() == 0:
        return
    uid, gid = os.getuid(), os.getgid()
    _checked(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET), "unshare(CLONE_NEWUSER)")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    subprocess.run(("ip", "link", "set", "lo", "up"), check=True)


def wait_until(
    condition: Callable[[], Any], what: str, timeout: float = 10.0, step: float = 0.02
) -> Any:
    """The first true value of `condition()`.  Raises `TimeoutError` that names `what`."""
    end = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {timeout:g} s")
        time.sleep(step)


_ONE_RECEIVING_PROCESSOR: Final = """\
mount -t sysfs none /sys
for queue in /sys/class/net/*/queues/rx-*/rps_cpus; do echo 1 >$queue; done
"""


class Host:
    """A network namespace with its loopback interface up."""

    def __init__(self, name: str) -> None:
        self.name = name
        before = os.open(_OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")
            self._fd = os.open(_OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _checked(_libc.setns(before, _CLONE_NEWNET), "setns")
            os.close(before)
        self._processes: list[subprocess.Popen[Any]] = []
        self.run("ip", "link", "set", "lo", "up")

    @property
    def path(self) -> str:
        """A path by which other processes reach the namespace."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in this host: sockets made now belong to it."""
        before = os.open(_OWN_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.setns(self._fd, _CLONE_NEWNET), "setns")
            yield
        finally:
            _checked(_libc.setns(before, _CLONE_NEWNET), "setns")
            os.close(before)

    def socket(self, *args: int) -> socket.socket:
        """A socket of this host."""
        with self.entered():
            return socket.socket(*args)

    def command(self, *argv: str) -> list[str]:
        """`argv` so that it runs in this host and does not outlive this process."""
        prefix = ["nsenter", f"--net={self.path}", "--", "setpriv", "--pdeathsig", "KILL", "--"]
        return [*prefix, *argv]

    def run(
        self, *argv: str, timeout: float = 60, check: bool = True, **kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` to its end, output captured as text.

        Raises `LocalError` with what it wrote to stderr if it fails and
        `check` is true.
        """
        done = subprocess.run(
            self.command(*argv),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **kwargs,
        )
        if check and done.returncode:
            raise LocalError(
                f"{self.name}: {' '.join(argv)} exited {done.returncode}: {done.stderr.strip()}"
            )
        return done

    def start(self, *argv: str, **kwargs: Any) -> subprocess.Popen[Any]:
        """Start `argv`; it ends with the lab at the latest."""
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        process: subprocess.Popen[Any] = subprocess.Popen(self.command(*argv), **kwargs)
        self._processes.append(process)
        return process

    def sysctl(self, name: str, value: str) -> None:
        """Set `net.…` of this host."""
        path = Path("/proc/sys") / name.replace(".", "/")
        with self.entered():
            path.write_text(value)

    def keep_order(self) -> None:
        """Have one processor take up what comes in by the links that there are.

        A veth pair has a queue for each processor from which somebody sends, so that a
        program that moves to another one overtakes itself.  An interface card keeps a
        flow in one queue.  This is for peers that no segment may overtake.
        """
        self.run("unshare", "--mount", "sh", "-c", _ONE_RECEIVING_PROCESSOR)

    def stop(self, process: subprocess.Popen[Any], sig: int = signal.SIGTERM) -> int:
        """End one process that `start` began; returns its exit status."""
        if process.poll() is None:
            process.send_signal(sig)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if process in self._processes:
            self._processes.remove(process)
        return process.returncode

    def close(self) -> None:
        """End every process, newest first, and let the namespace go."""
        for process in reversed(self._processes[:]):
            self.stop(process)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Link:
    """One end of a veth pair."""

    def __init__(self, host: Host, device: str, v4: str, v6: str) -> None:
        self.host = host
        self.device = device
        self.v4 = v4
        self.v6 = v6


class Capture:
    """Every frame that passes one device, both ways, from `AF_PACKET`.

    A context manager; `packets` are IP packets (link header cut off) in order, and
    `times` when each was read, in seconds since the epoch.
    `dropped` counts what the kernel could not keep for us: a claim about what
    is not in a capture holds only where it is 0.
    """

    def __init__(self, end: Link, keep: int = 1 << 18) -> None:
        self._end = end
        self._keep = keep
        self.packets: list[bytes] = []
        self.times: list[float] = []
        self.dropped = 0

    def __enter__(self) -> Self:
        self._socket = self._end.host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 256 << 20)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self._socket.settimeout(0.05)
        with self._end.host.entered():
            self._socket.bind((self._end.device, _ETH_P_ALL))
        self._stopping = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._thread.join()
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self.dropped += struct.unpack("=II", statistics)[1]
        self._socket.close()

    def settled(self) -> list[bytes]:
        """`packets`, once none has come for a moment: reading may lag behind the wire."""
        before = -1
        for _ in range(_SETTLING_TRIES):
            if before == len(self.packets):
                break
            before = len(self.packets)
            time.sleep(_SETTLING)
        return self.packets

    def _read(self) -> None:
        while True:
            try:
                frame = self._socket.recv(self._keep)
            except TimeoutError:
                if self._stopping:
                    return
                continue
            self.times.append(time.time())
            self.packets.append(frame[_ETHERNET_LEN:])


def free_of(packets: Sequence[bytes], *needles: bytes) -> list[bytes]:
    """Those `needles` that are in no packet; all of them, one hopes."""
    return [needle for needle in needles if not any(needle in packet for packet in packets)]


class Lab:
    """Hosts and links of one run.  A context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self._hosts: list[Host] = []
        self._links = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def host(self, name: str) -> Host:
        """A new host."""
        host = Host(name)
        self._hosts.append(host)
        return host

    def join(self, one: Host, other: Host, mtu: int = 1500) -> tuple[Link, Link]:
        """Join two hosts by a veth pair on a subnet of its own, IPv4 and IPv6.

        The n-th link of a lab is 10.99.n.0/24 and fd99:n::/64; `one` is .1,
        `other` is .2.
        """
        self._links += 1
        n = self._links
        device = f"veth{n}"
        one.run(
            *("ip", "link", "add", device, "mtu", str(mtu), "type", "veth"),
            *("peer", "name", device, "mtu", str(mtu), "netns", other.path),
        )
        ends = []
        for host, number in ((one, 1), (other, 2)):
            end = Link(host, device, f"10.99.{n}.{number}", f"fd99:{n}::{number}")
            # No duplicate address detection: the address works at once.
            host.run("ip", "address", "add", f"{end.v4}/24", "dev", device)
            host.run("ip", "address", "add", f"{end.v6}/64", "dev", device, "nodad")
            host.run("ip", "link", "set", device, "up")
            ends.append(end)
        return ends[0], ends[1]

    def close(self) -> None:
        """End everything; can be called twice."""
        while self._hosts:
            self._hosts.pop().close()
