"""`tcpcrypt doctor`: what a daemon needs of this host, found or not, and what to do."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Final

from tcpcrypt.tools.doctor import Diagnosis, diagnose
from tcpcrypt.tools.findings import Need, Report
from tcpcrypt.tools.selftest import SelfTest

__all__ = ["configure", "run"]

_BOLD, _GREEN, _RED, _YELLOW, _END = "\033[1m", "\033[32m", "\033[31m", "\033[33m", "\033[0m"
_NAME_WIDTH: Final = 24
_INDENT: Final = 9


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Check what a daemon needs of this host: what was found, what it means where it was not,"
        " and what to do.  Nothing is changed: rules are tried in a private network namespace."
        "  Then two daemons in two such namespaces encrypt a connection.  Exit status: 0 if a"
        " daemon can run here and the self-test passed, 1 if not."
    )
    parser.add_argument("--no-self-test", action="store_true", help="leave out the self-test")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Examine the host; returns the exit status."""
    printer = _Printer()
    diagnosis = diagnose(
        with_self_test=not arguments.no_self_test,
        told=(lambda _report: None) if arguments.json else printer.report,
    )
    if arguments.json:
        print(json.dumps(diagnosis.as_json(), indent=2))
    else:
        printer.end(diagnosis)
    return 0 if diagnosis.ok else 1


class _Printer:
    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._group = ""

    def report(self, report: Report) -> None:
        self._heading(report.group)
        if report.ok:
            mark = self._in(_GREEN, "ok  ")
        elif report.need is Need.REQUIRED:
            mark = self._in(_RED, "FAIL")
        else:
            mark = self._in(_YELLOW, "lack" if report.need is Need.OPTIONAL else "note")
        print(f"  {mark}   {report.name:<{_NAME_WIDTH}} {report.what}", flush=True)
        if not report.ok:
            print(f"{'':{_INDENT}}{report.meaning}")
            if report.remedy != "nothing":
                print(f"{'':{_INDENT}}to do: {report.remedy}", flush=True)

    def end(self, diagnosis: Diagnosis) -> None:
        if diagnosis.self_test is not None:
            self._self_test(diagnosis.self_test)
        failed = sum(report.fatal for report in diagnosis.reports)
        if failed:
            verdict = f"A daemon cannot run here: {failed} of what it needs is missing."
        elif diagnosis.ok:
            verdict = "A daemon can run here."
        else:
            verdict = "Everything needed is there, and yet the self-test failed."
        print("\n" + self._in(_GREEN if diagnosis.ok else _RED, verdict))

    def _self_test(self, test: SelfTest) -> None:
        self._heading("self-test")
        for step, passed in test.steps.items():
            print(f"  {self._in(_GREEN, 'ok  ') if passed else self._in(_RED, 'FAIL')}   {step}")
        if test.error:
            print(f"  {self._in(_RED, 'FAIL')}   {test.error}")
        if test.connection_ms is not None:
            print(
                f"{'':{_INDENT}}connection {test.connection_ms:.1f} ms, all of it"
                f" {test.total_ms:.0f} ms"
            )

    def _heading(self, group: str) -> None:
        if group != self._group:
            print(("\n" if self._group else "") + self._in(_BOLD, group))
            self._group = group

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_END}" if self._colour else text
