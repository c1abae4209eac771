"""Interoperation: implementations against each other, case by case, judged from outside.

    python tests/interop/run.py [--quick] [--case NAME]... [--pair CLIENT,SERVER]... [--markdown]

Each cell is two hosts in network namespaces, one implementation on each, and two
programs that know nothing of it.  It is judged from what the programs got, byte
for byte, and from a capture of the wire: which options the SYNs had, which TEP was
chosen, how many connections were fresh, and that no plaintext passed.  A cell is

    ok         all of it right
    plain      right bytes, but in the clear (what `fallback` asks for)
    failed     a connection was reset, or hung; no wrong byte reached a program
    cut off    a stream ended before its end as if that were it, which a dialect without
               an authenticated end cannot tell from an end
    WRONG      a program got bytes that were not sent

the last two with the side that got them.  `--strict` exits with 1 if a
cell between two versions of this package is not ok, or if this package gave a program
a wrong byte, whoever was at the other end.

Needs root (or user namespaces), iproute2 and iptables.  External programs are named
by environment variables; see `implementations/`.  Without them their rows are left
out, and named as missing.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from interop.application import MARKER
from interop.cases import CASES, Case
from interop.implementation import PORT, Implementation, Running

from tcpcrypt.errors import LocalError, PeerError
from tcpcrypt.tools.netns import Capture, Host, Lab, Link, become_root, wait_until
from tcpcrypt.wire.eno import SynOption, find_eno
from tcpcrypt.wire.profile import PROFILES, WireProfile
from tcpcrypt.wire.segment import Segment

HERE: Final = Path(__file__).parent
APPLICATION: Final = str(HERE / "application.py")
OURS: Final = ("tcpcrypt", "tcpcrypt-older")


@dataclass(slots=True)
class Cell:
    """How one case went between two implementations."""

    case: Case
    client: str
    server: str
    profile: str
    verdict: str = "failed"
    detail: list[str] = field(default_factory=list)
    wrong: tuple[str, ...] = ()
    """The sides that got wrong bytes."""
    seconds: float = 0.0

    def __str__(self) -> str:
        sides = f" ({', '.join(self.wrong)})" if self.wrong else ""
        return self.verdict + sides


def implementations() -> dict[str, Implementation]:
    found = [Implementation.load(path) for path in sorted((HERE / "implementations").glob("*"))]
    return {one.name: one for one in found}


def play(case: Case, client: Implementation, server: Implementation, profile: str) -> Cell:
    """Run one cell."""
    cell = Cell(case, client.name, server.name, profile)
    began = time.monotonic()
    with Lab() as lab:
        one, other, near, far = _topology(lab)
        try:
            sides = [
                what.run(host, profile, case.tep, case.aead, aware=case.aware)
                for what, host in ((client, one), (server, other))
            ]
        except (LocalError, TimeoutError) as error:
            cell.detail.append(str(error))
            return cell
        if case.loss:
            for host in (one, other):
                host.run(*_lossy(case.loss))
        with Capture(near, keep=2000) as capture:
            _talk(cell, one, other, far.v4)
            packets = list(capture.settled())
        _judge(cell, packets, capture.dropped, (client.aware, server.aware))
        for side in sides:
            cell.detail += [side.died] if side.died else []
            if side.overflowed:
                cell.detail.append(f"queue of {side.what.name} lost {side.overflowed} packets")
            cell.detail += sorted({line["reason"] for line in _troubles(side)})
    cell.seconds = time.monotonic() - began
    return cell


def _topology(lab: Lab) -> tuple[Host, Host, Link, Link]:
    """Client and server, with a router in between."""
    one, middle, other = lab.host("client"), lab.host("middle"), lab.host("server")
    near, first = lab.join(one, middle)
    second, far = lab.join(middle, other)
    middle.sysctl("net.ipv4.ip_forward", "1")
    for host, gateway in ((one, first), (other, second)):
        host.run("ip", "route", "add", "default", "via", gateway.v4)
    for host in (one, middle, other):
        host.keep_order()
    return one, other, near, far


def _lossy(loss: float) -> tuple[str, ...]:
    """What comes in gets lost, before anybody looks at it."""
    dropped = ("-m", "statistic", "--mode", "random", "--probability", str(loss), "-j", "DROP")
    return ("iptables", "-t", "raw", "-A", "PREROUTING", "!", "-i", "lo", "-p", "tcp", *dropped)


def _troubles(side: Running) -> list[dict[str, str]]:
    return [line for line in side.events("aborted", "bug", "fallback") if "reason" in line]


def _talk(cell: Cell, client: Host, server: Host, address: str) -> None:
    case = cell.case
    first = ("--server-first",) if case.server_first else ()
    patience = ("--port", str(PORT), "--patience", str(case.patience))
    with open(Path("/dev/shm") / f"interop-{id(cell)}", "w+") as told:
        Path(told.name).unlink()
        process = server.start(sys.executable, APPLICATION, "serve", *patience, *first, stdout=told)
        wait_until(lambda: _so_far(told), "server")
        half = ("--half-close",) if case.half_close else ()
        talk = (
            *(sys.executable, APPLICATION, "talk", "--host", address, *patience, *first, *half),
            *("--up", str(case.up), "--down", str(case.down)),
            *("--count", str(case.count), "--at-once", str(case.at_once)),
        )
        said = {"right": 0, "wrong": [], "cut_off": [], "failed": ["the client gave no result"]}
        turns = math.ceil(case.count / case.at_once)
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = client.run(*talk, timeout=20 + 3 * case.patience * turns, check=False)
            said = json.loads(done.stdout) if done.stdout else said
        server.stop(process)
        wrong_at_server = _so_far(told).splitlines()[1:]
    cell.wrong = (("client",) if said["wrong"] else ()) + (("server",) if wrong_at_server else ())
    if cell.wrong:
        cell.verdict = "WRONG"
    elif said["cut_off"]:
        cell.verdict, cell.wrong = f"cut off {len(said['cut_off'])}/{case.count}", ("client",)
    elif said["right"] == case.count:
        cell.verdict = "ok"
    else:
        cell.verdict = f"failed {case.count - said['right']}/{case.count}"
    told_by = {"client": said["wrong"], "server": wrong_at_server}
    cell.detail += [f"{side}: {text}" for side, texts in told_by.items() for text in texts[:2]]
    cell.detail += sorted({*said["cut_off"], *said["failed"]})[:3]


def _so_far(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return str(file.read())  # type: ignore[attr-defined]


def _judge(cell: Cell, packets: list[bytes], dropped: int, aware: tuple[bool, bool]) -> None:
    """What the wire says, where the programs had nothing to complain of.

    `aware`: whether client and server can say that their application is.
    """
    if cell.verdict != "ok":
        return
    case, faults = cell.case, []
    chosen = [_chosen(segment, PROFILES[cell.profile]) for segment in _answers(packets)]
    if not any(chosen):
        cell.verdict = "plain"
        if case.against != "plain":
            cell.detail.append("no ENO option in any answer")
        return
    if any(MARKER in packet for packet in packets):
        faults.append(f"plaintext on the wire, sent by the {_who(packets)}")
    if dropped:
        faults.append(f"capture lost {dropped} packets")
    if wrong := {tep for tep, _resumed in filter(None, chosen)} - {case.tep}:
        faults.append(f"TEP {', '.join(f'{tep:#04x}' for tep in wrong)}")
    if None in chosen:
        faults.append(f"{chosen.count(None)} connections without ENO")
    fresh = sum(not found[1] for found in chosen if found is not None)
    if case.fresh is not None and fresh != case.fresh:
        faults.append(f"{fresh} of {len(chosen)} connections were fresh")
    said = _aware(packets, PROFILES[cell.profile])
    if case.aware and said != aware:
        faults.append(f"bit `a` of client and server: {said}, not {aware}")
    if faults:
        cell.verdict = "failed"
        cell.detail += faults


def _aware(packets: list[bytes], profile: WireProfile) -> tuple[bool, bool]:
    """Whether any SYN of the client, and any of the server, says that its application is."""
    said = [False, False]
    for packet in packets:
        with contextlib.suppress(PeerError):
            segment = Segment.parse(packet)
            raw = find_eno(segment.options, profile).options if segment.flags.syn else ()
            if raw:
                option = SynOption.parse(raw[0][2 + len(profile.option_exid) :], profile)
                said[segment.flags.ack] |= option.application_aware
    return said[0], said[1]


def _who(packets: list[bytes]) -> str:
    sent = {Segment.parse(packet).flow[1] == PORT for packet in packets if MARKER in packet}
    return " and the ".join({True: "server", False: "client"}[from_server] for from_server in sent)


def _answers(packets: list[bytes]) -> Iterator[Segment]:
    """The SYN-ACKs, each once."""
    seen = set()
    for packet in packets:
        try:
            segment = Segment.parse(packet)
        except PeerError:
            continue  # ARP, or another protocol
        if segment.flags.syn and segment.flags.ack and segment.flow not in seen:
            seen.add(segment.flow)
            yield segment


def _chosen(segment: Segment, profile: WireProfile) -> tuple[int, bool] | None:
    """TEP of a SYN-ACK, and whether it resumes; None: it has no ENO."""
    raw = find_eno(segment.options, profile).options
    if not raw:
        return None
    option = SynOption.parse(raw[0][2 + len(profile.option_exid) :], profile)
    return option.suboptions[0].tep, option.suboptions[0].data is not None


def cells(chosen: argparse.Namespace) -> Iterator[tuple[Case, Implementation, Implementation, str]]:
    """What to run, by case."""
    known = implementations()
    able = [one for one in known.values() if one.encrypts and not one.missing]
    pairs = [tuple(text.split(",", 1)) for text in chosen.pair]
    for case in CASES:
        if (chosen.case and case.name not in chosen.case) or (chosen.quick and not case.quick):
            continue
        for client, server in itertools.product(able, able):
            if pairs and (client.name, server.name) not in pairs:
                continue
            if not {client.name, server.name} & set(OURS):
                continue  # two strangers are none of our business
            common = [p for p in case.profiles if p in client.modes and p in server.modes]
            for profile in common:
                if case.against:
                    if client is server and client.name == "tcpcrypt":
                        yield case, client, known[case.against], profile
                        yield case, known[case.against], server, profile
                else:
                    yield case, client, server, profile


def table(done: list[Cell]) -> str:
    """Markdown: cases down, pairs across."""
    columns = list(
        dict.fromkeys((c.profile, c.client, c.server) for c in done if not c.case.against)
    )
    rows = list(dict.fromkeys(c.case.name for c in done))
    lines = ["| case | " + " | ".join(f"{p}: {a} → {b}" for p, a, b in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    by = {(c.case.name, c.profile, c.client, c.server): c for c in done}
    for row in rows:
        found = [by.get((row, *column)) for column in columns]
        if any(found):
            text = " | ".join(str(cell) if cell is not None else "" for cell in found)
            lines.append(f"| {row} | {text} |")
    lines += [
        f"\n{c.case.name}: {c.profile}: {c.client} → {c.server}: {c}"
        for c in done
        if c.case.against
    ]
    return "\n".join(lines)


def acceptable(cell: Cell) -> bool:
    """Whether it went as it has to between versions of this package.

    Of others nothing is asked; but a wrong byte at our side is never right, even
    where the other one has sealed it.
    """
    if cell.case.against:
        return cell.verdict == "plain"
    if {cell.client, cell.server} <= set(OURS):
        return cell.verdict == "ok"
    sides = {"client": cell.client, "server": cell.server}
    ours = any(sides[side] in OURS for side in cell.wrong)
    return not (ours and cell.verdict.startswith("WRONG"))


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    parser.add_argument("--case", action="append", default=[], help="only this case")
    parser.add_argument("--pair", action="append", default=[], help="only this CLIENT,SERVER")
    parser.add_argument("--markdown", action="store_true", help="print a table at the end")
    parser.add_argument("--json", action="store_true", help="print JSON at the end")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit 1 for what fails among our own, or gives us wrong bytes",
    )
    chosen = parser.parse_args()
    become_root()
    for one in implementations().values():
        if one.missing:
            print(f"left out: {one.name}: {one.missing}", flush=True)
    done = []
    try:
        for case, client, server, profile in cells(chosen):
            cell = play(case, client, server, profile)
            done.append(cell)
            names = f"{profile:9} {client.name:>17} -> {server.name:17}"
            print(f"{names} {case.name:16} {cell} {cell.seconds:5.1f} s", *cell.detail, sep="  ",
                  flush=True)  # fmt: skip
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    if chosen.markdown:
        print(table(done))
    if chosen.json:
        print(json.dumps([_facts(cell) for cell in done], indent=1))
    return int(chosen.strict and not all(map(acceptable, done)))


def _facts(cell: Cell) -> dict[str, object]:
    return {
        "case": cell.case.name,
        "profile": cell.profile,
        "client": cell.client,
        "server": cell.server,
        "verdict": cell.verdict,
        "wrong": list(cell.wrong),
        "detail": cell.detail,
        "seconds": round(cell.seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
