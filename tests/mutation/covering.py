"""Which tests run a line: one run of the suites under coverage, a context for each test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage
import pytest

SUITES = ["wire", "crypto", "core", "auth", "adversary", "wycheproof", "vectors", "fast"]
"""What tests wire, crypto and core, in this process."""
LEFT_OUT = ("test_build.py", "test_instructions.py", "test_cache_memory.py")
"""They build, count and measure the extension, which is not what is changed."""

QUICK = 0.3
"""Seconds."""


@dataclass(frozen=True)
class Covering:
    """`tests`: of a line of a file, by node ID; `seconds` of each test."""

    tests: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def of(self, path: Path, root: Path, first: int, last: int) -> list[str]:
        """Tests that run one of these lines, the quickest first.

        What runs at import (a table, a constant) may matter to any test: first come
        those that run anything of the file, then all that are quick.
        """
        lines = self.tests.get(str(path.relative_to(root)), {})
        found = {test for at in range(first, last + 1) for test in lines.get(at, ())}
        if found:
            return self._quickest(found)
        near = {test for tests in lines.values() for test in tests}
        quick = {test for test, seconds in self.seconds.items() if seconds < QUICK}
        return self._quickest(near) + self._quickest(quick - near)

    def _quickest(self, tests: set[str]) -> list[str]:
        return sorted(tests, key=lambda test: (self.seconds.get(test, 0.0), test))

    def save(self, path: Path) -> None:
        names = list(self.seconds)
        number = {name: at for at, name in enumerate(names)}
        tests = {
            file: {at: [number[name] for name in of] for at, of in lines.items()}
            for file, lines in self.tests.items()
        }
        seconds = [round(self.seconds[name], 4) for name in names]
        path.write_text(json.dumps({"names": names, "seconds": seconds, "tests": tests}))

    @classmethod
    def load(cls, path: Path) -> Covering:
        """What `save` wrote.  A name is one object, however many lines it stands by."""
        read = json.loads(path.read_text())
        names = read["names"]
        tests = {
            file: {int(at): [names[n] for n in of] for at, of in lines.items()}
            for file, lines in read["tests"].items()
        }
        return cls(tests, dict(zip(names, read["seconds"], strict=True)))


class Contexts:
    """A plugin of pytest: the lines of each test are counted under its name."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured = measured
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._measured.switch_context(item.nodeid)
        yield
        self._measured.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def options(root: Path) -> list[str]:
    """Of pytest, for every run of these suites."""
    return [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:benchmark",
        f"--rootdir={root}",
        *(f"--ignore={found}" for name in LEFT_OUT for found in root.glob(f"tests/*/{name}")),
    ]


def measure(root: Path, plugins: list[object]) -> Covering:
    """Run the suites.  `RuntimeError` if they fail as they are: nothing would follow from that."""
    measured = coverage.Coverage(data_file=None, source=[str(root / "tcpcrypt")])
    contexts = Contexts(measured)
    measured.start()
    suites = [str(root / "tests" / suite) for suite in SUITES]
    status = pytest.main([*options(root), *suites], plugins=[contexts, *plugins])
    measured.stop()
    if status != 0:
        raise RuntimeError(f"the tests fail without any change: pytest ended with {status}")
    data = measured.get_data()
    tests: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        by_line = data.contexts_by_lineno(file)
        named = {at: [test for test in of if test] for at, of in by_line.items()}
        tests[str(Path(file).relative_to(root))] = {at: of for at, of in named.items() if of}
    return Covering(tests, contexts.seconds)
