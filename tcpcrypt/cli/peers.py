"""`tcpcrypt peers`: the hosts talked to lately, and how it went."""

from __future__ import annotations

import argparse
import time
from typing import Any

from tcpcrypt.cli import query
from tcpcrypt.cli.table import duration, print_table

__all__ = ["configure", "run"]

_HEADER = ("PEER", "PORT", "LAST", "CONNECTIONS", "PLAIN FOR", "REASON")


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "List remote hosts seen lately.  PLAIN FOR says how long a host whose path swallows the"
        " TCP-ENO option is left in plain TCP without another try, where policy allows;"
        " `tcpcrypt flush` ends that at once."
    )
    parser.add_argument(
        "--last",
        choices=("encrypted", "plain", "refused"),
        help="list only peers whose last connection ended up so",
    )
    query.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the list; returns the exit status."""
    with query.client(arguments) as daemon:
        peers = [peer for peer in daemon.peers() if arguments.last in (None, peer.get("last"))]
    if arguments.json:
        query.print_json({"peers": peers})
    else:
        now = time.time()
        print_table(_HEADER, [_row(peer, now) for peer in peers])
    return 0


def _row(peer: dict[str, Any], now: float) -> tuple[object, ...]:
    until = peer.get("until")
    return (
        peer.get("peer"),
        peer.get("port"),
        peer.get("last"),
        peer.get("connections"),
        duration(until - now) if until is not None and until > now else None,
        peer.get("reason"),
    )
