"""`tcpcrypt flush`: forget secrets for resumption, and what was learnt of paths."""

from __future__ import annotations

import argparse
import ipaddress

from tcpcrypt.cli import query
from tcpcrypt.cli.table import plural

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Let the daemon forget what it keeps of a peer, or of all: secrets for resumption (RFC"
        " 8548 section 3.5), so that the next connection makes a fresh key exchange, and paths"
        " that swallowed the TCP-ENO option.  Live connections go on.  For root and the daemon's"
        " own user."
    )
    parser.add_argument("peer", nargs="?", metavar="PEER", type=_address, help="an IP address")
    query.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Flush; returns the exit status."""
    with query.client(arguments) as daemon:
        forgotten = daemon.flush(arguments.peer)
    if arguments.json:
        query.print_json({"forgotten": forgotten})
    elif arguments.peer and not forgotten:
        print(f"nothing was kept of {arguments.peer}")
    else:
        print(f"forgot {plural(forgotten, 'secret or path', 'secrets and paths')}")
    return 0


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address") from None
