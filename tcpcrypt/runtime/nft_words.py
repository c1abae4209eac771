"""Rules in the words of nft.

`Rule`s are written in a small, closed part of iptables' language; this says the
same in nft's.  What is not as in iptables:

* A chain of ours *is* a base chain, where iptables has a jump from a built-in
  one.  Its priority is just before that of the table whose place it takes, so
  that it comes before the rules of others, and behind connection tracking (-200).
  `return`, and the end of a chain that was gone to, end it as they end ours there.
* `accept` ends one base chain and no more, which in nat means nothing: the kernel
  asks all nat chains in turn until one of them has translated.  So a connection
  that nobody may translate is translated to the address that it has.
* `tproxy` without a socket goes on behind the rule, where TPROXY drops; a second
  rule drops then.
* A mark of the packet cannot be put into that of the connection through a mask
  (that takes nft 1.1 and Linux 6.13).  It need not: where we save a mark, the
  rule has asked for it, so that it is known.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.rules import CHAIN_PREFIX, HOOKS, Rule

__all__ = ["CGROUP_ROOT", "TABLE", "script", "translated"]

TABLE: Final = "tcpcrypt"
"""Its family is `inet`: both IP versions."""
CGROUP_ROOT: Final = "/sys/fs/cgroup"
"""From where nft looks for control groups, wherever they are mounted."""
_PRIORITIES: Final = {"filter": -5, "mangle": -155, "nat": -105}
"""The tables that rules may name, in the order in which they are shown; those of
others have 0, -150 and -100."""
_FAMILY: Final = {4: "ip", 6: "ip6"}
_ALL_BITS: Final = 0xFFFFFFFF
_SYN_OF: Final = "(fin | syn | rst | ack)"
_REJECT: Final = {
    "tcp-reset": "tcp reset",
    "icmp-host-unreachable": "icmp host-unreachable",
    "icmp6-addr-unreachable": "icmpv6 addr-unreachable",
}
_MODULES: Final = frozenset(
    {
        *("addrtype", "cgroup", "connmark", "conntrack", "mark", "multiport", "owner"),
        *("socket", "u32"),
    }
)
_VERDICTS: Final = frozenset({"ACCEPT", "DROP", "RETURN"})
_OF_TARGETS: Final = {
    "MARK": ("--set-xmark",),
    "CONNMARK": ("--set-xmark", "--save-mark", "--nfmask", "--ctmask"),
    "NFQUEUE": ("--queue-num",),
    "REJECT": ("--reject-with",),
    "TPROXY": ("--on-ip", "--on-port", "--tproxy-mark"),
}


def script(rules: Iterable[Rule], *, cgroups: str = CGROUP_ROOT) -> str:
    """The whole table for `rules` as `nft -f` reads it; what it replaces goes with it.

    One transaction: no packet sees a part of it.  No rules: no table.
    `cgroups`: where the control groups of version 2 are mounted.
    """
    chains: dict[tuple[str, str], list[str]] = {}
    for rule in rules:
        lines = chains.setdefault((rule.table, rule.hook), [])
        new = translated(rule, cgroups=cgroups)
        if "u32" in rule.words:
            # One rule a place there, which here say all the same.
            new = [line for line in new if line not in lines]
        lines += new
    # Only what is there can be deleted, and to add what is there is no error.
    text = [f"add table inet {TABLE}", f"delete table inet {TABLE}"]
    if chains:
        text.append(f"table inet {TABLE} {{")
        for (table, hook), lines in sorted(chains.items(), key=_place):
            text += [f"\tchain {_chain(table, hook)} {{", *_based(table, hook)]
            text += [*(f"\t\t{line}" for line in lines), "\t}"]
        text.append("}")
    return "\n".join(text) + "\n"


def translated(rule: Rule, *, cgroups: str = CGROUP_ROOT) -> list[str]:
    """The rules of nft that do together what `rule` does.

    Raises `LocalError` for words that are not known here.
    """
    try:
        found = _Reading(rule, cgroups)
        found.read()
        families = rule.families
        if len(families) > 1 and found.by_family:
            return [line for family in families for line in found.lines(family)]
        return list(found.lines(families[0] if len(families) == 1 else None))
    except (IndexError, KeyError, ValueError):
        raise LocalError(f"nft: no words for {' '.join(rule.words)!r}") from None


def _place(item: tuple[tuple[str, str], list[str]]) -> tuple[int, int]:
    table, hook = item[0]
    if table not in _PRIORITIES:
        raise LocalError(f"nft: no rules for table {table!r}")
    return list(_PRIORITIES).index(table), HOOKS.index(hook) if hook in HOOKS else len(HOOKS)


def _chain(table: str, hook: str) -> str:
    return f"{table}_{hook.lower()}"


def _based(table: str, hook: str) -> Iterator[str]:
    """What ties a chain to its place in the kernel; a chain that is gone to has none."""
    if hook not in HOOKS:
        return
    kind = "filter"
    if table == "nat":
        kind = "nat"
    elif (table, hook) == ("mangle", "OUTPUT"):
        kind = "route"  # a mark that changes there changes the way
    place = f"hook {hook.lower()} priority {_PRIORITIES[table]}"
    yield f"\t\ttype {kind} {place}; policy accept;"


@dataclass(slots=True)
class _Reading:
    """A rule, read word by word."""

    rule: Rule
    cgroups: str
    conditions: list[str] = field(default_factory=list)
    module: str = ""
    target: str = ""
    options: dict[str, str] = field(default_factory=dict)
    """Of the target."""
    marks: dict[int, int] = field(default_factory=dict)
    """By mask: the mark of the packet that the rule asks for."""

    def read(self) -> None:
        """Raises `KeyError`, `IndexError` or `ValueError` for what is not known here."""
        words = list(self.rule.words)
        while words:
            no = words[0] == "!"
            word, words = words[no], words[no + 1 :]
            self._take(word, words, "!= " if no else "")

    def _take(self, word: str, rest: list[str], no: str) -> None:
        """Take `word` and as many of `rest` as belong to it."""
        if self.target:
            if word not in _OF_TARGETS[self.target]:
                raise KeyError(word)
            self.options[word] = "" if word == "--save-mark" else rest.pop(0)
        elif word in ("-j", "-g"):
            target = rest.pop(0)
            self.target = target if word == "-j" else "goto"
            if word == "-g":
                self.options["to"] = target.removeprefix(CHAIN_PREFIX)
        elif word == "-m":
            self.conditions += self._module(rest.pop(0), rest)
        elif word == "--nowildcard":
            # Any socket: this value is known of each, and of nothing else.
            self.conditions.append("socket transparent { 0, 1 }")
        elif word == "--transparent":
            self.conditions.append("socket transparent 1")
        elif word == "--restore-skmark":
            # Ends the rule for sockets that are but a request or waiting for their
            # end, which have no mark; iptables would compare that of the packet.
            self.conditions.append("meta mark set socket mark")
        elif word == "--u32":
            self.conditions.append(self._identifier(rest.pop(0)))
        elif word in ("--icmp-type", "--icmpv6-type"):
            # With a code, too: 3/4.
            numbers = zip(("type", "code"), map(int, rest.pop(0).split("/")), strict=False)
            self.conditions += [f"{word[2:-5]} {which} {no}{n}" for which, n in numbers]
        elif word == "--syn":
            self.conditions.append(f"tcp flags & {_SYN_OF} {no or '== '}syn")
        else:
            self.conditions.append(self._condition(word, rest, no))

    def _module(self, module: str, rest: list[str]) -> list[str]:
        if module not in _MODULES:
            raise KeyError(module)
        self.module = module
        # Alone: a socket that is bound to one address, as that of a connection is.
        alone = module == "socket" and not rest[0].startswith("--")
        return ["socket wildcard 0"] if alone else []

    def _condition(self, word: str, rest: list[str], no: str) -> str:
        value = rest.pop(0)
        match word:
            case "-p":
                return f"meta l4proto {no}{value}"
            case "-i" | "-o":
                return f'{word[1]}ifname {no}"{value}"'
            case "-s" | "-d":
                family = _FAMILY[6 if ":" in value else 4]
                return f"{family} {word[1]}addr {no}{value}"
            case "--sport" | "--dport":
                return f"tcp {word[2:]} {no}{value.replace(':', '-')}"
            case "--sports" | "--dports":
                return f"tcp {word[2:-1]} {no}{{ {_merged(value)} }}"
            case "--tcp-flags":
                return self._flags(value, rest.pop(0), no)
            case "--tcp-option":
                return f"tcp option {int(value)} {'missing' if no else 'exists'}"
            case "--ctstate":
                return f"ct state {no}{value.lower()}"
            case "--dst-type":
                return f"fib daddr type {no}{value.lower()}"
            case "--uid-owner":
                first, _, last = value.partition("-")
                return f"meta skuid {no}{first if last in ('', first) else value}"
            case "--path":
                return self._cgroup(value, no)
            case "--mark":
                return self._mark(value, no)
        raise KeyError(word)

    @staticmethod
    def _identifier(test: str) -> str:
        # `ruleset` looks for an option with an experiment identifier, at one place at
        # a time; nft finds it wherever it stands, if it is the first of its kind.
        head = int(test.strip('"').rpartition("=")[2], 16)
        return f"tcp option @{head >> 24},16,16 {head & 0xFFFF:#x}"

    @staticmethod
    def _flags(mask: str, set_: str, no: str) -> str:
        of = " | ".join(mask.lower().split(","))
        wanted = "0" if set_ == "NONE" else f"({' | '.join(set_.lower().split(','))})"
        return f"tcp flags & ({of}) {no or '== '}{wanted}"

    def _cgroup(self, path: str, no: str) -> str:
        # A level counts from the root that a process here sees; Linux before 6.11
        # counts from that of the machine.
        parts = [part for part in path.split("/") if part]
        place = os.path.relpath(posixpath.join(self.cgroups, *parts), CGROUP_ROOT)
        return f'socket cgroupv2 level {len(parts)} {no}"{place}"'

    def _mark(self, value: str, no: str) -> str:
        mark, mask = _masked(value)
        kind = {"mark": "meta", "connmark": "ct"}[self.module]
        if kind == "meta" and not no:
            self.marks[mask] = mark
        return f"{kind} mark & {mask:#010x} {no or '== '}{mark:#010x}"

    @property
    def by_family(self) -> bool:
        """Whether the same is said in other words for each IP version."""
        return self.target == "TPROXY" or (self.rule.table, self.target) == ("nat", "ACCEPT")

    def lines(self, family: int | None) -> Iterator[str]:
        """The rules for one IP version, or for both."""
        conditions = list(self.conditions)
        if family is not None:
            conditions.insert(0, f"meta nfproto ipv{family}")
        yield " ".join([*conditions, self._statement(family)])
        if self.target == "TPROXY":
            yield " ".join([*conditions, "drop"])

    def _statement(self, family: int | None) -> str:
        options = self.options
        if self.target in _VERDICTS:
            if self.by_family:
                ip = _FAMILY[family or 4]
                return f"dnat {ip} to {ip} daddr"
            return self.target.lower()
        match self.target:
            case "goto":
                return f"goto {_chain(self.rule.table, options['to'])}"
            case "MARK":
                return _set("meta mark", *_masked(options["--set-xmark"]))
            case "CONNMARK":
                return _set("ct mark", *self._saved(options))
            case "NFQUEUE":
                return f"queue num {int(options['--queue-num'])}"
            case "REJECT":
                return f"reject with {_REJECT[options['--reject-with']]}"
            case "TPROXY":
                ip, address = _FAMILY[family or 4], options.get("--on-ip", "")
                to = f"[{address}]" if ":" in address else address
                mark = _set("meta mark", *_masked(options["--tproxy-mark"]))
                return f"tproxy {ip} to {to}:{int(options['--on-port'])} {mark} accept"
        raise KeyError(self.target)

    def _saved(self, options: dict[str, str]) -> tuple[int, int]:
        if "--save-mark" not in options:
            return _masked(options["--set-xmark"])
        mask = int(options["--nfmask"], 16)
        if mask not in self.marks or options["--ctmask"] != options["--nfmask"]:
            raise KeyError("--save-mark")  # of a mark that is not known
        return self.marks[mask], mask


def _masked(text: str) -> tuple[int, int]:
    """`mark/mask`; the bits of the mark are among those of the mask."""
    mark, mask = (int(part, 16) for part in text.split("/"))
    if mark & ~mask:
        raise ValueError(text)
    return mark, mask


def _set(what: str, mark: int, mask: int) -> str:
    kept = f"{what} set {what} & {_ALL_BITS & ~mask:#010x}"
    return f"{kept} | {mark:#010x}" if mark else kept


def _merged(ports: str) -> str:
    """`80,8000:8099` as elements of a set, which may not overlap."""
    spans: list[list[int]] = []
    for first, last in sorted(_span(text) for text in ports.split(",")):
        if spans and first <= spans[-1][1] + 1:
            spans[-1][1] = max(spans[-1][1], last)
        else:
            spans.append([first, last])
    return ", ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in spans)


def _span(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    return int(first), int(last or first)
