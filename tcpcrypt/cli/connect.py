"""`tcpcrypt connect`: a secure connection by hand."""

from __future__ import annotations

import argparse
import asyncio

from tcpcrypt import aio
from tcpcrypt.cli import secure
from tcpcrypt.cli.conversation import Interrupted, Talk, interruptible, talk
from tcpcrypt.errors import TcpcryptError
from tcpcrypt.sockets.opening import TRANSPORTS

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Connect, and carry standard input to the other end and what comes from there to standard"
        " output, as nc and `openssl s_client` do.  The connection is encrypted and the other end"
        " is whom --peer asks for, or nothing is sent.  Exit status: 0 if both streams came to"
        " an authenticated end, 1 if the connection failed, broke or was interrupted.  Ctrl-C on a"
        " terminal sends what was typed and ends; the transfer of a file that is interrupted"
        " is seen to be broken at the other end."
    )
    parser.add_argument(
        "to",
        type=secure.address,
        metavar="HOST:PORT",
        help="a name or address and a port; IPv6 addresses as [ADDRESS]:PORT",
    )
    parser.add_argument(
        "--timeout",
        type=secure.seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long TCP may take to connect (default: %(default)g); the handshake has"
        " 5 seconds of its own",
    )
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="auto",
        help="`inband` negotiates within the stream, `eno` leaves it to the daemon and looks"
        " whether it does, `auto` (default) asks the daemon if there is one",
    )
    secure.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Talk; returns the exit status."""
    return asyncio.run(_main(arguments))


async def _main(arguments: argparse.Namespace) -> int:
    teller, told = secure.Teller(arguments), Talk()
    try:
        async with interruptible():
            reader, writer = await aio.connect(
                arguments.to,
                peer=arguments.peer,
                pq=arguments.pq,
                timeout=arguments.timeout,
                transport=arguments.transport,
                keys=arguments.keys,
                on_state=teller.step,
            )
            teller.secure(writer.transport)
            await talk(reader, writer, told)
    except Interrupted:
        teller.say("interrupted", "interrupted", sent=told.sent, received=told.received)
        return 1
    except (OSError, TcpcryptError) as error:
        teller.failed(secure.where(arguments.to), error, sent=told.sent, received=told.received)
        return 1
    teller.ended(secure.where(arguments.to), sent=told.sent, received=told.received)
    return 0
