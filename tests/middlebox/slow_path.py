"""Two hosts with a path of a certain rate and delay between them that harms segments.

client ---- middle ---- server       one subnet; slow_path.c carries frames through `middle`

The hosts' interfaces are like those of a network card: what TCP sends in one
piece is cut into segments before it leaves, and what comes is joined again.
"""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any, Final

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.netns import Host, Lab, Link

__all__ = ["FAULTS", "Line", "SlowPath", "compiled"]

FAULTS: Final = ("drop", "repeat", "reorder", "corrupt", "cut")
"""What can happen to a segment; slow_path.c says what each is."""
_SIOCETHTOOL: Final = 0x8946
_SET_TSO: Final = 0x1F
_SET_GRO: Final = 0x2C


def compiled(directory: Path) -> Path:
    """The program, made in `directory`.  Raises `LocalError` where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise LocalError("a C compiler is needed (Debian: apt-get install gcc libc6-dev)")
    program = directory / "slow_path"
    source = Path(__file__).with_name("slow_path.c")
    command = (compiler, "-O2", "-Wall", "-Wextra", "-o", program, source)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalError(f"{source}: {done.stderr.strip()}")
    return program


@dataclasses.dataclass(frozen=True)
class Line:
    """How the path is without faults."""

    megabits: float = 200.0
    milliseconds: float = 5.0
    """One way."""
    queue: int = 500_000
    """Bytes that wait for their turn at most."""
    seed: int = 1


class SlowPath:
    """The hosts, and the program between them.  It ends with `lab`."""

    def __init__(self, lab: Lab, program: Path, name: str = "", line: Line | None = None) -> None:
        self.client, middle, self.server = (
            lab.host(f"{who} {name}".strip()) for who in ("client", "middle", "server")
        )
        line = line or Line()
        near, one = lab.join(self.client, middle)
        far, other = lab.join(self.server, middle)
        self.client_end, self.server_end = _addressed(near, 1), _addressed(far, 2)
        for end in (one, other):
            middle.run("ip", "address", "flush", "dev", end.device)
        self._process: subprocess.Popen[Any] = middle.start(
            *(str(program), one.device, other.device, str(line.megabits)),
            *(str(line.milliseconds), str(line.queue), str(line.seed)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._answer() != "ready":
            raise LocalError("slow_path did not start")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        said: str = self._process.stdout.readline()
        return said.strip()

    def harm(
        self, fault: str = "none", share: float = 0.0, *, syns: bool = True
    ) -> tuple[int, int]:
        """From now on; segments since the last call, and how many of them were harmed.

        `syns`: those that open a connection, too.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{fault} {share}{'' if syns else ' -'}\n")
        self._process.stdin.flush()
        seen, harmed = self._answer().split()
        return int(seen), int(harmed)


def _addressed(end: Link, number: int) -> Link:
    """An end with an address in the subnet that both hosts share."""
    _offload(end.host, end.device)
    made = Link(end.host, end.device, f"10.98.0.{number}", f"fd98::{number}")
    end.host.run("ip", "address", "flush", "dev", end.device)
    end.host.run("ip", "address", "add", f"{made.v4}/24", "dev", end.device)
    end.host.run("ip", "address", "add", f"{made.v6}/64", "dev", end.device, "nodad")
    return made


def _offload(host: Host, device: str) -> None:
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command, value in ((_SET_TSO, 0), (_SET_GRO, 1)):
            wanted = ctypes.create_string_buffer(struct.pack("=II", command, value))
            request = struct.pack("16sP", device.encode(), ctypes.addressof(wanted))
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
