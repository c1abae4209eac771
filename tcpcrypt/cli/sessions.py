"""`tcpcrypt sessions`: the connections that the daemon has in hand, with their session IDs."""

from __future__ import annotations

import argparse
import time
from typing import Any

from tcpcrypt.auth.fingerprint import short_form
from tcpcrypt.cli import query, sessions_watch
from tcpcrypt.cli.table import duration, print_table, printable
from tcpcrypt.daemon.client import SessionInfo

__all__ = ["configure", "describe", "run"]

_HEADER = (
    *("ID", "DIRECTION", "CLIENT", "SERVICE", "STATE", "PROFILE", "START", "AGE"),
    *("SENT", "RECEIVED", "KEYS", "PEER", "TRUST", "SESSION"),
)


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "List live connections, oldest first.  Both hosts show the same session ID for a"
        " connection that nobody sits in the middle of.  SENT and RECEIVED are bytes of this"
        " host's application.  KEYS is the key agreement.  PEER is the peer's key in its short"
        " form, for eyes (--json has it whole), with a question mark until it is proved; TRUST how"
        " far that key is known here.  Below the table stands what sessions of another dialect than"
        " that of RFC 8548 do not protect."
    )
    parser.add_argument(
        "--state",
        choices=("connecting", "exchanging", "encrypted", "plain"),
        help="list only connections in this state",
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=sessions_watch.interval,
        const=sessions_watch.PERIOD,
        help="look again and again, every second if no number is given, until q or Ctrl-C: a live"
        " view on a terminal, elsewhere a line for each connection that came, changed or went"
        " (with --json an object a line)",
    )
    query.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the list; returns the exit status."""
    if arguments.watch is not None:
        return sessions_watch.watch(arguments, describe, _peer)
    with query.client(arguments) as daemon:
        sessions = [
            session for session in daemon.sessions() if arguments.state in (None, session.state)
        ]
    if arguments.json:
        query.print_json({"sessions": [describe(session) for session in sessions]})
    else:
        now = time.time()
        print_table(_HEADER, [_row(session, now) for session in sessions])
        for line in _weaknesses(sessions):
            print(printable(line))
    return 0


def _weaknesses(sessions: list[SessionInfo]) -> list[str]:
    """What those do not have that speak another dialect than RFC 8548."""
    return list(
        dict.fromkeys(
            f"{session.profile}: {lack}" for session in sessions for lack in session.lacks
        )
    )


def _row(session: SessionInfo, now: float) -> tuple[object, ...]:
    return (
        session.id,
        session.direction,
        session.client,
        session.service,
        session.state,
        session.profile,
        None if session.resumed is None else "resumed" if session.resumed else "fresh",
        None if session.since is None else duration(now - session.since),
        session.sent,
        session.received,
        session.kex,
        _peer(session),
        session.trust,
        None if session.session_id is None else session.session_id.hex(),
    )


def _peer(session: SessionInfo) -> str | None:
    if session.fingerprint is None:
        return None
    return short_form(session.fingerprint) + ("" if session.proved else "?")


def describe(session: SessionInfo) -> dict[str, Any]:
    """As JSON: the control protocol's own keys, null for what plain TCP has not."""
    return {
        "id": session.id,
        "direction": session.direction,
        "client": session.client,
        "service": session.service,
        "state": session.state,
        "policy": session.policy,
        "since": session.since,
        "session": None if session.session_id is None else session.session_id.hex(),
        "tep": None if session.tep is None else f"{session.tep:#04x}",
        "kex": session.kex,
        "fingerprint": session.fingerprint,
        "proved": session.proved,
        "trust": session.trust,
        "psk": session.psk,
        "aead": None if session.aead is None else f"{session.aead:#06x}",
        "role": None if session.role is None else session.role.name,
        "start": None if session.resumed is None else "resumed" if session.resumed else "fresh",
        "transcript": None if session.transcript is None else session.transcript.hex(),
        "rekeys": session.rekeys,
        "profile": session.profile,
        "lacks": list(session.lacks) if session.encrypted or session.lacks else None,
        "sent": session.sent,
        "received": session.received,
    }
