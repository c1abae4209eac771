"""stx-send and stx-recv beside a bare secure socket, scp, and rsync over ssh.

    python bench/transfer.py [--quick] [--json] [--place DIR] [--what bulk,...] [--only KIND,...]

All over loopback, each with programs of their own.  Each round has one transfer
of every kind; what counts is the median of what the rounds say, so that a
machine that becomes slower meanwhile does so for all: seconds, seconds of
processors that both ends use, and how many times as long as stx-send a kind
takes.  A full run takes less than twelve minutes.

Files are read from and written to `--place` (default: memory, where there is
/dev/shm, so that no disk is measured).  Before each transfer as much is written
there and removed: a virtual machine may have to get the memory from its host
first, which would take longer than the transfer.

bulk   one large file.  `socket`: the same bytes from a secure socket to another and nowhere
       else; `socket+digest`: both ends compute the digest beside that
small  many files of 4 KiB in a folder.  What stx-send calls delivered has been synced;
       scp and rsync sync nothing
delay  a file through a relay that holds everything back for 50 ms, each way.
       `stop-and-wait`: a secure socket that waits for an answer to each 64 KiB, told
       from a few of them
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transfer_table import table

from tcpcrypt.tools.bench import machine
from tcpcrypt.transfer.digest import Hashing, fastest
from tcpcrypt.transfer.keys import ClientKey, ClientTable, create_key, read_key
from tcpcrypt.transfer.peers import KeyedClient, KeyedServer

HERE = "127.0.0.1"
DELAY = 0.05
CHUNK = 256 << 10
BLOCK = 64 << 10
BLOCKS = 33
SMALL = 4096
ROOT = Path(__file__).parents[1]
KINDS = {
    "bulk": ("stx", "socket", "socket+digest", "scp", "rsync"),
    "small": ("stx", "scp", "rsync"),
    "delay": ("stx", "stop-and-wait", "scp"),
}
SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey {place}/host_key
AuthorizedKeysFile {place}/user_key.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
PermitRootLogin yes
Subsystem sftp internal-sftp
"""


# --- a bare secure socket, with and without digests -----------------------------------------


def serve_socket(place: Path, digest: bool) -> None:
    """Takes what comes and answers with one byte at the end, or to each block if it is told to."""
    table = ClientTable(place / "keys", print)
    with KeyedServer(table).listen(socket.create_server((HERE, 0))) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            secured, _ = listener.accept()
            with secured, contextlib.suppress(OSError):
                take(secured, digest)


def take(secured: Any, digest: bool) -> None:
    hashing, hasher = Hashing(), fastest().new()
    buffers = [memoryview(bytearray(CHUNK)) for _ in range(4)]
    free = threading.Semaphore(len(buffers))
    waits = bytes(secured.recv(1)) == b"w"
    at = got = 0
    while True:
        free.acquire()
        buffer = buffers[at % len(buffers)]
        at += 1
        if not (size := secured.recv_into(buffer)):
            break
        got += size
        if waits:
            while got >= BLOCK:
                got -= BLOCK
                secured.sendall(b"a")
        if digest:
            hashing.update(hasher, [buffer[:size]], free.release)
        else:
            free.release()
    hashing.close()
    secured.sendall(b"e")


def send_socket(place: Path, port: int, file: Path, digest: bool, waits: bool) -> None:
    key = ClientKey.of("default", read_key(place / "keys" / "default"))
    secured = KeyedClient(key).connect(HERE, port, 60)
    hashing, hasher = Hashing(), fastest().new()
    step = BLOCK if waits else CHUNK
    buffers = [memoryview(bytearray(step)) for _ in range(4)]
    free = threading.Semaphore(len(buffers))
    secured.sendall(b"w" if waits else b"d")
    with file.open("rb", buffering=0) as source:
        for at in range(1 << 60):
            free.acquire()
            buffer = buffers[at % len(buffers)]
            if not (size := source.readinto(buffer)):
                break
            if digest:
                hashing.update(hasher, [buffer[:size]], free.release)
            else:
                free.release()
            secured.sendall(buffer[:size])
            if waits and size == step:
                secured.recv(1)
    hashing.close()
    secured.shutdown(socket.SHUT_WR)
    assert secured.recv(1) == b"e"
    secured.close()


