"""`tcpcrypt confirm`: let a daemon stay that was started with `tcpcrypt up --confirm`."""

from __future__ import annotations

import argparse

from tcpcrypt.cli import query

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Confirm that the host can still be reached: a daemon that was started with `tcpcrypt up"
        " --confirm` stays.  Exit status: 0 if it waited for that, 1 if not."
    )
    query.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Confirm; returns the exit status."""
    with query.client(arguments) as daemon:
        daemon.confirm()
    if arguments.json:
        query.print_json({"confirmed": True})
    else:
        print("Confirmed: the daemon stays.")
    return 0
