"""RFC 8547 sections 4.1 to 4.5: the ENO option, read and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

KIND = 69


class BadOption(Exception):
    """The option is ill-formed (section 4.4), or is not there once."""


@dataclass(frozen=True)
class Sub:
    """One suboption that names a TEP; `data` is None for bit v = 0."""

    tep: int
    data: bytes | None

    @property
    def byte(self) -> int:
        return self.tep | (0 if self.data is None else 0x80)


def eno(contents: bytes | str) -> bytes:
    """An ENO option with these contents, bytes or hex."""
    octets = bytes.fromhex(contents) if isinstance(contents, str) else contents
    return bytes([KIND, 2 + len(octets)]) + octets


def pad(options: bytes) -> bytes:
    """Options as a TCP header holds them: a multiple of four bytes."""
    return options + b"\x01" * (-len(options) % 4)


def find(region: bytes) -> bytes:
    """The one ENO option in the options of a SYN segment."""
    found, i = [], 0
    while i < len(region) and region[i] != 0:
        if region[i] == 1:
            i += 1
            continue
        if i + 1 >= len(region) or region[i + 1] < 2 or i + region[i + 1] > len(region):
            raise BadOption("options do not parse")
        if region[i] == KIND:
            found.append(region[i : i + region[i + 1]])
        i += region[i + 1]
    if len(found) != 1:
        raise BadOption(f"{len(found)} ENO options")
    return found[0]


def read(option: bytes) -> tuple[int, list[Sub]]:
    """Sections 4.1 and 4.4: the global suboption, and the TEPs in order."""
    c, i, glob, subs = option[2:], 0, None, []
    while i < len(c):
        b = c[i]
        if b < 0x20:
            glob = b if glob is None else glob
            i += 1
        elif b < 0x80:
            subs.append(Sub(b, None))
            i += 1
        elif b < 0xA0:
            n = (b & 0x1F) + 1
            if i + 2 + n > len(c) or c[i + 1] < 0xA0:
                raise BadOption("length byte")
            subs.append(Sub(c[i + 1] & 0x7F, c[i + 2 : i + 2 + n]))
            i += 2 + n
        else:
            subs.append(Sub(b & 0x7F, c[i + 1 :]))
            i = len(c)
    return glob or 0, subs


def negotiated(of_a: bytes, of_b: bytes, valid: Callable[[Sub, Sub], bool]) -> Sub | None:
    """Section 4.5: the last TEP of B's option that is in both, once, with `valid` data.

    `valid` is asked with the suboptions of A and of B.
    """
    a, b = read(of_a)[1], read(of_b)[1]
    for sub in reversed(b):
        others = [s for s in a if s.tep == sub.tep]
        again = [s for s in b if s.tep == sub.tep]
        if len(others) == len(again) == 1 and valid(others[0], sub):
            return sub
    return None
