"""RFC 8547 sections 4.2 to 4.5 and RFC 8548 section 3.5: what goes into an own
SYN-form option, and what two such options agree on.

The negotiated TEP is the last suboption of B's option that is valid: present
once in both options, with data that both TEPs' rules allow.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tcpcrypt.core.config import Config, RandomBytes
from tcpcrypt.core.events import Role
from tcpcrypt.core.resumption import Recognised, ResumptionCache, Ticket
from tcpcrypt.core.tep import Offer, TepSpec, tep_spec
from tcpcrypt.errors import FallbackReason
from tcpcrypt.registry import GLOBAL_A, GLOBAL_B, RESUME_ID_LEN
from tcpcrypt.wire.eno import Suboption, SynOption
from tcpcrypt.wire.profile import ResumptionForm

__all__ = ["Choice", "OfferedOption", "choose", "offer_options"]

_HEAD_LEN: Final = 2
"""Kind and length byte of the option."""


@dataclass(frozen=True, slots=True)
class OfferedOption:
    """An own SYN-form option, ready to be attached to every SYN."""

    option: SynOption
    raw: bytes
    nonce: bytes = b""
    """Own resumption nonce; empty where none is sent."""
    ticket: Ticket | None = None
    """Active: the secret that the option offers to resume with."""
    recognised: Recognised | None = None
    """Passive: the secret that the option agrees to resume with."""

    def tep_byte(self, tep: int) -> int:
        """The byte of this option that names `tep`, bit `v` included."""
        return next(s.first_byte for s in self.option.suboptions if s.tep == tep)


@dataclass(frozen=True, slots=True)
class Choice:
    """The TEP that the two options agree on."""

    tep: int
    peer_tep_byte: int
    offer: Offer
    """What the peer's suboption says."""
    resumes_offer: bool = False
    """The peer's option resumes the session that the own option offers."""
    recognised: Recognised | None = None
    """The peer's option asks for this session of the cache."""


def choose(
    config: Config,
    *,
    own: OfferedOption | None,
    theirs: SynOption,
    own_is_b: bool,
    answer: bool,
    resumption: ResumptionCache | None,
) -> Choice | FallbackReason:
    """What the peer's SYN-form option leads to.

    `own` is None for a passive opener, which has yet to answer.  `answer` tells
    that `theirs` comes from a SYN-ACK.
    """
    if own is None:
        return _choose_passive(config, theirs, resumption)
    theirs_by_tep = _once(config, theirs)
    own_by_tep = _once(config, own.option)
    ranked = own.option.suboptions if own_is_b else theirs.suboptions
    reason = FallbackReason.NO_COMMON_TEP
    for suboption in reversed(ranked):
        tep = suboption.tep
        if tep not in own_by_tep or tep not in theirs_by_tep:
            continue
        spec, peer = tep_spec(config, tep), theirs_by_tep[tep]
        offer = spec.read_answer(peer.data) if answer else spec.read_offer(peer.data)
        if offer is None or not _same_variant(config, own_by_tep[tep], offer):
            continue
        resumes = _resumes(own.ticket, tep, offer)
        if (offer.identifier or offer.accepts) and not resumes and answer:
            # RFC 8548 section 3.5: MUST ignore the suboption.  (In a simultaneous
            # open it is an offer like any other, and offers a fresh exchange too.)
            reason = FallbackReason.RESUMPTION_MISMATCH
            continue
        return Choice(tep, peer.first_byte, offer, resumes_offer=resumes)
    return reason


