"""`tcpcrypt completion`: print the script by which a shell completes the command lines."""

from __future__ import annotations

import argparse

from tcpcrypt.cli.query import print_json
from tcpcrypt.tools.completions import SHELLS, script

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Print the script by which a shell completes the command lines of tcpcrypt, tcpcryptd,"
        ' stx-send, stx-recv and stx-keygen.  In bash: eval "$(tcpcrypt completion bash)";'
        " in fish: tcpcrypt completion fish | source; in zsh, into a file `_tcpcrypt` in a"
        " directory of $fpath.  The Debian package has them in their places."
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Print the script; returns the exit status."""
    text = script(arguments.shell)
    if arguments.json:
        print_json({"shell": arguments.shell, "text": text})
    else:
        print(text, end="")
    return 0
