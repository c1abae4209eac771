"""The fields of a test vector, read strictly, and the record of what differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from tcpcrypt.errors import LocalError, PeerError

__all__ = ["Checker", "Fields", "Mismatch", "Unverifiable", "VectorFileError"]

_SHOWN: Final = 32
"""Bytes of a value that a message shows."""

_REQUIRED: Final[Any] = object()


class VectorFileError(LocalError):
    """A file that cannot be read, or is not of its format."""


class Unverifiable(Exception):
    """A fault was recorded behind which nothing more can be computed."""


class Fields:
    """A JSON object of a vector file.

    Each reader takes a name and gives the value, or `default` where there is
    one and the field is missing.  Raises `VectorFileError`, which says where.
    """

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise VectorFileError(f"{where}: not an object")
        self._value: dict[str, Any] = value
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def names(self) -> list[str]:
        """Those of all fields."""
        return list(self._value)

    def octets(self, name: str, default: bytes = _REQUIRED) -> bytes:
        """Bytes, written in hex."""
        text = self._get(name, str, None if default is _REQUIRED else default.hex())
        return self._from_hex(name, text)

    def octets_list(self, name: str) -> list[bytes]:
        """A list of bytes."""
        texts = self._get(name, list, None)
        return [self._from_hex(f"{name}[{i}]", text) for i, text in enumerate(texts)]

    def integer(self, name: str, default: int | None = None) -> int:
        """A number that is not negative."""
        number: int = self._get(name, int, default)
        if isinstance(number, bool) or number < 0:
            raise self._wrong(name, "not a number from 0 up")
        return number

    def integers(self, name: str) -> list[int]:
        """A list of such numbers."""
        numbers: list[int] = self._get(name, list, None)
        for number in numbers:
            if type(number) is not int or number < 0:
                raise self._wrong(name, "not a list of numbers from 0 up")
        return numbers

    def optional_integer(self, name: str) -> int | None:
        """A number, or None for null or no such field."""
        return None if self._value.get(name) is None else self.integer(name)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        value: bool = self._get(name, bool, default)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value: str = self._get(name, str, default)
        return value

    def object(self, name: str) -> Fields:
        return Fields(self._get(name, dict, None), f"{self.where}: {name}")

    def objects(self, name: str) -> list[Fields]:
        values = self._get(name, list, None)
        return [Fields(value, f"{self.where}: {name}[{i}]") for i, value in enumerate(values)]

    def _get(self, name: str, kind: type, default: Any) -> Any:
        value = self._value.get(name, default)
        if name not in self._value and default is None:
            raise self._wrong(name, "missing")
        if not isinstance(value, kind):
            raise self._wrong(name, f"not of type {kind.__name__}")
        return value

    def _from_hex(self, name: str, text: Any) -> bytes:
        try:
            return bytes.fromhex(text)
        except (TypeError, ValueError):
            raise self._wrong(name, "not hexadecimal") from None

    def _wrong(self, name: str, what: str) -> VectorFileError:
        return VectorFileError(f"{self.where}: {name}: {what}")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One value that is not what it should be."""

    vector: str
    field: str
    stated: str
    computed: str
    source: str = ""
    """What it was computed from, where that is not plain."""

    def __str__(self) -> str:
        text = f"{self.vector}: {self.field}: stated {self.stated}, computed {self.computed}"
        return f"{text} (from {self.source})" if self.source else text


class Checker:
    """Compares the values of one vector and remembers the outcome."""

    def __init__(self, vector: str) -> None:
        self.vector = vector
        self.values = 0
        self.mismatches: list[Mismatch] = []

    def compare(self, name: str, stated: Any, computed: Any, source: str = "") -> None:
        """Count one value; note it if the two differ."""
        self.values += 1
        if stated != computed:
            texts = _texts(stated, computed)
            self.mismatches.append(Mismatch(self.vector, name, *texts, source))

    def fault(self, name: str, stated: Any, why: str) -> Unverifiable:
        """Note a value from which nothing can be computed; the caller raises the result."""
        self.values += 1
        self.mismatches.append(Mismatch(self.vector, name, _shown(stated), why))
        return Unverifiable(why)

    @contextmanager
    def computing(self, name: str, stated: Any) -> Iterator[None]:
        """Turn an error of the package, raised over a stated value, into a fault."""
        try:
            yield
        except (PeerError, LocalError) as error:
            raise self.fault(name, stated, f"error: {error}") from error


def _shown(value: Any, start: int = 0) -> str:
    if not isinstance(value, bytes):
        return str(value)
    if len(value) <= _SHOWN:
        return value.hex() or "nothing"
    part = value[start : start + _SHOWN].hex()
    return f"{part}... ({len(value)} bytes, from byte {start})"


def _texts(stated: Any, computed: Any) -> tuple[str, str]:
    """Both values, long ones from about the first byte that differs."""
    start = 0
    if isinstance(stated, bytes) and isinstance(computed, bytes):
        pairs = zip(stated, computed, strict=False)
        same = next((i for i, (x, y) in enumerate(pairs) if x != y), len(stated))
        start = max(0, min(same, len(stated), len(computed)) - _SHOWN // 4)
    return _shown(stated, start), _shown(computed, start)
