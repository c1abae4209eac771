"""What the commands have in common that show or change keys: `id`, `psk` and `peers`.

They work on files, so that they need no daemon; a running one is told.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from tcpcrypt.auth.known_peers import KnownPeer
from tcpcrypt.auth.known_peers_file import KnownPeersFile
from tcpcrypt.cli import query
from tcpcrypt.cli.table import duration
from tcpcrypt.daemon.client import ControlError, DaemonNotRunningError
from tcpcrypt.daemon.configuration import DEFAULT_PATH, DaemonSettings, load
from tcpcrypt.errors import LocalError

__all__ = [
    "add_arguments",
    "ago",
    "as_json",
    "ask",
    "described",
    "known_peers_file",
    "state",
    "tell",
    "warn",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--state`, `--control` and `--json`."""
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        help=f"directory of the keys (default: `state` in {DEFAULT_PATH}, which is"
        f" {DaemonSettings().state} if not given)",
    )
    query.add_arguments(parser)


def state(arguments: argparse.Namespace) -> Path:
    """The directory of the keys.  Raises `LocalError` if the configuration has a fault."""
    if arguments.state is not None:
        return Path(arguments.state)
    if not DEFAULT_PATH.exists():
        return DaemonSettings().state
    # A daemon that keeps its keys elsewhere would not see what is changed here.
    return load(DEFAULT_PATH).daemon.state


def known_peers_file(arguments: argparse.Namespace) -> KnownPeersFile:
    """The file of known peers; nothing is read yet."""
    return KnownPeersFile(state(arguments) / "known_peers")


def tell(arguments: argparse.Namespace) -> bool:
    """Tell a running daemon that keys have changed; whether one was told."""
    try:
        with query.client(arguments) as daemon:
            daemon.trust_changed()
    except DaemonNotRunningError:
        return False
    except ControlError as error:
        # "unavailable": no policy of its asks for keys.
        if error.code != "unavailable":
            warn(f"the daemon was not told: {error}")
        return False
    except LocalError as error:
        warn(f"the daemon was not told: {error}")
        return False
    return True


def ask(text: str, question: str, arguments: argparse.Namespace, *, answers: set[str]) -> None:
    """Go on only if a person says so; raises `LocalError` if not.

    `text` is shown in any case.  `arguments.force` is taken for a yes.
    """
    print(text, file=sys.stderr)
    if arguments.force:
        return
    if not sys.stdin.isatty():
        raise LocalError("nothing was changed: there is nobody to ask; --force goes on without")
    words = ["yes", "no", *(["the whole fingerprint"] if answers else [])]
    print(f"{question} ({'/'.join(words)}) ", end="", file=sys.stderr, flush=True)
    while (answer := sys.stdin.readline()) != "":
        if answer.strip() in {"yes", *answers}:
            return
        if answer.strip() == "no":
            break
        print(f"Please type {', '.join(words[:-1])} or {words[-1]}: ", end="", file=sys.stderr)
        sys.stderr.flush()
    raise LocalError("nothing was changed")


def as_json(peer: KnownPeer) -> dict[str, Any]:
    """One line of the file of known peers; times are Unix times in seconds."""
    return {
        "key": peer.key,
        "scope": peer.scope,
        "trust": str(peer.trust),
        "first": peer.first,
        "last": peer.last,
    }


def described(peer: KnownPeer) -> str:
    """One line of the file of known peers, for people."""
    seen = "never seen" if peer.last is None else f"seen {ago(peer.last)}"
    return f"{peer.key}  {peer.trust}, first known {ago(peer.first)}, {seen}"


def ago(moment: float) -> str:
    """How long ago that was."""
    return f"{duration(time.time() - moment)} ago"


def warn(text: str) -> None:
    """Say something that is neither an answer nor a failure."""
    print(f"tcpcrypt: {text}", file=sys.stderr)
