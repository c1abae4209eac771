"""Interoperation: implementations against each other, case by case, judged from outside.

    python tests/interop/run.py [--quick] [--case NAME]... [--pair CLIENT,SERVER]... [--markdown]

Each cell is two hosts in network namespaces, one implementation on each, and two
programs that know nothing of it.  It is judged from what the programs got, byte
for byte, and from a capture of the wire: which options the SYNs had, which TEP was
chosen, how many connections were fresh, and that no plaintext passed.  A cell is

    ok         all of it right
    plain      right bytes, but in the clear (what `fallback` asks for)
    failed     a connection was reset, or hung; no wrong byte reached a program
    WRONG      a program got bytes that were not sent, or an end before the end

with the side that got them.  `--strict` exits with 1 if a cell in which this package
has a part is `WRONG` on its side, or not ok between two of its own.

Needs root (or user namespaces), iproute2 and iptables.  External programs are named
by environment variables; see `implementations/`.  Without them their rows are left
out, and named as missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
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
from tcpcrypt.tools.netns import Capture, Host, Lab, become_root, wait_until
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
        one, other = lab.host("client"), lab.host("server")
        near, far = lab.join(one, other)
        try:
            sides = [
                what.run(host, profile, case.tep, case.aead)
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
        _judge(cell, packets, capture.dropped)
        for side in sides:
            cell.detail += [side.died] if side.died else []
            if side.overflowed:
                cell.detail.append(f"queue of {side.what.name} lost {side.overflowed} packets")
            cell.detail += sorted({line["reason"] for line in _troubles(side)})
    cell.seconds = time.monotonic() - began
    return cell


def _lossy(loss: float) -> tuple[str, ...]:
    """What comes in gets lost, before anybody looks at it."""
    dropped = ("-m", "statistic", "--mode", "random", "--probability", str(loss), "-j", "DROP")
    return ("iptables", "-t", "raw", "-A", "PREROUTING", "!", "-i", "lo", "-p", "tcp", *dropped)


def _troubles(side: Running) -> list[dict[str, str]]:
    return [line for line in side.events("aborted", "bug") if "reason" in line]


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
        done = client.run(*talk, timeout=case.patience * 4 * max(1, case.count / 4), check=False)
        said = json.loads(done.stdout or '{"right": 0, "wrong": [], "failed": ["no result"]}')
        server.stop(process)
        wrong_at_server = _so_far(told).splitlines()[1:]
    cell.wrong = (("client",) if said["wrong"] else ()) + (("server",) if wrong_at_server else ())
    if cell.wrong:
        cell.verdict = "WRONG"
    elif said["right"] == case.count:
        cell.verdict = "ok"
    else:
        cell.verdict = f"failed {case.count - said['right']}/{case.count}"
    cell.detail += sorted({*said["wrong"], *said["failed"], *wrong_at_server})[:4]


def _so_far(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return str(file.read())  # type: ignore[attr-defined]


def _judge(cell: Cell, packets: list[bytes], dropped: int) -> None:
    """What the wire says, where the programs had nothing to complain of."""
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
        faults.append("plaintext on the wire")
    if dropped:
        faults.append(f"capture lost {dropped} packets")
    if wrong := {tep for tep, _resumed in filter(None, chosen)} - {case.tep}:
        faults.append(f"TEP {', '.join(f'{tep:#04x}' for tep in wrong)}")
    if None in chosen:
        faults.append(f"{chosen.count(None)} connections without ENO")
    fresh = sum(not found[1] for found in chosen if found is not None)
    if case.fresh is not None and fresh != case.fresh:
        faults.append(f"{fresh} of {len(chosen)} connections were fresh")
    if faults:
        cell.verdict = "failed"
        cell.detail += faults


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
    """Whether nothing in it is to be laid at this package's door."""
    if cell.case.against:
        return cell.verdict == "plain"
    if cell.client == cell.server == "tcpcrypt":
        return cell.verdict == "ok"
    return not any(
        {"client": cell.client, "server": cell.server}[side] in OURS for side in cell.wrong
    )


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
    parser.add_argument("--strict", action="store_true", help="exit 1 for what is our fault")
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
