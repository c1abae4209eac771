"""`tcpcrypt demo`: two hosts, unmodified programs, encryption in between, an eavesdropper.

    old -------- client ======== server
      10.99.2.0/24   10.99.1.0/24
                   eavesdropper sits on this wire

`client` and `server` run tcpcryptd for port 80, `old` has never heard of it.  Two
more hosts ask each other who they are (`tcpcrypt.tools.demo_trust`).
Everything is verified, not shown only: the demo succeeds if every check does.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tcpcrypt import _fast
from tcpcrypt.errors import LocalError, PeerError
from tcpcrypt.tools.demo_reading import Asked, keep, read_capture
from tcpcrypt.tools.demo_text import Printer
from tcpcrypt.tools.demo_trust import TrustDemo
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, Host, Lab, Link, become_root, free_of, wait_until
from tcpcrypt.wire.segment import Segment

__all__ = ["add_arguments", "main", "run"]

_NEEDED: Final = ("ip", "nsenter", "setpriv", "iptables", "ip6tables", "curl")
_PORT: Final = 80
_PLAIN_PORT: Final = 8080
_PAGE: Final = b"<!doctype html><title>demo</title><p>Nobody on the wire shall read this line.\n"
_SAMPLES: Final = 24
"""Pieces of the file that are looked for on the wire, spread over all of it."""
_SAMPLE_LEN: Final = 32
_ROUNDS: Final = 3
_INTERRUPTED: Final = 130


@dataclass
class Results:
    """What was found, in the form of `--json`."""

    checks: dict[str, bool] = field(default_factory=dict)
    connections: list[dict[str, Any]] = field(default_factory=list)
    eavesdropper: dict[str, Any] = field(default_factory=dict)
    trust: dict[str, Any] = field(default_factory=dict)
    throughput: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(self.checks.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv` and `run`."""
    parser = argparse.ArgumentParser(
        prog="tcpcrypt demo",
        description="Encrypt curl and a web server between two network namespaces, and prove it.",
        epilog="example: tcpcrypt demo --size 10 --json",
    )
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    return run(arguments.size, as_json=arguments.json, keep=arguments.keep)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--size",
        type=_megabytes,
        default=100,
        metavar="MB",
        help="size of the file that is fetched (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="put the eavesdropper's capture there, and the key log that opens it",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(megabytes: int, *, as_json: bool, keep: Path | None = None) -> int:
    """Exit status 0: all of it was verified; 1: something was not; 130: interrupted."""
    printer = Printer(quiet=as_json)
    results = Results()
    try:
        _require_programs()
        become_root()
        with _terminated_politely(), tempfile.TemporaryDirectory(prefix="tcpcrypt-demo-") as name:
            _Demo(Path(name), megabytes * 1_000_000, results, printer, keep).run()
    except KeyboardInterrupt:
        print("\ninterrupted; everything is cleaned up", file=sys.stderr)
        return _INTERRUPTED
    except (LocalError, OSError, subprocess.TimeoutExpired) as error:
        print(f"tcpcrypt demo: {error}", file=sys.stderr)
        results.checks["ran to the end"] = False
    if as_json:
        document = {
            "ok": results.ok,
            "checks": results.checks,
            "connections": results.connections,
            "eavesdropper": results.eavesdropper,
            "trust": results.trust,
            "throughput": results.throughput,
        }
        print(json.dumps(document, indent=2))
    else:
        printer.verdict(results.checks)
    return 0 if results.ok else 1


def _megabytes(text: str) -> int:
    size = int(text) if text.isdecimal() else 0
    if not 1 <= size <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return size


def _require_programs() -> None:
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        raise LocalError(
            f"missing programs: {', '.join(missing)} "
            "(Debian: apt-get install iproute2 util-linux iptables curl)"
        )


