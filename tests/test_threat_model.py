"""THREAT_MODEL.md, docs/vulnerabilities.md: each line that claims something names its tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.named_tests import missing, named

ROOT = Path(__file__).parent.parent
MODEL = (ROOT / "THREAT_MODEL.md").read_text(encoding="utf-8")
VULNERABILITIES = (ROOT / "docs/vulnerabilities.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """One of a document, up to the next title of its rank or above."""
    rank = title.partition(" ")[0]
    start = text.index(f"\n{title}\n")
    ends = re.compile(rf"^#{{1,{len(rank)}}} ", re.M)
    end = ends.search(text, start + len(title) + 2)
    return text[start : end.start() if end else None]


def rows(text: str, letters: str) -> list[tuple[str, list[str]]]:
    """The numbered lines of its tables, `(name, cells)`."""
    found = re.findall(rf"^\| ([{letters}]\d+) \| (.*) \|$", text, re.M)
    return [(name, cells.split(" | ")) for name, cells in found]


@pytest.mark.parametrize(
    ("title", "letter", "least"),
    [
        ("### Spoofing", "S", 10),
        ("### Tampering", "T", 15),
        ("### Repudiation", "R", 3),
        ("### Information disclosure", "I", 12),
        ("### Denial of service", "D", 12),
        ("### Elevation of privilege", "E", 6),
    ],
)
def test_every_line_of_what_is_defended_names_its_tests(
    title: str, letter: str, least: int
) -> None:
    lines = rows(section(MODEL, title), "A-Z")
    assert [name for name, _cells in lines] == [f"{letter}{n + 1}" for n in range(len(lines))]
    assert len(lines) >= least
    for name, cells in lines:
        assert len(cells) == 4, name
        assert named(cells[-1]), f"{name} names no test"
        assert re.sub(r"`[^`]*`|, ", "", cells[-1]) == "", f"{name}: more than names of tests"


def test_every_limit_is_numbered_and_says_what_to_do() -> None:
    lines = rows(section(MODEL, "## What is not"), "N")
    assert [name for name, _cells in lines] == [f"N{n + 1}" for n in range(len(lines))]
    assert len(lines) >= 12
    for name, cells in lines:
        assert len(cells) == 3, name
        assert all(cells), name


def test_every_duty_of_an_application_names_a_test_or_is_advice() -> None:
    duties = re.findall(
        r"^\* (.*?)(?=^\* |\Z)", section(MODEL, "## What the application has to do"), re.M | re.S
    )
    assert len(duties) >= 5
    assert sum(bool(named(duty)) for duty in duties) >= len(duties) - 1


def test_every_past_attack_says_why_not_here_and_names_a_test() -> None:
    lines = rows(VULNERABILITIES, "V")
    assert [name for name, _cells in lines] == [f"V{n + 1}" for n in range(len(lines))]
    assert len(lines) >= 25
    for name, cells in lines:
        assert len(cells) == 3, name
        assert named(cells[-1]), f"{name} names no test"


@pytest.mark.parametrize(
    "document", ["THREAT_MODEL.md", "SECURITY.md", "docs/vulnerabilities.md", "docs/assurance.md"]
)
def test_every_test_that_is_named_is_there(document: str) -> None:
    assert missing((ROOT / document).read_text(encoding="utf-8")) == []


def test_a_test_that_is_not_there_is_missed() -> None:
    assert missing("`tests/test_threat_model.py::test_of_nothing` `test_of_nothing_else`") == [
        "test_of_nothing_else",
        "tests/test_threat_model.py::test_of_nothing",
    ]
