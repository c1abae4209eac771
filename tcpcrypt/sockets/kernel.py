"""A secure connection that the daemon of this host encrypts: TCP's own options.

The program's socket is the kernel's, plain to look at.  Before its first byte
goes out or comes in, the daemon is asked whether it encrypts the connection and
who has proved to be at the other end (docs/control.md); afterwards an end of
file counts only while that daemon is still there, whose death would look like one.
"""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path
from typing import Final

from tcpcrypt.auth.trust import PostQuantum
from tcpcrypt.crypto.aead import AEADS
from tcpcrypt.daemon import sockopt
from tcpcrypt.daemon.client import Client, SessionInfo
from tcpcrypt.daemon.control import DEFAULT_PATH
from tcpcrypt.errors import (
    AuthenticationError,
    FallbackReason,
    HandshakeTimeoutError,
    LocalError,
    NoEncryptionError,
    PeerReason,
    ResetError,
    TcpcryptError,
    TruncationError,
)
from tcpcrypt.sockets.arrangement import HANDSHAKE_TIMEOUT
from tcpcrypt.sockets.peer import Demand, PeerSpec
from tcpcrypt.sockets.secure import OnState, SecureSocket
from tcpcrypt.sockets.state import TABLE, State, StateChanged, Step
from tcpcrypt.sockets.waiting import READ, WRITE, Deadline, wait

__all__ = ["KernelSocket", "encrypted_by_daemon", "judge"]

_PATIENCE: Final = 1.0
"""Seconds that a daemon may cost which does not answer (`auto`), or that does not yet
know of a connection which has to be its own (`eno`)."""


_HYBRID: Final = "X25519MLKEM768"
"""What the daemon calls the key agreement that `pq` means."""


def encrypted_by_daemon(
    sock: socket.socket, control: Path | str | None, *, accepted: bool = False
) -> bool:
    """Whether there is a daemon and it says that it encrypts this connection.

    Of one that was `accepted` it knows at once: it has made it itself.  Of another
    it may come to know, which can take a fifth of a second if it does not.
    """
    path = DEFAULT_PATH if control is None else Path(control)
    if not path.exists() or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    try:
        with Client(path, _PATIENCE) as daemon:
            session = daemon.find_socket(sock, wait=0 if accepted else HANDSHAKE_TIMEOUT)
    except (LocalError, OSError):
        return False
    return session is not None and session.encrypted


def judge(spec: PeerSpec, session: SessionInfo) -> None:
    """Raise `AuthenticationError` unless the other end is whom `spec` asks for.

    What the daemon knows of keys is decided by its own files and policies.
    """
    if spec.pq is PostQuantum.REQUIRE and session.kex != _HYBRID:
        detail = f"keys were agreed on by {session.kex}; a policy with `pq` asks for {_HYBRID}"
        raise AuthenticationError(PeerReason.AUTHENTICATION, detail)
    shown = session.fingerprint if session.proved else None
    if spec.demand is Demand.UNAUTHENTICATED:
        return
    if shown is None:
        detail = (
            "the daemon has no proof of who is at the other end; a policy with `auth` asks for it"
        )
    elif spec.demand is Demand.TOFU and session.direction == "outgoing" and session.trust is None:
        # A policy without `auth` lets anybody show a key, and compares it with none.
        detail = (
            f"it showed {shown}, which the daemon does not remember; a policy with"
            ' `auth = "tofu"` does'
        )
    elif spec.demand is Demand.PIN and shown not in spec.pins:
        detail = f"it showed {shown}, pinned is {', '.join(spec.pins)}"
    elif spec.demand is Demand.PSK and session.psk != spec.psk:
        detail = f"it showed {shown} and did not use the pre-shared key {spec.psk}"
    else:
        return
    raise AuthenticationError(PeerReason.AUTHENTICATION, detail)


