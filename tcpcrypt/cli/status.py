"""`tcpcrypt status`: is a daemon running, and what has become of its connections?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any, Final

from tcpcrypt.cli import query
from tcpcrypt.cli.table import duration
from tcpcrypt.daemon.client import DaemonNotRunningError

__all__ = ["configure", "run"]

_KEYLOG: Final = {
    False: "off",
    True: "ON: whoever has the file can decrypt every connection",
}


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Show the daemon's process, its data plane and its counters.  Exit status: 0 if a daemon"
        " answers, 1 if none does."
    )
    query.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the status; returns the exit status."""
    with query.client(arguments) as daemon:
        try:
            status = daemon.status()
        except DaemonNotRunningError as error:
            if not arguments.json:
                raise
            query.print_json({"running": False, "reason": str(error)})
            return 1
    if arguments.json:
        query.print_json({"running": True, **status})
        return 0
    width = max(map(len, status))
    for name, value in status.items():
        print(f"{name.replace('_', ' '):<{width}}  {_text(name, value)}")
    return 0


def _text(name: str, value: Any) -> str:
    if name == "started":
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
        return f"{stamp}, {duration(time.time() - value)} ago"
    if name == "keylog":
        return _KEYLOG[bool(value)]
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
