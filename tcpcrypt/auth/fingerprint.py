"""Fingerprints of static keys: as text, in short for eyes, and as a picture."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from typing import Final

__all__ = ["FINGERPRINT_LEN", "fingerprint", "is_fingerprint", "randomart", "short_form"]

_PREFIX: Final = "tcpcrypt1:"
FINGERPRINT_LEN: Final = len(_PREFIX) + 52
"""Characters of a whole fingerprint."""
_SHORT_LEN: Final = 16
# 256 bits are 51 characters of 5 bits and one bit more.
_FORM: Final = re.compile(_PREFIX + "[a-z2-7]{51}[aq]")

_WIDTH: Final = 17
_HEIGHT: Final = 9
_MARKS: Final = " .o+=*BOX@%&#/^"
"""By how often the bishop came to a field; the last for more often, too."""
_START: Final = "S"
_END: Final = "E"


@functools.lru_cache(maxsize=4096)  # asked several times for each connection of a peer
def fingerprint(public: bytes) -> str:
    """`tcpcrypt1:` and the SHA-256 of a public key in base32, lower case, no padding.

    Programs compare this whole text and nothing shorter.
    """
    digest = hashlib.sha256(public).digest()
    return _PREFIX + base64.b32encode(digest).decode().rstrip("=").lower()


def is_fingerprint(text: str) -> bool:
    """Whether `text` is a whole fingerprint, as `fingerprint` writes it."""
    return _FORM.fullmatch(text) is not None


def short_form(fingerprint: str) -> str:
    """The first 16 characters of the hash: for eyes, never compared by a program."""
    return fingerprint.removeprefix(_PREFIX)[:_SHORT_LEN]


def randomart(fingerprint: str) -> str:
    """The hash as OpenSSH draws one: eleven lines, without a newline at the end."""
    text = fingerprint.removeprefix(_PREFIX).upper()
    digest = base64.b32decode(text + "=" * (-len(text) % 8))
    return draw(digest, "[tcpcrypt1]", "[SHA256]")


def draw(digest: bytes, title: str, foot: str) -> str:
    """The walk of a drunken bishop, two bits a step, from the middle of the board.

    As in `sshkey_fingerprint_randomart` of OpenSSH (analysed by Loss, Limmer
    and von Gernler, "The drunken bishop", 2009).
    """
    visits = [[0] * _WIDTH for _ in range(_HEIGHT)]
    x, y = _WIDTH // 2, _HEIGHT // 2
    for octet in digest:
        for shift in (0, 2, 4, 6):
            step = octet >> shift
            x = min(max(x + (1 if step & 1 else -1), 0), _WIDTH - 1)
            y = min(max(y + (1 if step & 2 else -1), 0), _HEIGHT - 1)
            visits[y][x] += 1
    board = [[_MARKS[min(count, len(_MARKS) - 1)] for count in row] for row in visits]
    board[_HEIGHT // 2][_WIDTH // 2] = _START
    board[y][x] = _END
    rows = [f"|{''.join(row)}|" for row in board]
    return "\n".join([_edge(title), *rows, _edge(foot)])


def _edge(text: str) -> str:
    left = "-" * ((_WIDTH - len(text)) // 2)
    return f"+{left}{text}".ljust(_WIDTH + 1, "-") + "+"
