"""Text for manual pages: the few macros of man(7) that ours need, and escaping."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["bold", "code", "escape", "item", "prose", "section", "subsection", "title"]

_SPECIAL: Final = {
    "\\": "\\e",
    "-": "\\-",
    "'": "\\(aq",
    "`": "\\(ga",
    "^": "\\(ha",
    "~": "\\(ti",
    '"': "\\(dq",
}
_CODE: Final = re.compile(r"`([^`]+)`")
_SENTENCE: Final = re.compile(r"(?<=[.?!:;])  +")


def escape(text: str) -> str:
    """`text` as it shall look, on one line or inside one."""
    return "".join(
        _SPECIAL.get(char, char if char.isascii() else f"\\[u{ord(char):04X}]") for char in text
    )


def bold(text: str) -> str:
    """`text`, escaped, in bold."""
    return f"\\fB{escape(text)}\\fR"


def title(name: str, number: int, source: str, manual: str) -> str:
    """The head of a page.  It has no date, so that the same source gives the same page."""
    words = (name.upper(), str(number), "", source, manual)
    return ".TH " + " ".join(f'"{escape(word)}"' for word in words)


def section(name: str) -> str:
    return f'.SH "{escape(name)}"'


def subsection(name: str) -> str:
    return f'.SS "{escape(name)}"'


def item(label: str, text: Iterable[str]) -> list[str]:
    """A hanging paragraph; `label` is roff already."""
    return [".TP", label, *text]


def code(lines: Iterable[str]) -> list[str]:
    """Lines as they are."""
    return [".PP", ".RS 4", ".EX", *(_safe(escape(line.rstrip())) for line in lines), ".EE", ".RE"]


def prose(text: str) -> list[str]:
    """Paragraphs, set apart by blank lines; indented ones are code; `words` are bold."""
    found: list[str] = []
    for block in re.split(r"\n[ \t]*\n", text.strip("\n")):
        lines = block.split("\n")
        # An indented line is code, also right after the words that announce it.
        while lines:
            indented = lines[0].startswith("  ")
            count = next(
                (n for n, line in enumerate(lines) if line.startswith("  ") is not indented),
                len(lines),
            )
            part, lines = lines[:count], lines[count:]
            if indented:
                found += code(line[2:] for line in part)
            elif any(line.strip() for line in part):
                found += [".PP", *_sentences("\n".join(part))]
    return found


def _sentences(text: str) -> list[str]:
    """One line each, as troff wants it for its spacing."""
    joined = re.sub(r"(?<=[.?!])\n", "  ", text.strip()).replace("\n", " ")
    return [_safe(_marked(part)) for part in _SENTENCE.split(joined)]


def _marked(text: str) -> str:
    # Odd parts of the split stood between backquotes.
    parts = _CODE.split(text)
    return "".join(bold(part) if at % 2 else escape(part) for at, part in enumerate(parts))


def _safe(line: str) -> str:
    """A line of text is no request, whatever it begins with."""
    return "\\&" + line if line.startswith((".", "'")) else line
