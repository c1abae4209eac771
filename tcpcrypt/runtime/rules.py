"""Firewall and routing rules as data, and how they get into the kernel and out of it.

All our rules of one table and hook stand in one chain `TCPCRYPT-<hook>`, to
which one jump leads from the head of the built-in chain.  A table changes in
one `iptables-restore --noflush` transaction, so that no packet ever sees half
a set.  Installing begins with the removal of whatever an earlier daemon left,
hence it is idempotent; chains of others are never touched.

Of the packet mark we use the four bits MARK_MASK and leave 28 to others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError

__all__ = [
    "MARK_ACCEPTED",
    "MARK_DONE",
    "MARK_HANDSHAKE",
    "MARK_INNER",
    "MARK_MASK",
    "MARK_STEERED",
    "TABLE_LOCAL",
    "Firewall",
    "Routing",
    "Rule",
    "marked",
    "set_mark",
]

MARK_MASK: Final = 0x00F00000
MARK_STEERED: Final = 0x00100000
"""Packets of an application that are to reach the daemon instead of the wire."""
MARK_HANDSHAKE: Final = 0x00200000
"""Sockets to the peer whose TCP-ENO handshake is under way; their listener too."""
MARK_DONE: Final = 0x00300000
"""Sockets to the peer whose handshake is over: their packets are left alone."""
MARK_INNER: Final = 0x00400000
"""Sockets that the daemon opens to a service on this host, and what that answers."""
MARK_ACCEPTED: Final = 0x00500000
"""Sockets on which the daemon accepted an application's connection.  Without a
mark of their own they would take that of the packets (`tcp_fwmark_accept`)."""

TABLE_LOCAL: Final = 29795
"""Routing table by which every address is local."""
_RULE_PRIORITY: Final = 29795
"""Behind the local table (0), before the main one (32766)."""

_CHAIN: Final = "TCPCRYPT-"
_TABLES: Final = ("raw", "mangle", "nat", "filter")
_COMMANDS: Final = {4: "iptables", 6: "ip6tables"}
_VARIANTS: Final = ("", "-nft", "-legacy")
"""What the system prefers, then whatever else there is."""


def marked(mark: int) -> tuple[str, ...]:
    """The match for packets with `mark`."""
    return ("-m", "mark", "--mark", f"{mark:#x}/{MARK_MASK:#x}")


def set_mark(mark: int) -> tuple[str, ...]:
    """The target that gives a packet `mark` and keeps the bits of others."""
    return ("-j", "MARK", "--set-xmark", f"{mark:#x}/{MARK_MASK:#x}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of iptables, in the order in which it is to stand."""

    table: str
    hook: str
    words: tuple[str, ...]
    """Matches and target as `iptables` takes them."""
    families: tuple[int, ...] = (4, 6)

    @property
    def chain(self) -> str:
        return _CHAIN + self.hook


class Firewall:
    """iptables for both families.  `prefix` runs commands elsewhere, in tests.

    Raises `LocalError` where no variant of iptables takes the rules.
    """

    def __init__(self, families: Sequence[int] = (4, 6)) -> None:
        self._families = tuple(families)
        self._installed: dict[int, str] = {}
        self._lock = -1

    def install(self, rules: Iterable[Rule]) -> None:
        """Put `rules` into the kernel, in place of what an earlier run left."""
        wanted = tuple(rules)
        try:
            for family in self._families:
                self._installed[family] = self._install(
                    family, [rule for rule in wanted if family in rule.families]
                )
        except BaseException:
            self.remove()
            raise

    def _install(self, family: int, rules: Sequence[Rule]) -> str:
        problems = []
        for variant in _VARIANTS:
            command = _COMMANDS[family] + variant
            if shutil.which(f"{command}-restore") is None:
                continue
            try:
                left = self._left_behind(command)
                self._restore(command, _transaction(rules, left))
            except LocalError as error:
                problems.append(f"{command}: {error}")
            else:
                return command
        raise LocalError("; ".join(problems) or f"{_COMMANDS[family]}-restore is not installed")

    def remove(self) -> None:
        """Take out all chains of ours; what `install` did not put there too.  Idempotent."""
        for family in self._families:
            command = self._installed.pop(family, None)
            if command is not None:
                self._restore(command, _transaction((), self._left_behind(command)))
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _left_behind(self, command: str) -> dict[str, list[str]]:
        """By table: the commands that remove every chain of ours that exists."""
        found: dict[str, list[str]] = {}
        table = ""
        for line in self._run(f"{command}-save").splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(f":{_CHAIN}"):
                chain = line[1:].split()[0]
                found.setdefault(table, []).extend((f"-F {chain}", f"-X {chain}"))
            elif line.startswith("-A ") and line.split()[-2:-1] == ["-j"]:
                target = line.split()[-1]
                if target.startswith(_CHAIN):
                    found.setdefault(table, []).insert(0, "-D" + line[2:])
        return found

    def _restore(self, command: str, text: str) -> None:
        if text:
            self._run(f"{command}-restore", "--noflush", "--wait", "5", text=text)

    def _run(self, *argv: str, text: str | None = None) -> str:
        environment = dict(os.environ)
        if not os.access("/run", os.W_OK) and "XTABLES_LOCKFILE" not in environment:
            # Root in a user namespace may not write the system's lock file; its
            # rules are its own, so that a lock of its own will do, without a name.
            if self._lock < 0:
                self._lock = os.memfd_create("xtables.lock")
            environment["XTABLES_LOCKFILE"] = f"/proc/{os.getpid()}/fd/{self._lock}"
        try:
            done = subprocess.run(
                argv, input=text or "", capture_output=True, text=True, env=environment, check=False
            )
        except OSError as error:
            raise LocalError(f"{argv[0]}: {error.strerror}") from error
        if done.returncode:
            raise LocalError(f"{argv[0]}: {done.stderr.strip() or f'exit {done.returncode}'}")
        return done.stdout


