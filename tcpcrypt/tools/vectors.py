"""Test vector files: reading them, and checking every value they state.

Four formats, all JSON objects with `vectors`, and the first three with `format`:

* `tcpcrypt-vectors-1`: whole sessions of RFC 8548 (`tcpcrypt.tools.session_vectors`);
* `tcpcrypt-authenticated-1`: exchanges of TEP 0x20 (`tcpcrypt.tools.authenticated_vectors`);
* `tcpcrypt-eno-1`: contents of ENO options and what they parse to (RFC 8547
  section 4.4);
* values of the TCP/S kernel module (`tcpcrypt.tools.tcps_vectors`).

A value that differs is a `Mismatch`; a file that cannot be read, or that is not
of its format, a `VectorFileError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tcpcrypt.errors import PeerError, PeerReason
from tcpcrypt.tools.authenticated_vectors import verify_authenticated
from tcpcrypt.tools.session_vectors import verify_session
from tcpcrypt.tools.tcps_vectors import FORM, verify_tcps
from tcpcrypt.tools.vector_fields import Checker, Fields, Mismatch, VectorFileError
from tcpcrypt.wire.eno import SynOption, find_eno

__all__ = ["Report", "VectorFileError", "verify_document", "verify_file"]

_SIZE_MAX: Final = 1 << 28
"""Bytes of a file that are read at most."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the vectors of one file came to."""

    vectors: int
    values: int
    """Values that were recomputed and compared."""
    mismatches: tuple[Mismatch, ...] = field(default=())


def verify_file(path: Path) -> Report:
    """Check one file.  Raises `VectorFileError` for one that holds no vectors."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_SIZE_MAX + 1)
    except OSError as error:
        raise VectorFileError(error.strerror or str(error)) from error
    if len(text) > _SIZE_MAX:
        raise VectorFileError(f"larger than {_SIZE_MAX} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VectorFileError(f"not JSON: {error}") from error
    return verify_document(document)


def verify_document(document: Any) -> Report:
    """Check the vectors of a decoded file.  Raises `VectorFileError`."""
    top = Fields(document, "file")
    form = top.text("format", default=FORM if _is_tcps(top) else None)
    try:
        verify = _FORMATS[form]
    except KeyError:
        raise VectorFileError(f"unknown format {form!r}") from None
    checkers = [verify(vector) for vector in _named(top)]
    return Report(
        vectors=len(checkers),
        values=sum(checker.values for checker in checkers),
        mismatches=tuple(m for checker in checkers for m in checker.mismatches),
    )


def _is_tcps(top: Fields) -> bool:
    return "vectors" in top and any("client_isn" in vector for vector in top.objects("vectors"))


def _named(top: Fields) -> Iterator[Fields]:
    """The vectors, each called by its name in what is said about it."""
    for vector in top.objects("vectors"):
        vector.where = vector.text("name", default=vector.where)
        yield vector


def _verify_eno(vector: Fields) -> Checker:
    """RFC 8547 section 4.4: one option, and its suboptions or what is wrong with it."""
    checker = Checker(vector.where)
    option = vector.octets("contents")
    try:
        (whole,) = find_eno(option).options
        parsed = SynOption.parse(whole[2:])
    except (ValueError, PeerError) as error:
        computed = error.reason.name if isinstance(error, PeerError) else "not one ENO option"
        checker.compare("error", vector.text("error", default="well-formed"), computed)
        return checker
    if "error" in vector:
        stated = vector.text("error")
        if stated not in PeerReason.__members__:
            raise VectorFileError(f"{vector.where}: unknown error {stated!r}")
        checker.compare("error", stated, "well-formed")
        return checker
    result = vector.object("result")
    checker.compare("result.global", result.integer("global"), parsed.global_bits)
    suboptions = result.objects("suboptions")
    checker.compare("result.suboptions", len(suboptions), len(parsed.suboptions))
    for index, (stated_one, computed_one) in enumerate(
        zip(suboptions, parsed.suboptions, strict=False)
    ):
        name = f"result.suboptions[{index}]"
        data = computed_one.data
        checker.compare(f"{name}.tep", stated_one.integer("tep"), computed_one.tep)
        checker.compare(f"{name}.v", stated_one.boolean("v"), data is not None)
        checker.compare(f"{name}.data", stated_one.octets("data"), data or b"")
    return checker


_FORMATS: Final = {
    "tcpcrypt-vectors-1": verify_session,
    "tcpcrypt-authenticated-1": verify_authenticated,
    "tcpcrypt-eno-1": _verify_eno,
    FORM: verify_tcps,
}
