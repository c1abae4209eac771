"""Handshakes that peers begin, from their SYN to the connection, and what floods leave of them.

Most of a flood asks alike: the same service, by the same option.  So what one such SYN
was answered, after a negotiation, is the answer to all that ask so within a second or
two, and no more is kept of each than who asked, for what.  A negotiation of its own has
only who goes on: it is made of what was said, and has the last word, as with a SYN that
the kernel answers (`tcpcrypt.runtime.sockops`).

Answers that resume a session are not shared: each has a nonce of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

from tcpcrypt import _fast
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.core.tep import tep_spec
from tcpcrypt.errors import PeerError
from tcpcrypt.registry import (
    ENO_EXID,
    GLOBAL_A,
    GLOBAL_B,
    TCP_OPTION_ENO,
    TCP_OPTION_EXPERIMENT,
)
from tcpcrypt.runtime.eno_backend import Requested, Tuple4
from tcpcrypt.wire.eno import SynOption
from tcpcrypt.wire.profile import RFC8548

__all__ = ["Answer", "Answers", "ChangedError", "HalfOpen", "only_option"]

_HEAD_LEN: Final = 2
"""Kind and length byte of an option."""

_RENEWED_AFTER: Final = 1.0
_GOOD_FOR: Final = 3.0
"""Seconds.  Policies and trust may change, and what was decided before holds as long."""
_ANSWERS_MAX: Final = 4096
"""Kept; of a service there are some hundred at most that differ."""
_ALIKE_MAX: Final = 256

_Meaning = tuple[int, tuple[tuple[bytes | None, bool] | None, ...]]
"""Global bits; of each TEP that this host knows, if it is offered, the variant (None: not
valid) and whether a session is asked for.  Nothing else counts for the answer."""
_USELESS: Final[_Meaning] = -1, ()
"""What no negotiation begins with: several options, or one that is ill-formed."""
_Asked = tuple[bytes, int, _Meaning]
"""Address and port of a service, and what is asked of it."""


class ChangedError(Exception):
    """What was said leads to another answer than was given: the connection cannot go on."""


@dataclass(slots=True)
class Answer:
    """What was answered to a SYN, and serves for others."""

    requested: Requested
    """As it was decided for the first who asked so; the negotiation is that one's."""
    option: bytes
    renewed: float
    until: float


class Answers:
    """What SYNs were answered lately."""

    def __init__(self) -> None:
        self._known: dict[_Asked, Answer] = {}
        self._alike: dict[tuple[bytes, int, bytes], Answer] = {}
        """Some of the same by the option itself, which are found sooner."""
        self._latest: dict[tuple[bytes, int], Requested] = {}
        """By service; how what asks for a session is to be read."""

    def find(self, asked: Tuple4, syn: bytes) -> Answer | None:
        """For a SYN with these options; None: it is to be negotiated about."""
        service = asked.local, asked.local_port
        option = only_option(syn)
        known = self._alike.get((*service, option))
        if known is None and (latest := self._latest.get(service)) is not None:
            meant = _meaning(latest, option)
            known = None if meant is None else self._known.get((*service, meant))
        if known is None:
            return None
        now = time.monotonic()
        if now >= known.until:
            return None
        if now >= known.renewed:
            # One is asked anew, and the others do not wait for it.
            known.renewed = now + _RENEWED_AFTER
            return None
        return known

    def note(self, asked: Tuple4, syn: bytes, requested: Requested, answer: bytes) -> None:
        """A negotiation about a SYN with these options has led to `answer`."""
        option = only_option(syn)
        own = requested.negotiation.own
        resumes = own is not None and own.recognised is not None
        meant = _meaning(requested, option) if requested.shared and not resumes else None
        if meant is None:
            return
        if len(self._known) >= _ANSWERS_MAX:
            self.clear()
        now = time.monotonic()
        known = Answer(requested, answer, now + _RENEWED_AFTER, now + _GOOD_FOR)
        service = asked.local, asked.local_port
        self._latest[service] = requested
        self._known[*service, meant] = known
        if option and not any(named for _variant, named in filter(None, meant[1])):
            # A session may be there the next time.
            if len(self._alike) >= _ALIKE_MAX:
                self._alike.clear()
            self._alike[*service, option] = known

    def clear(self) -> None:
        """What was decided counts no more."""
        self._known.clear()
        self._alike.clear()
        self._latest.clear()


