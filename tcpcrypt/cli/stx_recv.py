"""`stx-recv`: takes files from clients that have a key, into a directory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tcpcrypt.cli import stx
from tcpcrypt.cli.stx import EXIT_STATUSES
from tcpcrypt.errors import TcpcryptError
from tcpcrypt.transfer.progress import Progress
from tcpcrypt.transfer.rules import OnExist, Rules
from tcpcrypt.transfer.service import Service, Setup
from tcpcrypt.transfer.status import Interrupted, Status, status_of

__all__ = ["EXIT_STATUSES", "MANUAL", "main", "parser"]

_PORT: Final = 12345
_CONNECTIONS: Final = 64

MANUAL: Final = {
    "Clients": """\
Each file in the folder of --keys is the key of the client whose id is the file's name;
stx-keygen(1) makes them.  The folder is looked at whenever somebody connects, and on SIGHUP.
With --peer `tofu` or `pin:FINGERPRINT` clients show a key of their own instead, and the id of each
is its fingerprint.
""",
    "Files": """\
A file is written under another name within `.stx` in the directory of --out, verified, synced to
the disk, and then gets its name, without replacing anything unless --on-exist says so: nobody ever
sees a part of a file.  A sender reads that a file has arrived once it would survive a loss of
power.  What an interrupted transfer has brought stays there for its sender, who alone can go on
with it.
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to end; returns the exit status."""
    arguments = parser().parse_args(argv)
    progress = Progress(
        sys.stdout,
        sys.stderr,
        program="stx-recv",
        as_json=arguments.json,
        quiet=arguments.quiet,
    )
    try:
        with stx.interruptible(), Service(_setup(arguments), progress) as service:
            return service.serve(once=arguments.once)
    except Interrupted:
        progress.say("ended", "ended")
        # Who is told to end after one sender, and sees none, has not done it.
        return Status.NETWORK if arguments.once else Status.OK
    except (TcpcryptError, OSError) as error:
        status = status_of(error)
        progress.fault(str(error), error=type(error).__name__, status=int(status))
        return status
    finally:
        progress.close()


def _setup(arguments: argparse.Namespace) -> Setup:
    return Setup(
        address=arguments.bind,
        port=arguments.listen,
        out=arguments.out,
        keys=arguments.keys if arguments.peer == "key" else None,
        peer=arguments.peer,
        state=arguments.state,
        rules=Rules(
            on_exist=OnExist(arguments.on_exist),
            max_size=arguments.max_size,
            quota=arguments.quota,
        ),
        per_client=arguments.per_client,
        connections=arguments.connections,
    )


def parser() -> argparse.ArgumentParser:
    """The options of stx-recv(1)."""
    options = stx.Parser(
        "stx-recv",
        "Take files that stx-send(1) sends, from clients whose keys are in a folder, into a"
        " directory.  Runs until it is told to end, by Ctrl-C or SIGTERM.",
        "stx-recv --listen 12345 --out incoming --keys client_keys",
    )
    options.add_argument(
        "--listen",
        type=stx.port,
        default=_PORT,
        metavar="PORT",
        help="port to listen at, 0: any that is free (default: %(default)s)",
    )
    options.add_argument(
        "--bind", metavar="ADDRESS", default="", help="address to listen at (default: all)"
    )
    options.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where files go (default: the current directory)",
    )
    options.add_argument(
        "--keys",
        type=Path,
        default=Path("client_keys"),
        metavar="DIR",
        help="folder of the clients' keys (default: ./%(default)s)",
    )
    options.add_argument(
        "--per-client",
        action="store_true",
        help="give each client a directory of its own in DIR, named by its id",
    )
    options.add_argument(
        "--on-exist",
        choices=[how.value for how in OnExist],
        default=OnExist.FAIL.value,
        help="what to do where a file of that name is there: refuse (default), give the new one a"
        " number, or put it in the place of the old one",
    )
    options.add_argument(
        "--max-size", type=stx.size, metavar="BYTES", help="of one file, such as 2G"
    )
    options.add_argument(
        "--quota",
        type=stx.size,
        metavar="BYTES",
        help="of all files of a client, partial ones included",
    )
    options.add_argument(
        "--connections",
        type=_connections,
        default=_CONNECTIONS,
        metavar="N",
        help="senders at once (default: %(default)s); others wait",
    )
    options.add_argument(
        "--peer",
        type=stx.peer,
        default="key",
        metavar="WHO",
        help="who may send: `key` (default; clients with a key in --keys), `pin:FINGERPRINT[,...]`,"
        " or `tofu` (anybody who shows a key)",
    )
    options.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="with `tofu` and `pin`: folder of the own key and of known peers (default:"
        " $TCPCRYPT_KEYS, or as `tcpcrypt listen` has it)",
    )
    options.add_argument(
        "--once",
        action="store_true",
        help="end after one sender, with the exit status of what it sent",
    )
    options.add_argument("-q", "--quiet", action="store_true", help="tell of faults alone")
    options.add_argument("--json", action="store_true", help="print JSON, a line an event")
    return options


def _connections(text: str) -> int:
    if not 1 <= (value := stx.count(text)) <= 4096:
        raise argparse.ArgumentTypeError("1 to 4096 senders")
    return value


if __name__ == "__main__":
    sys.exit(main())