def _transaction(rules: Sequence[Rule], left: dict[str, list[str]]) -> str:
    """The text for iptables-restore that removes `left` and then adds `rules`."""
    lines: list[str] = []
    for table in _TABLES:
        ours = [rule for rule in rules if rule.table == table]
        gone = left.get(table, [])
        if not ours and not gone:
            continue
        chains = list(dict.fromkeys(rule.chain for rule in ours))
        lines.append(f"*{table}")
        # Jumps first, then contents, then the chains: the order iptables needs.
        lines.extend(sorted(gone, key=lambda line: "DFX".index(line[1])))
        lines.extend(f":{chain} - [0:0]" for chain in chains)
        lines.extend(f"-A {rule.chain} {' '.join(rule.words)}" for rule in ours)
        lines.extend(f"-I {chain.removeprefix(_CHAIN)} -j {chain}" for chain in chains)
        lines.append("COMMIT")
    return "\n".join(lines) + "\n" if lines else ""


class Routing:
    """The policy routes that bring marked packets to this host, and the sysctls they need."""

    _SYSCTLS: Final = {
        # A connection that the daemon opens with MARK_INNER gives its mark to the
        # application's accepted socket, so that the answers come back to us.
        4: ("net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect"),
        6: ("net/ipv6/fwmark_reflect",),
    }

    def __init__(self, families: Sequence[int] = (4, 6)) -> None:
        self._families = tuple(families)
        self._before: dict[Path, str] = {}

    def install(self) -> None:
        """Idempotent.  Raises `LocalError` if a command or sysctl fails."""
        # Rules that are there already are those of a daemon that was killed, and
        # then the sysctls are as it set them; the kernel's default was 0.
        killed = self.remove()
        for family in self._families:
            everywhere = "0.0.0.0/0" if family == 4 else "::/0"
            route = ("local", everywhere, "dev", "lo", "table", str(TABLE_LOCAL))
            self._ip(family, "route", "replace", *route)
            for mark in (MARK_STEERED, MARK_INNER):
                self._ip(family, "rule", "add", *self._rule(mark))
            for name in self._SYSCTLS[family]:
                path = Path("/proc/sys") / name
                try:
                    before = path.read_text().strip()
                    if killed:
                        self._before[path] = "0"
                    elif before != "1":
                        self._before[path] = before
                    path.write_text("1")
                except OSError as error:
                    raise LocalError(f"{path}: {error.strerror}") from error

    def remove(self) -> bool:
        """Take it all back; whether there was any rule.  Idempotent."""
        found = False
        for family in self._families:
            for mark in (MARK_STEERED, MARK_INNER):
                while self._ip(family, "rule", "del", *self._rule(mark), check=False):
                    found = True
            self._ip(family, "route", "flush", "table", str(TABLE_LOCAL), check=False)
        while self._before:
            path, value = self._before.popitem()
            path.write_text(value)
        return found

    @staticmethod
    def _rule(mark: int) -> tuple[str, ...]:
        return (
            *("pref", str(_RULE_PRIORITY), "fwmark", f"{mark:#x}/{MARK_MASK:#x}"),
            *("lookup", str(TABLE_LOCAL)),
        )

    @staticmethod
    def _ip(family: int, *words: str, check: bool = True) -> bool:
        argv = ("ip", f"-{family}", *words)
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except OSError as error:
            raise LocalError(f"ip: {error.strerror}") from error
        if check and done.returncode:
            raise LocalError(f"{' '.join(argv)}: {done.stderr.strip()}")
        return done.returncode == 0
