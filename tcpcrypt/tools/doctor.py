"""`tcpcrypt doctor`: can a daemon run here, and if not, what is to be done about it?

First the host is looked at as it is, then what would change it is tried in a
private namespace, and at last two daemons talk to each other in two of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tcpcrypt.errors import LocalError
from tcpcrypt.tools.checks import HOST_CHECKS
from tcpcrypt.tools.findings import Facts, Need, Report, examine
from tcpcrypt.tools.netns import become_root
from tcpcrypt.tools.selftest import SelfTest, self_test
from tcpcrypt.tools.trials import TRIALS, Bench

__all__ = ["Diagnosis", "diagnose"]

_COPIED: Final = ("net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter")
"""Settings of this host under which the self-test is to work too."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found."""

    reports: tuple[Report, ...]
    self_test: SelfTest | None = None
    """None if it was not wanted."""

    @property
    def ok(self) -> bool:
        """A daemon can run here."""
        return not any(report.fatal for report in self.reports) and (
            self.self_test is None or self.self_test.ok
        )

    def as_json(self) -> dict[str, Any]:
        """The form of `--json`."""
        return {
            "ok": self.ok,
            "checks": [report.as_json() for report in self.reports],
            "self_test": self.self_test.as_json() if self.self_test is not None else None,
        }


def diagnose(
    *, with_self_test: bool = True, told: Callable[[Report], None] = lambda _report: None
) -> Diagnosis:
    """Look at everything; `told` is called with each report as it comes.

    Without root the process ends up in a namespace of its own, so that
    nothing but an answer should follow.
    """
    facts = Facts()
    families = (4, 6) if facts.read("proc/net/if_inet6") is not None else (4,)
    settings = [(name, facts.read("proc/sys/" + name.replace(".", "/"))) for name in _COPIED]
    copied = [(name, value) for name, value in settings if value is not None]
    reports = []

    def tell(report: Report) -> None:
        reports.append(report)
        told(report)

    for report in examine(HOST_CHECKS, facts):
        tell(report)
    try:
        become_root()
        with Bench(families) as bench:
            for report in examine(TRIALS, bench):
                tell(report)
    except (OSError, LocalError) as error:
        tell(
            Report(
                *("netfilter", "private namespace", Need.REQUIRED, False, str(error)),
                "nothing could be tried out: it is unknown whether the rules work here",
                "run this as root of the machine",
            )
        )
        return Diagnosis(tuple(reports), SelfTest(error=str(error)) if with_self_test else None)
    return Diagnosis(tuple(reports), self_test(copied) if with_self_test else None)
