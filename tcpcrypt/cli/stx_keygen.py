"""`stx-keygen`: a key for a client, in the receiver's folder of keys."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tcpcrypt.cli import stx
from tcpcrypt.errors import LocalError
from tcpcrypt.transfer.keys import DEFAULT_ID, create_key
from tcpcrypt.transfer.status import Status

__all__ = ["EXIT_STATUSES", "MANUAL", "main", "parser"]

EXIT_STATUSES: Final = {
    0: "Every key was made.",
    1: "The command line is wrong.",
    3: "A key exists already, or cannot be written.",
}
MANUAL: Final = {
    "Keys": """\
A key is 32 random bytes, written as 64 hexadecimal digits in a file of mode 0600 whose name is
the client id.  stx-recv finds its clients in such a folder, and sees keys come and go while it
runs.  The client gets a copy of its file, over a channel that nobody else can read, and tells
stx-send by STX_KEY_FILE where it is.  Whoever has the file can send as that client, and can be
taken for the receiver by that client, and by no other.
"""
}


def main(argv: Sequence[str] | None = None) -> int:
    """Make the keys; returns the exit status."""
    arguments = parser().parse_args(argv)
    for client in arguments.client or [DEFAULT_ID]:
        path = arguments.keys / client
        try:
            create_key(path, replace=arguments.replace)
        except LocalError as error:
            print(f"stx-keygen: {error}", file=sys.stderr)
            return Status.FILE
        if arguments.json:
            print(json.dumps({"client": client, "file": str(path)}))
        else:
            print(f"{path}: written; bring it to the client {client!r} unseen by others, there:")
            option = "" if client == DEFAULT_ID else f" --id {client}"
            print(f"  STX_KEY_FILE=FILE stx-send{option} HOST PORT FILE...")
    return Status.OK


def parser() -> argparse.ArgumentParser:
    """The options of stx-keygen(1)."""
    options = stx.Parser(
        "stx-keygen",
        "Make keys for clients of stx-recv.  A key that exists stays, and the exit status is 3.",
        "stx-keygen --keys client_keys laptop",
    )
    options.add_argument(
        "client",
        nargs="*",
        type=stx.client_id,
        metavar="CLIENT_ID",
        help=f"letters, digits, '.', '_' and '-', 64 at most (default: {DEFAULT_ID})",
    )
    options.add_argument(
        "--keys",
        type=Path,
        default=Path("client_keys"),
        metavar="DIR",
        help="the receiver's folder of keys, made with mode 0700 (default: %(default)s)",
    )
    options.add_argument(
        "--replace", action="store_true", help="replace keys that exist: the old ones are lost"
    )
    options.add_argument("--json", action="store_true", help="print JSON instead of text")
    return options


if __name__ == "__main__":
    sys.exit(main())
