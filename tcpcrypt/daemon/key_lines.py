"""On which line of a TOML file each key stands, for messages.

`tomllib` gives values without their places.  This scanner finds the places and
nothing else: it reads text that `tomllib` has already accepted, never decides
what a value is, and a place it does not find is no error.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections import Counter
from typing import Final

__all__ = ["KeyPath", "Lines", "key_lines"]

KeyPath = tuple[str | int, ...]
"""Keys from the outside in; a number is the index in an array, from 0."""

_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[A-Za-z0-9_+:-]+"
    r"|[ \t\r]+"
    r"|.",
    re.DOTALL,
)
_NESTING_MAX: Final = 20
"""Depth of keys, arrays and inline tables that are looked into."""


class Lines(dict[KeyPath, int]):
    """Line of each key, counted from 1."""

    def nearest(self, path: KeyPath) -> int:
        """The line of `path`, or else of what it stands in; 0 if that is unknown too."""
        while path:
            if path in self:
                return self[path]
            path = path[:-1]
        return 0


def key_lines(text: str) -> Lines:
    """The lines of all keys and table headers of `text`."""
    return _Scanner(text).scan()


class _Scanner:
    """Tokens with their lines, read once from the first to the last."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, int]] = []
        line = 1
        for token in _TOKEN.findall(text):
            if token[0] not in " \t\r#":
                self._tokens.append((token, line))
            line += token.count("\n")
        self._at = 0
        self._arrays: Counter[KeyPath] = Counter()
        self._lines = Lines()

    def scan(self) -> Lines:
        table: KeyPath = ()
        while (token := self._token()) is not None:
            if token == "\n":
                self._at += 1
            elif token == "[":
                table = self._header()
            else:
                self._pair(table)
                while self._token() not in (None, "\n"):
                    self._at += 1
        return self._lines

    def _token(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _line(self) -> int:
        return self._tokens[min(self._at, len(self._tokens) - 1)][1]

    def _header(self) -> KeyPath:
        """`[table]` or `[[array of tables]]`."""
        line = self._line()
        self._at += 1
        is_array = self._token() == "["
        self._at += is_array
        words = self._key()
        while self._token() not in (None, "\n"):
            self._at += 1
        table: KeyPath = ()
        for number, word in enumerate(words, 1):
            table += (word,)
            if is_array and number == len(words):
                self._arrays[table] += 1
            self._lines.setdefault(table, line)
            if table in self._arrays:
                table += (self._arrays[table] - 1,)
                self._lines.setdefault(table, line)
        return table

    def _key(self) -> list[str]:
        """`bare."quoted".bare`, up to whatever follows it."""
        words: list[str] = []
        while (token := self._token()) is not None and token not in ("=", "]", "\n"):
            if token != "." and len(words) <= _NESTING_MAX:
                words.append(_unquoted(token))
            self._at += 1
        return words

    def _pair(self, table: KeyPath) -> None:
        """`key = value`; ends before what follows the value."""
        line, path = self._line(), table
        for word in self._key():
            path += (word,)
            self._lines.setdefault(path, line)
        if self._token() == "=":
            self._at += 1
            self._value(path)

    def _value(self, path: KeyPath) -> None:
        closing = {"[": "]", "{": "}"}.get(self._token() or "")
        if closing is None or len(path) > _NESTING_MAX:
            self._skip()
            return
        self._at += 1
        index = 0
        while (token := self._token()) not in (None, closing):
            if token in (",", "\n", "=", "]", "}"):
                index += token == ","
                self._at += 1
            elif closing == "}":
                self._pair(path)
            else:
                self._lines.setdefault((*path, index), self._line())
                self._value((*path, index))
        self._at += 1

    def _skip(self) -> None:
        """Past one value, whatever is in it."""
        depth = 0
        while (token := self._token()) is not None:
            if not depth and token in (",", "]", "}", "\n"):
                return
            depth += (token in ("[", "{")) - (token in ("]", "}"))
            self._at += 1


def _unquoted(token: str) -> str:
    """A word of a key, without its quotation marks."""
    if len(token) < 2 or token[0] not in "\"'" or token[-1] != token[0]:
        return token
    if "\\" in token and token[0] == '"':
        with contextlib.suppress(ValueError):
            return str(tomllib.loads(f"word = {token}")["word"])
    return token[1:-1]
