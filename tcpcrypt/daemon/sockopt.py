"""The socket options of draft-ietf-tcpinc-api-06, answered by the daemon.

The draft describes a kernel that speaks TCP-ENO.  Here the kernel does not, so
that `getsockopt(sock, TCP_ENO_SESSID)` asks the daemon about the connection of
that socket.  The names, the types of the values and the errors are the draft's:

* what tells of an encrypted connection fails with ENOTCONN while there is no
  connection or the handshake runs, and with EINVAL where the connection is
  plain.  No failure ever looks like an empty or zero session ID.
* what configures a connection cannot be set once its SYN has left (EISCONN).

Some things are the daemon's own.  TCP_CRYPT_PEER_IDENTITY, which the draft
does not have, is the fingerprint of the key that the peer has proved; ENODATA
where it has not, or shows none.  A host without a daemon is one whose kernel
has never heard of these options: ENOPROTOOPT.  And what would configure a
connection that is still to come fails with EOPNOTSUPP, for no socket is known
to the daemon before its SYN; policies do that (tcpcrypt.toml).
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from tcpcrypt.core.events import Role
from tcpcrypt.core.policy import Mode
from tcpcrypt.daemon.client import (
    Client,
    ControlError,
    DaemonNotRunningError,
    NoAnswerError,
    SessionInfo,
    endpoints,
)
from tcpcrypt.daemon.control import DEFAULT_PATH
from tcpcrypt.registry import SUBOPTION_V
from tcpcrypt.wire.eno import EnoFound, SynOption, find_eno
from tcpcrypt.wire.profile import PROFILES, RFC8548

__all__ = ["Option", "Value", "getsockopt", "setsockopt"]

Value = int | bytes


class Option(enum.Enum):
    """Names of the draft; it assigns no numbers, so none stand here."""

    TCP_ENO_ENABLED = "TCP_ENO_ENABLED"
    TCP_ENO_SESSID = "TCP_ENO_SESSID"
    TCP_ENO_NEGTEP = "TCP_ENO_NEGTEP"
    TCP_ENO_TEPS = "TCP_ENO_TEPS"
    TCP_ENO_SELF_GOPT = "TCP_ENO_SELF_GOPT"
    TCP_ENO_PEER_GOPT = "TCP_ENO_PEER_GOPT"
    TCP_ENO_AA_MANDATORY = "TCP_ENO_AA_MANDATORY"
    TCP_ENO_TEP_MANDATORY = "TCP_ENO_TEP_MANDATORY"
    TCP_ENO_ROLE = "TCP_ENO_ROLE"
    TCP_ENO_SELF_NAME = "TCP_ENO_SELF_NAME"
    TCP_ENO_PEER_NAME = "TCP_ENO_PEER_NAME"
    TCP_ENO_RAW = "TCP_ENO_RAW"
    TCP_ENO_TRANSCRIPT = "TCP_ENO_TRANSCRIPT"
    TCP_CRYPT_CONF = "TCP_CRYPT_CONF"
    TCP_CRYPT_CACHE_FLUSH = "TCP_CRYPT_CACHE_FLUSH"
    TCP_CRYPT_ACONF = "TCP_CRYPT_ACONF"
    TCP_CRYPT_BCONF = "TCP_CRYPT_BCONF"
    TCP_CRYPT_PEER_IDENTITY = "TCP_CRYPT_PEER_IDENTITY"
    """Not the draft's."""


class _Asked(NamedTuple):
    """An option's value is wanted of this."""

    daemon: Client
    session: SessionInfo


def getsockopt(
    sock: socket.socket | int,
    option: Option,
    *,
    control: Path | str = DEFAULT_PATH,
    wait: float = 0.0,
) -> Value:
    """The value of `option` for a connected TCP socket or its descriptor.

    `wait`: seconds that the handshake may still take before ENOTCONN.  Raises
    `OSError` with the numbers above, ENOPROTOOPT also for options that only a
    kernel could have, ETIMEDOUT if the daemon does not answer.
    """
    read = _READ.get(option)
    if read is None:
        _fail(errno.ENOPROTOOPT, f"{option.name} cannot be read")
    local, remote = endpoints(sock)
    with _Daemon(control) as daemon:
        session = daemon.find(local, remote, wait)
        if option not in _CONFIGURE:
            session = _encrypted(session)
        elif session is None:
            _fail(errno.EINVAL, "no policy names this connection: it is plain TCP")
        return read(_Asked(daemon, session))


