"""Does the path to a host keep TCP option 69, and what does the host answer to it?

Two SYNs go out, one with a TCP-ENO option (RFC 8547 section 4.1) and one
without, and their answers are compared.  What the answer means is decided by
the negotiation that the daemon itself uses.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation, Opener
from tcpcrypt.errors import LocalError, PeerError
from tcpcrypt.registry import TCP_OPTIONS_MAX, Tep
from tcpcrypt.tools.syn import Answer, Knock, SocketAddress, SynSocket, ordinary_options
from tcpcrypt.wire.eno import SynOption, find_eno
from tcpcrypt.wire.tcpopt import room

__all__ = ["Conclusion", "Result", "probe", "resolve", "tep_name"]

ADDRESSES_MAX: Final = 8
"""Addresses of one name that are probed."""
_FAMILIES: Final = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
_TEPS: Final = (Tep.ECDHE_CURVE25519, Tep.ECDHE_CURVE448, Tep.ECDHE_P256, Tep.ECDHE_P521)
_TEP_NAMES: Final[dict[int, str]] = {
    Tep.EXPERIMENTAL: "experimental",
    Tep.ECDHE_P256: "ECDHE-P256",
    Tep.ECDHE_P521: "ECDHE-P521",
    Tep.ECDHE_CURVE25519: "ECDHE-Curve25519",
    Tep.ECDHE_CURVE448: "ECDHE-Curve448",
}


class Conclusion(enum.Enum):
    """What the two answers say together; names are the values of `--json`."""

    ENCRYPTS = "the host speaks TCP-ENO and the path keeps option 69"
    UNUSABLE = "the host answers with TCP-ENO, but not so that a connection could be encrypted"
    PLAIN = "the host answers without TCP-ENO: it does not speak it, or the path removes option 69"
    DROPPED = "the path or the host drops SYNs with option 69, and answers those without"
    REJECTED = "the path or the host rejects SYNs with option 69, and accepts those without"
    REFUSED = "the host refuses connections to this port"
    FILTERED = "neither SYN was answered: a firewall, a wrong address, or the host is down"
    UNREACHABLE = "the host cannot be reached"


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of one address."""

    address: SocketAddress
    conclusion: Conclusion
    plain: Knock | None = None
    eno: Knock | None = None
    option: SynOption | None = None
    """The TCP-ENO option of the SYN-ACK, where it parses."""
    outcome: Negotiated | Fallback | None = None
    """What the daemon would have made of the SYN-ACK."""
    teps: tuple[tuple[int, bool], ...] = ()
    """Each TEP that was offered by itself, and whether it was agreed to."""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """A connection would be encrypted."""
        return self.conclusion is Conclusion.ENCRYPTS

    @property
    def keeps_option(self) -> bool | None:
        """Whether the path keeps option 69; None where the answers do not tell."""
        if self.eno is not None and self.eno.answer is Answer.ACCEPTED:
            return True if _raw_eno(self.eno) else None
        return False if self.conclusion in _LOST else None

    def as_json(self) -> dict[str, Any]:
        """The form of `--json`."""
        agreed = self.outcome.tep if isinstance(self.outcome, Negotiated) else None
        return {
            "address": self.address[0],
            "port": self.address[1],
            "ok": self.ok,
            "conclusion": self.conclusion.name.lower(),
            "meaning": self.conclusion.value,
            "keeps_option": self.keeps_option,
            "tep": f"{agreed:#04x}" if agreed is not None else None,
            "fallback": self.outcome.reason.value if isinstance(self.outcome, Fallback) else None,
            "option": _option_json(self.option),
            "each": {f"{tep:#04x}": yes for tep, yes in self.teps},
            "with_option": _knock_json(self.eno),
            "without_option": _knock_json(self.plain),
            "notes": list(self.notes),
        }


_LOST: Final = (Conclusion.DROPPED, Conclusion.REJECTED)


def tep_name(tep: int) -> str:
    """`ECDHE-Curve25519 (0x23)`."""
    return f"{_TEP_NAMES.get(tep, 'unknown')} ({tep:#04x})"


