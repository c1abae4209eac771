"""What the commands that ask a running daemon have in common."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tcpcrypt.daemon.client import Client
from tcpcrypt.daemon.control import DEFAULT_PATH
from tcpcrypt.daemon.requests import WAIT_MAX

__all__ = ["add_arguments", "client", "print_json", "seconds"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--control` and `--json`."""
    parser.add_argument(
        "--control",
        metavar="PATH",
        type=Path,
        default=DEFAULT_PATH,
        help="socket of the daemon to ask (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def client(arguments: argparse.Namespace) -> Client:
    """The daemon that the arguments name."""
    return Client(arguments.control)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def seconds(text: str) -> float:
    """For `type=` of an argument: how long a daemon is to wait for a handshake."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= WAIT_MAX:
        message = f"{text!r} is not a number of seconds from 0 to {WAIT_MAX:g}"
        raise argparse.ArgumentTypeError(message)
    return value
