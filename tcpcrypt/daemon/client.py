"""Ask the daemon of this host: a client of the control socket (docs/control.md).

    with Client() as daemon:
        session = daemon.find_socket(sock, wait=5)
        if session is not None and session.encrypted:
            print(session.session_id.hex())

Anybody may ask; nothing secret is told.  A session ID is no secret, and yet
what authenticates a connection (RFC 8548 section 5).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tcpcrypt.core.events import Role
from tcpcrypt.daemon.control import DEFAULT_PATH
from tcpcrypt.daemon.requests import VERSION
from tcpcrypt.errors import LocalError

__all__ = [
    "Client",
    "ControlError",
    "DaemonNotRunningError",
    "NoAnswerError",
    "SessionInfo",
    "endpoints",
]

Endpoint = tuple[str, int]

_CHUNK: Final = 64 << 10


class DaemonNotRunningError(LocalError):
    """Nobody serves the control socket."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"no tcpcryptd answers at {path} ({why}); `tcpcrypt up` or `systemctl start tcpcryptd`"
            " starts it, --control names another socket"
        )
        self.path = path


class NoAnswerError(LocalError):
    """The daemon did not answer in time, hung up, or answered what is no answer."""


class ControlError(LocalError):
    """The daemon refused; `code` is one of those in docs/control.md."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """One connection, as the daemon sees it.  What encryption brings is None without it."""

    id: int
    direction: str
    """`outgoing` or `incoming`: who opened it, seen from this host."""
    client: str
    service: str
    state: str
    """`connecting`, `exchanging`, `encrypted` or `plain`."""
    policy: int | None = None
    """Number of the policy that it falls under, from 1."""
    since: float | None = None
    """Unix time at which it began, in seconds."""
    session_id: bytes | None = None
    tep: int | None = None
    """Its identifier, without bit v."""
    aead: int | None = None
    kex: str | None = None
    """The key agreement: `X25519`, `X25519MLKEM768` and so on."""
    fingerprint: str | None = None
    """Of the peer's identity key, where it shows one."""
    proved: bool = False
    """Whether the peer has proved that it has that key."""
    trust: str | None = None
    """How far that key is known here: `tofu`, `psk`, `pinned`; None: it is not."""
    psk: str | None = None
    """The pre-shared key that the key exchange used, by name."""
    role: Role | None = None
    resumed: bool | None = None
    transcript: bytes | None = None
    """The ENO options of both SYNs (RFC 8547 section 4.8)."""
    rekeys: int | None = None
    profile: str | None = None
    """The dialect: `rfc8548` or `stanford`; or `tcps`, which has no session ID."""
    lacks: tuple[str, ...] = ()
    """What sessions of that dialect do not have, in sentences."""
    sent: int | None = None
    """Bytes of the application of this host."""
    received: int | None = None

    @property
    def encrypted(self) -> bool:
        return self.session_id is not None

    @property
    def settled(self) -> bool:
        """Whether the handshake is over."""
        return self.state not in ("connecting", "exchanging")

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> SessionInfo:
        """From an entry of the methods `sessions` and `find`.

        Raises `NoAnswerError` for what is no such entry.
        """
        try:
            return cls(
                id=entry["id"],
                direction=entry["direction"],
                client=entry["client"],
                service=entry["service"],
                state=entry["state"],
                policy=entry.get("policy"),
                since=entry.get("since"),
                session_id=_octets(entry.get("session")),
                tep=_number(entry.get("tep")),
                aead=_number(entry.get("aead")),
                kex=entry.get("kex"),
                fingerprint=entry.get("fingerprint"),
                proved=entry.get("proved") is True,
                trust=entry.get("trust"),
                psk=entry.get("psk"),
                role=None if entry.get("role") is None else Role[entry["role"]],
                resumed=None if entry.get("start") is None else entry["start"] == "resumed",
                transcript=_octets(entry.get("transcript")),
                rekeys=entry.get("rekeys"),
                profile=entry.get("profile"),
                lacks=tuple(entry.get("lacks") or ()),
                sent=entry.get("sent"),
                received=entry.get("received"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise NoAnswerError(f"the daemon described a connection oddly: {error!r}") from error


def _octets(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text, 0)


class Client:
    """A connection to the daemon, made when first needed; not for several threads at once.

    `timeout` is for one answer, in seconds; waiting that was asked for is added.
    """

    def __init__(self, path: Path | str = DEFAULT_PATH, timeout: float = 10.0) -> None:
        self._path = Path(path)
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the next call connects again.  Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._received.clear()

    def call(self, method: str, **params: object) -> Any:
        """The result of one method.

        Raises `DaemonNotRunningError`, `NoAnswerError`, `ControlError`.
        """
        request = json.dumps({"v": VERSION, "method": method, "params": params}).encode() + b"\n"
        wait = params.get("wait", 0)
        timeout = self._timeout + (wait if isinstance(wait, int | float) else 0)
        # A connection of before can have ended with the daemon of before.
        if self._socket is not None:
            with contextlib.suppress(_HungUpError):
                return self._exchange(request, timeout)
        try:
            return self._exchange(request, timeout)
        except _HungUpError as error:
            raise NoAnswerError(f"{self._path}: the daemon hung up") from error

    def status(self) -> dict[str, Any]:
        """Of the daemon; docs/control.md says what is in it."""
        status: dict[str, Any] = self.call("status")
        return status

    def sessions(self) -> Iterator[SessionInfo]:
        """All live connections, by age."""
        after, more = 0, True
        while more:
            page = self.call("sessions", after=after)
            more = page["more"]
            for entry in page["sessions"]:
                session = SessionInfo.from_json(entry)
                after = session.id
                yield session

    def peers(self) -> list[dict[str, Any]]:
        """Remote hosts seen lately."""
        peers: list[dict[str, Any]] = self.call("peers")["peers"]
        return peers

    def find(self, local: Endpoint, remote: Endpoint, wait: float = 0.0) -> SessionInfo | None:
        """The connection of the socket of this host with these addresses.

        `wait`: seconds that the handshake may still take.  None: the daemon
        has no part in such a connection, so that it is plain TCP.
        """
        found = self.call("find", local=list(local[:2]), remote=list(remote[:2]), wait=wait)
        return None if found["session"] is None else SessionInfo.from_json(found["session"])

    def find_socket(self, sock: socket.socket | int, wait: float = 0.0) -> SessionInfo | None:
        """`find` for a connected TCP socket, or its descriptor.  Raises also `OSError`."""
        return self.find(*endpoints(sock), wait=wait)

    def flush(self, peer: str | None = None) -> int:
        """Forget secrets for resumption and what is known of the path, of one peer or of all."""
        forgotten: int = self.call("flush", peer=peer)["forgotten"]
        return forgotten

    def policy(self) -> list[dict[str, Any]]:
        """The policies in force, in order."""
        policies: list[dict[str, Any]] = self.call("policy")["policies"]
        return policies

    def confirm(self) -> None:
        """Tell a daemon that was started with `tcpcrypt up --confirm` that it may stay."""
        self.call("confirm")

    def trust_changed(self) -> None:
        """Tell the daemon to look at the files of identities and known peers now."""
        self.call("trust_changed")

    # --- the wire --------------------------------------------------------------------

    def _exchange(self, request: bytes, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        try:
            sock = self._connected(deadline)
            # One that refuses a client says why, and hangs up on what it sends.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(request)
            answer = self._parse(self._line(sock, deadline))
        except TimeoutError as error:
            self.close()
            raise NoAnswerError(f"{self._path}: no answer within {timeout:g} s") from error
        except ConnectionError as error:
            self.close()
            raise _HungUpError from error
        except BaseException:
            self.close()  # what comes next on it would be an answer to something else
            raise
        if "error" in answer:
            if answer["error"].get("code") in ("busy", "too-long"):
                self.close()
            raise ControlError(str(answer["error"]["code"]), str(answer["error"]["message"]))
        return answer["result"]

    def _connected(self, deadline: float) -> socket.socket:
        if self._socket is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(_left(deadline))
            try:
                sock.connect(os.fspath(self._path))
            except TimeoutError:
                sock.close()
                raise
            except OSError as error:
                sock.close()
                # A full queue is reported as EAGAIN to a socket with a timeout.
                if error.errno == errno.EAGAIN:
                    raise TimeoutError from error
                why = error.strerror or str(error)
                raise DaemonNotRunningError(self._path, why) from error
            self._socket = sock
        self._socket.settimeout(_left(deadline))
        return self._socket

    def _line(self, sock: socket.socket, deadline: float) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            sock.settimeout(_left(deadline))
            data = sock.recv(_CHUNK)
            if not data:
                raise ConnectionResetError
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and answer.get("v") == VERSION:
            error = answer.get("error")
            if "result" in answer or (
                isinstance(error, dict) and {"code", "message"} <= set(error)
            ):
                return answer
        raise NoAnswerError(f"{self._path}: the answer is not one of version {VERSION}")


class _HungUpError(Exception):
    """The connection ended before the answer came."""


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def endpoints(sock: socket.socket | int) -> tuple[Endpoint, Endpoint]:
    """Local and remote address of a connected TCP socket or its descriptor.

    Raises `OSError`: ENOTSOCK, ENOTCONN, EBADF, or EPROTOTYPE if it is not TCP.
    """
    if isinstance(sock, int):
        blocking = os.get_blocking(sock)
        borrowed = socket.socket(fileno=sock)
        try:
            return endpoints(borrowed)
        finally:
            borrowed.detach()
            os.set_blocking(sock, blocking)  # `setdefaulttimeout` may have changed it
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        raise OSError(errno.EPROTOTYPE, "the socket is not one of TCP")
    return sock.getsockname()[:2], sock.getpeername()[:2]
