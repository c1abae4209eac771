"""`tcpcrypt session-id`: the session ID of one connection, by descriptor or by addresses."""

from __future__ import annotations

import argparse
import ipaddress
import sys

from tcpcrypt.cli import query
from tcpcrypt.cli.sessions import describe
from tcpcrypt.daemon.client import SessionInfo, endpoints
from tcpcrypt.errors import LocalError

__all__ = ["configure", "run"]

Endpoint = tuple[str, int]


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.usage = (
        "tcpcrypt session-id [-h] (LOCAL REMOTE | --fd N) [--wait SECONDS] [--control PATH]"
        " [--json]"
    )
    parser.description = (
        "Print the session ID of a connection of this host, in hex.  Both ends have the same one"
        " exactly if nobody sits in the middle; compare them over a channel that you trust, or"
        " let programs authenticate with it (examples/authenticate.py).  Exit status: 0 if the"
        " connection is encrypted, 1 if it is not."
    )
    parser.add_argument(
        "endpoints",
        nargs="*",
        metavar="LOCAL REMOTE",
        type=_endpoint,
        help="addresses of the application's socket here, as ADDRESS:PORT or [ADDRESS]:PORT",
    )
    parser.add_argument(
        "--fd",
        type=_descriptor,
        metavar="N",
        help="descriptor of a connected socket that this command inherits, such as 0 under inetd",
    )
    parser.add_argument(
        "--wait",
        type=query.seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long the handshake may still take (default: %(default)g)",
    )
    query.add_arguments(parser)
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Print the session ID; returns the exit status."""
    given = arguments.endpoints
    if len(given) != (2 if arguments.fd is None else 0):
        arguments.usage_error("give LOCAL and REMOTE, or --fd N")
    try:
        local, remote = given if arguments.fd is None else endpoints(arguments.fd)
    except OSError as error:
        raise LocalError(f"descriptor {arguments.fd}: {error.strerror}") from error
    with query.client(arguments) as daemon:
        session = daemon.find(local, remote, arguments.wait)
    if arguments.json:
        query.print_json({"session": None if session is None else describe(session)})
    elif session is not None and session.session_id is not None:
        print(session.session_id.hex())
    else:
        print(f"tcpcrypt: {_why_not(session)}", file=sys.stderr)
    return 0 if session is not None and session.encrypted else 1


def _why_not(session: SessionInfo | None) -> str:
    if session is None:
        return "the daemon has no such connection: if there is one, it is plain TCP"
    if session.state == "plain":
        return "the connection is plain TCP"
    return f"the handshake is not over (state {session.state})"


def _descriptor(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a descriptor")
    return int(text)


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address((host[1:-1] if bracketed else host).partition("%")[0])
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT") from None
    if bracketed != (address.version == 6):
        raise argparse.ArgumentTypeError(f"{text!r}: write IPv6, and it alone, as [ADDRESS]:PORT")
    if not port.isascii() or not port.isdecimal() or not 1 <= int(port[:6]) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: {port!r} is no port")
    return str(address), int(port)
