"""`tcpcrypt id`: who this host is to others."""

from __future__ import annotations

import argparse
import os
import textwrap
from typing import Final

from tcpcrypt.auth.fingerprint import randomart, short_form
from tcpcrypt.auth.identity import Identity, create_identity, load_identity, rotate_identity
from tcpcrypt.auth.introductions import Introduction, written_text
from tcpcrypt.auth.known_peers import TrustLevel
from tcpcrypt.auth.scope import read_scope
from tcpcrypt.cli import keys, query
from tcpcrypt.errors import LocalError

__all__ = ["configure", "run"]

_FILE: Final = "identity"
_ROTATED: Final = """\
This host now shows another key.  Hosts that remember the old one refuse it until
their administrators say otherwise.  Send them the new fingerprint over a channel
that they trust; for each of this host's services SERVICE that they use:

    tcpcrypt peers trust SERVICE {new}

and where this host is let in by its key (`pinned`), there:

    tcpcrypt peers pin '*' {new}

If the old key may have been stolen, they should also refuse it everywhere:

    tcpcrypt peers revoke {old}

The old key lies in {kept}; delete it once nothing is to
go back to it."""


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="show the fingerprint of this host's key",
        description="Show the fingerprint by which other hosts know this one, its short form (for"
        " the eye, not to be compared alone) and its picture as ssh draws them.  Reads the file,"
        " which root alone may, or asks the daemon.",
        epilog="example: tcpcrypt id show",
    )
    show.add_argument(
        "--as",
        metavar="SCOPE",
        dest="scope",
        type=_scope,
        help="print instead what others can give to `tcpcrypt peers import`: this host's key for"
        " its service at ADDRESS:PORT, or for letting it in ('*')",
    )
    new = actions.add_parser(
        "new",
        help="make this host's key, if it has none",
        description="Make the key of this host.  The daemon does so by itself when a policy first"
        " asks for authentication.  A key that exists stays, and the exit status is 1.",
        epilog="example: tcpcrypt id new",
    )
    rotate = actions.add_parser(
        "rotate",
        help="replace this host's key by a new one",
        description="Replace the key of this host by a new one, keep the old one beside it with"
        " the date in its name, and say what the administrators of other hosts have to do:"
        " until they have, they refuse this host.",
        epilog="example: tcpcrypt id rotate",
    )
    for action in (show, new, rotate):
        keys.add_arguments(action)


def run(arguments: argparse.Namespace) -> int:
    """Run `show`, `new` or `rotate`; returns the exit status."""
    return {"show": _show, "new": _new, "rotate": _rotate}[arguments.action](arguments)


def _show(arguments: argparse.Namespace) -> int:
    fingerprint = _fingerprint(arguments)
    if arguments.scope is not None:
        introduction = Introduction(arguments.scope, TrustLevel.PINNED, fingerprint)
        text = written_text([introduction])
        if arguments.json:
            query.print_json({"fingerprint": fingerprint, "text": text})
        else:
            print(text, end="")
    else:
        _print(fingerprint, arguments)
    return 0


def _new(arguments: argparse.Namespace) -> int:
    path = keys.state(arguments) / _FILE
    try:
        identity = create_identity(path)
    except LocalError:
        if not os.path.lexists(path):
            raise
        message = f"{path}: this host has a key already; `tcpcrypt id rotate` replaces it"
        raise LocalError(message) from None
    keys.tell(arguments)
    _print(identity.fingerprint, arguments, made=str(path))
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    path = keys.state(arguments) / _FILE
    old, new, kept = rotate_identity(path)
    told = keys.tell(arguments)
    if arguments.json:
        query.print_json(
            {
                **_described(new.fingerprint),
                "old": old.fingerprint,
                "kept": str(kept),
                "daemon": told,
            }
        )
        return 0
    _print(new.fingerprint, arguments)
    print()
    print(_ROTATED.format(new=new.fingerprint, old=old.fingerprint, kept=kept))
    return 0


def _fingerprint(arguments: argparse.Namespace) -> str:
    path = keys.state(arguments) / _FILE
    try:
        identity: Identity = load_identity(path)
    except LocalError as error:
        if isinstance(error.__cause__, PermissionError):
            with query.client(arguments) as daemon:
                asked = daemon.status().get("identity")
            if isinstance(asked, str):
                return asked
        elif isinstance(error.__cause__, FileNotFoundError):
            raise LocalError(f"{error}; `tcpcrypt id new` makes a key") from error
        raise
    return identity.fingerprint


def _print(fingerprint: str, arguments: argparse.Namespace, **more: str) -> None:
    if arguments.json:
        query.print_json(_described(fingerprint) | more)
        return
    for name, path in more.items():
        print(f"{name:<12} {path}")
    print(f"fingerprint  {fingerprint}")
    print(f"short        {short_form(fingerprint)}")
    print(textwrap.indent(randomart(fingerprint), " " * 13))


def _described(fingerprint: str) -> dict[str, object]:
    return {
        "fingerprint": fingerprint,
        "short": short_form(fingerprint),
        "randomart": randomart(fingerprint).splitlines(),
    }


def _scope(text: str) -> str:
    try:
        return read_scope(text)
    except LocalError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
