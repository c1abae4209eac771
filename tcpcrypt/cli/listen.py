"""`tcpcrypt listen`: wait for a secure connection by hand."""

from __future__ import annotations

import argparse
import asyncio

from tcpcrypt import aio
from tcpcrypt.cli import secure
from tcpcrypt.cli.conversation import Interrupted, Talk, interruptible, talk
from tcpcrypt.errors import TcpcryptError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Wait for one connection, and carry standard input to the other end and what comes from"
        " there to standard output.  Whoever connects and is not encrypted, or not whom --peer"
        " asks for, is told of and refused; the next may try.  Exit status: 0 if both streams"
        " came to an authenticated end, 1 if the connection broke or was interrupted."
    )
    parser.add_argument(
        "at",
        type=secure.listening_address,
        metavar="[HOST:]PORT",
        help="where to listen: without a host on all addresses; port 0: any that is free",
    )
    parser.add_argument(
        "-k",
        "--keep",
        action="store_true",
        help="take one connection after the other, and send nothing; Ctrl-C ends it",
    )
    secure.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Listen and talk; returns the exit status."""
    return asyncio.run(_main(arguments))


async def _main(arguments: argparse.Namespace) -> int:
    teller = secure.Teller(arguments)
    try:
        async with interruptible():
            server = await aio.create_server(
                arguments.at,
                peer=arguments.peer,
                pq=arguments.pq,
                keys=arguments.keys,
                on_state=teller.step,
                on_failure=lambda name, error: teller.failed(secure.where(name), error),
            )
            async with server:
                for sock in server.sockets:
                    place = secure.where(sock.getsockname())
                    teller.say("listening", f"listening on {place}", address=place)
                if not arguments.keep:
                    reader, writer = await server.accept()
                    server.close()  # nobody else is wanted
                    return 0 if await _converse(teller, reader, writer) else 1
                while True:
                    await _converse(teller, *await server.accept(), sending=False)
    except Interrupted:
        teller.say("interrupted", "interrupted")
        return 1
    except (OSError, TcpcryptError) as error:
        teller.failed(secure.where(arguments.at), error)
        return 1


async def _converse(
    teller: secure.Teller,
    reader: asyncio.StreamReader,
    writer: aio.SecureWriter,
    *,
    sending: bool = True,
) -> bool:
    """Whether the connection came to an authenticated end."""
    told, name = Talk(), secure.where(writer.get_extra_info("peername"))
    teller.secure(writer.transport)
    try:
        await talk(reader, writer, told, sending=sending)
    except (OSError, TcpcryptError) as error:
        teller.failed(name, error, sent=told.sent, received=told.received)
        return False
    teller.ended(name, sent=told.sent, received=told.received)
    return True
