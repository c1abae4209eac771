"""`tcpcrypt down`: end the daemon and remove every rule, those of `require` too."""

from __future__ import annotations

import argparse
import os

from tcpcrypt.cli.query import print_json
from tcpcrypt.daemon import launcher
from tcpcrypt.errors import LocalError

__all__ = ["configure", "run"]

_TIMEOUT = 120.0
_TIMEOUT_MAX = 86400.0


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "End tcpcryptd, and remove what is left: rules, policy routes, and the guard that refuses"
        " what `require` names while no daemon runs.  From then on connections go in plain TCP"
        " again.  Works as well when no daemon runs, and twice.  Connections that are encrypted"
        " end, after the time for draining that the configuration gives them.  Exit status: 0 if"
        " nothing is left, 1 if not."
    )
    parser.add_argument("--now", action="store_true", help="do not wait for connections to drain")
    parser.add_argument(
        "--keep-guard",
        action="store_true",
        help="leave the guard, as a daemon that ends does: for one that is started again at once",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=_TIMEOUT,
        metavar="SECONDS",
        help="how long to wait for that, before it is cut short (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """End it; returns the exit status."""
    if os.geteuid() != 0:
        raise LocalError("ending the daemon and removing its rules takes root")

    def tell(text: str) -> None:
        if not arguments.json:
            print(text, flush=True)

    pid = launcher.find_daemon()
    by = None
    if launcher.unit_is_there():
        launcher.systemctl("stop")
        by = "systemd" if pid is not None and launcher.find_daemon() != pid else None
    if launcher.find_daemon() is not None:
        pid = launcher.stop(tell, timeout=arguments.timeout, now=arguments.now)
        by = "signal"
    if pid is not None:
        tell(f"tcpcryptd has ended, process {pid}")
    else:
        tell("no tcpcryptd was running")
    removed = 0 if arguments.keep_guard else launcher.remove_left_over()
    if arguments.json:
        print_json({"stopped": pid, "by": by, "removed": removed})
    elif removed:
        print(f"{removed} rules and routes that were left are removed; nothing is refused any more")
    elif arguments.keep_guard:
        print("what `require` names is refused until a daemon serves, or `tcpcrypt down` is said")
    else:
        print("no rules were left")
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to a day")
    return seconds