# --- programs ---------------------------------------------------------------------------------


def python(*words: str | Path | int) -> list[str]:
    return [sys.executable, *map(str, words)]


def module(name: str, *words: str | Path | int) -> list[str]:
    return python("-m", f"tcpcrypt.cli.{name}", *words)


@contextlib.contextmanager
def running(argv: list[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=compiled(), **more
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args} ended with {process.wait()}")
    # What it says later is read, so that it never waits to say it.
    threading.Thread(target=process.stdout.read, daemon=True).start()
    return line


def compiled() -> dict[str, str]:
    """The environment of programs: modules are compiled once, as where they are installed."""
    cache = {"PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "tcpcrypt-bench-modules")}
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | cache


def run(argv: list[str], **environment: str) -> float:
    """Seconds that a program takes."""
    began = time.perf_counter()
    done = subprocess.run(
        argv, env=compiled() | environment, capture_output=True, text=True, cwd=ROOT,
        check=False,
    )  # fmt: skip
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return took


def processor_seconds(pids: list[int]) -> float:
    """Of programs that ended, and of those that run, with what they have waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return used.ru_utime + used.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


class Bench:
    """Servers of all kinds, and what is sent to them."""

    def __init__(self, place: Path, stack: contextlib.ExitStack) -> None:
        self.place = place
        self.stack = stack
        self.out = place / "out"
        self.out.mkdir()
        create_key(place / "keys" / "default")
        self._ports: dict[str, int] = {}
        self.servers: list[int] = []

    def _start(self, argv: list[str], **more: Any) -> subprocess.Popen[str]:
        process = self.stack.enter_context(running(argv, **more))
        self.servers.append(process.pid)
        return process

    def port(self, kind: str) -> int:
        """Of the server, which is started at the first need of it."""
        if kind not in self._ports:
            self._ports[kind] = getattr(self, f"_serve_{kind.replace('+', '_')}")()
        return self._ports[kind]

    def delayed(self, port: int) -> int:
        """The port of a relay to a port."""
        argv = python(ROOT / "tests" / "support" / "wire.py", port, DELAY)
        return int(first_line(self._start(argv)))

    def _serve_stx(self) -> int:
        argv = module("stx_recv", "--json", "--listen", 0, "--bind", HERE, "--out", self.out,
                      "--keys", self.place / "keys")  # fmt: skip
        return int(json.loads(first_line(self._start(argv)))["port"])

    def _serve_socket(self, *more: str) -> int:
        return int(first_line(self._start(python(__file__, "--serve", self.place, *more))))

    def _serve_socket_digest(self) -> int:
        return self._serve_socket("--digest")

    def _serve_ssh(self) -> int:
        for name in ("host_key", "user_key"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.place / name)])
        with socket.create_server((HERE, 0)) as free:
            port = int(free.getsockname()[1])
        (self.place / "sshd").write_text(SSHD.format(port=port, place=self.place))
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        argv = [sshd, "-D", "-f", str(self.place / "sshd")]
        self._start(argv, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HERE, port), 1):
                return port
            if time.monotonic() > end:
                raise SystemExit("sshd does not listen")
            time.sleep(0.05)

    def ssh_options(self) -> list[str]:
        return [
            *("-F", "none", "-i", str(self.place / "user_key"), "-o", "BatchMode=yes"),
            *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self.place}/known"),
            *("-o", "LogLevel=ERROR"),
        ]

    # --- one transfer of each kind: seconds ---------------------------------------------------

    def stx(self, what: Path, port: int) -> float:
        key = {"STX_KEY_FILE": str(self.place / "keys" / "default")}
        return run(module("stx_send", "--quiet", HERE, port, what), **key)

    def _socket(self, what: Path, port: int, *more: str) -> float:
        return run(python(__file__, "--send", self.place, "--port", port, "--file", what, *more))

    def socket(self, what: Path, port: int) -> float:
        return self._socket(what, port)

    def socket_digest(self, what: Path, port: int) -> float:
        return self._socket(what, port, "--digest")

    def stop_and_wait(self, what: Path, port: int) -> float:
        """As long as it would take: what one block does, and so many more as it has."""
        one, more = (self._waiting(port, blocks) for blocks in (1, BLOCKS))
        blocks = what.stat().st_size / BLOCK
        return one + (more - one) / (BLOCKS - 1) * (blocks - 1)

    def _waiting(self, port: int, blocks: int) -> float:
        part = self.place / "part"
        part.write_bytes(bytes(blocks * BLOCK))
        return self._socket(part, port, "--wait")

    def scp(self, what: Path, port: int) -> float:
        return run(["scp", "-q", "-r", "-P", str(port), *self.ssh_options(), str(what),
                    f"{HERE}:{self.out}/"])  # fmt: skip

    def rsync(self, what: Path, port: int) -> float:
        shell = " ".join(["ssh", "-p", str(port), *self.ssh_options()])
        return run(["rsync", "-r", "--whole-file", "-e", shell, str(what), f"{HERE}:{self.out}/"])

    def clear(self, room: int) -> None:
        """Nothing has arrived, and memory for `room` bytes is this machine's."""
        for path in self.out.iterdir():
            if path.name != ".stx":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with tempfile.TemporaryFile(dir=self.place, buffering=0) as file:
            for _ in range(0, room, 1 << 20):
                file.write(bytes(1 << 20))


UNCOUNTED = ("scp", "rsync", "stop-and-wait")
"""Kinds whose seconds of processors are not known: sshd does not wait for its processes in
time, and few blocks tell nothing of all."""
FULL = ({"bulk": 7, "small": 3, "delay": 3}, 1 << 30, 10_000, 64 << 20)
QUICK = (dict.fromkeys(KINDS, 1), 128 << 20, 1000, 16 << 20)
"""Rounds, bytes of the large file, small files, bytes of the delayed one.  The ratios of the
large file are the close ones."""
SERVERS = {"scp": "ssh", "rsync": "ssh", "stop-and-wait": "socket"}


Rounds = list[dict[str, tuple[float, float]]]
"""Seconds, and those of processors, of each kind in each round."""


def measure(bench: Bench, what: str, path: Path, kinds: list[str], rounds: int) -> Rounds:
    """One transfer of each kind a round, in turn; one round more, before, is not counted.

    It fills caches, and has the machine get its memory.
    """
    sends: dict[str, Callable[[], float]] = {}
    for kind in kinds:
        port = bench.port(SERVERS.get(kind, kind))
        if what == "delay":
            port = bench.delayed(port)
        send = getattr(bench, kind.replace("+", "_").replace("-", "_"))
        sends[kind] = lambda send=send, port=port: send(path, port)
    room = path.stat().st_size if path.is_file() else 0
    found: Rounds = []
    for number in range(-1 if rounds > 1 else 0, rounds):
        took: dict[str, tuple[float, float]] = {}
        for kind, send in sends.items():
            bench.clear(room)
            before = processor_seconds(bench.servers)
            seconds = send()
            took[kind] = seconds, processor_seconds(bench.servers) - before
            arrived = bench.out / path.name
            if kind in {"stx", "scp", "rsync"} and not arrived.exists():
                raise SystemExit(f"{kind}: nothing has arrived")
        if number >= 0:
            found.append(took)
        said = "  ".join(f"{kind} {seconds:.2f} s" for kind, (seconds, _used) in took.items())
        print(f"{what} {number + 1}/{rounds}: {said}", file=sys.stderr, flush=True)
    return found


def summed_up(rounds: Rounds, amount: int) -> dict[str, Any]:
    """Medians of what the rounds say."""

    def middle(of: Callable[[dict[str, tuple[float, float]]], float]) -> float:
        return statistics.median(map(of, rounds))

    kinds = list(rounds[0])
    said: dict[str, Any] = {"amount": amount, "rounds": len(rounds), "kinds": {}}
    for kind in kinds:
        seconds = middle(lambda took, kind=kind: took[kind][0])
        said["kinds"][kind] = {
            "seconds": round(seconds, 3),
            "mib_s": round(amount / seconds / 2**20, 1),
            "processor_seconds": round(middle(lambda took, kind=kind: took[kind][1]), 3),
            "all": [round(took[kind][0], 3) for took in rounds],
        }
    others = [kind for kind in kinds if kind != "stx"] if "stx" in kinds else []
    for at, name in enumerate(("ratios", "processor_ratios")):
        said[name] = {
            kind: round(middle(lambda took, kind=kind, at=at: took[kind][at] / took["stx"][at]), 3)
            for kind in others
        }
    for kind in UNCOUNTED:
        said["processor_ratios"].pop(kind, None)
        said["kinds"].get(kind, {}).pop("processor_seconds", None)
    return said


def make_files(place: Path, size: int, count: int, delayed: int) -> dict[str, Path]:
    paths = {what: place / what for what in KINDS}
    for what, length in (("bulk", size), ("delay", delayed)):
        with paths[what].open("wb") as file:
            for _ in range(length >> 20):
                file.write(os.urandom(1 << 20))
    paths["small"].mkdir()
    for number in range(count):
        (paths["small"] / f"{number:05}").write_bytes(os.urandom(SMALL))
    return paths


def compare(
    place: Path,
    whats: list[str],
    only: set[str],
    amounts: tuple[dict[str, int], int, int, int],
) -> dict[str, Any]:
    """Everything that is asked for, as one object."""
    rounds, size, count, delayed = amounts
    figures: dict[str, Any] = {
        "machine": machine(),
        "digest": fastest().name,
        "place": str(place.parent),
        "files": count,
        "missing": [tool for tool in ("scp", "rsync") if shutil.which(tool) is None],
    }
    with contextlib.ExitStack() as stack:
        bench = Bench(place, stack)
        paths = make_files(place, size, count, delayed)
        for what in whats:
            kinds = [k for k in KINDS[what] if k not in figures["missing"]]
            kinds = [kind for kind in kinds if not only or kind in only]
            amount = {"bulk": size, "small": count * SMALL, "delay": delayed}[what]
            figures[what] = summed_up(
                measure(bench, what, paths[what], kinds, rounds[what]), amount
            )
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="less of everything, once")
    parser.add_argument("--what", default=",".join(KINDS), metavar="bulk,...")
    parser.add_argument("--only", default="", metavar="KIND,...")
    memory = Path("/dev/shm")
    parser.add_argument("--place", type=Path, default=memory if memory.is_dir() else None)
    for hidden in ("--serve", "--send", "--file"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    for hidden in ("--digest", "--wait"):
        parser.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_socket(arguments.serve, arguments.digest)
    if arguments.send:
        send_socket(
            arguments.send, arguments.port, arguments.file, arguments.digest, arguments.wait
        )
        return 0
    amounts = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(dir=arguments.place) as place:
        only = set(filter(None, arguments.only.split(",")))
        whats = [what for what in KINDS if what in arguments.what.split(",")]
        figures = compare(Path(place), whats, only, amounts)
    if arguments.json:
        print(json.dumps(figures))
        return 0
    print(table(figures))
    for tool in figures["missing"]:
        print(f"{tool}: not installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
