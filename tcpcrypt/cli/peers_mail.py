"""`tcpcrypt peers export|import`: known keys as a text for the mail."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tcpcrypt.auth.introductions import Plan, plan, read_text, written_text
from tcpcrypt.auth.known_peers import SIZE_MAX, KnownPeers
from tcpcrypt.cli import keys, query
from tcpcrypt.cli.table import plural
from tcpcrypt.errors import LocalError

__all__ = ["ACTIONS", "configure", "run"]

ACTIONS: Final = ("export", "import")


def configure(actions: Any, scope_or_key: Callable[[str], str]) -> None:
    """Add the actions to the subparsers of `tcpcrypt peers`."""
    export = actions.add_parser(
        "export",
        help="print known keys as a text that can be mailed",
        description="Print known keys, all or those of some services, as a text that survives the"
        " mail.  It says nothing of when they were seen.  Exit status: 1 if nothing is known.",
        epilog="example: tcpcrypt peers export 192.0.2.7:5432 > peers.txt",
    )
    export.add_argument(
        "what", metavar="SCOPE|KEY", type=scope_or_key, nargs="*", help="only these"
    )
    import_ = actions.add_parser(
        "import",
        help="add the keys of such a text",
        description="Add the keys of a text that `export` or `tcpcrypt id show --as` printed; a"
        " whole mail will do.  Nobody vouches for it but who sent it.  Trust is raised and never"
        " lowered.  Where the text contradicts what is known, nothing at all is imported, unless"
        " with --force: then the text is right.  Exit status: 1 if it contradicts.",
        epilog="example: tcpcrypt peers import peers.txt",
    )
    import_.add_argument("file", metavar="FILE", help="the text, or - for standard input")
    import_.add_argument("--force", action="store_true", help="the text is right")
    import_.add_argument("--dry-run", action="store_true", help="say what it would do, and do not")
    for action in (export, import_):
        keys.add_arguments(action)


def run(arguments: argparse.Namespace) -> int:
    """Run the action; returns the exit status."""
    return _export(arguments) if arguments.action == "export" else _import(arguments)


def _export(arguments: argparse.Namespace) -> int:
    file = keys.known_peers_file(arguments)
    file.refresh()
    wanted = set(arguments.what)
    lines = [
        peer for peer in file.current if not wanted or peer.key in wanted or peer.scope in wanted
    ]
    known = {word for peer in lines for word in (peer.key, peer.scope)}
    for what in sorted(wanted - known):
        keys.warn(f"nothing is known of {what}")
    text = written_text(lines)
    if arguments.json:
        query.print_json({"known": [keys.as_json(peer) for peer in lines], "text": text})
    elif lines:
        print(text, end="")
    elif not wanted:
        keys.warn("no keys are known")
    return 0 if lines and not wanted - known else 1


def _import(arguments: argparse.Namespace) -> int:
    name = "standard input" if arguments.file == "-" else arguments.file
    introductions = read_text(_read(arguments.file), name)
    file = keys.known_peers_file(arguments)

    def change(known: KnownPeers) -> Plan:
        made = plan(known, introductions)
        if not arguments.dry_run and (arguments.force or not made.conflicts):
            made.carry_out(known, int(time.time()))
        return made

    made = file.update(change)
    refused = bool(made.conflicts) and not arguments.force
    told = not (arguments.dry_run or refused) and keys.tell(arguments)
    if arguments.json:
        query.print_json(_answer(made, done=not (arguments.dry_run or refused)) | {"daemon": told})
    else:
        _print(made, arguments)
    return 1 if refused else 0


def _answer(made: Plan, *, done: bool) -> dict[str, Any]:
    def listed(introductions: list[Any]) -> list[dict[str, str]]:
        return [{"scope": n.scope, "trust": str(n.trust), "key": n.key} for n in introductions]

    return {
        "imported": done,
        "added": listed(made.added),
        "raised": listed(made.raised),
        "unchanged": listed(made.unchanged),
        "conflicts": [
            {
                **listed([conflict.introduction])[0],
                "known": [keys.as_json(peer) for peer in conflict.known],
            }
            for conflict in made.conflicts
        ],
    }


def _print(made: Plan, arguments: argparse.Namespace) -> None:
    for word, introductions in (("new", made.added), ("raised", made.raised)):
        for new in introductions:
            print(f"{word}: {new.scope} {new.trust} {new.key}")
    for conflict in made.conflicts:
        print(f"conflict: {conflict}", file=sys.stderr)
    if made.conflicts and not arguments.force:
        count = plural(len(made.conflicts), "conflict", "conflicts")
        keys.warn(f"{count}: nothing was imported; --force says that the text is right")
    elif arguments.dry_run:
        print("Nothing was imported: --dry-run.")
    else:
        changed = len(made.added) + len(made.raised) + len(made.conflicts)
        unchanged = plural(len(made.unchanged), "key", "keys")
        print(f"{plural(changed, 'key', 'keys')} imported, {unchanged} known already.")


def _read(name: str) -> str:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(SIZE_MAX + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(SIZE_MAX + 1)
    except OSError as error:
        raise LocalError(f"{name}: {error.strerror}") from error
    if len(data) > SIZE_MAX:
        raise LocalError(f"{name}: longer than {SIZE_MAX} bytes")
    # What is not UTF-8 around the text is none of our business.
    return data.decode(errors="replace")