def _choose_passive(
    config: Config, theirs: SynOption, resumption: ResumptionCache | None
) -> Choice | FallbackReason:
    """Own preference decides, but a session that can be resumed comes first.

    Not, however, one of a TEP that proves nothing before a fresh exchange of one
    that does: otherwise what was never authenticated never would be.
    """
    best: Choice | None = None
    valid = _once(config, theirs)
    for tep in config.teps:
        if tep not in valid:
            continue
        peer = valid[tep]
        spec = tep_spec(config, tep)
        offer = spec.read_offer(peer.data)
        if offer is None:
            continue
        if offer.identifier and resumption is not None:
            recognised = _recognise(config, spec, offer, resumption)
            if recognised is not None:
                return Choice(tep, peer.first_byte, offer, recognised=recognised)
        if best is None:
            best = Choice(tep, peer.first_byte, offer)
        if spec.first_frame_proves:
            break
    return best if best is not None else FallbackReason.NO_COMMON_TEP


def _recognise(
    config: Config, spec: TepSpec, offer: Offer, resumption: ResumptionCache
) -> Recognised | None:
    recognised = resumption.recognise(spec.identifier, offer.identifier)
    if recognised is None:
        return None
    if _fits(config, recognised, Role.B) and spec.may_resume(recognised.peer_identity, offer):
        return recognised
    resumption.release(recognised)
    return None


def _fits(config: Config, held: Recognised | Ticket, opened_as: Role) -> bool:
    """Whether the session is one of the profile's, and this host may have its part again."""
    profile = config.profile
    mine = profile.either_resumes or held.original_role is opened_as
    return mine and held.form is profile.resumption


def _same_variant(config: Config, own: Suboption, offer: Offer) -> bool:
    """No answer, and in a simultaneous open no offer, means another exchange than the own."""
    meant = tep_spec(config, own.tep).read_offer(own.data)
    return meant is not None and meant.variant == offer.variant


def _resumes(ticket: Ticket | None, tep: int, offer: Offer) -> bool:
    if ticket is None or ticket.tep != tep:
        return False
    if not offer.identifier:
        return offer.accepts
    return hmac.compare_digest(offer.identifier, ticket.peer_identifier)


def _once(config: Config, option: SynOption) -> dict[int, Suboption]:
    """Suboptions by TEP, without those that occur twice.

    RFC 8547 section 4.5 leaves repetition to the TEP, and tcpcrypt gives it no
    meaning, so that a repeated TEP is not valid (open point E8).  But a profile
    may offer the fresh exchange, which in RFC 8548 goes without saying, by the
    bare TEP in front of the session to resume.
    """
    suboptions = option.suboptions
    if config.profile.resumption is ResumptionForm.SESSION_ID and suboptions:
        asking = suboptions[-1]
        before = (s for s in suboptions[:-1] if asking.data is None or s != Suboption(asking.tep))
        suboptions = (*before, asking)
    teps = [suboption.tep for suboption in suboptions]
    return {s.tep: s for s in suboptions if teps.count(s.tep) == 1}


def offer_options(
    config: Config,
    *,
    passive: bool,
    answering: Choice | None,
    resumption: ResumptionCache | None,
    peer: bytes,
    random: RandomBytes,
    room: int,
) -> Iterator[OfferedOption]:
    """Own SYN-form options, best first, each smaller than the one before.

    Where the segment has no room for the first, one with fewer suboptions is
    taken.  Nonces are never shortened for room: their length is the TEP's, RFC
    8548 section 3.5 wants eight bytes, and a fresh exchange is always there instead.
    """
    if passive and answering is not None:
        yield from _answers(config, answering, random)
    else:
        yield from _offers(config, resumption, peer, random, room)


def _resumable(config: Config, room: int) -> tuple[int, ...]:
    """The TEPs with which a resumption may be offered in `room` bytes.

    Where there is no room an index is not to be spent in vain; and none of a
    TEP that proves nothing is spent where one that does is preferred.
    """
    found = []
    for tep in config.teps:
        spec = tep_spec(config, tep)
        nonce = bytes(spec.resumption_nonce_len(config, passive=False))
        data = spec.resumption_data(Offer(bytes(RESUME_ID_LEN), nonce))
        named = 1 if _global_bits(config, passive=False) else 0
        named += _names_fresh_too(config)
        if _HEAD_LEN + len(config.profile.option_exid) + named + 1 + len(data) <= room:
            found.append(tep)
        if spec.first_frame_proves:
            break
    return tuple(found)


