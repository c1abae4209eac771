"""RFC 8547 section 4.6 in the kernel, by a BPF program (ext/eno_sockops.bpf.c).

The program puts the options into the segments of the daemon's sockets and
keeps what their handshakes said; no packet waits for anybody.  It has to
decide at once what `Negotiation` decides elsewhere: how a SYN is answered, and
whether a SYN-ACK is acknowledged.  Here the handshake is replayed with what was
said, so that there is one state machine that has the last word; a connection
about which the two disagree is reset.

An opener is given its option, by storage of its socket, before it connects.
Answers are made of what is published before: the TEPs in their order, and for
each resumption identifier the answer to it.

Segments have the room that Linux leaves: 20 bytes beside MSS, SACK, timestamps
and window scale.  That is enough to offer a resumption, but the answer to one
takes 21 with the eight bytes of nonce that RFC 8548 section 3.5 wants by
default.  Where there is no room for it the answer is a fresh exchange; it fits
where the opener sends no timestamps, or with a shorter nonce, which is for who
can rule out that secrets are used twice.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Fallback, Negotiation
from tcpcrypt.errors import LocalError
from tcpcrypt.registry import GLOBAL_A, GLOBAL_B, RESUME_ID_LEN, TCP_OPTIONS_MAX, Tep
from tcpcrypt.runtime import bpf
from tcpcrypt.runtime.cgroup import open_own_cgroup
from tcpcrypt.runtime.eno_backend import (
    NewRequest,
    Requested,
    SocketAddress,
    Tuple4,
    syns_with_option,
)
from tcpcrypt.runtime.privileges import Privileges
from tcpcrypt.runtime.rules import (
    MARK_ACCEPTED,
    MARK_DIRECT,
    MARK_DONE,
    MARK_HANDSHAKE,
    MARK_PASSED,
    Rule,
    marked,
    remember,
    set_mark,
)
from tcpcrypt.wire.profile import RFC8548

__all__ = ["OBJECT", "Attachment", "Maps", "SockopsBackend", "can_judge", "pass_rules"]

OBJECT: Final = Path(__file__).parent / "eno_sockops.bpf.o"
"""The compiled program; not there if it was built without clang."""
_PROGRAM: Final = "tcpcrypt_eno"
_SO_NETNS_COOKIE: Final = 71
_SYN_ROOM: Final = 20
"""What Linux leaves at least, without TCP-MD5 and TCP-AO."""

# As ext/eno_sockops.bpf.c has them.
_OPENER, _LISTENER, _ACCEPTED = 1, 2, 3
_SYN_LEFT, _GAVE_UP, _CROSSED, _UP, _ACKED = 1, 2, 4, 8, 16
_TRANSCRIPT = struct.Struct("8B10s6x40s40s40s")
_SETTINGS = struct.Struct("=Q4sB3x")
_TEPS: Final = range(Tep.ECDHE_P256, Tep.ECDHE_CURVE448 + 1)


class Maps(NamedTuple):
    """Descriptors of the program's maps: all that who serves connections needs."""

    transcripts: int
    settings: int
    resumptions: int


class Attachment:
    """The program, attached to the control group of this process; until `close`.

    Raises `LocalError` with what stands in the way.
    """

    def __init__(self) -> None:
        try:
            image = OBJECT.read_bytes()
        except OSError:
            raise LocalError("the BPF program was not built (it takes clang)") from None
        self._object = bpf.BpfObject(image)
        try:
            self.maps = Maps(*(self._object.map(name) for name in Maps._fields))
            cgroup = open_own_cgroup()
            try:
                self._object.attach(_PROGRAM, cgroup)
            finally:
                os.close(cgroup)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        self._object.close()


def pass_rules() -> list[Rule]:
    """What stands in the place of `diversion.divert_rules`: nothing is diverted.

    Connections whose SYN went to our listener have MARK_ACCEPTED
    (`tcpcrypt.runtime.following`).
    """
    handshake = ("-p", "tcp", *marked(MARK_HANDSHAKE))
    accepted, over = remember(MARK_ACCEPTED), remember(0)
    answer = ("-p", "tcp", *marked(MARK_DIRECT), "--tcp-flags", "SYN,ACK", "SYN,ACK")
    return [
        # The port of an application's connection that has ended may be the daemon's next one,
        # and connection tracking takes that for the same: it is not steered any more.
        Rule("mangle", "OUTPUT", ("-p", "tcp", *marked(MARK_DONE), "--syn", *over)),
        # The service has answered, not our listener.
        Rule("mangle", "OUTPUT", (*answer, *over)),
        # Not only by its SYN, which is forgotten sooner than a cookie ends.
        Rule("mangle", "INPUT", (*handshake, *accepted)),
        Rule("mangle", "INPUT", (*handshake, *set_mark(MARK_PASSED))),
    ]


def can_judge(config: Config) -> bool:
    """Whether the program knows enough to answer, and to acknowledge answers, by `config`."""
    return not (
        config.profile is not RFC8548
        or config.extensions
        or config.active_b
        or config.require_application_aware
    )


@dataclass(slots=True)
class _Opening:
    negotiation: Negotiation
    progress: Callable[[], None]


