"""asyncio connections that are secure or do not exist.

    reader, writer = await tcpcrypt.aio.connect(("db.example.org", 7000), peer="tofu")
    server = await tcpcrypt.aio.create_server(("", 7000), handle, peer="tofu")

Streams are `asyncio.StreamReader` and a `StreamWriter`; `create_connection` and
`serve` take protocols of any kind.  All of it is as with plain TCP, except that
no byte of a program goes anywhere before the connection is encrypted and the
other end has proved what `peer` asks for, and that an attack is an exception and never
an end of the stream.  It works on any event loop that follows asyncio's.
"""

from tcpcrypt.aio.moving import ViewProtocol
from tcpcrypt.aio.opening import create_connection, serve
from tcpcrypt.aio.server import SecureServer
from tcpcrypt.aio.streams import (
    SecureWriter,
    StreamServer,
    connect,
    create_server,
    open_connection,
    start_server,
)
from tcpcrypt.aio.transport import SecureTransport
from tcpcrypt.sockets.key_log import log_keys
from tcpcrypt.sockets.state import Failure, State, StateChanged

__all__ = [
    "Failure",
    "SecureServer",
    "SecureTransport",
    "SecureWriter",
    "State",
    "StateChanged",
    "StreamServer",
    "ViewProtocol",
    "connect",
    "create_connection",
    "create_server",
    "log_keys",
    "open_connection",
    "serve",
    "start_server",
]
