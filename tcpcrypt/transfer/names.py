"""Names of files as they arrive: one component each, never a way out of the directory.

A path on the wire is a short sequence of components.  It is never joined into
a string that the kernel would interpret: each folder is opened in the one
before it, without following links (`tcpcrypt.transfer.folders`).
"""

from __future__ import annotations

import os
import re
from typing import Final

from tcpcrypt.transfer.codes import Code, TransferError

__all__ = [
    "COMPONENTS_MAX",
    "COMPONENT_MAX",
    "PATH_MAX",
    "PRIVATE",
    "Path",
    "check_component",
    "check_path",
    "numbered",
    "path_of",
    "shown",
]

COMPONENT_MAX: Final = 255
"""Bytes of one component: what the file systems of Linux take."""
COMPONENTS_MAX: Final = 32
PATH_MAX: Final = 4000
"""Bytes of a path, one for each separator counted."""
PRIVATE: Final = b".stx"
"""The receiver's own directory within that of the files; nobody writes into it."""
_FORBIDDEN: Final = re.compile(rb"[\x00-\x1f\x7f/]")

Path = tuple[bytes, ...]
"""Folders, and last the file, relative to the receiver's directory."""


def check_component(name: bytes) -> None:
    """Whether a folder or file may have this name.

    Raises `TransferError` (NAME) for one that is empty, `.` or `..`, longer than
    255 bytes, or that holds a slash, NUL or a control character.
    """
    if not name:
        raise TransferError(Code.NAME, "a name is empty")
    if name in {b".", b".."}:
        raise TransferError(Code.NAME, f"{shown((name,))!r} is no name of its own")
    if len(name) > COMPONENT_MAX:
        raise TransferError(Code.NAME, f"a name has {len(name)} bytes, {COMPONENT_MAX} at most")
    if _FORBIDDEN.search(name):
        raise TransferError(Code.NAME, "a name holds a slash or a control character")


def check_path(path: Path) -> None:
    """Whether a file may arrive there.  Raises `TransferError` (NAME).

    The receiver's own directory is refused in any mixture of cases: there are
    file systems that do not tell them apart.
    """
    if not 1 <= len(path) <= COMPONENTS_MAX:
        raise TransferError(
            Code.NAME, f"a path has {len(path)} components, {COMPONENTS_MAX} at most"
        )
    if sum(map(len, path)) + len(path) - 1 > PATH_MAX:
        raise TransferError(Code.NAME, f"a path has more than {PATH_MAX} bytes")
    for name in path:
        check_component(name)
    if path[0].lower() == PRIVATE:
        raise TransferError(Code.NAME, f"{shown(path)!r} belongs to the receiver")


def path_of(text: str | bytes) -> Path:
    """A path with slashes in it as components; checked.  Raises `TransferError` (NAME)."""
    path = tuple(os.fsencode(text).split(b"/"))
    check_path(path)
    return path


def shown(path: Path) -> str:
    """A path for a person: nothing in it controls a terminal."""
    text = b"/".join(path).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def numbered(name: bytes, number: int) -> bytes:
    """Another name for a file whose own is taken: `notes.txt`, 2 -> `notes.2.txt`."""
    stem, dot, suffix = name.rpartition(b".")
    if not stem or len(suffix) > 16:
        stem, dot, suffix = name, b"", b""
    tail = b".%d" % number + dot + suffix
    return stem[: COMPONENT_MAX - len(tail)] + tail
