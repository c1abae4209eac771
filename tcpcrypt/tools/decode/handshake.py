"""RFC 8547 sections 4.3 to 4.6: what two captured SYN-form options agree on.

The endpoints decide strictly (`tcpcrypt.core.negotiation`); who only looks on
takes what they answered as it stands, because the keys tell whether it is so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tcpcrypt.auth.psk import Psk
from tcpcrypt.auth.tep import AuthenticatedTep
from tcpcrypt.auth.terms import VERSION_HYBRID, VERSION_X25519, PeerProof
from tcpcrypt.core.config import Config
from tcpcrypt.core.tep import Offer, TepSpec, tep_spec
from tcpcrypt.errors import FallbackReason, PeerError
from tcpcrypt.registry import TCP_OPTION_EXPERIMENT, TCPS_EXID, Tep
from tcpcrypt.wire.eno import Suboption, SynOption, ack_option, find_eno
from tcpcrypt.wire.profile import PROFILES, ResumptionForm, WireProfile
from tcpcrypt.wire.tcpopt import parse_options

__all__ = ["Agreed", "Plain", "Undecodable", "agree", "has_eno", "is_tcps", "offered_profile"]


@dataclass(frozen=True, slots=True)
class Agreed:
    """A connection that both hosts meant to encrypt."""

    profile: WireProfile
    spec: TepSpec
    tep: int
    tep_byte: int
    """As in host B's option, bit `v` included."""
    eno_transcript: bytes
    client_is_a: bool
    application_aware: tuple[bool, bool]
    """Bit `a` of client and server."""
    resuming: bool = False
    identifier: bytes = b""
    """What host A, of this connection, names the session by that is resumed."""
    nonces: tuple[bytes, bytes] = (b"", b"")
    """For the resumption, of hosts A and B of this connection."""
    version: int = 0
    """Of the TEP that authenticates."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A connection without encryption."""

    reason: FallbackReason


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A connection that is encrypted in a way that is not known here."""

    profile: WireProfile | None
    tep: int | None
    why: str


class _AnyTerms:
    """Terms of who takes part in no exchange: every version can be read."""

    identity = None
    versions = (VERSION_X25519, VERSION_HYBRID)
    psk: Psk | None = None

    def find_psk(self, hint: bytes) -> Psk | None:
        return None

    def judge(self, proof: PeerProof) -> None:
        return None


_CONFIGS: Final = {
    name: Config(profile=profile, teps=profile.teps or (Tep.ECDHE_CURVE25519,),
                 extensions={Tep.EXPERIMENTAL: AuthenticatedTep(_AnyTerms())})
    for name, profile in PROFILES.items()
}  # fmt: skip


def has_eno(profile: WireProfile, region: bytes) -> bool:
    """Whether a segment's options, the raw region of its header, hold the ENO option."""
    try:
        return bool(find_eno(region, profile).options)
    except PeerError:
        return False


def offered_profile(region: bytes) -> WireProfile | None:
    """The dialect whose ENO option a SYN segment has; None: it has none."""
    return next((p for p in PROFILES.values() if has_eno(p, region)), None)


def is_tcps(region: bytes) -> bool:
    """Whether a SYN offers TCP/S."""
    try:
        options = parse_options(region)
    except PeerError:
        return False
    return any(o.kind == TCP_OPTION_EXPERIMENT and o.data.startswith(TCPS_EXID) for o in options)


def agree(client: bytes, server: bytes) -> Agreed | Plain | Undecodable:
    """What the option regions of the two SYN segments come to."""
    profile = offered_profile(client)
    if profile is None:
        return Plain(FallbackReason.NO_ENO_IN_SYN)
    return _agree(profile, client, server)


def _agree(profile: WireProfile, client: bytes, server: bytes) -> Agreed | Plain | Undecodable:
    offered = find_eno(client, profile).options
    if not has_eno(profile, server):
        return Plain(FallbackReason.NO_ENO_IN_SYN_ACK)
    answered = find_eno(server, profile).options
    if len(offered) > 1 or len(answered) > 1:
        return Plain(FallbackReason.DUPLICATE_ENO)
    start = len(ack_option(profile))
    try:
        options = [SynOption.parse(raw[start:], profile) for raw in offered + answered]
    except PeerError:
        return Plain(FallbackReason.ILL_FORMED)
    one, other = options
    if profile.role_bit and one.b == other.b:
        return Plain(FallbackReason.SAME_ROLE)
    client_is_a = not (profile.role_bit and one.b)
    host_a, host_b = (one, other) if client_is_a else (other, one)
    theirs = {suboption.tep for suboption in host_a.suboptions}
    common = [suboption for suboption in host_b.suboptions if suboption.tep in theirs]
    if not common:
        return Plain(FallbackReason.NO_COMMON_TEP)
    chosen = common[-1]
    try:
        spec = tep_spec(_CONFIGS[profile.name], chosen.tep)
    except KeyError:
        why = f"TEP {chosen.tep:#04x} is not one of tcpcrypt"
        return Undecodable(profile, chosen.tep, why)
    return _resumption(profile, spec, chosen, options, raw=offered + answered, a=client_is_a)


def _resumption(
    profile: WireProfile,
    spec: TepSpec,
    chosen: Suboption,
    options: list[SynOption],
    *,
    raw: tuple[bytes, ...],
    a: bool,
) -> Agreed | Plain | Undecodable:
    offer, answer = _offer(spec, options[0]), _answer(spec, options[1])
    if offer is None or answer is None:
        if chosen.tep == Tep.EXPERIMENTAL:
            why = (
                "TEP 0x20 is for experiments, and this one is not that of docs/authenticated-tep.md"
            )
            return Undecodable(profile, chosen.tep, why)
        return Plain(FallbackReason.NO_COMMON_TEP)
    suffix = profile.transcript_suffix
    first, second = _ordered(raw[0], raw[1], a)
    by_name = profile.resumption is ResumptionForm.RESUME_IDENTIFIER
    resuming = bool(offer.identifier and (answer.identifier if by_name else answer.accepts))
    return Agreed(
        profile=profile,
        spec=spec,
        tep=chosen.tep,
        tep_byte=chosen.first_byte,
        eno_transcript=first + suffix + second + suffix,
        client_is_a=a,
        application_aware=(options[0].application_aware, options[1].application_aware),
        resuming=resuming,
        identifier=(offer if a else answer).identifier if resuming else b"",
        nonces=_ordered(offer.nonce, answer.nonce, a) if resuming else (b"", b""),
        version=answer.variant[0] if answer.variant else 0,
    )


def _ordered(client: bytes, server: bytes, client_is_a: bool) -> tuple[bytes, bytes]:
    """What belongs to hosts A and B, in this order."""
    return (client, server) if client_is_a else (server, client)


def _offer(spec: TepSpec, option: SynOption) -> Offer | None:
    """Some dialects name a TEP twice: alone, and with the session to be resumed."""
    found = [s for s in option.suboptions if s.tep == spec.identifier]
    found.sort(key=lambda suboption: suboption.data is None)
    return spec.read_offer(found[0].data)


def _answer(spec: TepSpec, option: SynOption) -> Offer | None:
    found = [s for s in option.suboptions if s.tep == spec.identifier]
    return spec.read_answer(found[-1].data)
