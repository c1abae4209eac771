"""`tcpcrypt sessions --watch`: the live connections, as they come, move and go.

On a terminal a screen that is drawn anew; elsewhere a line for each change, or
with --json an object for each.  A daemon that ends is waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tcpcrypt.cli import query
from tcpcrypt.cli.screen import Screen
from tcpcrypt.cli.table import coloured, duration, printable, table_lines
from tcpcrypt.daemon.client import Client, DaemonNotRunningError, NoAnswerError, SessionInfo

__all__ = ["Change", "View", "changes", "interval", "rate", "watch"]

PERIOD: Final = 1.0
_PERIOD_MIN: Final = 0.1
_PERIOD_MAX: Final = 3600.0
_HEADER: Final = (
    *("ID", "", "CLIENT", "SERVICE", "STATE", "START", "AGE", "SENT/s", "RECEIVED/s"),
    *("SENT", "RECEIVED", "PEER", "TRUST", "SESSION"),
)
_ARROWS: Final = {"outgoing": "->", "incoming": "<-"}
_OUTCOMES: Final = ("fresh", "resumed", "fallback", "direct", "refused", "aborted", "failed")

Describe = Callable[[SessionInfo], dict[str, Any]]
Peer = Callable[[SessionInfo], str | None]


def interval(text: str) -> float:
    """For `type=` of an argument: seconds between two looks."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not _PERIOD_MIN <= value <= _PERIOD_MAX:
        message = f"{text!r} is not a number of seconds from {_PERIOD_MIN:g} to {_PERIOD_MAX:g}"
        raise argparse.ArgumentTypeError(message)
    return value


Sessions = Mapping[tuple[float, int], SessionInfo]
"""By the start of their daemon and their number, which begins anew with each daemon."""


@dataclass(frozen=True, slots=True)
class Look:
    """What there was at one moment."""

    at: float
    """By `time.monotonic`."""
    sessions: Sessions = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""
    """Why there is nothing: no daemon answers."""


@dataclass(frozen=True, slots=True)
class Change:
    """One connection that came, is another now than before, or went."""

    what: str
    """`new`, `changed` or `gone`; of the last, the session is what was seen last."""
    session: SessionInfo


def changes(before: Sessions, after: Sessions) -> list[Change]:
    """What is different, bytes aside, oldest connections first."""
    found = {key: Change("gone", before[key]) for key in before if key not in after}
    for key, session in after.items():
        if key not in before:
            found[key] = Change("new", session)
        elif _essence(before[key]) != _essence(session):
            found[key] = Change("changed", session)
    return [found[key] for key in sorted(found)]


def _essence(session: SessionInfo) -> tuple[object, ...]:
    return (session.state, session.session_id, session.proved, session.trust, session.rekeys)


def rate(bytes_: float, seconds: float) -> str | None:
    """Bytes a second for people, in three digits; None for none."""
    value = bytes_ / seconds if seconds > 0 else 0.0
    if value < 1:
        return None
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.1f} {unit}"


class Watcher:
    """Looks again and again; a daemon that went is one that may come again."""

    def __init__(self, client: Client, state: str | None) -> None:
        self._client = client
        self._state = state
        self.before = Look(0.0)
        self.now = Look(0.0)

    def look(self) -> None:
        """Look once; `before` is what there was last time."""
        self.before = self.now
        try:
            status = self._client.status()
            sessions = {
                (status.get("started", 0), session.id): session
                for session in self._client.sessions()
                if self._state in (None, session.state)
            }
        except (DaemonNotRunningError, NoAnswerError) as error:
            self.now = Look(time.monotonic(), missing=str(error))
            return
        self.now = Look(time.monotonic(), sessions, status)


def watch(arguments: argparse.Namespace, describe: Describe, peer: Peer) -> int:
    """Watch until told to end; returns the exit status.

    `describe` gives a session as JSON, `peer` the peer's key for eyes.  Raises
    `DaemonNotRunningError` if there is no daemon to begin with.
    """
    with query.client(arguments) as client:
        client.status()
        watcher = Watcher(client, arguments.state)
        try:
            if arguments.json or not Screen.possible():
                _print_changes(watcher, arguments, describe, peer)
            else:
                _on_screen(watcher, arguments.watch, peer)
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            # Nobody reads any more; nor is Python to try again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# --- on a screen -------------------------------------------------------------------------


def _on_screen(watcher: Watcher, period: float, peer: Peer) -> None:
    view, due = View(peer), 0.0
    with Screen() as screen:
        while True:
            if time.monotonic() >= due:
                watcher.look()
                due = time.monotonic() + period
            screen.show(view.lines(watcher.before, watcher.now, *screen.size))
            pressed = screen.key(due - time.monotonic())
            if pressed == "quit":
                return
            view.scroll(pressed, screen.size[1])