class _Transcript(NamedTuple):
    """What the program keeps of a socket."""

    kind: int
    seen: int = 0
    syns: int = 0
    syns_max: int = 0
    offered: int = 0
    own_length: int = 0
    theirs_length: int = 0
    ack_length: int = 0
    ticket: bytes = b""
    own: bytes = b""
    theirs: bytes = b""
    ack: bytes = b""


class SockopsBackend:
    """See `tcpcrypt.runtime.eno_backend.EnoBackend`."""

    name: Final = "sockops"

    def __init__(self, maps: Maps, privileges: Privileges) -> None:
        self._maps = maps
        self._privileges = privileges
        self._new: NewRequest | None = None
        self._opening: dict[socket.socket, _Opening] = {}
        self.evicted = 0
        """Handshakes of peers of which the kernel kept nothing, for want of room."""

    def configure(self, config: Config) -> None:
        if not can_judge(config):
            raise LocalError("the sockops backend speaks RFC 8548 and its own TEPs alone")
        with socket.socket() as any_socket:
            cookie = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        bits = GLOBAL_B | (GLOBAL_A if config.application_aware else 0)
        teps = bytes(config.teps) if config.enabled else b""
        value = _SETTINGS.pack(*struct.unpack("=Q", cookie), teps, bits)
        bpf.update(self._maps.settings, bytes(4), value)

    def adopt_listener(self, listener: socket.socket, new: NewRequest) -> None:
        self._new = new
        self._store(listener, _Transcript(_LISTENER))

    def opener(self, family: int, mark: int, _config: Config) -> socket.socket:
        return self._privileges.opener(family, mark, diverted=False)

    def connect(
        self,
        sock: socket.socket,
        address: SocketAddress,
        negotiation: Negotiation,
        progress: Callable[[], None],
        *,
        mark: int = 0,
        insist: bool = False,
        known: bool = False,
    ) -> None:
        option = negotiation.option_to_send(True, False, _SYN_ROOM)
        if option:
            syns_max = syns_with_option(insist=insist, known=known)
            self._store(sock, _opening_transcript(negotiation, option, syns_max))
        number = sock.connect_ex(address)
        if number not in {0, errno.EINPROGRESS}:
            raise OSError(number, "connect")
        self._opening[sock] = _Opening(negotiation, progress)

    def connected(self, sock: socket.socket) -> None:
        opening = self._opening.pop(sock, None)
        if opening is None:
            return
        negotiation = opening.negotiation
        if negotiation.outcome is None:
            _replay_opening(negotiation, self._load(sock))
        opening.progress()

    def accepted(self, sock: socket.socket, connection: Tuple4) -> Requested | None:
        said, new = self._load(sock), self._new
        if said is None or said.kind != _ACCEPTED or new is None:
            self.evicted += 1
            return None
        nonce = said.own[4 + RESUME_ID_LEN :]
        requested = new(
            connection,
            resume=len(said.own) >= 4 + RESUME_ID_LEN,
            random=lambda _count: nonce,
        )
        negotiation = requested.negotiation
        negotiation.segment_received(True, False, said.theirs)
        if negotiation.option_to_send(True, True, len(said.own)) != said.own:
            # What it goes by has changed since the SYN was answered.
            negotiation.abandon()
            return None
        negotiation.segment_received(False, True, said.ack)
        return requested

    def release(self, sock: socket.socket) -> None:
        self._opening.pop(sock, None)

    def _store(self, sock: socket.socket, value: _Transcript) -> None:
        key = struct.pack("=i", sock.fileno())
        bpf.update(self._maps.transcripts, key, _TRANSCRIPT.pack(*value))

    def _load(self, sock: socket.socket) -> _Transcript | None:
        key = struct.pack("=i", sock.fileno())
        raw = bpf.lookup(self._maps.transcripts, key, _TRANSCRIPT.size)
        if raw is None:
            return None
        value = _Transcript(*_TRANSCRIPT.unpack(raw))
        return value._replace(
            own=value.own[: value.own_length],
            theirs=value.theirs[: value.theirs_length],
            ack=value.ack[: value.ack_length],
        )


def _opening_transcript(negotiation: Negotiation, option: bytes, syns_max: int) -> _Transcript:
    own = negotiation.own
    if own is None or len(option) > TCP_OPTIONS_MAX:
        raise LocalError("there is no option to send")
    offered = sum(1 << _TEPS.index(s.tep) for s in own.option.suboptions if s.tep in _TEPS)
    ticket = own.ticket
    return _Transcript(
        _OPENER,
        syns_max=syns_max,
        offered=offered,
        own_length=len(option),
        ticket=bytes((ticket.tep,)) + ticket.peer_identifier if ticket is not None else b"",
        own=option,
    )


def _replay_opening(negotiation: Negotiation, said: _Transcript | None) -> None:
    """Show `negotiation` what was said.  Raises `OSError` if it sees it otherwise."""
    if said is None or said.seen & _GAVE_UP or not said.seen & _SYN_LEFT:
        negotiation.option_to_send(True, False, 0)
        return
    if said.seen & _CROSSED:
        negotiation.segment_received(True, False, b"")
        return
    negotiation.segment_received(True, True, said.theirs)
    acknowledged = bool(said.seen & _ACKED)
    if negotiation.outcome is None:
        negotiation.option_to_send(False, True, TCP_OPTIONS_MAX if acknowledged else 0)
    if acknowledged and isinstance(negotiation.outcome, Fallback):
        # The peer may count on encryption.
        raise OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
