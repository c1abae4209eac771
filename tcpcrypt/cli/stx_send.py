"""`stx-send`: files to a receiver, encrypted, verified, and gone on with after trouble."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tcpcrypt.cli import stx
from tcpcrypt.cli.stx import EXIT_STATUSES
from tcpcrypt.errors import TcpcryptError
from tcpcrypt.transfer.client import Order, deliver
from tcpcrypt.transfer.keys import DEFAULT_ID, own_key
from tcpcrypt.transfer.limits import Backoff, Bandwidth
from tcpcrypt.transfer.progress import Progress
from tcpcrypt.transfer.status import Interrupted, Status, status_of

__all__ = ["EXIT_STATUSES", "MANUAL", "main", "parser"]

_BLOCK: Final = 65536
_BLOCK_MAX: Final = 0xFFFFFFFF
_RETRIES: Final = 8
_STDIN: Final = 0

MANUAL: Final = {
    "Environment": """\
`STX_KEY_FILE` names the file with the key of this client, which nobody else may read;
`STX_KEY` is the key itself, 64 hexadecimal digits, for where files are not to be had.  One of
them must be set, unless --peer asks for something else than `key`.
""",
    "Interruption": """\
What has arrived stays with the receiver, and the same command goes on behind it: after
Ctrl-C, a lost connection, a crash of either end, also to the receiver on another port.  What is
there must be what the file begins with, or it starts again.  A file that changes while it is sent
is not delivered.  Standard input cannot be read again, so its transfer is not gone on with by
another run.
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Send the files; returns the exit status."""
    arguments = parser().parse_args(argv)
    progress = Progress(
        sys.stdout,
        sys.stderr,
        program="stx-send",
        as_json=arguments.json,
        quiet=arguments.quiet,
    )
    try:
        with stx.interruptible():
            return deliver(_order(arguments), progress, stdin=_STDIN)
    except Interrupted:
        progress.fault("interrupted; the same command goes on where it stopped", status=1)
        return Status.NETWORK
    except (TcpcryptError, OSError) as error:
        status = status_of(error)
        progress.fault(str(error), error=type(error).__name__, status=int(status))
        return status
    finally:
        progress.close()


def _order(arguments: argparse.Namespace) -> Order:
    keyed = arguments.peer == "key"
    return Order(
        host=arguments.host,
        port=arguments.port,
        files=tuple(arguments.file),
        name=arguments.name,
        key=own_key(arguments.id, os.environ) if keyed else None,
        peer=arguments.peer,
        state=arguments.state,
        block=arguments.block_size,
        bandwidth=Bandwidth(arguments.bwlimit),
        backoff=Backoff(arguments.retries),
        timeout=arguments.timeout,
    )


def parser() -> argparse.ArgumentParser:
    """The options of stx-send(1)."""
    options = stx.Parser(
        "stx-send",
        "Send files and folders to a receiver, stx-recv(1): encrypted, to nobody but who has the"
        " client's key, verified, and gone on with after trouble.  Exits with 0 only if the"
        " receiver has every file on its disk and has said so.",
        "STX_KEY_FILE=laptop.key stx-send --id laptop backup.example.org 12345 photos notes.txt",
    )
    options.add_argument("host", metavar="HOST", help="name or address of the receiver")
    options.add_argument("port", metavar="PORT", type=_port, help="its port")
    options.add_argument(
        "file",
        metavar="FILE",
        nargs="+",
        help="file or folder; `-` is standard input.  Links within folders are left out",
    )
    options.add_argument(
        "--id",
        type=stx.client_id,
        default=DEFAULT_ID,
        metavar="CLIENT_ID",
        help="as whom to send: the name that the key has at the receiver (default: %(default)s)",
    )
    options.add_argument(
        "--name", metavar="NAME", help="what standard input is to be called at the receiver"
    )
    options.add_argument(
        "--peer",
        type=stx.peer,
        default="key",
        metavar="WHO",
        help="who the receiver has to be: `key` (default; whoever has the client's key),"
        " `pin:FINGERPRINT`, or `tofu` (whoever it was at the first contact)",
    )
    options.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="with `tofu` and `pin`: folder of the own key and of known peers (default:"
        " $TCPCRYPT_KEYS, or as `tcpcrypt connect` has it)",
    )
    options.add_argument(
        "--block-size",
        type=_block_size,
        default=_BLOCK,
        metavar="BYTES",
        help="bytes of a file in one message, at most (default: %(default)s; the receiver may ask"
        " for less)",
    )
    options.add_argument(
        "--bwlimit",
        type=_rate,
        metavar="RATE",
        help="bytes in a second, at most, such as 500K or 2M",
    )
    options.add_argument(
        "--retries",
        type=stx.count,
        default=_RETRIES,
        metavar="N",
        help="attempts after the first, where the network was to blame; each waits a random part"
        " of 0.5, 1, 2 ... 30 seconds, and one that brings something counts as a first (default:"
        " %(default)s)",
    )
    options.add_argument(
        "--timeout",
        type=stx.seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long TCP may take to connect (default: %(default)g)",
    )
    options.add_argument("-q", "--quiet", action="store_true", help="tell of faults alone")
    options.add_argument("--json", action="store_true", help="print JSON, a line an event")
    return options


def _port(text: str) -> int:
    if (value := stx.port(text)) == 0:
        raise argparse.ArgumentTypeError("port 0 is nobody's")
    return value


def _block_size(text: str) -> int:
    if not 1 <= (value := stx.size(text)) <= _BLOCK_MAX:
        raise argparse.ArgumentTypeError(f"a block has 1 to {_BLOCK_MAX} bytes, not {value}")
    return value


def _rate(text: str) -> int:
    if (value := stx.size(text)) == 0:
        raise argparse.ArgumentTypeError("a rate of nothing sends nothing")
    return value


if __name__ == "__main__":
    sys.exit(main())
