"""`tcpcrypt rules`: the rules that a configuration asks for, or those in the kernel."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from tcpcrypt.cli.query import print_json
from tcpcrypt.daemon.app import settings_of
from tcpcrypt.daemon.configuration import DEFAULT_PATH, load
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.rules import QUEUE_NUMBER
from tcpcrypt.tools.rulebook import Comparison, Plan, compare, plan

__all__ = ["configure", "run"]

_STATES: Final = {
    "serving": "The daemon serves, process {pid}; its rules are as they should be.",
    "changed": "The daemon serves, process {pid}; its rules are not what this configuration asks"
    " for: somebody changed them, or the file has changed since it was read.",
    "none": "No daemon runs, and no rules are left.",
    "guard": "No daemon runs; what `require` names is refused.  `tcpcrypt down` ends that.",
    "left over": "No daemon runs; rules of one that is gone are left.  `tcpcrypt down` removes"
    " them.",
}


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Show the firewall rules, policy routes and sysctls that a configuration asks for, without"
        " touching anything, or compare them with what the kernel has.  The ports of the daemon's"
        " listeners are chosen when it starts.  Exit status: 0, and with --installed 1 if the"
        " kernel has something else than it should."
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--print",
        dest="installed",
        action="store_false",
        help="print what would be installed (default)",
    )
    what.add_argument(
        "--installed",
        action="store_true",
        help="print what is installed, and what of it should not be there or is missing",
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, default=DEFAULT_PATH, help="default: %(default)s"
    )
    parser.add_argument(
        "--firewall",
        choices=("iptables", "nft"),
        default="",
        help="in whose words to print rules (default: nft where iptables is not installed)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(installed=False)


def run(arguments: argparse.Namespace) -> int:
    """Print rules; returns the exit status."""
    found = load(arguments.config)
    settings = settings_of(found)
    try:
        if arguments.installed:
            if os.geteuid() != 0:
                raise LocalError("reading the kernel's rules takes root")
            comparison = compare(
                settings.policies, settings.families, keep_guard=found.daemon.guard == "keep"
            )
            return _compared(comparison, as_json=arguments.json)
        queue = None if settings.backend == "sockops" else QUEUE_NUMBER
        planned = plan(settings.policies, settings.families, arguments.firewall, queue)
        _planned(planned, as_json=arguments.json)
    except OSError as error:
        raise LocalError(f"{error.strerror}; try it as root") from error
    return 0


def _planned(planned: Plan, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "firewall": planned.firewall,
                "rules": planned.tables,
                "commands": list(planned.commands),
                "older_connections": planned.older,
            }
        )
        return
    for command, text in planned.tables.items():
        print(f"# {command}")
        print(text)
    print("# Routes, and sysctls that are set back at the end")
    print("\n".join(planned.commands))
    if planned.older:
        print(f"# {planned.older} connections exist already and are left alone.")


def _compared(comparison: Comparison, *, as_json: bool) -> int:
    if as_json:
        print_json(comparison.as_json())
    else:
        for command, lines in comparison.found.items():
            print(f"# {command}")
            print("\n".join(lines) + "\n")
        print(_STATES[comparison.state].format(pid=comparison.daemon))
        if comparison.older:
            print(f"{comparison.older} rules are for connections that are older than the daemon.")
        for name, lines in (
            ("missing", comparison.missing),
            ("not expected", comparison.unexpected),
        ):
            for line in lines:
                print(f"  {name:<13} {line}")
    return 0 if comparison.ok else 1
