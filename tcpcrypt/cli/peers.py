"""`tcpcrypt peers`: the hosts that this one knows, by their keys and by how it went lately."""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

from tcpcrypt.auth.fingerprint import is_fingerprint, randomart, short_form
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.auth.scope import INCOMING, read_scope
from tcpcrypt.cli import keys, peers_change, peers_mail, query
from tcpcrypt.cli.table import duration, print_table
from tcpcrypt.daemon.client import DaemonNotRunningError
from tcpcrypt.errors import LocalError

__all__ = ["configure", "run"]

_HEADER: Final = (
    *("PEER", "PORT", "TRUST", "KEY", "SEEN"),
    *("LAST", "CONNECTIONS", "PLAIN FOR", "REASON"),
)
_SCOPE_HELP: Final = "ADDRESS:PORT, [ADDRESS]:PORT or NAME:PORT; '*' for hosts that connect to here"


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "List and change what this host knows of others: the keys that they have to prove, and how"
        " connections to them went lately.  Without an action: `list`."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    list_ = actions.add_parser(
        "list",
        help="list known keys and hosts seen lately",
        description="List the keys that this host knows, and hosts that it talked to lately.  KEY"
        " is a short form for the eye; `show` prints all of it.  PEER * are hosts that connect to"
        " this one.  PLAIN FOR says how long a host whose path swallows the TCP-ENO option is left"
        " in plain TCP without another try, where policy allows; `tcpcrypt flush` ends that at"
        " once.",
        epilog="example: tcpcrypt peers list --trust pinned",
    )
    list_.add_argument(
        "--last",
        choices=("encrypted", "plain", "refused"),
        help="list only hosts whose last connection ended up so",
    )
    list_.add_argument(
        "--trust", choices=[str(level) for level in TrustLevel], help="list only keys of this kind"
    )
    show = actions.add_parser(
        "show",
        help="show all that is known of a host or a key",
        description="Show all that is known of a service, or of a key: whole fingerprints, their"
        " pictures, when they were seen.  Exit status: 1 if nothing is known.",
        epilog="example: tcpcrypt peers show 192.0.2.7:5432",
    )
    show.add_argument("what", metavar="SCOPE|KEY", type=scope_or_key, help=_SCOPE_HELP)
    for action in (list_, show):
        keys.add_arguments(action)
    peers_change.configure(actions, scope, scope_or_key, key)
    peers_mail.configure(actions, scope_or_key)


def run(arguments: argparse.Namespace) -> int:
    """Run the action; returns the exit status."""
    own = {"list": _list, "show": _show}
    if arguments.action in own:
        return own[arguments.action](arguments)
    if arguments.action in peers_mail.ACTIONS:
        return peers_mail.run(arguments)
    return peers_change.run(arguments)


# --- list --------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    known = _known(arguments)
    lately: list[dict[str, Any]] = []
    try:
        with query.client(arguments) as daemon:
            lately = [peer for peer in daemon.peers() if arguments.last in (None, peer.get("last"))]
    except DaemonNotRunningError as error:
        # The keys are there without it; what was asked for with --last is not.
        if arguments.last is not None or known is None:
            raise
        keys.warn(f"{error}; listed are known keys alone")
    lines = [
        peer
        for peer in known or ()
        if arguments.trust in (None, peer.trust) and arguments.last is None
    ]
    if arguments.trust is not None:
        lately = []
    if arguments.json:
        shown = None if known is None else [keys.as_json(peer) for peer in lines]
        query.print_json({"peers": lately, "known": shown})
    else:
        print_table(_HEADER, _rows(lines, lately))
    return 0


def _known(arguments: argparse.Namespace) -> KnownPeers | None:
    """None: this user may not read them."""
    file = keys.known_peers_file(arguments)
    try:
        file.refresh()
    except LocalError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        keys.warn(f"{error}: known keys are for root")
        return None
    return file.current


def _rows(lines: list[KnownPeer], lately: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """One a key, and one a host that has none; with how it went, once a scope."""
    paths = {_scope_of(peer): peer for peer in lately}
    rows = []
    for line in lines:
        host, _, port = line.scope.rpartition(":")
        rows.append(
            (
                host.strip("[]") or INCOMING,
                int(port) if port.isdecimal() else None,
                str(line.trust),
                short_form(line.key),
                None if line.last is None else keys.ago(line.last),
                *_path(paths.pop(line.scope, {})),
            )
        )
    for peer in paths.values():
        rows.append((peer.get("peer"), peer.get("port"), None, None, None, *_path(peer)))
    return rows


def _path(peer: dict[str, Any]) -> tuple[object, ...]:
    until, now = peer.get("until"), time.time()
    return (
        peer.get("last"),
        peer.get("connections"),
        duration(until - now) if until is not None and until > now else None,
        peer.get("reason"),
    )


def _scope_of(peer: dict[str, Any]) -> str:
    host = str(peer.get("peer"))
    text = f"[{host}]:{peer.get('port')}" if ":" in host else f"{host}:{peer.get('port')}"
    try:
        return read_scope(text)
    except LocalError:
        return text


# --- show --------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace) -> int:
    file = keys.known_peers_file(arguments)
    file.refresh()
    known, what = file.current, arguments.what
    lines = known.of_key(what) if is_fingerprint(what) else list(known.of_scope(what).values())
    if arguments.json:
        query.print_json({"known": [keys.as_json(line) for line in lines]})
    for number, line in enumerate(lines if not arguments.json else ()):
        if number:
            print()
        others = [other.scope for other in known.of_key(line.key) if other.scope != line.scope]
        print(f"scope        {line.scope}")
        print(f"fingerprint  {line.key}")
        print(f"short        {short_form(line.key)}")
        print(f"trust        {line.trust}")
        print(f"first seen   {keys.ago(line.first)}")
        print(f"last seen    {'never' if line.last is None else keys.ago(line.last)}")
        if others:
            print(f"also for     {', '.join(others)}")
        print(randomart(line.key))
    if not lines and not arguments.json:
        keys.warn(f"nothing is known of {what}")
    return 0 if lines else 1


# --- arguments -----------------------------------------------------------------------------


def scope(text: str) -> str:
    """For `type=` of an argument."""
    try:
        return read_scope(text)
    except LocalError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def key(text: str) -> str:
    """For `type=` of an argument."""
    if not is_fingerprint(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole fingerprint (tcpcrypt1: and 52 characters)"
        )
    return text


def scope_or_key(text: str) -> str:
    """For `type=` of an argument."""
    return text if is_fingerprint(text) else scope(text)
