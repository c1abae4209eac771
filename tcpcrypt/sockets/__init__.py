"""Sockets that are secure or do not exist, for any program and without a daemon.

    from tcpcrypt import sockets

    with sockets.connect(("meter.example.org", 5000), peer="tofu") as connection:
        connection.sendall(b"hello")

docs/sockets.md is the way in.  The names below are the stable ones; what lies
in submodules may move before version 1.0.
"""

from tcpcrypt.sockets.key_log import log_keys
from tcpcrypt.sockets.keys import KeyDirectory, default_directory
from tcpcrypt.sockets.listener import SecureListener
from tcpcrypt.sockets.opening import connect, create_server, wrap
from tcpcrypt.sockets.secure import SecureSocket
from tcpcrypt.sockets.state import Failure, State, StateChanged

__all__ = [
    "Failure",
    "KeyDirectory",
    "SecureListener",
    "SecureSocket",
    "State",
    "StateChanged",
    "connect",
    "create_server",
    "default_directory",
    "log_keys",
    "wrap",
]