def _meaning(requested: Requested, option: bytes) -> _Meaning | None:
    """What an option comes to for who has none of the sessions that it asks for.

    None where it asks for one that there is, or may be of another dialect.
    """
    if requested.policy.profiles != (RFC8548,) and not option:
        return None
    config = requested.config
    if config.profile is not RFC8548:
        return None
    try:
        offered = SynOption.parse(memoryview(option)[_HEAD_LEN:]) if option else None
    except PeerError:
        offered = None
    if offered is None:
        return _USELESS
    found: list[tuple[bytes | None, bool] | None] = []
    for tep in config.teps:
        once = [suboption for suboption in offered.suboptions if suboption.tep == tep]
        if len(once) != 1:
            found.append(None)  # RFC 8547 section 4.5: given twice, a TEP is not valid
            continue
        spec = tep_spec(config, tep)
        offer = spec.read_offer(once[0].data)
        named = b"" if offer is None else offer.identifier
        if named and requested.resumes(spec.identifier, named):
            return None
        found.append((None if offer is None else offer.variant, bool(named)))
    return offered.global_bits & (GLOBAL_A | GLOBAL_B), tuple(found)


class HalfOpen:
    """A connection that a peer opens."""

    __slots__ = (
        *("_answer", "_requested"),
        *("connection", "exemplary", "received_isn", "sent_isn", "since", "syn"),
    )

    def __init__(self, connection: Tuple4, isn: int, syn: bytes, known: Requested | Answer) -> None:
        """`syn`: the options of the SYN, which `known`, if it is a negotiation, has seen."""
        self.connection = connection
        self.received_isn = isn
        self.syn = syn
        self.sent_isn: int | None = None
        """Of the SYN-ACK, once it is sent."""
        self.exemplary = True
        """Whether what is answered follows from `syn` alone, so that it may serve for others."""
        self.since = time.monotonic()
        self._answer: Answer | None = None
        self._requested: Requested | None = None
        if isinstance(known, Requested):
            self._requested = known
        else:
            self._answer = known

    @property
    def answer(self) -> bytes | None:
        """The option of the SYN-ACK, or none, where it is known; None: ask the negotiation."""
        return None if self._answer is None else self._answer.option

    def requested(self) -> Requested:
        """What was decided, with a negotiation to go on with.  Raises `ChangedError`."""
        if self._requested is None:
            self._requested = self._replayed()
        return self._requested

    def _replayed(self) -> Requested:
        known, self._answer = self._answer, None
        if known is None:
            raise ChangedError
        negotiation = Negotiation(
            known.requested.config, Opener.PASSIVE, peer=self.connection.remote
        )
        negotiation.segment_received(True, False, self.syn)
        if self.sent_isn is not None:
            said = negotiation.option_to_send(True, True, len(known.option))
            if said != known.option:
                negotiation.abandon()
                raise ChangedError
        return replace(known.requested, negotiation=negotiation)

    def repeated(self, syn: bytes) -> None:
        """A SYN of the same number has come, with these options.  Raises `ChangedError`."""
        if only_option(syn) == only_option(self.syn) != b"":
            return  # it says what the first has said
        # Otherwise two SYNs of anybody, before the answer to the first, would have all
        # who ask alike answered as he is.
        self.exemplary = False
        self.requested().negotiation.segment_received(True, False, syn)

    def abandon(self) -> None:
        """It is given up."""
        if self._requested is not None:
            self._requested.negotiation.abandon()


def only_option(options: bytes) -> bytes:
    """RFC 8547 section 4.7: the ENO option of a SYN, raw; empty where none counts."""
    found = b""
    try:
        for kind, start, end in _fast.walk_options(options):
            legacy = kind == TCP_OPTION_EXPERIMENT and options.startswith(
                ENO_EXID, start + _HEAD_LEN, end
            )
            if legacy or (kind == TCP_OPTION_ENO and found):
                return b""
            if kind == TCP_OPTION_ENO:
                found = options[start:end]
    except PeerError:
        return b""
    return found