def _answers(config: Config, choice: Choice, random: RandomBytes) -> Iterator[OfferedOption]:
    """RFC 8547 section 4.5: a passive opener SHOULD send exactly one TEP."""
    spec = tep_spec(config, choice.tep)
    if choice.recognised is not None:
        nonce = random(spec.resumption_nonce_len(config, passive=True))
        own = Offer(choice.recognised.own_identifier, nonce)
        data = spec.resumption_data(own, choice.offer)
        option = _option(config, [Suboption(choice.tep, data)], passive=True)
        yield OfferedOption(
            option, option.build(config.profile), nonce, recognised=choice.recognised
        )
    option = _option(config, [Suboption(choice.tep, spec.fresh_data(choice.offer))], passive=True)
    yield OfferedOption(option, option.build(config.profile))


def _offers(
    config: Config,
    resumption: ResumptionCache | None,
    peer: bytes,
    random: RandomBytes,
    room: int,
) -> Iterator[OfferedOption]:
    """All TEPs, then fewer; a resumption last, where it needs no length byte."""
    # Least preferred first: RFC 8547 section 4.5 ranks B's option so, which this
    # is in a simultaneous open with `active_b`.  Without that bit A's first counts.
    ranked = reversed(config.teps) if config.profile.role_bit else config.teps
    fresh = [Suboption(tep, tep_spec(config, tep).fresh_data()) for tep in ranked]
    ticket = None
    if resumption is not None:
        ticket = resumption.offer(
            peer,
            _resumable(config, room),
            may_resume=lambda t: (
                t.aead in config.aeads
                and _fits(config, t, Role.A)
                and tep_spec(config, t.tep).may_resume(t.peer_identity)
            ),
            keep=config.cache,
        )
    nonce = b""
    if ticket is not None:
        spec = tep_spec(config, ticket.tep)
        nonce = random(spec.resumption_nonce_len(config, passive=False))
        resuming = Suboption(ticket.tep, spec.resumption_data(Offer(ticket.own_identifier, nonce)))
        # The last of these has room, or there would be no ticket (`_resumable`).
        if _names_fresh_too(config):
            lists = [[*kept, resuming] for kept in _fewer(config, fresh, ticket.tep)]
        else:
            # RFC 8548 section 3.5: never two suboptions of one TEP.
            others = [suboption for suboption in fresh if suboption.tep != ticket.tep]
            lists = [[*others[left:], resuming] for left in range(len(others) + 1)]
    else:
        lists = _fewer(config, fresh, config.teps[0])
    for suboptions in lists:
        option = _option(config, suboptions, passive=False)
        yield OfferedOption(option, option.build(config.profile), nonce, ticket)


def _names_fresh_too(config: Config) -> bool:
    """Whether the bare TEP stands before the one that resumes."""
    return config.profile.resumption is ResumptionForm.SESSION_ID


def _fewer(config: Config, fresh: list[Suboption], last: int) -> list[list[Suboption]]:
    """`fresh`, then ever fewer of them, `last` the last to go."""
    order = [s.tep for s in fresh if s.tep != last]
    if not config.profile.role_bit:
        order.reverse()
    return [[s for s in fresh if s.tep not in order[:left]] for left in range(len(order) + 1)]


def _option(config: Config, suboptions: list[Suboption], *, passive: bool) -> SynOption:
    """RFC 8547 section 4.2: `b` is explicit in every SYN-ACK."""
    bits = _global_bits(config, passive=passive)
    explicit = passive and config.profile.role_bit
    return SynOption(tuple(suboptions), global_bits=bits, explicit_global=explicit)


def _global_bits(config: Config, *, passive: bool) -> int:
    bits = GLOBAL_B if config.profile.role_bit and (passive or config.active_b) else 0
    return bits | GLOBAL_A if config.application_aware else bits
