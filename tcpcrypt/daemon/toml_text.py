"""TOML from bytes that nobody has checked: the values and their lines, or what is wrong where."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

from tcpcrypt.daemon.key_lines import Lines, key_lines

__all__ = ["SIZE_MAX", "TomlError", "parse_toml"]

SIZE_MAX: Final = 1 << 20
"""Bytes of a file."""
_PLACE: Final = re.compile(r" ?\(at (?:line (\d+), column \d+|end of document)\)$")


class TomlError(ValueError):
    """Text that is no TOML."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        """From 1; 0: not known."""


def parse_toml(text: str | bytes) -> tuple[dict[str, Any], Lines]:
    """The values of `text` and the lines of their keys.  Raises `TomlError`."""
    if len(text) > SIZE_MAX:
        raise TomlError(0, f"larger than {SIZE_MAX} bytes")
    decoded = _decoded(text) if isinstance(text, bytes) else text
    try:
        return tomllib.loads(decoded), key_lines(decoded)
    except RecursionError:
        raise TomlError(0, "nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        # Without a line it is the end of the document that came too early.
        line = int(place[1] or decoded.count("\n") + 1) if place else 0
        raise TomlError(line, f"not TOML: {_PLACE.sub('', message)}") from None
    except ValueError:  # more digits than Python reads
        raise TomlError(0, "a number is too large") from None


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TomlError(line, "not UTF-8 text") from None