def resolve(host: str, port: int, family: int = 0) -> list[SocketAddress]:
    """The addresses of a name, at most eight, in the resolver's order.

    `family` is 4, 6 or 0 for both.  Raises `LocalError` if there are none.
    """
    try:
        found = socket.getaddrinfo(host, port, _FAMILIES[family], socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise LocalError(f"{host}: {why}") from None
    addresses = dict.fromkeys(cast(SocketAddress, entry[4]) for entry in found)
    return list(addresses)[:ADDRESSES_MAX]


def probe(address: SocketAddress, timeout: float = 5.0, *, each: bool = False) -> Result:
    """Probe one address within about `timeout` seconds, twice that with `each`.

    `each` asks for every TEP by itself too.  Raises `LocalError` without
    CAP_NET_RAW.
    """
    negotiation, with_option = _offer(_TEPS, ":" in address[0])
    plain = Knock(b"")
    try:
        with SynSocket(address) as sender:
            sender.knock((with_option, plain), timeout)
            teps = _ask_each(sender, address, timeout) if each and _raw_eno(with_option) else ()
            notes = [] if sender.marked else [_UNMARKED]
    except OSError as error:
        note = error.strerror or str(error)
        return Result(address, Conclusion.UNREACHABLE, notes=(note,))
    option, outcome = _judge(negotiation, with_option)
    if _differ(with_option.ttl, plain.ttl):
        notes.append(
            f"the two answers have different TTLs ({with_option.ttl} with option 69, {plain.ttl}"
            " without): something between answers one of them"
        )
    if with_option.answer is Answer.ACCEPTED and plain.answer is Answer.REFUSED:
        notes.append("the host refuses connections that are not encrypted")
    return Result(
        address,
        _conclude(with_option, plain, outcome),
        plain=plain,
        eno=with_option,
        option=option,
        outcome=outcome,
        teps=teps,
        notes=tuple(notes),
    )


_UNMARKED: Final = (
    "this process may not mark its packets (CAP_NET_ADMIN): if a tcpcryptd runs here, it is"
    " that which answered"
)


def _offer(teps: Sequence[int], v6: bool) -> tuple[Negotiation, Knock]:
    """A negotiation that offers `teps` afresh, and the SYN that does so."""
    config = Config(teps=tuple(teps), resume=False, cache=False)
    negotiation = Negotiation(config, Opener.ACTIVE)
    space = room(ordinary_options(6 if v6 else 4))
    return negotiation, Knock(negotiation.option_to_send(True, False, space))


def _ask_each(
    sender: SynSocket, address: SocketAddress, timeout: float
) -> tuple[tuple[int, bool], ...]:
    asked = [(tep, *_offer((tep,), ":" in address[0])) for tep in _TEPS]
    sender.knock([knock for _tep, _negotiation, knock in asked], timeout)
    return tuple(
        (int(tep), isinstance(_judge(negotiation, knock)[1], Negotiated))
        for tep, negotiation, knock in asked
    )


def _judge(
    negotiation: Negotiation, knock: Knock
) -> tuple[SynOption | None, Negotiated | Fallback | None]:
    """The option in the SYN-ACK, and how the negotiation ends with it."""
    if knock.answer is not Answer.ACCEPTED:
        return None, None
    negotiation.segment_received(True, True, knock.options)
    if negotiation.outcome is None:
        negotiation.option_to_send(False, True, TCP_OPTIONS_MAX)
    option = None
    if raw := _raw_eno(knock):
        try:
            option = SynOption.parse(raw[2:])
        except PeerError:
            option = None  # the negotiation's reason says so
    return option, negotiation.outcome


def _raw_eno(knock: Knock) -> bytes:
    """The first TCP-ENO option of the SYN-ACK, empty if there is none."""
    try:
        found = find_eno(knock.options).options
    except PeerError:
        return b""
    return found[0] if found else b""


def _conclude(eno: Knock, plain: Knock, outcome: Negotiated | Fallback | None) -> Conclusion:
    if eno.answer is Answer.ACCEPTED:
        if isinstance(outcome, Negotiated):
            return Conclusion.ENCRYPTS
        return Conclusion.UNUSABLE if _raw_eno(eno) else Conclusion.PLAIN
    if plain.answer is Answer.ACCEPTED or (
        # A reset is an answer too: who gives one to the plain SYN alone never saw the other.
        plain.answer is Answer.REFUSED and eno.answer is Answer.NOTHING
    ):
        return Conclusion.DROPPED if eno.answer is Answer.NOTHING else Conclusion.REJECTED
    answers = {eno.answer, plain.answer}
    if Answer.REFUSED in answers:
        return Conclusion.REFUSED
    if answers & {Answer.UNREACHABLE, Answer.NOT_SENT}:
        return Conclusion.UNREACHABLE
    return Conclusion.FILTERED


def _differ(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one != other


def _option_json(option: SynOption | None) -> dict[str, Any] | None:
    if option is None:
        return None
    return {
        "teps": [
            {
                "tep": f"{suboption.tep:#04x}",
                "name": tep_name(suboption.tep),
                "data": suboption.data.hex() if suboption.data is not None else None,
            }
            for suboption in option.suboptions
        ],
        "a": option.application_aware,
        "b": option.b,
    }


def _knock_json(knock: Knock | None) -> dict[str, Any] | None:
    if knock is None:
        return None
    return {
        "answer": knock.answer.name.lower(),
        "detail": knock.detail,
        "syns": knock.sent,
        "ms": round(knock.milliseconds, 2) if knock.milliseconds is not None else None,
        "ttl": knock.ttl,
        "hops": knock.hops,
        "tcp_options": knock.options.hex(),
    }
