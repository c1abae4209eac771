"""The firewall by iptables.

A table changes in one `iptables-restore --noflush` transaction, so that no
packet ever sees half a set.  The tables follow one another, the one that drops
(filter) first when installing and last when removing.  Installing begins with
the removal of whatever an earlier daemon left, hence it is idempotent; chains
of others are never touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.rules import CHAIN_PREFIX, HOOKS, Rule

__all__ = ["Iptables", "rendered"]

_TABLES: Final = ("filter", "mangle", "nat")
_COMMANDS: Final = {4: "iptables", 6: "ip6tables"}
_VARIANTS: Final = ("", "-nft", "-legacy")
"""What the system prefers, then whatever else there is."""
_TRIAL: Final = "TRIAL-"


class Iptables:
    """iptables for both families; see `tcpcrypt.runtime.firewall.Implementation`.

    Raises `LocalError` where no variant of iptables takes the rules.
    """

    name: Final = "iptables"

    def __init__(self, families: Sequence[int] = (4, 6)) -> None:
        self._families = tuple(families)
        self._installed: dict[int, str] = {}
        self._shape: dict[int, list[str]] = {}
        self._rules: tuple[Rule, ...] = ()
        self._lock = -1

    def install(self, rules: Iterable[Rule]) -> None:
        """Put `rules` into the kernel, in place of those that are there.

        If that fails, those that were installed before are put back.
        """
        wanted = tuple(rules)
        try:
            self._install_all(wanted)
        except BaseException:
            if not self._rules:
                self.remove()
            else:
                # Never less than before: connections may depend on it.
                with contextlib.suppress(LocalError):
                    self._install_all(self._rules)
            raise
        self._rules = wanted

    def _install_all(self, wanted: Sequence[Rule]) -> None:
        for family in self._families:
            ours = [rule for rule in wanted if family in rule.families]
            try:
                command = self._installed[family] = self._install(family, ours)
            except LocalError:
                if ours:
                    raise
                continue  # an IP version that is not served, nor has iptables
            self._shape[family] = self._verified(command, ours)

    def rehearse(self, rules: Iterable[Rule]) -> None:
        """See whether the kernel takes `rules`, in chains to which nothing leads.

        Raises `LocalError` if it does not, as for a control group that does
        not exist.  To come after `install`.
        """
        wanted = tuple(rules)
        for family, command in self._installed.items():
            trial = [_on_trial(rule) for rule in wanted if family in rule.families]
            try:
                self._restore(command, _transaction(trial, {}))
            finally:
                self._restore(command, _dismantling(trial))

    def _install(self, family: int, rules: Sequence[Rule]) -> str:
        problems = []
        known = self._installed.get(family)
        for command in [known] if known else self._candidates(family):
            try:
                left = _left_behind(self._saved(command))
                self._restore(command, _transaction(rules, left))
            except LocalError as error:
                problems.append(f"{command}: {error}")
            else:
                return command
        raise LocalError("; ".join(problems) or f"{_COMMANDS[family]}-restore is not installed")

    @staticmethod
    def _candidates(family: int) -> list[str]:
        names = [_COMMANDS[family] + variant for variant in _VARIANTS]
        return [name for name in names if shutil.which(f"{name}-restore") is not None]

    def _verified(self, command: str, rules: Sequence[Rule]) -> list[str]:
        """Our lines as the kernel gives them back, once their number is right."""
        lines = _ours(self._saved(command))
        wanted = Counter((rule.table, rule.chain) for rule in rules)
        found = Counter(
            (table, line.split()[1])
            for table, _, line in (line.partition(" ") for line in lines)
            if line.startswith(f"-A {CHAIN_PREFIX}")
        )
        if wanted != found:
            raise LocalError(f"{command}: the kernel has other rules than were installed")
        return lines

    def missing(self) -> int:
        """How many of our rules are in the kernel no more, or stand there twice."""
        return sum(
            (Counter(shape) - Counter(now)).total() + (Counter(now) - Counter(shape)).total()
            for family, shape in self._shape.items()
            for now in [_ours(self._saved(self._installed[family]))]
        )

    def remove(self, keep: Iterable[Rule] = ()) -> int:
        """Take out all chains of ours but for `keep`; what an earlier run left too.

        Returns how many rules there were.  Idempotent.
        """
        kept, count = tuple(keep), 0
        for family in self._families:
            known = self._installed.get(family)
            for command in [known] if known else self._candidates(family):
                try:
                    saved = self._saved(command)
                except LocalError:
                    if known:
                        raise
                    continue  # a variant that this kernel does not have
                ours = [rule for rule in kept if family in rule.families] if known else []
                count += len(_ours(saved))
                text = _transaction(ours, _left_behind(saved), _TABLES[::-1])
                self._restore(command, text)
        # Only now: had it failed, the next try would have to know what to keep.
        self._installed.clear()
        self._shape.clear()
        self._rules = ()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        return count

    def listed(self) -> list[str]:
        """Our rules as the kernel has them now, whoever installed them."""
        found = []
        for family in self._families:
            for command in self._candidates(family):
                with contextlib.suppress(LocalError):  # a variant that this kernel does not have
                    found += _ours(self._saved(command))
        return found

    def _saved(self, command: str) -> str:
        return self._run(f"{command}-save")

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


def rendered(rules: Iterable[Rule], family: int) -> str:
    """The rules of one family in the form that `iptables-restore --noflush` reads."""
    return _transaction([rule for rule in rules if family in rule.families], {})


def _ours(saved: str) -> list[str]:
    """The lines of iptables-save that name a chain of ours, each with its table before it."""
    found, table = [], ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A ") and CHAIN_PREFIX in line:
            found.append(f"{table} {line}")
    return found


def _left_behind(saved: str) -> dict[str, list[str]]:
    """By table: the commands that remove every chain of ours that exists."""
    found: dict[str, list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(f":{CHAIN_PREFIX}"):
            chain = line[1:].split()[0]
            found.setdefault(table, []).extend((f"-F {chain}", f"-X {chain}"))
        elif line.startswith("-A ") and not line.startswith(f"-A {CHAIN_PREFIX}"):
            target = line.split()[-1]
            if target.startswith(CHAIN_PREFIX):
                found.setdefault(table, []).append("-D" + line[2:])
    return found


def _on_trial(rule: Rule) -> Rule:
    words = tuple(word.replace(CHAIN_PREFIX, CHAIN_PREFIX + _TRIAL) for word in rule.words)
    return replace(rule, hook=_TRIAL + rule.hook, words=words)


def _dismantling(rules: Sequence[Rule]) -> str:
    """The text that removes the chains of `rules`, whether they exist or not."""
    lines: list[str] = []
    for table in dict.fromkeys(rule.table for rule in rules):
        chains = list(dict.fromkeys(rule.chain for rule in rules if rule.table == table))
        # Naming a chain makes it empty, or makes it.
        lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in chains)]
        lines += [*(f"-X {chain}" for chain in chains), "COMMIT"]
    return "\n".join(lines) + "\n" if lines else ""


def _transaction(
    rules: Sequence[Rule], left: dict[str, list[str]], tables: Sequence[str] = _TABLES
) -> str:
    """The text for iptables-restore that removes `left` and then adds `rules`."""
    lines: list[str] = []
    for table in tables:
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
        for chain in chains:
            hook = chain.removeprefix(CHAIN_PREFIX)
            if hook in HOOKS:
                lines.append(f"-I {hook} -j {chain}")
        lines.append("COMMIT")
    return "\n".join(lines) + "\n" if lines else ""
