"""RFC 8547 section 4: the TCP-ENO option.

A SYN segment carries the SYN form, whose contents are suboptions; every other
segment carries the non-SYN form, an option with nothing in it that says "I
have seen yours".  What the data of a suboption mean is the affair of its TEP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tcpcrypt import _fast
from tcpcrypt.errors import LocalError, PeerError, PeerReason
from tcpcrypt.registry import (
    ENO_EXID,
    GLOBAL_A,
    GLOBAL_B,
    SUBOPTION_DATA_MAX,
    SUBOPTION_V,
    TCP_OPTION_EXPERIMENT,
    TCP_OPTIONS_MAX,
    TEP_FIRST,
)
from tcpcrypt.wire.profile import RFC8548, WireProfile

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["EnoFound", "Suboption", "SynOption", "ack_option", "find_eno"]

_HEAD_LEN: Final = 2
"""Kind and length byte."""


@dataclass(frozen=True, slots=True)
class Suboption:
    """RFC 8547 section 4.1: a TEP identifier and what it carries.

    `tep` is 0x20 to 0x7f.  `data` is None for bit v = 0; bytes, empty ones
    too, for v = 1.
    """

    tep: int
    data: bytes | None = None

    def __post_init__(self) -> None:
        if not TEP_FIRST <= self.tep < SUBOPTION_V:
            raise LocalError(f"0x{self.tep:02x} is not a TEP identifier")

    @property
    def first_byte(self) -> int:
        """The identifier with its bit v, as it stands in the option."""
        return self.tep if self.data is None else self.tep | SUBOPTION_V


@dataclass(frozen=True, slots=True)
class SynOption:
    """RFC 8547 section 4.1: the SYN form of the option.

    `global_bits` is the first global suboption, 0 where there is none (section
    4.2).  Whether a 0 stood there or not means nothing, so `explicit_global`,
    which asks `build` to write it, is not compared and `parse` leaves it unset.
    """

    suboptions: tuple[Suboption, ...]
    global_bits: int = 0
    explicit_global: bool = field(default=False, compare=False)

    @property
    def b(self) -> bool:
        """Section 4.3: the sender plays role B."""
        return bool(self.global_bits & GLOBAL_B)

    @property
    def application_aware(self) -> bool:
        """Section 4.2: the sender's application knows of TCP-ENO."""
        return bool(self.global_bits & GLOBAL_A)

    @property
    def vacuous(self) -> bool:
        """Section 4.6: no TEP is offered."""
        return not self.suboptions

    @classmethod
    def parse(cls, contents: ReadableBuffer, profile: WireProfile = RFC8548) -> SynOption:
        """Parse what follows kind, length and the profile's ExID (section 4.4).

        Raises `PeerError` with ENO_DATA_PAST_END or ENO_RESERVED_LENGTH for an
        ill-formed option, OPTION_LENGTH for more than a TCP header can hold.
        """
        if memoryview(contents).nbytes > _contents_max(profile):
            raise PeerError(PeerReason.OPTION_LENGTH)
        global_bits, suboptions = _fast.parse_eno(contents)
        return cls(
            tuple(Suboption(tep, data if v else None) for tep, v, data in suboptions),
            global_bits,
        )

    def build(self, profile: WireProfile = RFC8548) -> bytes:
        """The whole option: kind, length, ExID, global suboption, TEPs in order.

        The global suboption comes where no data can swallow it: first, or where
        the profile has it.  A length byte is written only where section 4.4
        requires one.  Raises `LocalError` for reserved global bits, for data
        before the last suboption that no length byte can announce (0 or more
        than 32 bytes) and for more than 40 bytes in all.
        """
        if self.global_bits & ~(GLOBAL_A | GLOBAL_B):
            raise LocalError("reserved bits of the global suboption must be sent as 0")
        contents = bytearray()
        last = len(self.suboptions) - 1
        named = bytes((self.global_bits,)) if self.explicit_global or self.global_bits else b""
        global_at = 0 if profile.global_first else self._first_with_data()
        for index, suboption in enumerate(self.suboptions):
            if index == global_at:
                contents += named
            data = suboption.data
            if data is not None and index < last:
                if not 1 <= len(data) <= SUBOPTION_DATA_MAX:
                    raise LocalError(f"no length byte announces {len(data)} bytes of data")
                contents.append(SUBOPTION_V | (len(data) - 1))
            contents.append(suboption.first_byte)
            contents += data or b""
        if global_at > last:
            contents += named
        if len(contents) > _contents_max(profile):
            raise LocalError(f"ENO option with {len(contents)} bytes of contents fits no header")
        return _head(profile, len(contents)) + contents

    def _first_with_data(self) -> int:
        return next(
            (index for index, s in enumerate(self.suboptions) if s.data is not None),
            len(self.suboptions),
        )


@dataclass(frozen=True, slots=True)
class EnoFound:
    """RFC 8547 sections 4.1 and 4.6: the ENO options of one TCP header.

    `options` holds each as it stands there, kind and length included: the
    transcript needs those bytes.  A SYN segment with more than one counts as
    one with none; a non-SYN segment with several counts as one with one.
    `legacy` tells that the experimental form (kind 253, ExID 0x454e) is there,
    which MUST NOT accompany kind 69.
    """

    options: tuple[bytes, ...]
    legacy: bool = False


def ack_option(profile: WireProfile = RFC8548) -> bytes:
    """RFC 8547 section 4.1: the non-SYN form, `45 02` in RFC 8548."""
    return _head(profile, 0)


def find_eno(region: ReadableBuffer, profile: WireProfile = RFC8548) -> EnoFound:
    """RFC 8547 section 4.1: the ENO options in the options of a TCP header.

    `legacy` is only told where the experimental form is not the profile's own.
    Raises `PeerError` with OPTION_LENGTH for options that do not parse.
    """
    octets = memoryview(region).tobytes()
    options: list[bytes] = []
    legacy = False
    for kind, start, end in _fast.walk_options(octets):
        data = octets[start + _HEAD_LEN : end]
        if kind == profile.option_kind and data.startswith(profile.option_exid):
            options.append(octets[start:end])
        elif kind == TCP_OPTION_EXPERIMENT and data.startswith(ENO_EXID):
            legacy = True
    return EnoFound(tuple(options), legacy)


def _head(profile: WireProfile, contents_len: int) -> bytes:
    length = _HEAD_LEN + len(profile.option_exid) + contents_len
    return bytes((profile.option_kind, length)) + profile.option_exid


def _contents_max(profile: WireProfile) -> int:
    return TCP_OPTIONS_MAX - _HEAD_LEN - len(profile.option_exid)
