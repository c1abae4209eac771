"""docs/tcps.md names a test for each weakness, and each is there."""

import re
from pathlib import Path

from support.named_tests import missing, named

TEXT = (Path(__file__).parents[2] / "docs/tcps.md").read_text()


def test_each_weakness_has_its_line_and_its_tests() -> None:
    rows = re.findall(r"^\| (S\d+|A\d) \|.*\| (.*?) \|$", TEXT, re.M)
    assert [name for name, _tests in rows] == [*(f"S{n}" for n in range(1, 13)), "A1", "A2"]
    assert all(named(tests) for _name, tests in rows)
    assert missing(TEXT) == []
