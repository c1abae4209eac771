"""The socket options of draft-ietf-tcpinc-api-06, by name, of a secure socket.

    connection.getsockopt(socket.IPPROTO_TCP, "TCP_ENO_SESSID")

The draft assigns names and no numbers.  Values and errors are those of
`tcpcrypt.daemon.sockopt`, which answers for connections of the kernel: ENOTCONN
before AES_MODE, ENODATA where the other end has proved no identity, EISCONN for
what would have to be set before the offer has left, ENOPROTOOPT for what there
is not.  No failure looks like an empty or zero session ID.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from tcpcrypt.core.events import Established, Role
from tcpcrypt.core.negotiation import Negotiated
from tcpcrypt.registry import SUBOPTION_V
from tcpcrypt.sockets.conversation import Conversation
from tcpcrypt.wire.eno import SynOption, find_eno

__all__ = ["Value", "read", "write"]

Value = int | bytes


@dataclass(frozen=True, slots=True)
class _Asked:
    conversation: Conversation
    established: Established
    negotiated: Negotiated

    @property
    def options(self) -> tuple[SynOption, SynOption]:
        """This host's and the peer's; the transcript has host A's first (RFC 8547 section 4.8)."""
        found = find_eno(self.negotiated.eno_transcript).options
        a, b = (SynOption.parse(option[2:]) for option in found)
        return (a, b) if self.conversation.role is Role.A else (b, a)

    def name(self, role: Role) -> bytes:
        """The role's byte, then the session ID."""
        return bytes((role,)) + self.established.session_id

    @property
    def identity(self) -> bytes:
        shown = self.conversation.peer_identity
        if shown is None:
            _fail(errno.ENODATA, "the peer has not proved an identity")
        return shown.encode()


_READ: Final[Mapping[str, Callable[[_Asked], Value]]] = {
    "TCP_ENO_ENABLED": lambda _asked: 1,
    "TCP_ENO_SESSID": lambda asked: asked.established.session_id,
    # With its bit v, as a session ID begins (RFC 8548 section 3.3).
    "TCP_ENO_NEGTEP": lambda asked: asked.established.session_id[0],
    "TCP_ENO_TEPS": lambda asked: bytes(
        suboption.first_byte & ~SUBOPTION_V for suboption in asked.options[0].suboptions
    ),
    "TCP_ENO_SELF_GOPT": lambda asked: asked.options[0].global_bits,
    "TCP_ENO_PEER_GOPT": lambda asked: asked.options[1].global_bits,
    "TCP_ENO_AA_MANDATORY": lambda _asked: 0,
    "TCP_ENO_TEP_MANDATORY": lambda _asked: 1,
    "TCP_ENO_ROLE": lambda asked: int(asked.conversation.role),
    "TCP_ENO_SELF_NAME": lambda asked: asked.name(asked.conversation.role),
    "TCP_ENO_PEER_NAME": lambda asked: asked.name(asked.conversation.role.peer),
    "TCP_ENO_RAW": lambda _asked: b"",
    "TCP_ENO_TRANSCRIPT": lambda asked: asked.negotiated.eno_transcript,
    "TCP_CRYPT_CONF": lambda asked: asked.established.aead,
    "TCP_CRYPT_PEER_IDENTITY": lambda asked: asked.identity,
}
_BEFORE_THE_OFFER: Final = frozenset(
    {
        "TCP_ENO_ENABLED",
        "TCP_ENO_TEPS",
        "TCP_ENO_SELF_GOPT",
        "TCP_ENO_AA_MANDATORY",
        "TCP_ENO_RAW",
        "TCP_CRYPT_ACONF",
        "TCP_CRYPT_BCONF",
    }
)


def read(conversation: Conversation, name: str) -> Value:
    """The value of an option.  Raises `OSError` with the numbers above."""
    get = _READ.get(name)
    if get is None:
        _fail(errno.ENOPROTOOPT, f"{name} cannot be read")
    established, negotiated = conversation.established, conversation.negotiated
    if established is None or negotiated is None:
        _fail(errno.ENOTCONN, "the handshake is not over")
    return get(_Asked(conversation, established, negotiated))


def write(conversation: Conversation, name: str, value: int | bytes) -> None:
    """Set an option.  Raises `OSError` with the numbers above, EINVAL for values.

    TCP_ENO_TEP_MANDATORY = 1 is what every secure socket has;
    TCP_CRYPT_CACHE_FLUSH = 1 forgets what could resume this session.
    """
    if name in _BEFORE_THE_OFFER:
        _fail(errno.EISCONN, f"{name}: the offer has left")
    if name not in {"TCP_ENO_TEP_MANDATORY", "TCP_CRYPT_CACHE_FLUSH"}:
        _fail(errno.ENOPROTOOPT, f"{name} cannot be set")
    if value != 1:
        _fail(errno.EINVAL, f"{name} of a connection can only be set to 1")
    if name == "TCP_CRYPT_CACHE_FLUSH":
        conversation.flush_resumption()


def _fail(number: int, message: str) -> NoReturn:
    raise OSError(number, message)
