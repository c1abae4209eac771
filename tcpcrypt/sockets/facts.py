"""What a secure socket tells of itself and has set: all but the bytes of the program."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from typing import Any

from tcpcrypt.errors import TcpcryptError
from tcpcrypt.sockets.state import Failure, State

__all__ = ["Facts"]


class Facts(ABC):
    """One connection of the kernel, and what is known of it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._timeout: float | None = None
        self._closed = False

    # --- what is known -----------------------------------------------------------------

    @property
    @abstractmethod
    def state(self) -> State:
        """How far the connection has come."""

    @property
    @abstractmethod
    def error(self) -> TcpcryptError | None:
        """Why it failed, if it did."""

    @property
    def failure(self) -> Failure | None:
        """Why it failed, by name."""
        return None if self.error is None else Failure.of(self.error)

    @property
    @abstractmethod
    def session_id(self) -> bytes | None:
        """33 bytes, the same at both ends (RFC 8548 section 3.4); None before AES_MODE."""

    @property
    @abstractmethod
    def peer_identity(self) -> str | None:
        """The fingerprint of the key that the other end has proved; None: it has none."""

    @property
    @abstractmethod
    def cipher(self) -> str | None:
        """The AEAD in use, such as `AES-128-GCM`; None before AES_MODE."""

    @property
    @abstractmethod
    def resumed(self) -> bool | None:
        """Whether the session continues an earlier one; None before AES_MODE."""

    @property
    @abstractmethod
    def transport(self) -> str:
        """`inband` or `eno`."""

    @property
    def family(self) -> socket.AddressFamily:
        """As of `socket`."""
        return socket.AddressFamily(self._sock.family)

    @property
    def type(self) -> socket.SocketKind:
        """As of `socket`."""
        return socket.SocketKind(self._sock.type)

    @property
    def timeout(self) -> float | None:
        """As of `socket`."""
        return self._timeout

    def getpeername(self) -> Any:
        """As of `socket`."""
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        """As of `socket`."""
        return self._sock.getsockname()

    def fileno(self) -> int:
        """For `select` and `poll`; -1 once closed.  Reading from it is ciphertext."""
        return -1 if self._closed else self._sock.fileno()

    # --- settings ------------------------------------------------------------------------

    def settimeout(self, timeout: float | None) -> None:
        """Seconds for each operation; None: any number; 0: none waits.  Not for the handshake."""
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        """As of `socket`."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """As of `socket`."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """As of `socket`."""
        return self._timeout != 0

    def setsockopt(self, level: int, option: int | str, value: int | bytes) -> None:
        """An option of the TCP connection; one of TCP-ENO by its name as for `getsockopt`."""
        if isinstance(option, str):
            self._set_option(option, value)
        else:
            self._sock.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int | str) -> int | bytes:
        """An option of the TCP connection, as of `socket`.

        Those of TCP-ENO have names and no numbers (`tcpcrypt.sockets.options`):
        `getsockopt(socket.IPPROTO_TCP, "TCP_ENO_SESSID")`.
        """
        if isinstance(option, str):
            return self._get_option(option)
        return self._sock.getsockopt(level, option)

    @abstractmethod
    def _get_option(self, name: str) -> int | bytes:
        """The value of an option of TCP-ENO."""

    @abstractmethod
    def _set_option(self, name: str, value: int | bytes) -> None:
        """Set an option of TCP-ENO."""
