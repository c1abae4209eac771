"""The socket on which metrics are asked for, as the root parent makes it."""

from __future__ import annotations

import os
import socket
from typing import Final

from tcpcrypt.daemon.control import ControlSocket
from tcpcrypt.daemon.metrics_address import MetricsAddress
from tcpcrypt.errors import LocalError

__all__ = ["MetricsSocket"]

_BACKLOG: Final = 16


class MetricsSocket:
    """A listening socket: made by the root parent, used by the worker, who inherits it.

    Raises `LocalError` where it cannot be had.
    """

    def __init__(self, address: MetricsAddress) -> None:
        self._file: ControlSocket | None = None
        if address.path is not None:
            self._file = ControlSocket(address.path)
            self.socket = self._file.socket
            return
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            # One that was killed leaves connections behind for a minute.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind((address.host, address.port))
            self.socket.listen(_BACKLOG)
            self.socket.setblocking(False)
        except OSError as error:
            self.socket.close()
            why = os.strerror(error.errno or 0)
            raise LocalError(f"metrics cannot be served at {address}: {why}") from error

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()
        self.socket.close()
