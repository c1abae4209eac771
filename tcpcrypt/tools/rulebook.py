"""The daemon's rules on paper: what a configuration asks for, and what the kernel has of it."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tcpcrypt.core.policy import Policy
from tcpcrypt.daemon.launcher import find_daemon
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime import iptables, nft
from tcpcrypt.runtime.installation import remaining_rules, rules_for
from tcpcrypt.runtime.older import older_connections
from tcpcrypt.runtime.routing import TABLE_LOCAL
from tcpcrypt.runtime.rules import (
    CHAIN_PREFIX,
    MARK_INNER,
    MARK_MASK,
    MARK_STEERED,
    QUEUE_NUMBER,
    Rule,
)
from tcpcrypt.runtime.steering import TransparentSteering
from tcpcrypt.tools.netns import Lab, become_root

__all__ = ["Comparison", "Plan", "compare", "plan"]

_COMMANDS: Final = {4: ("iptables", "iptables-legacy"), 6: ("ip6tables", "ip6tables-legacy")}
_NFT: Final = nft.Nft.name
_EVERYWHERE: Final = {4: "0.0.0.0/0", 6: "::/0"}
_SYSCTLS: Final = {
    4: ("net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect"),
    6: ("net.ipv6.fwmark_reflect",),
}
_LISTENER: Final = re.compile(
    r"(--on-port |-d (?:127\.0\.0\.1/32|::1/128) -i lo -p tcp -m tcp --dport |"
    r"tproxy ip6? to \S+:|daddr (?:127\.0\.0\.1|::1) tcp dport )\d+"
)
_OLDER: Final = re.compile(
    r" -s \S+ -d \S+ .*--sport \d+ --dport \d+ .*-j RETURN$|"
    r" saddr \S+ tcp sport \d+ ip6? daddr \S+ tcp dport \d+ return$"
)
_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a daemon would install."""

    firewall: str
    """`iptables` or `nft`."""
    tables: dict[str, str]
    """By command: what it reads."""
    commands: tuple[str, ...]
    """Policy routes and sysctls, as shell commands."""
    older: int
    """Connections that exist now and are left alone, each by a rule of its own."""


def plan(
    policies: Sequence[Policy],
    families: Sequence[int],
    firewall: str = "",
    queue: int | None = QUEUE_NUMBER,
) -> Plan:
    """The rules for `policies`; nothing is installed.

    `queue`: where handshakes are seen; None where the kernel carries the option.
    `firewall`: in the words of `iptables` or `nft`; by itself, of that which a
    daemon would try first here.

    Without root the process ends up in a network namespace of its own.
    Raises `LocalError`, `OSError`.
    """
    older = older_connections(policies)
    become_root()
    with _listeners(families) as steering:
        rules = rules_for(policies, 0, steering, older, queue=queue)
    firewall = firewall or _first_choice()
    if firewall == _NFT:
        tables = {"nft -f -": nft.rendered(rules, families)}
    else:
        tables = {
            f"{_COMMANDS[family][0]}-restore --noflush": iptables.rendered(rules, family)
            for family in families
        }
    return Plan(
        firewall,
        tables,
        tuple(command for family in families for command in _commands(family)),
        len(older),
    )


def _first_choice() -> str:
    """Nft only where no variant of iptables is installed."""
    names = (f"iptables{variant}-restore" for variant in ("", "-nft", "-legacy"))
    return iptables.Iptables.name if any(map(shutil.which, names)) else _NFT


@contextlib.contextmanager
def _listeners(families: Sequence[int]) -> Iterator[TransparentSteering]:
    """Listeners such as the daemon has, for as long as it takes to learn their ports."""
    steering = TransparentSteering(families)
    try:
        yield steering
    finally:
        steering.close()


def _commands(family: int) -> Iterator[str]:
    yield f"ip -{family} route replace local {_EVERYWHERE[family]} dev lo table {TABLE_LOCAL}"
    for mark in (MARK_STEERED, MARK_INNER):
        yield f"ip -{family} rule add {_routing_rule(mark)}"
    for name in _SYSCTLS[family]:
        yield f"sysctl -w {name}=1"


def _routing_rule(mark: int) -> str:
    return f"pref {TABLE_LOCAL} fwmark {mark:#x}/{MARK_MASK:#x} lookup {TABLE_LOCAL}"


@dataclass
class Comparison:
    """What the kernel has, beside what it should have."""

    daemon: int | None = None
    """The process that serves, None if there is none."""
    found: dict[str, list[str]] = field(default_factory=dict)
    """By command: lines of `iptables-save` that are ours, each with its table before it;
    or rules of our table, as nft tells them, each with its chain before it."""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    older: int = 0
    """Rules that leave connections alone which are older than the daemon."""

    @property
    def ok(self) -> bool:
        """It is as it should be."""
        return not self.missing and not self.unexpected

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.daemon is not None:
            return "serving" if self.ok else "changed"
        if not self.found:
            return "none"
        return "guard" if self.ok else "left over"

    def as_json(self) -> dict[str, Any]:
        """The form of `--json`."""
        return {
            "ok": self.ok,
            "state": self.state,
            "daemon": self.daemon,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "older_connections": self.older,
            "installed": self.found,
        }


