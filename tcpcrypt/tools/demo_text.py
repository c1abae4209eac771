"""How `tcpcrypt demo` looks on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

from tcpcrypt.registry import TCP_OPTION_ENO
from tcpcrypt.wire.segment import Segment, TcpFlags
from tcpcrypt.wire.tcpopt import parse_options

__all__ = ["Printer"]

_BOLD, _GREEN, _RED, _DIM, _END = "\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m"
_ROW: Final = 16
_ROWS: Final = 3


class Printer:
    """Writes to stdout, with colour on a terminal alone."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def title(self, text: str) -> None:
        """A step begins."""
        self._print(f"\n{self._in(_BOLD, text)}")

    def line(self, text: str) -> None:
        """Something worth knowing."""
        self._print(f"  {text}")

    def check(self, what: str, passed: bool) -> None:
        """Something was verified, or not."""
        mark = self._in(_GREEN, "ok  ") if passed else self._in(_RED, "FAIL")
        self._print(f"  {mark} {what}")

    def segment(self, segment: Segment) -> None:
        """A TCP segment as an eavesdropper sees it."""
        flags = " ".join(flag.name or "" for flag in TcpFlags if flag in segment.flags)
        eno = [
            o.build().hex(" ") for o in parse_options(segment.options) if o.kind == TCP_OPTION_ENO
        ]
        option = f"   ENO option {eno[0]}" if eno else ""
        self._print(
            f"    {segment.source_port:>5} > {segment.destination_port:<5} {flags:<8}"
            f" {len(segment.payload):>6} bytes{option}"
        )
        shown = bytes(segment.payload[: _ROW * _ROWS])
        for at in range(0, len(shown), _ROW):
            row = shown[at : at + _ROW]
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            self._print(self._in(_DIM, f"        {at:04x}  {row.hex(' '):<47}  {text}"))
        if len(segment.payload) > len(shown):
            self._print(self._in(_DIM, "        ..."))

    def verdict(self, checks: Mapping[str, bool]) -> None:
        """The end of it."""
        failed = [what for what, passed in checks.items() if not passed]
        if failed or not checks:
            self._print("\n" + self._in(_RED, f"{len(failed)} of {len(checks)} checks failed:"))
            for what in failed:
                self._print(f"  {what}")
        else:
            self._print("\n" + self._in(_GREEN, f"All {len(checks)} checks passed."))

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_END}" if self._colour else text

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)
