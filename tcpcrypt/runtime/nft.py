"""The firewall by nft: one table of our own, replaced as a whole in one transaction."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.nft_words import CGROUP_ROOT, TABLE, script
from tcpcrypt.runtime.rules import Rule

__all__ = ["COMMAND", "Nft", "queue_refusal", "rendered", "rules_in"]

COMMAND: Final = "nft"
_NOTHING: Final = script(())
_LISTING: Final = ("--handle", "--numeric", "--stateless")
_MOUNTS: Final = Path("/proc/mounts")
_CHAIN: Final = re.compile(r"\tchain (\S+) \{")
_RULE_END: Final = re.compile(r" # handle \d+$")
_GROUP: Final = re.compile(r'(socket cgroupv2 level \d+ (?:!= )?)("[^"]*"|\d+)')
_ERROR: Final = re.compile(r"/dev/stdin:(\d+):\d+-\d+: Error: (.*)")
_QUEUE_TRIAL: Final = (
    "add table inet tcpcrypt_trial\n"
    "add chain inet tcpcrypt_trial c { type filter hook output priority 0; }\n"
    "add rule inet tcpcrypt_trial c queue num 1\n"
)


class Nft:
    """nft for both families; see `tcpcrypt.runtime.firewall.Implementation`.

    Raises `LocalError` where there is no nft, or a kernel that does not take
    the rules.
    """

    name: Final = "nft"

    def __init__(self, families: Sequence[int] = (4, 6)) -> None:
        self._families = tuple(families)
        self._shape: Counter[str] | None = None
        """The rules as the kernel told them once they were installed; None: they are not."""
        self._text = _NOTHING
        """What was loaded last, and found in the kernel afterwards."""

    def install(self, rules: Iterable[Rule]) -> None:
        """Put `rules` into the kernel, in place of those that are there.

        One transaction: if it fails, nothing has changed.  If the kernel has
        something else afterwards, those that were installed before are put back.
        """
        text = self._script(rules)
        if self._shape is None and "queue num" in text and (why := queue_refusal()):
            raise LocalError(why)
        self._load(text)
        try:
            self._shape = self._verified(text)
        except BaseException:
            with contextlib.suppress(LocalError):
                self._load(self._text)
            raise
        self._text = text

    def _verified(self, text: str) -> Counter[str]:
        """Our rules as the kernel tells them, once their number is right."""
        found = Counter(self.listed())
        if found.total() != _count(text):
            raise LocalError(f"{COMMAND}: the kernel has other rules than were installed")
        return found

    def rehearse(self, rules: Iterable[Rule]) -> None:
        """See whether the kernel takes `rules`, in a transaction that is not ended.

        Raises `LocalError` if it does not, as for a control group that does not exist.
        """
        self._load(self._script(rules), "--check")

    def missing(self) -> int:
        """How many of our rules are in the kernel no more, or more than they should."""
        if self._shape is None:
            return 0
        now = Counter(self.listed())
        return (self._shape - now).total() + (now - self._shape).total()

    def remove(self, keep: Iterable[Rule] = ()) -> int:
        """Take out our table, or leave `keep` alone in it; what an earlier run left too.

        `keep` counts only if it was this object that installed.  Returns how
        many rules there were.  Idempotent.
        """
        known = self._shape is not None
        if shutil.which(COMMAND) is None and not known:
            return 0
        try:
            there, found = self._is_there(), self.listed()
        except LocalError:
            if known:
                raise
            return 0  # a kernel without nf_tables
        kept = self._script(keep) if known else _NOTHING
        if there or _count(kept):
            self._load(kept)
        self._shape, self._text = None, _NOTHING
        return len(found)

    def listed(self) -> list[str]:
        """Our rules as the kernel has them now."""
        if not self._is_there():
            return []
        return rules_in(_run(*_LISTING, "list", "table", "inet", TABLE))

    @staticmethod
    def _is_there() -> bool:
        return f"table inet {TABLE}" in _run("list", "tables", "inet").splitlines()

    def _script(self, rules: Iterable[Rule]) -> str:
        return rendered(rules, self._families)

    def _load(self, text: str, *options: str) -> None:
        _run(*options, "-f", "-", text=text)


def rendered(rules: Iterable[Rule], families: Sequence[int] = (4, 6)) -> str:
    """The rules of these IP versions in the form that `nft -f` reads."""
    ours = []
    for rule in rules:
        kept = tuple(family for family in rule.families if family in families)
        if kept:
            ours.append(replace(rule, families=kept))
    return script(ours, cgroups=_cgroups())


def queue_refusal() -> str:
    """Why the kernel does not take nft's queue statement; empty if it does.

    It is asked, in a transaction that is not ended.
    """
    try:
        _run("--check", "-f", "-", text=_QUEUE_TRIAL)
    except LocalError as error:
        if shutil.which(COMMAND) is None:
            return str(error)
        return f"this kernel does not take nft's queue statement (CONFIG_NFT_QUEUE): {error}"
    return ""


def rules_in(text: str) -> list[str]:
    """The rules of a table as `nft --handle list table` tells them: each after its chain.

    Without handles, and without the names of control groups: one that does not
    exist any more is told by its number.
    """
    found: list[str] = []
    chain = ""
    rule: list[str] = []
    for line in text.splitlines():
        if known := _CHAIN.match(line):
            chain = known[1]
        elif line.startswith("\t\t") and not line.startswith("\t\ttype "):
            # Long sets may take several lines.
            rule.append(_RULE_END.sub("", line).strip())
            if _RULE_END.search(line):
                found.append(_GROUP.sub(r"\1*", f"{chain} {' '.join(rule)}"))
                rule.clear()
    return found


def _count(text: str) -> int:
    """How many rules a text of `script` has."""
    lines = [line for line in text.splitlines() if line.startswith("\t\t")]
    return sum(not line.startswith("\t\ttype ") for line in lines)


def _cgroups() -> str:
    """Where control groups of version 2 are mounted."""
    # Bytes: users name what they mount as they like, and four characters alone are escaped.
    for line in _MOUNTS.read_bytes().split(b"\n"):
        _device, place, kind, *_ = *line.split(b" "), b"", b""
        if kind == b"cgroup2":
            return os.fsdecode(place)
    return CGROUP_ROOT


def _run(*options: str, text: str = "") -> str:
    argv = (COMMAND, *options)
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LocalError(f"{COMMAND} is not installed") from None
    except OSError as error:
        raise LocalError(f"{COMMAND}: {error.strerror}") from error
    if done.returncode:
        raise LocalError(f"{COMMAND}: {_reason(done.stderr, text) or f'exit {done.returncode}'}")
    return done.stdout


def _reason(stderr: str, text: str) -> str:
    """The first error, with the line that it is about in place of its number."""
    if not (found := _ERROR.search(stderr)):
        return stderr.strip()
    lines = text.splitlines()
    at = int(found[1]) - 1
    return f"{found[2]} ({lines[at].strip()})" if at < len(lines) else found[2]