def setsockopt(
    sock: socket.socket | int,
    option: Option,
    value: Value,
    *,
    control: Path | str = DEFAULT_PATH,
) -> None:
    """Do what of the draft can be done from outside of the kernel.

    TCP_ENO_TEP_MANDATORY = 1: leaves an encrypted connection alone and aborts a
    plain one at once, by RST.  TCP_CRYPT_CACHE_FLUSH = 1: the daemon forgets
    what it keeps for resumption with this connection's peer, which is more
    than the draft's and hence for administrators alone (EACCES).  All else
    raises `OSError`: EISCONN for what had to be set before the SYN,
    EOPNOTSUPP before it, ENOPROTOOPT for what is only read, EINVAL for values.
    """
    if option not in _CONFIGURE and option is not Option.TCP_CRYPT_CACHE_FLUSH:
        _fail(errno.ENOPROTOOPT, f"{option.name} cannot be set")
    try:
        local, remote = endpoints(sock)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            _fail(errno.EOPNOTSUPP, f"{option.name}: policies decide before a connection is made")
        raise
    if option is Option.TCP_CRYPT_CACHE_FLUSH:
        _one(option, value)
        with _Daemon(control) as daemon:
            _encrypted(daemon.find(local, remote))
            daemon.flush(remote[0])
    elif option is Option.TCP_ENO_TEP_MANDATORY:
        _one(option, value)
        with _Daemon(control) as daemon:
            session = daemon.find(local, remote)
        if session is not None and not session.settled:
            _fail(errno.EISCONN, f"{option.name}: the SYN has left")
        if session is None or not session.encrypted:
            _abort(sock if isinstance(sock, int) else sock.fileno())
    else:
        _fail(errno.EISCONN, f"{option.name}: the SYN has left")


class _Daemon(Client):
    """A client whose errors are those of a socket."""

    def __init__(self, control: Path | str) -> None:
        super().__init__(control)

    def call(self, method: str, **params: object) -> object:
        try:
            return super().call(method, **params)
        except DaemonNotRunningError as error:
            _fail(errno.ENOPROTOOPT, str(error))
        except NoAnswerError as error:
            _fail(errno.ETIMEDOUT, str(error))
        except ControlError as error:
            _fail(errno.EACCES if error.code == "denied" else errno.EAGAIN, str(error))


def _fail(number: int, message: str) -> NoReturn:
    raise OSError(number, message)


def _encrypted(session: SessionInfo | None) -> SessionInfo:
    if session is None or session.state == "plain":
        _fail(errno.EINVAL, "the connection is not encrypted: it is plain TCP")
    _session_id(session)
    return session


def _one(option: Option, value: Value) -> None:
    if value != 1:
        _fail(errno.EINVAL, f"{option.name} of a connection can only be set to 1")


def _abort(fd: int) -> None:
    """Reset a connection whose socket stays open: connect(2) to AF_UNSPEC."""
    libc = ctypes.CDLL(None, use_errno=True)
    unspecified = bytes(16)
    if libc.connect(fd, unspecified, len(unspecified)) != 0:
        number = ctypes.get_errno()
        _fail(number, os.strerror(number))


# --- values ------------------------------------------------------------------------


def _known(value: Value | None) -> Value:
    """What every encrypted connection has, and a daemon of another age may not tell."""
    if value is None:
        _fail(errno.ENOPROTOOPT, "the daemon does not tell this")
    return value


def _session_id(session: SessionInfo) -> bytes:
    if session.session_id is None:
        _fail(errno.ENOTCONN, "the handshake is not over")
    return session.session_id


