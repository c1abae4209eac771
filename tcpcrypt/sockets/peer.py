"""`peer=`: who the other end has to be, in the words of a program.

| text                       | the other end                                             |
|----------------------------|-----------------------------------------------------------|
| `tofu`                     | has the key that it had at the first contact              |
| `pin:<fingerprint>`        | has this key (several, separated by commas: one of them)   |
| `psk:<name>`               | has the pre-shared key of this name                       |
| `insecure-unauthenticated` | may be anybody, also one who sits in the middle           |

A server with `tofu` accepts whoever shows a key, and remembers it.

`pq=`: `require` agrees on keys by X25519MLKEM768 or not at all; `prefer` does where
this host can; `off` does not.  Who connects offers one of both, and the other end has to
take it.  Without `pq`, who connects offers X25519, and who accepts takes either.
"""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from typing import Final

from tcpcrypt.auth.fingerprint import is_fingerprint
from tcpcrypt.auth.psk import check_name
from tcpcrypt.auth.trust import PostQuantum
from tcpcrypt.errors import LocalError

__all__ = ["Demand", "PeerSpec"]


class Demand(enum.Enum):
    """What is asked of the other end."""

    TOFU = "tofu"
    PIN = "pin"
    PSK = "psk"
    UNAUTHENTICATED = "insecure-unauthenticated"


_WITH_VALUE: Final = (Demand.PIN, Demand.PSK)


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """One `peer=`, understood."""

    demand: Demand
    pins: tuple[str, ...] = ()
    """Whole fingerprints, with `Demand.PIN`."""
    psk: str = ""
    """Name of the key, with `Demand.PSK`."""
    pq: PostQuantum | None = None
    """Whether keys are agreed on with the hybrid; None: as the other end likes it."""

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def parse(cls, text: str, pq: str | None = None) -> PeerSpec:
        """Raises `LocalError` for anything but the forms above, and the words of `pq=`."""
        quantum = None if pq is None else _quantum(pq)
        word, colon, value = text.partition(":")
        demand = next((demand for demand in Demand if demand.value == word), None)
        if demand is None or bool(colon) != (demand in _WITH_VALUE):
            raise LocalError(
                f"peer={text!r}: say tofu, pin:FINGERPRINT, psk:NAME"
                f" or {Demand.UNAUTHENTICATED.value}"
            )
        if demand is Demand.PSK:
            check_name(value)
            return cls(demand, psk=value, pq=quantum)
        if demand is Demand.PIN:
            pins = tuple(value.split(","))
            for pin in pins:
                if not is_fingerprint(pin):
                    raise LocalError(
                        f"{pin!r} is not a whole fingerprint; `tcpcrypt id show` prints that of"
                        " a host"
                    )
            return cls(demand, pins=pins, pq=quantum)
        if demand is Demand.UNAUTHENTICATED and quantum not in (None, PostQuantum.OFF):
            raise LocalError(f"pq={pq!r} is of ends that prove who they are; say peer= whom")
        return cls(demand, pq=quantum)

    def __str__(self) -> str:
        value = ",".join(self.pins) or self.psk
        return f"{self.demand.value}:{value}" if value else self.demand.value


def _quantum(word: str) -> PostQuantum:
    try:
        return PostQuantum(word)
    except ValueError:
        words = ", ".join(PostQuantum)
        raise LocalError(f"pq={word!r} is none of {words}") from None
