"""What people are told about keys, by logs and commands alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = [
    "CHANGED",
    "HOW_TO_ACCEPT",
    "MISSING",
    "NOT_PINNED",
    "NOT_PINNED_INCOMING",
    "NO_KEY",
    "NO_PSK",
    "PIN_CHANGED",
    "REVOKED",
    "VERSION",
    "WARNING",
    "listed",
]

# Details of a refusal, behind the words of its `PeerReason`.
CHANGED: Final = "{scope} showed {shown}, remembered is {known}; " + (
    "if its key was changed on purpose: tcpcrypt peers trust {scope} {shown}"
)
MISSING: Final = "{scope} showed no key, remembered is {known}"
PIN_CHANGED: Final = "{scope} showed {shown}, pinned is {known}; " + (
    "if its key was changed on purpose: tcpcrypt peers pin {scope} {shown}"
)
NOT_PINNED: Final = "{scope} showed {shown}, and no key is pinned for it; " + (
    "if that is its key: tcpcrypt peers pin {scope} {shown}"
)
NOT_PINNED_INCOMING: Final = "a host showed {shown}, none of the {count} pinned keys; " + (
    "to let it in: tcpcrypt peers pin '*' {shown}"
)
REVOKED: Final = "{scope} showed {shown}, which is revoked"
NO_KEY: Final = "{scope} showed no key"
NO_PSK: Final = "{scope} showed {shown} and did not use the pre-shared key {psk}"
VERSION: Final = "{scope} agreed on keys by version {version}, which policy excludes"

# What commands say at length.
WARNING: Final = """\
WARNING: the key of {scope} is not the one that was remembered.
Somebody may be sitting between the hosts, now or when the first key was taken;
or the host was installed anew, or its key was changed on purpose.
  known: {known}
  new:   {shown}"""
HOW_TO_ACCEPT: Final = """\
Ask whoever runs that host, over a channel that you trust, for what
`tcpcrypt id show` prints there, and compare all of it."""


def listed(keys: Iterable[str]) -> str:
    """Fingerprints one behind the other, `none` if there are none."""
    return ", ".join(keys) or "none"