def _role(session: SessionInfo) -> Role:
    return Role(int(_known(session.role)))


def _name(session: SessionInfo, role: Role) -> bytes:
    """The role's byte, then the session ID."""
    return bytes([role]) + _session_id(session)


def _options(session: SessionInfo) -> tuple[SynOption, SynOption]:
    """This host's and the peer's; the transcript has host A's first (RFC 8547 section 4.8)."""
    profile, transcript = PROFILES.get(session.profile or "", RFC8548), session.transcript
    found = EnoFound(()) if transcript is None else find_eno(transcript, profile)
    # In other dialects the empty options of the first ACKs stand between.
    options = [option for option in found.options if option != profile.transcript_suffix]
    if len(options) != 2:
        _fail(errno.ENOPROTOOPT, "the daemon does not tell the options of both SYNs")
    head = 2 + len(profile.option_exid)
    a, b = (SynOption.parse(option[head:], profile) for option in options)
    return (a, b) if _role(session) is Role.A else (b, a)


def _identity(session: SessionInfo) -> bytes:
    if session.fingerprint is None or not session.proved:
        _fail(errno.ENODATA, "the peer has not proved an identity")
    return session.fingerprint.encode()


def _teps(session: SessionInfo) -> bytes:
    own, _peer = _options(session)
    return bytes(suboption.first_byte & ~SUBOPTION_V for suboption in own.suboptions)


def _tep_mandatory(asked: _Asked) -> int:
    number = asked.session.policy
    if number is None:
        return 0
    policies = {entry["number"]: entry["mode"] for entry in asked.daemon.policy()}
    return int(policies.get(number) == Mode.REQUIRE.value)


_READ: Final[Mapping[Option, Callable[[_Asked], Value]]] = {
    # -1: the system's default, here the policies', is what every socket goes by.
    Option.TCP_ENO_ENABLED: lambda _asked: -1,
    Option.TCP_ENO_SESSID: lambda asked: _session_id(asked.session),
    # With its bit v, as a session ID begins (RFC 8548 section 3.3).
    Option.TCP_ENO_NEGTEP: lambda asked: _session_id(asked.session)[0],
    Option.TCP_ENO_TEPS: lambda asked: _teps(_encrypted(asked.session)),
    Option.TCP_ENO_SELF_GOPT: lambda asked: _options(_encrypted(asked.session))[0].global_bits,
    Option.TCP_ENO_PEER_GOPT: lambda asked: _options(asked.session)[1].global_bits,
    Option.TCP_ENO_AA_MANDATORY: lambda _asked: 0,
    Option.TCP_ENO_TEP_MANDATORY: _tep_mandatory,
    Option.TCP_ENO_ROLE: lambda asked: int(_role(asked.session)),
    Option.TCP_ENO_SELF_NAME: lambda asked: _name(asked.session, _role(asked.session)),
    Option.TCP_ENO_PEER_NAME: lambda asked: _name(asked.session, _role(asked.session).peer),
    Option.TCP_ENO_RAW: lambda _asked: b"",
    Option.TCP_ENO_TRANSCRIPT: lambda asked: _known(asked.session.transcript),
    # The draft has one byte; RFC 8548 section 7 has since made it two.
    Option.TCP_CRYPT_CONF: lambda asked: _known(asked.session.aead),
    Option.TCP_CRYPT_PEER_IDENTITY: lambda asked: _identity(asked.session),
}
"""How each is read.  What configures the cipher offers of a connection cannot be."""

_CONFIGURE: Final = frozenset(
    {
        Option.TCP_ENO_ENABLED,
        Option.TCP_ENO_TEPS,
        Option.TCP_ENO_SELF_GOPT,
        Option.TCP_ENO_AA_MANDATORY,
        Option.TCP_ENO_TEP_MANDATORY,
        Option.TCP_ENO_RAW,
        Option.TCP_CRYPT_ACONF,
        Option.TCP_CRYPT_BCONF,
    }
)
"""What the draft lets a program set before the connection is made."""
