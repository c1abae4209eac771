"""`tcpcrypt proxy`: wrap the connections of programs that know nothing of encryption."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, Final

from tcpcrypt import aio
from tcpcrypt.aio.relay import Joint
from tcpcrypt.cli import secure
from tcpcrypt.cli.conversation import Interrupted, interruptible
from tcpcrypt.core.events import Role
from tcpcrypt.errors import TcpcryptError
from tcpcrypt.sockets.arrangement import arrange, service_scope
from tcpcrypt.sockets.peer import PeerSpec

__all__ = ["configure", "run"]

_CONNECTIONS: Final = 4096
_CONNECTIONS_MAX: Final = 1_000_000
_DRAIN: Final = 10.0
_BACKLOG: Final = 1024


def configure(parser: argparse.ArgumentParser, _common: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    ends = parser.add_subparsers(dest="end", metavar="END", required=True)
    client = ends.add_parser(
        "client",
        help="take plain connections, make secure ones",
        description="Take connections of programs of this host, and hand each on to the other"
        " proxy over a connection of its own that is encrypted and goes to whom --peer asks for; or"
        " reset it.",
        epilog="example: tcpcrypt proxy client 127.0.0.1:5432 db.example.org:7000",
    )
    server = ends.add_parser(
        "server",
        help="take secure connections, make plain ones",
        description="Take connections that are encrypted and come from whom --peer asks for, and"
        " hand each on to a service of this host.  The service is not connected to"
        " before its client has proved himself.",
        epilog="example: tcpcrypt proxy server 7000 127.0.0.1:5432 --peer psk:site-a",
    )
    for end in (client, server):
        end.add_argument(
            "listen",
            type=secure.listening_address,
            metavar="[HOST:]PORT",
            help="where to listen: without a host on all addresses; port 0: any that is free",
        )
        end.add_argument(
            "to", type=secure.address, metavar="HOST:PORT", help="where each connection goes"
        )
        end.add_argument(
            "--timeout",
            type=secure.seconds,
            default=5.0,
            metavar="SECONDS",
            help="how long TCP may take to connect there (default: %(default)g)",
        )
        end.add_argument(
            "--connections",
            type=_count,
            default=_CONNECTIONS,
            metavar="N",
            help="connections at a time; more are reset (default: %(default)d)",
        )
        end.add_argument(
            "--drain",
            type=secure.seconds,
            default=_DRAIN,
            metavar="SECONDS",
            help="how long connections may go on after Ctrl-C or SIGTERM (default: %(default)g);"
            " a second one resets them",
        )
        secure.add_arguments(end)


def run(arguments: argparse.Namespace) -> int:
    """Relay until told to end; returns the exit status."""
    return asyncio.run(_main(arguments))


async def _main(arguments: argparse.Namespace) -> int:
    teller = secure.Teller(arguments)
    proxy = _Proxy(arguments, teller)
    try:
        try:
            async with interruptible():
                await proxy.open()
                await asyncio.Future()
        except Interrupted:
            async with interruptible():
                await proxy.drain(arguments.drain)
    except Interrupted:
        pass
    except (OSError, TcpcryptError) as error:
        teller.failed(secure.where(arguments.listen), error)
        return 1
    finally:
        proxy.abort()
    return 0


class _Proxy:
    """One end."""

    def __init__(self, arguments: argparse.Namespace, teller: secure.Teller) -> None:
        self._arguments = arguments
        self._teller = teller
        self._loop = asyncio.get_running_loop()
        self._joints: set[Joint] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._none = asyncio.Event()
        self._server: aio.SecureServer | asyncio.Server | None = None

    async def open(self) -> None:
        """Listen.  Raises `OSError`, and `LocalError` for keys that are not there."""
        arguments = self._arguments
        if arguments.end == "server":
            server = await aio.serve(
                self._accept_secure,
                arguments.listen,
                peer=arguments.peer,
                pq=arguments.pq,
                keys=arguments.keys,
                on_state=self._teller.step,
                on_failure=lambda name, error: self._teller.failed(secure.where(name), error),
            )
            self._server, sockets = server, server.sockets
        else:
            # A key that is not there is told of now, not to each program.
            arrange(
                PeerSpec.parse(arguments.peer, arguments.pq),
                Role.A,
                service_scope(*arguments.to),
                arguments.keys,
            )
            plain = await self._loop.create_server(
                self._accept_plain, *_host_and_port(arguments.listen), backlog=_BACKLOG
            )
            self._server, sockets = plain, plain.sockets
        for sock in sockets:
            place = secure.where(sock.getsockname())
            self._teller.say("listening", f"listening on {place}", address=place)

    async def drain(self, seconds: float) -> None:
        """Take nothing more, and wait for what there is."""
        assert self._server is not None
        self._server.close()
        if self._joints:
            self._teller.say(
                "draining",
                f"{len(self._joints)} connections have {seconds:g} s to end; Ctrl-C resets them",
                connections=len(self._joints),
            )
        loop = self._loop
        deadline = loop.time() + seconds
        while self._joints and loop.time() < deadline:
            self._none.clear()
            try:
                async with asyncio.timeout(deadline - loop.time()):
                    await self._none.wait()
            except TimeoutError:
                return

    def abort(self) -> None:
        """Reset everything."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        for joint in list(self._joints):
            joint.abort(ConnectionAbortedError("the proxy was told to end"))

    # --- inside ------------------------------------------------------------------------------

    def _accept_secure(self) -> asyncio.BaseProtocol:
        joint = self._joint()
        self._start(joint, self._connect_plain(joint))
        return joint.secure

    def _accept_plain(self) -> asyncio.BaseProtocol:
        joint = self._joint()
        self._start(joint, self._connect_secure(joint))
        return joint.plain

    def _joint(self) -> Joint:
        joint = Joint(self._over)
        self._joints.add(joint)
        return joint

    def _start(self, joint: Joint, connect: Any) -> None:
        if len(self._joints) > self._arguments.connections:
            connect.close()
            joint.abort(ConnectionAbortedError(f"{len(self._joints) - 1} connections already"))
            return
        task = self._loop.create_task(connect)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_plain(self, joint: Joint) -> None:
        try:
            async with asyncio.timeout(self._arguments.timeout):
                await self._loop.create_connection(lambda: joint.plain, *self._arguments.to)
        except OSError as error:
            joint.abort(error)
            return
        if isinstance(joint.secure.transport, aio.SecureTransport):
            self._teller.secure(joint.secure.transport)

    async def _connect_secure(self, joint: Joint) -> None:
        arguments = self._arguments
        try:
            transport, _ = await aio.create_connection(
                lambda: joint.secure,
                arguments.to,
                peer=arguments.peer,
                pq=arguments.pq,
                timeout=arguments.timeout,
                keys=arguments.keys,
                on_state=self._teller.step,
            )
        except (OSError, TcpcryptError) as error:
            joint.abort(error)
            return
        self._teller.secure(transport)

    def _over(self, joint: Joint) -> None:
        self._joints.discard(joint)
        if not self._joints:
            self._none.set()
        counts = {"sent": joint.sent, "received": joint.received}
        if joint.error is not None:
            self._teller.failed(secure.where(joint.name), joint.error, **counts)
        else:
            self._teller.ended(secure.where(joint.name), **counts)


def _host_and_port(address: tuple[str, int]) -> tuple[str | None, int]:
    return address[0] or None, address[1]


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _CONNECTIONS_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of connections")
    return int(text)
