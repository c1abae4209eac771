"""Secure sockets beside plain ones, Python's `ssl`, stunnel and spiped, over loopback.

    python bench/sockets.py [--quick] [--json] [--only KIND,...]

One program, a server and a client process, on sockets of each kind in turn; the
median round counts, and of ratios the median of those within a round.  `tcpcrypt` and
`ssl` (TLS 1.3 without PSK) secure the connection themselves; stunnel and spiped stand
between, at both ends.  Kinds with `aio` are the same program on asyncio streams.

The certificate of `ssl` is one of ECDSA P-256, signed by itself and checked; the client
shows none.  `ssl rsa` has one of RSA with 2048 bits.  `ssl mutual` is ECDSA, and the client shows
one, too: what tcpcrypt always does (`peer="tofu"` at both ends, keys that are known).

bulk   one direction, sendall of 256 KiB, until the server has said that it has all;
       with two threads, two connections at once
calls  connect, 16 bytes there and back, close; one after the other.  `fresh`: each with a key
       exchange, `resumed` without.  `pair_cpu_us`: of both processes, for each
idle   memory of client and server process for each connection that is open and silent,
       beyond that of the program itself
aio    as many asyncio connections as asked for, all open at once, each echoing
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rivals

from tcpcrypt import aio, sockets
from tcpcrypt.sockets.keys import KeyDirectory

HERE = "127.0.0.1"
THERE = "127.0.0.2"
"""The server's, where a chain needs one port at both ends."""
CHUNK = 256 << 10
CALL = bytes(16)
BULK, CALLS, KEEP = b"B", b"C", b"K"
"""What a client wants of its connection: its first byte."""
BLOCKING = ("plain", "ssl", "ssl mutual", "ssl rsa", "tcpcrypt", "stunnel", "spiped")
CALLS_ALONE = ("ssl mutual", "ssl rsa")
"""What differs by its handshake alone."""
STREAMS = ("aio plain", "aio ssl", "aio tcpcrypt")
PATIENCE = 60


# --- sockets of each kind -------------------------------------------------------------------


class Kind:
    """How one kind of socket is made, at both ends; chains are plain for the program."""

    def __init__(self, name: str, directory: Path, *, resume: bool = True) -> None:
        self.name = name
        self.secure, _, self._certificates = name.removeprefix("aio ").partition(" ")
        self._directory = directory
        self._resume = resume

    def context(self, *, server: bool) -> ssl.SSLContext:
        name = "rsa" if self._certificates == "rsa" else "ecdsa"
        certificate = str(self._directory / f"{name}.pem")
        mutual = self._certificates == "mutual"
        if server:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            if mutual:
                context.load_verify_locations(certificate)
                context.verify_mode = ssl.CERT_REQUIRED
        else:
            context = ssl.create_default_context(cafile=certificate)
        if server or mutual:
            context.load_cert_chain(certificate, str(self._directory / f"{name}.key"))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def keys(self, end: str) -> KeyDirectory:
        return KeyDirectory.at(self._directory / end)

    def connector(self, address: tuple[str, int]) -> Callable[[], Any]:
        if self.secure == "tcpcrypt":
            keys = self.keys("client")

            def connect() -> Any:
                if not self._resume:
                    keys.outgoing.flush()
                return sockets.connect(address, peer="tofu", keys=keys, transport="inband")

            return connect
        if self.secure == "ssl":
            context = self.context(server=False)
            return lambda: context.wrap_socket(_plain(address), server_hostname="server")
        return lambda: _plain(address)

    def listener(self, address: tuple[str, int]) -> tuple[tuple[str, int], Callable[[], Any]]:
        """The address, and what accepts."""
        if self.secure == "tcpcrypt":
            secure = sockets.create_server(
                address, peer="tofu", keys=self.keys("server"), backlog=1024, transport="inband"
            )
            return secure.getsockname(), lambda: secure.accept()[0]
        plain = socket.create_server(address, backlog=1024)
        if self.secure == "ssl":
            context = self.context(server=True)
            return plain.getsockname(), lambda: context.wrap_socket(
                _hasty(plain.accept()[0]), server_side=True
            )
        return plain.getsockname(), lambda: _hasty(plain.accept()[0])

    async def open_stream(self, address: tuple[str, int]) -> Any:
        if self.secure == "tcpcrypt":
            if not self._resume:
                self.keys("client").outgoing.flush()
            return await aio.connect(
                address, peer="tofu", keys=self.keys("client"), transport="inband", timeout=60
            )
        if self.secure == "ssl":
            self._client = getattr(self, "_client", None) or self.context(server=False)
            return await asyncio.open_connection(
                *address, ssl=self._client, server_hostname="server"
            )
        return await asyncio.open_connection(*address)

    async def serve_streams(self, handler: Any) -> Any:
        if self.secure == "tcpcrypt":
            return await aio.create_server(
                (HERE, 0), handler, peer="tofu", keys=self.keys("server"), transport="inband"
            )
        context = self.context(server=True) if self.secure == "ssl" else None
        return await asyncio.start_server(handler, HERE, 0, ssl=context, backlog=1024)