class KernelSocket(SecureSocket):
    """A connection of the kernel that is encrypted by the daemon."""

    transport = "eno"

    def __init__(
        self,
        sock: socket.socket,
        spec: PeerSpec,
        control: Path | str | None = None,
        on_state: OnState | None = None,
    ) -> None:
        super().__init__(sock, on_state)
        sock.setblocking(False)
        self._spec = spec
        self._control = DEFAULT_PATH if control is None else Path(control)
        self._state = State.INIT
        self._error: TcpcryptError | None = None
        self._session: SessionInfo | None = None
        self._daemon: object = None
        self._fin_sent = False
        self._ended = False

    # --- what is known -------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    @property
    def error(self) -> TcpcryptError | None:
        return self._error

    @property
    def session_id(self) -> bytes | None:
        return None if self._session is None else self._session.session_id

    @property
    def peer_identity(self) -> str | None:
        session = self._session
        return session.fingerprint if session is not None and session.proved else None

    @property
    def cipher(self) -> str | None:
        session = self._session
        if session is None or session.aead is None:
            return None
        known = AEADS.get(session.aead)
        return f"{session.aead:#06x}" if known is None else known.evp_name

    @property
    def resumed(self) -> bool | None:
        return None if self._session is None else self._session.resumed

    @property
    def session(self) -> SessionInfo | None:
        """What the daemon said of the connection; None before AES_MODE."""
        return self._session

    def _get_option(self, name: str) -> int | bytes:
        return sockopt.getsockopt(self._sock, _option(name), control=self._control)

    def _set_option(self, name: str, value: int | bytes) -> None:
        sockopt.setsockopt(self._sock, _option(name), value, control=self._control)

    # --- the handshake -----------------------------------------------------------------------

    def _hand_shake(self, deadline: Deadline) -> None:
        """Ask the daemon; a socket that does not block is asked for all the same."""
        self._raise_failure()
        try:
            with Client(self._control, HANDSHAKE_TIMEOUT) as daemon:
                status = daemon.status()
                session = _found(daemon, self._sock)
            self._judge(session)
        except TcpcryptError as error:
            self._fail(error)
            raise
        except OSError as error:
            raise self._lost() from error
        self._daemon, self._session = _which(status), session
        self._step(
            Step.PROVED, f"the daemon vouches for {self.peer_identity or 'encryption alone'}"
        )

    def _judge(self, session: SessionInfo | None) -> None:
        if session is None or (session.settled and not session.encrypted):
            raise NoEncryptionError(FallbackReason.NOT_ENCRYPTED)
        self._step(Step.NEGOTIATED, "the daemon has the connection")
        if not session.encrypted:
            raise HandshakeTimeoutError(PeerReason.TIMEOUT, "the daemon is still at it")
        self._step(Step.KEYS, "the daemon has the keys")
        judge(self._spec, session)

    def _step(self, step: Step, reason: str) -> None:
        old, self._state = self._state, TABLE.get((self._state, step), State.FAIL)
        if self._on_state is not None:
            self._on_state(StateChanged(old, self._state, reason))

    def _fail(self, error: TcpcryptError) -> None:
        if self._error is None:
            self._error = error
            self._step(Step.FAULT, str(error))

    def _lost(self) -> TcpcryptError:
        """TCP says that the connection is gone: so says the daemon of whatever goes wrong."""
        self._check_open()
        self._fail(ResetError(PeerReason.RESET, "`tcpcrypt sessions` and the log know why"))
        return self._error or ResetError(PeerReason.RESET)

    # --- the program's bytes -------------------------------------------------------------------

    def _send_some(self, view: memoryview, deadline: Deadline) -> int:
        self._raise_failure()
        if self._fin_sent:
            raise BrokenPipeError(errno.EPIPE, "the own stream was ended by shutdown")
        while True:
            try:
                return self._sock.send(view)
            except (BlockingIOError, InterruptedError):
                self._wait(WRITE, deadline)
            except OSError as error:
                raise self._lost() from error

    def _send_all(self, view: memoryview, deadline: Deadline) -> None:
        while view:
            view = view[self._send_some(view, deadline) :]

    def _receive(self, view: memoryview, deadline: Deadline) -> int:
        while not self._ended:
            self._raise_failure()
            try:
                size = self._sock.recv_into(view)
            except (BlockingIOError, InterruptedError):
                self._wait(READ, deadline)
                continue
            except OSError as error:
                raise self._lost() from error
            if size:
                return size
            self._check_open()
            self._check_end()
        return 0

    def _check_end(self) -> None:
        """An end of file: the other end's, if the daemon has lived to see it."""
        try:
            with Client(self._control, HANDSHAKE_TIMEOUT) as daemon:
                status = daemon.status()
        except LocalError as error:
            status = {"pid": str(error)}
        if _which(status) != self._daemon:
            detail = "the daemon that encrypted it is gone"
            self._fail(TruncationError(PeerReason.TRUNCATED, detail))
        else:
            self._ended = True

    def _wait(self, events: int, deadline: Deadline) -> None:
        wait(self._sock, events, deadline, self._gone)
        self._check_open()

    def pending(self) -> int:
        return 0

    # --- the end -----------------------------------------------------------------------------

    def _end(self, deadline: Deadline) -> None:
        self._raise_failure()
        if not self._fin_sent:
            self._fin_sent = True
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                if not self._ended:
                    raise self._lost() from error

    def _forget(self) -> bool:
        well = self._state is State.AES_MODE and self._fin_sent and not self._aborted
        if self._state is not State.AES_MODE:
            self._fail(LocalError("closed by this host before the handshake was over"))
        return well


def _found(daemon: Client, sock: socket.socket) -> SessionInfo | None:
    """What the daemon says, whose word is all there is: one that is busy is asked again."""
    end = time.monotonic() + _PATIENCE
    session = daemon.find_socket(sock, wait=HANDSHAKE_TIMEOUT)
    while session is None and time.monotonic() < end:
        session = daemon.find_socket(sock, wait=HANDSHAKE_TIMEOUT)
    return session


def _which(status: dict[str, object]) -> object:
    """What tells one run of the daemon from another."""
    return status.get("pid"), status.get("worker"), status.get("started")


def _option(name: str) -> sockopt.Option:
    try:
        return sockopt.Option(name)
    except ValueError:
        raise OSError(errno.ENOPROTOOPT, f"{name} is no option of TCP-ENO") from None