class View:
    """What of the list is on the screen, and how it is drawn."""

    def __init__(self, peer: Peer, *, colours: bool | None = None) -> None:
        self._peer = peer
        self._first = 0
        self._colours = coloured(sys.stdout) if colours is None else colours

    def scroll(self, key: str, height: int) -> None:
        """Move by a key; the end of the list is minded when it is drawn."""
        page = max(1, height - 5)
        steps = {"up": -1, "down": 1, "page up": -page, "page down": page, "end": 1 << 40}
        self._first = 0 if key == "home" else max(0, self._first + steps.get(key, 0))

    def lines(self, before: Look, now: Look, columns: int, height: int) -> list[str]:
        """The whole screen, newest connections first; no line is longer than `columns`."""
        if now.missing:
            text = f"{printable(now.missing)}; waiting for it.  q ends."
            return [text[at : at + columns] for at in range(0, len(text), columns)]
        sessions = sorted(now.sessions.items(), reverse=True)
        room = max(0, height - 4)
        self._first = min(self._first, max(0, len(sessions) - room))
        shown = sessions[self._first : self._first + room]
        seconds = now.at - before.at
        rows = [self._row(before.sessions.get(key), session, seconds) for key, session in shown]
        table = table_lines(_HEADER, rows, coloured=self._colours, width=columns)
        hidden = len(sessions) - len(shown)
        foot = "q ends" + (f", arrows scroll; {hidden} more" if hidden else "")
        head = [line[:columns] for line in _head(before, now, seconds)]
        return [*head, *table, foot[:columns]][: max(1, height)]

    def _row(
        self, before: SessionInfo | None, session: SessionInfo, seconds: float
    ) -> tuple[object, ...]:
        sent, received = _moved(before, session)
        return (
            session.id,
            _ARROWS.get(session.direction, "?"),
            session.client,
            session.service,
            session.state,
            None if session.resumed is None else "resumed" if session.resumed else "fresh",
            None if session.since is None else duration(time.time() - session.since),
            rate(sent, seconds),
            rate(received, seconds),
            session.sent,
            session.received,
            self._peer(session),
            session.trust,
            None if session.session_id is None else session.session_id.hex(),
        )


def _moved(before: SessionInfo | None, session: SessionInfo) -> tuple[int, int]:
    """Bytes since the look before; 0 for what was not there then."""
    if before is None:
        return 0, 0
    return (
        max(0, (session.sent or 0) - (before.sent or 0)),
        max(0, (session.received or 0) - (before.received or 0)),
    )


def _head(before: Look, now: Look, seconds: float) -> Iterator[str]:
    """Two lines: what is live and how fast, and what became of all."""
    states: dict[str, int] = {}
    sent = received = 0
    for key, session in now.sessions.items():
        states[session.state] = states.get(session.state, 0) + 1
        moved = _moved(before.sessions.get(key), session)
        sent, received = sent + moved[0], received + moved[1]
    live = ", ".join(f"{count} {printable(state)}" for state, count in sorted(states.items()))
    speeds = f"sent {rate(sent, seconds) or '0 B'}/s, received {rate(received, seconds) or '0 B'}/s"
    yield f"tcpcryptd, {printable(now.status.get('backend'))}: {live or 'no connections'}; {speeds}"
    counters = now.status.get("counters", {})
    counts = (f"{printable(counters.get(name, 0))} {name}" for name in _OUTCOMES)
    yield "since its start: " + ", ".join(counts)


# --- without a screen --------------------------------------------------------------------


def _print_changes(
    watcher: Watcher, arguments: argparse.Namespace, describe: Describe, peer: Peer
) -> None:
    missing = ""
    while True:
        watcher.look()
        now = watcher.now
        if now.missing != missing:
            missing = now.missing
            if missing:
                _say(arguments, {"change": "daemon", "reason": missing}, f"daemon: {missing}")
        for change in changes(watcher.before.sessions, now.sessions):
            entry = {"change": change.what, "session": describe(change.session)}
            _say(arguments, entry, f"{change.what:<7} {_line(change.session, peer)}")
        time.sleep(arguments.watch)


def _say(arguments: argparse.Namespace, entry: dict[str, Any], text: str) -> None:
    now = time.time()
    if arguments.json:
        print(json.dumps({"time": round(now, 3), **entry}), flush=True)
    else:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(now))
        print(f"{stamp} {printable(text)}", flush=True)


def _line(session: SessionInfo, peer: Peer) -> str:
    words = [
        f"{session.id}",
        f"{session.client} {_ARROWS.get(session.direction, '?')} {session.service}",
        session.state,
        *(["resumed" if session.resumed else "fresh"] if session.resumed is not None else []),
        *([f"{session.sent}+{session.received} bytes"] if session.sent is not None else []),
        *([f"{peer(session)} {session.trust or 'unknown'}"] if session.fingerprint else []),
        *([session.session_id.hex()] if session.session_id is not None else []),
    ]
    return " ".join(words)