def _hasty(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _plain(address: tuple[str, int]) -> socket.socket:
    return _hasty(socket.create_connection(address))


def certify(directory: Path) -> None:
    for name, how in (
        ("ecdsa", ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")),
        ("rsa", ("rsa:2048",)),
    ):
        subprocess.run(
            ("openssl", "req", "-x509", "-newkey", *how,
             "-nodes", "-days", "2", "-subj", "/CN=server", "-addext", "subjectAltName=DNS:server",
             "-out", directory / f"{name}.pem", "-keyout", directory / f"{name}.key"),
            check=True, capture_output=True,
        )  # fmt: skip


# --- the server process ---------------------------------------------------------------------


def serve(kind: Kind, address: tuple[str, int]) -> None:
    if kind.name.startswith("aio"):
        asyncio.run(serve_streams(kind))
        return
    place, accept = kind.listener(address)
    print(json.dumps(place[:2]), flush=True)
    kept = []
    while True:
        try:
            sock = accept()
            wanted = sock.recv(1)
            if wanted == KEEP:
                sock.sendall(KEEP)
                kept.append(sock)
            elif wanted == BULK:
                threading.Thread(target=sink, args=(sock,), daemon=True).start()
            else:
                with contextlib.closing(sock):
                    while data := sock.recv(len(CALL)):
                        sock.sendall(data)
        except OSError as error:
            print(f"{kind.name}: {error!r}", file=sys.stderr)


def sink(sock: Any) -> None:
    """Count what comes; the first 8 bytes say how much to expect."""
    with contextlib.closing(sock):
        view = memoryview(bytearray(CHUNK))
        left = -1
        while left:
            size = sock.recv_into(view)
            if not size:
                return
            if left < 0:
                left = 8 + int.from_bytes(view[:8], "big")  # they come in one piece on loopback
            left -= size
        sock.sendall(b"!")


async def serve_streams(kind: Kind) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wanted = await reader.read(1)
        if wanted == BULK:
            left = int.from_bytes(await reader.readexactly(8), "big")
            while left:
                left -= len(await reader.read(CHUNK))
            writer.write(b"!")
        else:
            if wanted == KEEP:
                writer.write(KEEP)
            while data := await reader.read(4096):
                writer.write(data)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # clients do not all say goodbye
            await handle(reader, writer)

    server = await kind.serve_streams(quiet)
    print(json.dumps(server.sockets[0].getsockname()[:2]), flush=True)
    await server.serve_forever()


# --- the client process ---------------------------------------------------------------------


def client(kind: Kind, what: str, address: tuple[str, int], amount: float, threads: int) -> Any:
    if kind.name.startswith("aio"):
        return asyncio.run(stream_client(kind, what, address, amount))
    connect = kind.connector(address)
    if what == "bulk":
        return bulk(connect, int(amount), threads)
    if what == "calls":
        return calls(connect, amount)
    return idle(connect, int(amount))


def bulk(connect: Callable[[], Any], size: int, threads: int) -> dict[str, float]:
    data, conns = bytes(CHUNK), []
    for _ in range(threads):
        conns.append(connect())
        conns[-1].sendall(BULK)  # which the server waits for, before it accepts the next
    time.sleep(0.05)

    def send(conn: Any) -> None:
        conn.sendall((size // CHUNK * CHUNK).to_bytes(8, "big"))
        for _ in range(size // CHUNK):
            conn.sendall(data)
        if conn.recv(1) != b"!":
            raise SystemExit("the server has not got everything")

    workers = [threading.Thread(target=send, args=(conn,)) for conn in conns]
    cpu, begun = time.process_time(), time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - begun
    return {
        "gbit_s": threads * (size // CHUNK) * CHUNK * 8 / seconds / 1e9,
        "client_cpu_share": (time.process_time() - cpu) / seconds,
    }


def calls(connect: Callable[[], Any], seconds: float) -> dict[str, float]:
    def one() -> None:
        with contextlib.closing(connect()) as conn:
            conn.sendall(CALLS + CALL)
            left = len(CALL)
            while left:
                data = conn.recv(left)
                if not data:
                    raise SystemExit("the server has ended")
                left -= len(data)

    for _ in range(20):
        one()
    count, begun, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < begun + seconds:
        one()
        count += 1
    return {
        "count": count + 20,
        "per_s": count / (time.perf_counter() - begun),
        "client_cpu_us": (time.process_time() - cpu) / count * 1e6,
    }


def memory() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def idle(connect: Callable[[], Any], count: int) -> dict[str, float]:
    def one() -> Any:
        conn = connect()
        conn.sendall(KEEP)
        if conn.recv(1) != KEEP:
            raise SystemExit("the server does not keep it")
        return conn

    conns = [one() for _ in range(20)]
    before = memory()
    print(json.dumps("before"), flush=True)
    sys.stdin.readline()
    conns += [one() for _ in range(count)]
    return {"client_bytes": (memory() - before) / count}


async def stream_client(kind: Kind, what: str, address: tuple[str, int], amount: float) -> Any:
    if what == "bulk":
        reader, writer = await kind.open_stream(address)
        writer.write(BULK)
        data, count = bytes(CHUNK), int(amount) // CHUNK
        writer.write((count * CHUNK).to_bytes(8, "big"))
        await writer.drain()
        begun = time.perf_counter()
        for _ in range(count):
            writer.write(data)
            await writer.drain()
        if await reader.read(1) != b"!":
            raise SystemExit("the server has not got everything")
        return {"gbit_s": count * CHUNK * 8 / (time.perf_counter() - begun) / 1e9}
    if what == "calls":
        count, begun, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() < begun + amount:
            reader, writer = await kind.open_stream(address)
            writer.write(CALLS + CALL)
            await reader.readexactly(len(CALL))
            writer.close()
            await writer.wait_closed()
            count += 1
        return {
            "count": count,
            "per_s": count / (time.perf_counter() - begun),
            "client_cpu_us": (time.process_time() - cpu) / count * 1e6,
        }
    return await crowd(kind, address, int(amount))


async def crowd(kind: Kind, address: tuple[str, int], count: int) -> dict[str, float]:
    """Open all at once, a hundred at a time, and make each echo while all are open."""
    gate = asyncio.Semaphore(100)

    async def one() -> Any:
        async with gate:
            reader, writer = await kind.open_stream(address)
            writer.write(KEEP)
            await reader.readexactly(1)
            return reader, writer

    async def ask(conn: Any) -> None:
        conn[1].write(CALL)
        await conn[0].readexactly(len(CALL))

    conns = [await one() for _ in range(20)]
    before = memory()
    print(json.dumps("before"), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    begun = time.perf_counter()
    conns += await asyncio.gather(*(one() for _ in range(count)))
    opened = time.perf_counter() - begun
    size = memory() - before
    begun = time.perf_counter()
    await asyncio.gather(*map(ask, conns))
    return {
        "connections": count,
        "seconds_to_open": opened,
        "seconds_to_echo": time.perf_counter() - begun,
        "client_bytes": size / count,
    }


# --- who starts them ------------------------------------------------------------------------


class Here:
    """This host, as `rivals` wants hosts."""

    def start(self, *argv: str, **more: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(argv, **more)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, capture_output=True, text=True, check=True)


class Site:
    """A server of one kind, and what its clients connect to."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self._directory = name, directory
        self._own = ("--directory", str(directory), "--kind", name)
        where = f"{HERE}:0"
        self.server = subprocess.Popen(
            (sys.executable, __file__, *self._own, "--serve", where),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.server.stdout is not None
        host, port = json.loads(self.server.stdout.readline())
        self.address = (host, port)
        self._chain: list[subprocess.Popen[Any]] = []
        if name in rivals.RIVALS:
            here: Any = Here()
            place = directory / name
            place.mkdir()
            ground = rivals.Ground(here, here, THERE, {"service": port}, place)
            self._chain = ground.processes
            self.address = rivals.RIVALS[name][0](ground)["service"]

    def run(self, what: str, amount: float, *, threads: int = 1, fresh: bool = False) -> Any:
        """What a client process says."""
        host, port = self.address
        processors = self.processors()
        process = subprocess.Popen(
            (sys.executable, __file__, *self._own, "--client", what, "--to", f"{host}:{port}",
             "--amount", str(amount), "--threads", str(threads), *(("--fresh",) if fresh else ())),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        said = json.loads(process.stdout.readline() or "null")
        if said == "before":
            before = self.memory()
            process.stdin.write("\n")
            process.stdin.flush()
            said = json.loads(process.stdout.readline() or "null")
            if said is not None:
                said["server_bytes"] = (self.memory() - before) / amount
        if process.wait(PATIENCE) != 0 or said is None:
            raise SystemExit(f"{self.name}: the client of {what} failed")
        if what == "calls" and not self._chain:
            used = (self.processors() - processors) / said["count"] * 1e6
            said["pair_cpu_us"] = said["client_cpu_us"] + used
        return said

    def processors(self) -> float:
        """Seconds of processors that the server has had; it makes no thread for calls."""
        with open(f"/proc/{self.server.pid}/schedstat") as file:
            return int(file.read().split()[0]) / 1e9

    def memory(self) -> int:
        with open(f"/proc/{self.server.pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def stop(self) -> None:
        for process in (*self._chain, self.server):
            process.terminate()
        for process in (*self._chain, self.server):
            process.wait(PATIENCE)


@contextlib.contextmanager
def sites(names: list[str]) -> Iterator[dict[str, Site]]:
    with tempfile.TemporaryDirectory(prefix="tcpcrypt-bench-") as directory:
        place = Path(directory)
        certify(place)
        found: dict[str, Site] = {}
        try:
            for name in names:
                found[name] = Site(name, place)
            yield found
        finally:
            for site in found.values():
                site.stop()


def measure(
    names: list[str],
    rounds: int,
    seconds: float,
    size: int,
    crowds: int,
    *,
    bulks: int | None = None,
) -> dict[str, Any]:
    """Medians of each figure for each kind; `bulks`: rounds of bulk, if fewer."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in names}

    def note(name: str, what: str, said: dict[str, float]) -> None:
        found[name].setdefault(what, []).append(said)

    with sites(names) as all_sites:
        for turn in range(rounds):
            if turn < (rounds if bulks is None else bulks):
                for name, site in all_sites.items():
                    if name not in CALLS_ALONE:
                        note(name, "bulk", site.run("bulk", size))
                for name, site in all_sites.items():
                    if name not in CALLS_ALONE and not name.startswith("aio"):
                        note(name, "bulk, 2 threads", site.run("bulk", size, threads=2))
            for name, site in all_sites.items():
                if name.endswith("tcpcrypt"):
                    note(name, "calls, fresh", site.run("calls", seconds, fresh=True))
                    note(name, "calls, resumed", site.run("calls", seconds))
                else:
                    note(name, "calls", site.run("calls", seconds))
        for name, site in all_sites.items():
            if name not in CALLS_ALONE:
                count = crowds if name.startswith("aio") else 500
                note(name, "idle", site.run("idle", count))
    figures = {
        name: {
            what: {key: statistics.median(one[key] for one in said) for key in said[0]}
            for what, said in by_what.items()
        }
        for name, by_what in found.items()
    }
    return {"figures": figures, "ratios": ratios(found), "rounds": rounds, "machine": machine()}


def ratios(found: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, float]:
    """What the targets speak of: how many times as fast as the other, in the same round."""
    given = {}

    def compare(ours: str, other: str, whats: tuple[str, str], key: str) -> None:
        one, two = found.get(ours, {}).get(whats[0]), found.get(other, {}).get(whats[1])
        if one and two:
            name = f"{ours.removesuffix('tcpcrypt')}{whats[0]}, to {other.removeprefix('aio ')}"
            given[name] = statistics.median(
                mine[key] / theirs[key] for mine, theirs in zip(one, two, strict=True)
            )

    for prefix in ("", "aio "):
        ours = f"{prefix}tcpcrypt"
        for what in ("bulk", "bulk, 2 threads"):
            for other in ("plain", "ssl"):
                compare(ours, prefix + other, (what, what), "gbit_s")
        for what in ("calls, fresh", "calls, resumed"):
            for other in ("ssl", "ssl mutual", "ssl rsa"):
                compare(ours, prefix + other, (what, "calls"), "per_s")
    return given


def machine() -> dict[str, Any]:
    """Where it was measured."""
    with open("/proc/cpuinfo") as file:
        models = (line.partition(":")[2].strip() for line in file if "model name" in line)
        model = next(models, "processor")
    return {
        "processors": os.cpu_count(),
        "processor": model,
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "openssl": ssl.OPENSSL_VERSION,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument(
        "--brief", action="store_true", help="shorter rounds: about five minutes for all kinds"
    )
    parser.add_argument("--only", metavar="KIND,...", help=", ".join((*BLOCKING, *STREAMS)))
    parser.add_argument("--connections", type=int, default=5000, help="of asyncio, at once")
    for hidden in ("--directory", "--kind", "--serve", "--client", "--to"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--amount", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fresh", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.kind:
        kind = Kind(arguments.kind, Path(arguments.directory), resume=not arguments.fresh)
        host, _, port = (arguments.serve or arguments.to).rpartition(":")
        if arguments.serve:
            with contextlib.suppress(KeyboardInterrupt):
                serve(kind, (host, int(port)))
            return 0
        said = client(
            kind, arguments.client, (host, int(port)), arguments.amount, arguments.threads
        )
        print(json.dumps(said), flush=True)
        os._exit(0)  # whoever has five thousand connections need not close each
    names = arguments.only.split(",") if arguments.only else [*BLOCKING, *STREAMS]
    if arguments.quick:
        result = measure(names, 1, 0.5, 64 << 20, min(arguments.connections, 500))
    elif arguments.brief:
        result = measure(names, 7, 1.2, 512 << 20, arguments.connections, bulks=3)
    else:
        result = measure(names, 5, 3.0, 1 << 30, arguments.connections)
    if arguments.json:
        print(json.dumps(result))
        return 0
    for name, by_what in result["figures"].items():
        for what, values in by_what.items():
            text = "  ".join(f"{key} {value:,.2f}" for key, value in values.items())
            print(f"{name:14}{what:18}{text}")
    for name, ratio in result["ratios"].items():
        print(f"{name:40}{ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