@contextlib.contextmanager
def _terminated_politely() -> Iterator[None]:
    """SIGTERM cleans up like Ctrl-C."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell that runs this in the background has it ignored.
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Demo:
    def __init__(
        self, directory: Path, size: int, results: Results, printer: Printer, keep: Path | None
    ) -> None:
        self._directory = directory
        self._keep = keep
        self._size = size
        self._results = results
        self._printer = printer

    def run(self) -> None:
        site = self._make_site()
        with Lab() as lab:
            client, server, old = lab.host("client"), lab.host("server"), lab.host("old")
            wire, far = lab.join(client, server)
            second_wire, old_end = lab.join(client, old)
            self._printer.title("Two hosts and the programs on them")
            keys = self._directory / "keys.log"
            ours = LabDaemon(client, "--port", "80", "--keylog", str(keys))
            theirs = LabDaemon(server, "--port", "80")
            for host, port in ((server, _PORT), (server, _PLAIN_PORT), (old, _PORT)):
                self._serve(host, port, site)
            self._printer.line(f"client {wire.v4}   curl, tcpcryptd")
            self._printer.line(f"server {far.v4}   python -m http.server, tcpcryptd")
            self._printer.line(f"old    {old_end.v4}   python -m http.server, no tcpcryptd")
            with Capture(wire) as capture:
                for start in ("fresh", "resumed"):
                    self._fetch(start, client, far, ours, theirs)
            self._look_at(capture)
            self._read(capture, keys, f"{far.v4}:{_PORT}")
            del capture
            self._fall_back(client, second_wire, old_end, ours)
            trust = self._directory / "t"
            trust.mkdir()
            self._results.trust = TrustDemo(
                lab,
                trust,
                self._printer,
                self._check,
                lambda host, port: self._serve(host, port, site),
            ).run()
            self._measure(client, far)
            self._check(
                "both daemons end cleanly and take their rules along",
                (ours.stop(), theirs.stop()) == (0, 0)
                and not any(self._rules_left(host) for host in (client, server)),
            )

    def _make_site(self) -> Path:
        site = self._directory / "site"
        site.mkdir()
        (site / "index.html").write_bytes(_PAGE)
        self._file_hash = hashlib.sha256()
        self._samples = []
        every = max(1, self._size // _SAMPLES)
        with (site / "file").open("wb") as file:
            for at in range(0, self._size, every):
                piece = os.urandom(min(every, self._size - at))
                self._file_hash.update(piece)
                if len(piece) >= _SAMPLE_LEN:
                    middle = (len(piece) - _SAMPLE_LEN) // 2
                    self._samples.append(piece[middle : middle + _SAMPLE_LEN])
                file.write(piece)
        return site

    def _serve(self, host: Host, port: int, site: Path) -> None:
        argv = (sys.executable, "-m", "http.server", str(port), "--protocol", "HTTP/1.1")
        with (self._directory / "web.log").open("a") as log:
            host.start(*argv, "--directory", str(site), stdout=log, stderr=log, cwd="/")
        suffix = f":{port:04X}"

        def listening() -> bool:
            lines = host.run("cat", "/proc/net/tcp").stdout.splitlines()[1:]
            return any(line.split()[1].endswith(suffix) for line in lines)

        wait_until(listening, f"web server on {host.name}")

    def _check(self, what: str, passed: bool) -> None:
        self._results.checks[what] = passed
        self._printer.check(what, passed)

    # --- what the demo shows, step by step ---------------------------------------

    def _fetch(
        self, start: str, client: Host, far: Link, ours: LabDaemon, theirs: LabDaemon
    ) -> None:
        """Page and file by curl, both over one connection."""
        self._printer.title(f"curl http://{far.v4}/ and /file, {start} session")
        count = len(self._results.connections) + 1
        page, file = self._directory / "page", self._directory / "got"
        client.run(
            *("curl", "--silent", "--show-error", "--fail", "--max-time", "300"),
            *("--output", str(page), f"http://{far.v4}/"),
            *("--output", str(file), f"http://{far.v4}/file"),
            timeout=310,
        )
        got = hashlib.sha256()
        with file.open("rb") as content:
            while piece := content.read(1 << 20):
                got.update(piece)
        mine = ours.wait_for("enabled", count=count)[-1]
        other = theirs.wait_for("enabled", count=count)[-1]
        self._results.connections.append(
            {
                "start": mine["start"],
                "client_session_id": mine["session"],
                "server_session_id": other["session"],
                "tep": mine["tep"],
                "aead": mine["aead"],
                "bytes": file.stat().st_size,
                "sha256": got.hexdigest(),
            }
        )
        self._printer.line(f"TEP {mine['tep']}, AEAD {mine['aead']}, {mine['start']}")
        self._printer.line(f"session ID at the client  {mine['session']}")
        self._printer.line(f"session ID at the server  {other['session']}")
        self._printer.line(f"SHA-256 of what curl got  {got.hexdigest()}")
        self._check(f"{start}: page arrived", page.read_bytes() == _PAGE)
        self._check(
            f"{start}: all {self._size:,} bytes of the file arrived",
            got.digest() == self._file_hash.digest(),
        )
        self._check(
            f"{start}: session IDs of both ends are equal", mine["session"] == other["session"]
        )
        self._check(
            f"{start}: both ends say {start}, with roles A and B",
            (mine["start"], other["start"]) == (start, start)
            and (mine["role"], other["role"]) == ("A", "B"),
        )

    def _look_at(self, capture: Capture) -> None:
        """What an eavesdropper on the wire holds."""
        self._printer.title("What an eavesdropper holds")
        total = sum(map(len, capture.packets))
        self._printer.line(
            f"{len(capture.packets):,} packets, {total:,} bytes; the first with data:"
        )
        shown = []
        for packet in capture.packets:
            with contextlib.suppress(PeerError):
                segment = Segment.parse(packet)
                if segment.flags.syn or segment.payload:
                    shown.append(segment)
            if len(shown) == 6:
                break
        for segment in shown:
            self._printer.segment(segment)
        needles = {
            "request line": (b"GET / HTTP", b"GET /file"),
            "response header": (b"HTTP/1.1 200", b"Content-Length"),
            "page": (_PAGE[:_SAMPLE_LEN], _PAGE[-_SAMPLE_LEN:]),
            "file": tuple(self._samples),
        }
        self._check("the eavesdropper missed no packet", capture.dropped == 0)
        self._check(
            "the eavesdropper saw as much as was sent", total > 2 * self._size and bool(shown)
        )
        for name, pieces in needles.items():
            absent = free_of(capture.packets, *pieces) == list(pieces)
            self._check(f"no {name} on the wire", absent)
        self._results.eavesdropper = {
            "packets": len(capture.packets),
            "bytes": total,
            "dropped": capture.dropped,
            "first_payloads": [bytes(s.payload[:48]).hex() for s in shown if s.payload],
        }

    def _read(self, capture: Capture, keys: Path, server: str) -> None:
        """What the eavesdropper would read if one of the hosts gave him its keys."""
        asked = [
            Asked(server, each["client_session_id"], _PAGE, self._file_hash.hexdigest())
            for each in self._results.connections
        ]
        read_capture(capture, keys, asked, self._check, self._printer)
        if self._keep is not None:
            kept, log = keep(capture, keys, self._keep)
            self._printer.line(f"look for yourself: tcpcrypt decode {kept} --keylog {log}")

    def _fall_back(self, client: Host, wire: Link, old_end: Link, ours: LabDaemon) -> None:
        """A host without tcpcryptd still works, in plain TCP."""
        self._printer.title(f"curl http://{old_end.v4}/, a host that does not encrypt")
        with Capture(wire) as capture:
            done = client.run("curl", "--silent", "--max-time", "30", f"http://{old_end.v4}/")
        self._check("the plain host is served by fallback", done.stdout.encode() == _PAGE)
        reason = ours.wait_for("fallback")[0]["reason"]
        self._printer.line(f"the daemon's reason: {reason}")
        # The counter-check: the same search does find what is not encrypted.
        self._check(
            "there the eavesdropper does read the request",
            not free_of(capture.packets, b"GET / HTTP"),
        )

    def _measure(self, client: Host, far: Link) -> None:
        """Figures of curl, plain and encrypted in turn."""
        self._printer.title("Throughput, plain and encrypted in turn")
        speeds: dict[int, list[float]] = {_PLAIN_PORT: [], _PORT: []}
        for _ in range(_ROUNDS):
            for port, found in speeds.items():
                done = client.run(
                    *("curl", "--silent", "--show-error", "--fail", "--max-time", "300"),
                    *("--output", "/dev/null", "--write-out", "%{speed_download}"),
                    f"http://{far.v4}:{port}/file",
                    timeout=310,
                )
                found.append(float(done.stdout) * 8 / 1e9)
        plain, encrypted = (statistics.median(speeds[port]) for port in (_PLAIN_PORT, _PORT))
        self._results.throughput = {
            "plain_gbit_s": round(plain, 3),
            "gbit_s": round(encrypted, 3),
            "ratio_to_plain": round(encrypted / plain, 3),
            "rounds": _ROUNDS,
            "implementation": _fast.IMPLEMENTATION,
        }
        self._printer.line(
            f"plain {plain:.2f} Gbit/s, encrypted {encrypted:.2f} Gbit/s, "
            f"ratio {encrypted / plain:.2f}"
        )
        self._printer.line(
            f"median of {_ROUNDS}; curl and python -m http.server; both hosts share "
            f"{os.cpu_count()} processors; hot path in {_fast.IMPLEMENTATION}"
        )
        self._check("throughput was measured", min(plain, encrypted) > 0)

    def _rules_left(self, host: Host) -> bool:
        return any(
            "TCPCRYPT" in host.run(f"{command}-save").stdout
            for command in ("iptables", "ip6tables")
        )
