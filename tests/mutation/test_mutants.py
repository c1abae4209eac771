"""The mutants themselves, and (`long`) how many of a sample the tests let live."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from mutation.covering import Covering
from mutation.mutants import described, mutants, mutated

ROOT = Path(__file__).parents[2]
PROGRAM = '''
TABLE = {1: "one", 2: "two"}


class Thing:
    """A docstring 7 that stays."""

    def __repr__(self) -> str:
        return "thing" + "s"

    def method(self, n: int = 3) -> bytes:
        if n < 4 and not self.done:
            raise ValueError(f"{n + 1} is too few")
        self.sum = n + 1
        self.wipe()
        return b"ab"
'''


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "package" / "thing.py"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    return path


def test_each_kind_of_fault_is_made(program: Path, tmp_path: Path) -> None:
    found = mutants(program, tmp_path)
    assert {mutant.module for mutant in found} == {"package.thing"}
    changes = [(mutant.place, mutant.before, mutant.after) for mutant in found]
    assert changes == [
        ("", "table", "without 1"),
        ("", "table", "without 2"),
        ("", "1", "2"),
        ("", "2", "3"),
        ("Thing.method", "3", "4"),
        ("Thing.method", "n < 4 and (not self.done)", "n < 4 or not self.done"),
        ("Thing.method", "n < 4", "n <= 4"),
        ("Thing.method", "4", "5"),
        ("Thing.method", "not self.done", "self.done"),
        ("Thing.method", "raise ValueError(f'{n + 1} is too few')", "pass"),
        ("Thing.method", "self.sum = n + 1", "self.sum = None"),
        ("Thing.method", "n + 1", "n - 1"),
        ("Thing.method", "1", "2"),
        ("Thing.method", "self.wipe()", "pass"),
        ("Thing.method", "b'ab'", "b'`b'"),
    ]
    assert len({mutant.key for mutant in found}) == len(found)


def test_a_mutant_differs_by_its_change_alone(program: Path, tmp_path: Path) -> None:
    original = ast.unparse(ast.parse(PROGRAM)).splitlines()
    for mutant in mutants(program, tmp_path):
        changed = ast.unparse(mutated(program, mutant.index)).splitlines()
        assert sum(a != b for a, b in zip(original, changed, strict=True)) == 1, mutant
        compile(mutated(program, mutant.index), "mutant", "exec")
    with pytest.raises(LookupError):
        mutated(program, 1000)


def test_a_key_does_not_depend_on_where_it_stands(program: Path, tmp_path: Path) -> None:
    before = [mutant.key for mutant in mutants(program, tmp_path)]
    program.write_text("# a line more\n\n" + PROGRAM)
    assert [mutant.key for mutant in mutants(program, tmp_path)] == before


def test_what_is_left_out_of_a_table_is_named() -> None:
    (table,) = (node for node in ast.walk(ast.parse("{1: 2, **more}")) if type(node) is ast.Dict)
    rest = ast.Dict(table.keys[:1], table.values[:1])
    assert described(table, rest) == ("table", "without more")


def test_tests_of_a_line_come_quickest_first_and_those_of_a_table_are_all(tmp_path: Path) -> None:
    covering = Covering(
        {"a.py": {3: ["slow", "quick"], 4: ["quick"]}, "b.py": {1: ["other"]}},
        {"slow": 2.0, "quick": 0.1, "other": 0.2, "long": 9.0},
    )
    path = tmp_path / "covering.json"
    covering.save(path)
    read = Covering.load(path)
    assert read == covering
    assert read.of(tmp_path / "a.py", tmp_path, 2, 3) == ["quick", "slow"]
    assert read.of(tmp_path / "a.py", tmp_path, 4, 9) == ["quick"]
    assert read.of(tmp_path / "a.py", tmp_path, 1, 1) == ["quick", "slow", "other"]
    assert read.of(tmp_path / "c.py", tmp_path, 1, 1) == ["quick", "other"]


@pytest.mark.long
def test_a_sample_of_mutants_is_killed() -> None:
    """Half an hour of one processor; the score is printed by the command itself."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests/mutation/run.py", "--sample", "500", "--score", "0.9"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
