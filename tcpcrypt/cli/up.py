"""`tcpcrypt up`: start the daemon, for good or until somebody has said that all is well."""

from __future__ import annotations

import argparse
import os
import re
import select
import sys
import time
from pathlib import Path
from typing import Final

from tcpcrypt.cli.query import print_json
from tcpcrypt.daemon import launcher
from tcpcrypt.daemon.client import Client
from tcpcrypt.daemon.configuration import DEFAULT_PATH, Configuration, ConfigurationError, load
from tcpcrypt.daemon.launcher import Started
from tcpcrypt.errors import LocalError

__all__ = ["configure", "duration", "run"]

_LOG: Final = Path("/var/log/tcpcryptd.log")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
_SHORTEST, _LONGEST = 5.0, 3600.0
_GRACE: Final = 30.0
"""Seconds that the daemon may take to take everything back."""


def configure(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Start tcpcryptd in the background and return when it serves: by systemd where that runs"
        " this machine and has the unit, otherwise by itself.  With --confirm it takes everything"
        " back unless somebody confirms in time, by Enter here or by `tcpcrypt confirm` from"
        " another login: who has locked himself out just waits.  Exit status: 0 if the daemon"
        " serves (it may have done so before), 1 if it could not start or was not confirmed."
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"start with this file, and without systemd (default: {DEFAULT_PATH})",
    )
    parser.add_argument(
        "--confirm",
        metavar="TIME",
        type=duration,
        default=0.0,
        help="take everything back after this time unless confirmed: 60s, 2m; without systemd",
    )
    parser.add_argument(
        "--log-file",
        metavar="FILE",
        type=Path,
        default=_LOG,
        help="where the daemon's stderr goes, and its log where the configuration names no other"
        " place; without systemd (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Start it; returns the exit status."""
    if os.geteuid() != 0:
        raise LocalError("starting the daemon takes root")
    config = arguments.config or DEFAULT_PATH
    found = _load(config)
    running = launcher.find_daemon()
    if running is not None:
        return _already(running, arguments)
    if arguments.config is None and not arguments.confirm and launcher.unit_is_there():
        return _by_systemd(arguments)
    started = launcher.start(config, arguments.log_file, confirm=arguments.confirm)
    try:
        _tell(started, found, arguments)
        if arguments.confirm:
            return _await_confirmation(started, found, arguments)
    finally:
        os.close(started.pidfd)
    return 0


def _load(config: Path) -> Configuration:
    if not config.exists():
        raise LocalError(
            f"{config} does not exist; `mkdir -p {config.parent}` and `tcpcrypt policy init"
            f" {config}` make one to start from"
        )
    try:
        return load(config)
    except ConfigurationError as error:
        raise LocalError(f"{error}\nsee: tcpcrypt policy check {config}") from error


def _already(pid: int, arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json({"started": False, "running": True, "pid": pid})
    else:
        print(f"tcpcryptd is running already, process {pid}; a changed file is read on SIGHUP")
    if arguments.confirm:
        print("tcpcrypt: --confirm is for a daemon that is being started", file=sys.stderr)
        return 1
    return 0


def _by_systemd(arguments: argparse.Namespace) -> int:
    try:
        launcher.systemctl("start")
    except LocalError as error:
        raise LocalError(f"{error}\nsee: journalctl -u {launcher.UNIT} -n 20") from error
    pid = launcher.find_daemon()
    if arguments.json:
        print_json({"started": True, "running": True, "pid": pid, "unit": launcher.UNIT})
    else:
        print(f"tcpcryptd serves, process {pid}, started by systemd ({launcher.UNIT})")
    return 0


def _tell(started: Started, found: Configuration, arguments: argparse.Namespace) -> None:
    log = found.daemon.log if found.daemon.log not in {"auto", "stderr"} else arguments.log_file
    if arguments.json:
        if not arguments.confirm:
            print_json({"started": True, "running": True, "pid": started.pid, "log": str(log)})
        return
    modes = [policy.mode.value for policy in found.policies]
    counts = [f"{modes.count(mode)} {mode}" for mode in dict.fromkeys(modes)]
    print(
        f"tcpcryptd serves, process {started.pid}, after {started.seconds:.1f} s\n"
        f"  policies   {', '.join(counts) or 'none: nothing is encrypted until one names it'}\n"
        f"  log        {log}\n"
        "  see        tcpcrypt status, tcpcrypt sessions\n"
        "  stop       tcpcrypt down",
        flush=True,
    )


# --- confirmation ----------------------------------------------------------------------------


def _await_confirmation(
    started: Started, found: Configuration, arguments: argparse.Namespace
) -> int:
    seconds = arguments.confirm
    with Client(found.daemon.control) as client:
        outcome = _ask(started, client, seconds, quiet=arguments.json)
    if arguments.json:
        stays = outcome != "taken back"
        print_json({"started": True, "running": stays, "pid": started.pid, "confirmation": outcome})
    elif outcome == "taken back":
        print("Not confirmed: the daemon has ended and taken everything back.")
    elif outcome == "confirmed":
        print("Confirmed: the daemon stays.")
    else:
        print(f"`tcpcrypt confirm` within {seconds:g} s keeps it; else it takes everything back.")
    return 1 if outcome == "taken back" else 0


def _ask(started: Started, client: Client, seconds: float, *, quiet: bool) -> str:
    """`confirmed`, `taken back`, or `pending` where nobody is there to be asked."""
    if not sys.stdin.isatty():
        return "pending"
    if not quiet:
        print(
            f"Still connected?  Press Enter within {seconds:g} s, or say `tcpcrypt confirm` from"
            " another login.",
            flush=True,
        )
    poll = select.poll()
    poll.register(sys.stdin, select.POLLIN)
    poll.register(started.pidfd, select.POLLIN)
    end = time.monotonic() + seconds + _GRACE
    try:
        while (left := end - time.monotonic()) > 0:
            ready = {fd for fd, _events in poll.poll(left * 1000)}
            if started.pidfd in ready:
                return "taken back"
            if sys.stdin.fileno() in ready:
                if not sys.stdin.readline():  # the terminal is gone
                    return "pending"
                client.confirm()
                return "confirmed"
    except KeyboardInterrupt:
        return "pending"
    return "confirmed"  # from elsewhere: it would have ended by now


def duration(text: str) -> float:
    """For `type=` of an argument: seconds, from `60`, `60s`, `2m` or `1h`."""
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smh]?)", text, re.ASCII)
    seconds = float(parts[1]) * _UNITS[parts[2]] if parts else 0.0
    if not _SHORTEST <= seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time from {_SHORTEST:g} s to one hour, such as 60s or 2m"
        )
    return seconds
