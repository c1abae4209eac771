"""Negotiation within the streams, as secure sockets do it (`tcpcrypt.sockets.preface`).

```
54 43 45 4e 4f ("TCENO") | 01 | 45 | length (1) | contents (length - 2)
```

Each side's stream begins so; Init messages and frames follow as RFC 8548 has them.
"""

from __future__ import annotations

from typing import Final

from tcpcrypt.registry import TCP_OPTION_ENO, TCP_OPTIONS_MAX

__all__ = ["preface"]

_HEAD: Final = b"TCENO\x01" + bytes((TCP_OPTION_ENO,))
_OPTION_AT: Final = len(_HEAD) - 1
_OPTION_MIN: Final = 2


def preface(start: bytes | bytearray) -> tuple[bytes, int] | bool:
    """The option at the start of a stream, and how many bytes the preface has.

    True: it may become one, False: it is none.
    """
    head = bytes(start[: len(_HEAD) + 1])
    if not (_HEAD.startswith(head) or head.startswith(_HEAD)):
        return False
    if len(head) <= len(_HEAD):
        return True
    length = head[-1]
    if not _OPTION_MIN <= length <= TCP_OPTIONS_MAX:
        return False
    end = _OPTION_AT + length
    return (bytes(start[_OPTION_AT:end]), end) if len(start) >= end else True