def compare(policies: Sequence[Policy], families: Sequence[int], *, keep_guard: bool) -> Comparison:
    """Compare what is in the kernel with what `policies` ask for.

    What they ask for is installed in a private namespace and read back, so
    that both are in the kernel's own words.  Ports of listeners, which differ
    each time, do not count.  `keep_guard`: what refuses what `require` names
    may be there without a daemon.  Raises `LocalError`, `OSError`.
    """
    result = Comparison(find_daemon())
    there = {family: _installed(family) for family in families}
    with_nft = _nft_lines()
    if with_nft:
        result.found[_NFT] = with_nft
    if any(lines for _command, lines in there.values()) or (
        not with_nft and _first_choice() != _NFT
    ):
        for family, (command, lines) in there.items():
            if lines:
                result.found[command] = lines
            expected = _iptables_expected(policies, families, family, command, result)
            _compare_lines(command, lines, expected, result, keep_guard=keep_guard)
        result.unexpected += [f"{_NFT}: {line}" for line in with_nft]
    else:
        expected = _nft_expected(policies, families, result)
        _compare_lines(_NFT, with_nft, expected, result, keep_guard=keep_guard)
    for family in families:
        _compare_routes(family, result)
    return result


def _compare_lines(
    command: str,
    lines: Sequence[str],
    expected: Iterable[Counter[str]],
    result: Comparison,
    *,
    keep_guard: bool,
) -> None:
    """With what comes nearest of what is `expected`."""
    serving = result.daemon is not None
    older = [line for line in lines if _OLDER.search(line)] if serving else []
    result.older += len(older)
    now = Counter(_without_ports(line) for line in lines if line not in older)
    wanted: Counter[str] = Counter()
    if serving or (keep_guard and lines):
        wanted = min(expected, key=lambda candidate: _distance(candidate, now))
    result.missing += [f"{command}: {line}" for line in (wanted - now).elements()]
    result.unexpected += [f"{command}: {line}" for line in (now - wanted).elements()]


def _choices(
    policies: Sequence[Policy], families: Sequence[int], result: Comparison
) -> Iterator[list[Rule]]:
    if result.daemon is None:
        yield remaining_rules(policies)
        return
    with _listeners(families) as steering:
        # A reload takes the other set of queues, and who started the daemon may have told
        # it of another backend than the configuration has.
        for queue in (QUEUE_NUMBER, None):
            for generation in (0, 1):
                yield rules_for(policies, generation, steering, queue=queue)


def _iptables_expected(
    policies: Sequence[Policy],
    families: Sequence[int],
    family: int,
    command: str,
    result: Comparison,
) -> Iterator[Counter[str]]:
    for rules in _choices(policies, families, result):
        ours = [rule for rule in rules if family in rule.families]
        yield _told_by_iptables(ours, family, command) if ours else Counter()


def _told_by_iptables(rules: Sequence[Rule], family: int, command: str) -> Counter[str]:
    with Lab() as lab, lab.host("expected").entered():
        iptables.Iptables((family,)).install(rules)
        # That may have chosen another variant of iptables than the daemon has.
        for name in (command, *_COMMANDS[family]):
            if lines := _lines(name):
                return Counter(map(_without_ports, lines))
    raise LocalError(f"{command} does not tell what it has installed")


def _nft_expected(
    policies: Sequence[Policy], families: Sequence[int], result: Comparison
) -> Iterator[Counter[str]]:
    for rules in _choices(policies, families, result):
        with Lab() as lab, lab.host("expected").entered():
            firewall = nft.Nft(families)
            firewall.install(rules)
            yield Counter(map(_without_ports, firewall.listed()))


def _nft_lines() -> list[str]:
    """The rules of our table; none where nft does not work."""
    with contextlib.suppress(LocalError):
        return nft.Nft().listed()
    return []


def _installed(family: int) -> tuple[str, list[str]]:
    """The command that knows of our rules, and they; the first command if there are none."""
    for command in _COMMANDS[family]:
        if lines := _lines(command):
            return command, lines
    return _COMMANDS[family][0], []


def _lines(command: str) -> list[str]:
    found, table = [], ""
    for line in _run(f"{command}-save").splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A ") and CHAIN_PREFIX in line:
            found.append(f"{table} {line}")
    return found


def _without_ports(line: str) -> str:
    return _LISTENER.sub(r"\1N", line)


def _distance(one: Counter[str], other: Counter[str]) -> int:
    return (one - other).total() + (other - one).total()


def _compare_routes(family: int, result: Comparison) -> None:
    rules = Counter(
        line.partition(":")[2].split()[-3:][0]
        for line in _run("ip", f"-{family}", "rule").splitlines()
        if re.search(rf"lookup {TABLE_LOCAL}\b", line)
    )
    marks = (MARK_STEERED, MARK_INNER) if result.daemon is not None else ()
    wanted = Counter(f"{mark:#x}/{MARK_MASK:#x}" for mark in marks)
    place = f"ip -{family} rule: fwmark"
    result.missing += [f"{place} {mark}" for mark in (wanted - rules).elements()]
    result.unexpected += [f"{place} {mark}" for mark in (rules - wanted).elements()]
    route = _run("ip", f"-{family}", "route", "show", "table", str(TABLE_LOCAL)).strip()
    if bool(route) is not bool(marks):
        where = result.missing if marks else result.unexpected
        where.append(f"ip -{family} route: local in table {TABLE_LOCAL}")
    for name in _SYSCTLS[family]:
        with contextlib.suppress(OSError):
            value = Path("/proc/sys", *name.split(".")).read_text().strip()
            if marks and value != "1":
                result.missing.append(f"sysctl {name}=1")


def _run(*argv: str) -> str:
    """What a command prints; nothing if it is not there, or knows of no such table."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        return ""
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalError(f"{argv[0]}: {error}") from error
    return done.stdout if done.returncode == 0 else ""
