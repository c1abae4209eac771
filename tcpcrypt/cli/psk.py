"""`tcpcrypt psk`: pre-shared keys of this host."""

from __future__ import annotations

import argparse
from pathlib import Path

from tcpcrypt.auth.psk import check_name, create_psk, load_psks
from tcpcrypt.cli import keys, query
from tcpcrypt.cli.table import print_table
from tcpcrypt.errors import LocalError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="make a pre-shared key",
        description='Make a pre-shared key, 32 random bytes, for policies with `auth` = "psk".'
        "  The file has to be brought to the other host as it is, mode 0600, over a channel that"
        " nobody else can read.  A key that exists stays, and the exit status is 1.",
        epilog="example: tcpcrypt psk new site-a",
    )
    new.add_argument("name", metavar="NAME", type=_name, help="how policies name it")
    show = actions.add_parser(
        "list",
        help="list the pre-shared keys",
        description="List the pre-shared keys, by name and by the hint that goes over the wire."
        "  The keys themselves are not shown.",
        epilog="example: tcpcrypt psk list --json",
    )
    for action in (new, show):
        keys.add_arguments(action)
        action.add_argument(
            "--directory",
            metavar="DIR",
            type=Path,
            help="directory of the keys, instead of `psk` in that of --state",
        )


def run(arguments: argparse.Namespace) -> int:
    """Run `new` or `list`; returns the exit status."""
    directory = arguments.directory or keys.state(arguments) / "psk"
    if arguments.action == "new":
        return _new(arguments, directory)
    found = [{"name": psk.name, "hint": psk.hint.hex()} for psk in load_psks(directory)]
    if arguments.json:
        query.print_json({"psks": found})
    else:
        print_table(("NAME", "HINT"), [tuple(psk.values()) for psk in found])
    return 0


def _new(arguments: argparse.Namespace, directory: Path) -> int:
    psk, path = create_psk(directory, arguments.name)
    keys.tell(arguments)
    if arguments.json:
        query.print_json({"name": psk.name, "hint": psk.hint.hex(), "file": str(path)})
    else:
        print(f"{path}: written; bring it to the other host as it is, unseen by others")
    return 0


def _name(text: str) -> str:
    try:
        check_name(text)
    except LocalError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
