"""The figures of docs/assurance.md that can be counted are what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from adversary.test_misbehaviours import MISBEHAVIOURS, RUNS
from fuzz import harness
from models.proverif import RUNS as PROVED
from models.test_tep import EXCLUDED, EXISTING
from mutation.run import all_mutants
from netns.test_middlebox import CELLS, FAULTS, SAMPLE
from test_threat_model import MODEL, VULNERABILITIES, rows, section
from wycheproof.test_cases import RUN

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/assurance.md").read_text(encoding="utf-8")


def published() -> int:
    """Vectors of all files for which there are two verifiers."""
    documents = [json.loads(path.read_text()) for path in (ROOT / "vectors").glob("*.json")]
    return sum(len(document["vectors"]) for document in documents)


COUNTED = {
    "threats that are defended": lambda: len(rows(section(MODEL, "## What is defended"), "STRIDE")),
    "attacks of the past": lambda: len(rows(VULNERABILITIES, "V")),
    "limits that are stated": lambda: len(rows(section(MODEL, "## What is not"), "N")),
    "named misbehaviours": lambda: len(MISBEHAVIOURS),
    "connections with a misbehaving peer": lambda: len(RUNS),
    "faults of a middlebox": lambda: len(FAULTS),
    "connections through it": lambda: len(CELLS),
    "the same over IPv6": lambda: len(SAMPLE),
    "cases of Wycheproof": lambda: sum(RUN.values()),
    "published vectors": published,
    "searches of the formal model": lambda: len(EXCLUDED) + len(EXISTING),
    "questions to ProVerif": lambda: sum(len(run.queries) for run in PROVED.values()),
    "fuzz targets": lambda: len(harness.TARGETS),
    "inputs that fuzzing has kept": lambda: sum(len(harness.corpus(n)) for n in harness.TARGETS),
    "mutants of wire, crypto and core": lambda: len(all_mutants()),
}
LINES = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| [^|]+ \| `[^`]+` \|$", PAGE, re.M)


def test_each_line_is_counted() -> None:
    assert len(LINES) == len(COUNTED)
    for what, _number in LINES:
        assert sum(what.startswith(name) for name in COUNTED) == 1, what


@pytest.mark.parametrize("name", COUNTED)
def test_a_figure_is_what_is_there(name: str) -> None:
    (told,) = (number for what, number in LINES if what.startswith(name))
    there = COUNTED[name]()
    if name.startswith("mutants"):
        # Each change of the program makes a few more or fewer: told to the hundred.
        assert abs(int(told.replace(",", "")) - there) < 100
    else:
        assert told == f"{there:,}", f"docs/assurance.md says {told}, there are {there}"
