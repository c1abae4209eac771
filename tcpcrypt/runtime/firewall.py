"""The seam by which rules get into the kernel, are looked after there, and get out again.

It has two fillings, tried in a constant order when rules are first installed:

1. *iptables*, where some variant of it takes the rules.  It comes first because
   kernels with netfilter queues come with its NFQUEUE target as a rule, and because
   it is what the daemon is tested with from end to end.
2. *nft*, where no iptables is installed or none takes the rules, and the kernel
   takes nft's `queue` statement, which is an option of its own (CONFIG_NFT_QUEUE)
   that many kernels lack.  That is tried out, and changes nothing.

What was chosen stays until `remove`.  Leftovers of the other, as of a daemon
that was killed before iptables came or went, are removed once the rules are in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Protocol

from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.iptables import Iptables
from tcpcrypt.runtime.nft import Nft
from tcpcrypt.runtime.rules import Rule

__all__ = ["Firewall", "Implementation"]


class Implementation(Protocol):
    """Rules in the kernel by one program.  All methods raise `LocalError`."""

    @property
    def name(self) -> str: ...

    def install(self, rules: Iterable[Rule]) -> None:
        """Put `rules` into the kernel, in place of those that are there.

        If that fails, those that were installed before are there as before.
        """

    def rehearse(self, rules: Iterable[Rule]) -> None:
        """See whether the kernel takes `rules`; nothing changes."""

    def missing(self) -> int:
        """How many of our rules are in the kernel no more, or more than they should."""

    def listed(self) -> list[str]:
        """Our rules as the kernel has them now, whoever installed them, in the program's words."""

    def remove(self, keep: Iterable[Rule] = ()) -> int:
        """Take out whatever is ours but for `keep`; what an earlier run left too.

        `keep` counts only if it was this object that installed.  Returns how
        many rules there were.  Idempotent.
        """


class Firewall:
    """The first implementation that takes the rules; itself an `Implementation`.

    Raises `LocalError` with the reasons of all where none does.
    """

    def __init__(
        self,
        families: Sequence[int] = (4, 6),
        implementations: Sequence[Implementation] | None = None,
    ) -> None:
        self._all = tuple(implementations or (Iptables(families), Nft(families)))
        self._chosen: Implementation | None = None

    @property
    def name(self) -> str:
        """Of the implementation that was chosen; empty before `install`."""
        return self._chosen.name if self._chosen is not None else ""

    def install(self, rules: Iterable[Rule]) -> None:
        """Put `rules` into the kernel, in place of those that are there."""
        wanted = tuple(rules)
        if self._chosen is not None:
            self._chosen.install(wanted)
            return
        self._chosen = self._first_that_takes(wanted)
        for other in self._all:
            if other is not self._chosen:
                other.remove()

    def _first_that_takes(self, rules: Sequence[Rule]) -> Implementation:
        problems = []
        for candidate in self._all:
            try:
                candidate.install(rules)
            except LocalError as error:
                problems.append(f"with {candidate.name}: {error}")
            else:
                return candidate
        raise LocalError(f"the rules cannot be installed {'; '.join(problems)}")

    def rehearse(self, rules: Iterable[Rule]) -> None:
        """See whether the kernel takes `rules`; to come after `install`."""
        if self._chosen is not None:
            self._chosen.rehearse(rules)

    def missing(self) -> int:
        """How many rules are not as they were installed."""
        return self._chosen.missing() if self._chosen is not None else 0

    def listed(self) -> list[str]:
        """The rules that are there, as each program that is installed tells them."""
        found = []
        for one in self._all:
            with contextlib.suppress(LocalError):
                found += one.listed()
        return found

    def remove(self, keep: Iterable[Rule] = ()) -> int:
        """Take out all rules but `keep`, whoever installed them; how many there were.

        `keep` counts only if it was this object that installed.  Idempotent.
        """
        chosen, self._chosen = self._chosen, None
        count, problems = 0, []
        for one in self._all:
            try:
                count += one.remove(keep if one is chosen else ())
            except LocalError as error:
                problems.append(str(error))
        if problems:
            self._chosen = chosen  # may be tried again
            raise LocalError("; ".join(problems))
        return count
