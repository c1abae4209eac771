"""What the fuzz targets share: the twins side by side, and inputs read as decisions.

A target is a module with `check(data)`, which raises for a fault and for nothing
else, and `seeds()`, inputs from which a search begins.  It needs no fuzzer, so
that whatever one has found is replayed by an ordinary test.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from conftest import PURE_PYTHON, load_twin

from tcpcrypt.errors import LocalError, PeerError

TARGETS = (
    "eno_option",
    "option_walk",
    "init1",
    "init2",
    "deframer",
    "netlink",
    "control_request",
    "configuration",
    "known_peers",
    "state_files",
)
"""A module and a corpus each."""
CORPORA = Path(__file__).with_name("corpora")

twin_names = ["py"] if PURE_PYTHON else ["py", "c"]
"""Whose answers are compared.  While fuzzing the program runs in the Python twin, of
which coverage is known, and the extension is asked beside it."""


def target(name: str) -> ModuleType:
    """The module of a target."""
    return importlib.import_module(f"fuzz.{name}")


def corpus(name: str) -> list[bytes]:
    """Its kept inputs: a line of hexadecimal digits each."""
    return [bytes.fromhex(line) for line in (CORPORA / f"{name}.hex").read_text().splitlines()]


def keep(name: str, inputs: Iterable[bytes]) -> None:
    """Write a corpus, the shortest inputs first."""
    lines = sorted({one.hex() for one in inputs}, key=lambda line: (len(line), line))
    (CORPORA / f"{name}.hex").write_text("".join(f"{line}\n" for line in lines))


def outcome(call: Callable[[], Any]) -> Any:
    """What it returns, or the refusal; any other exception is a fault and goes on."""
    try:
        return call()
    except PeerError as error:
        return type(error), error.reason
    except (LocalError, ValueError) as error:
        return type(error), str(error)


def alike(call: Callable[[ModuleType], Any]) -> Any:
    """What all twins answer."""
    answers = [outcome(functools.partial(call, load_twin(name))) for name in twin_names]
    for name, answer in zip(twin_names, answers, strict=True):
        assert answer == answers[0], f"py: {answers[0]}, {name}: {answer}"
    return answers[0]


class Decisions:
    """An input as a row of numbers and strings; zeros where it has ended."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.octets(size), "big")

    def octets(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def string(self) -> bytes:
        """A byte says how long."""
        return self.octets(self.number())

    def rest(self) -> bytes:
        return self.octets(len(self._data))


def pieces(data: bytes, step: int) -> list[bytes]:
    """`data` in pieces of `step` bytes; all at once for 0."""
    step = step or len(data) or 1
    return [data[at : at + step] for at in range(0, len(data), step)]
