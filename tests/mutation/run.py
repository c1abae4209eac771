"""Mutation testing of wire, crypto and core: which small faults do the tests let pass?

    python tests/mutation/run.py                      a sample of 500
    python tests/mutation/run.py --sample 0           every mutant there is
    python tests/mutation/run.py --only core.records  those of a module
    python tests/mutation/run.py --key 9a8c2244a2     one, with what pytest says

Nothing is written into the sources.  This process imports pytest and what
the tests import of others, never tcpcrypt; each mutant gets a fork of it, where
the changed module takes the place of the one on disk, in the Python twin, and
the tests that run the changed line are run until one fails.  What it found is
kept in build/mutation/, so that a run that was stopped goes on where it was.

Exit status: 0 if the score is at least --score, 1 if not, 2 for usage.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.abc
import importlib.machinery
import json
import os
import resource
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    os.environ["TCPCRYPT_PUREPYTHON"] = "1"
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import hypothesis  # noqa: E402
import pytest  # noqa: E402
from mutation.covering import Covering, measure, options  # noqa: E402
from mutation.mutants import Mutant, mutants, mutated  # noqa: E402

PACKAGES = ("wire", "crypto", "core")
SURVIVORS = Path(__file__).with_name("survivors.toml")
NEAREST_FILES = 2
FIRST = 150
"""Tests of the first tries; a mutant that survives them meets all that run its line."""
SECONDS = 300
MEMORY = 4 << 30


def all_mutants() -> list[Mutant]:
    """In an order that has nothing to do with where they stand, and is always the same."""
    found = [
        mutant
        for package in PACKAGES
        for path in sorted((ROOT / "tcpcrypt" / package).glob("*.py"))
        for mutant in mutants(path, ROOT)
    ]
    return sorted(found, key=lambda mutant: mutant.key)


def explained() -> dict[str, str]:
    """Mutants that no test can tell from the program, and why: `key -> reason`."""
    with SURVIVORS.open("rb") as file:
        return dict(tomllib.load(file)["equivalent"])


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, mutant: Mutant) -> None:
        super().__init__(name, str(mutant.path))
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(mutated(self._mutant.path, self._mutant.index), self.path, "exec")
        return code


class Finder(importlib.abc.MetaPathFinder):
    """Finds the changed module before the one on disk is found."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname != self._mutant.module:
            return None
        loader = _Loader(fullname, self._mutant)
        return importlib.machinery.ModuleSpec(fullname, loader, origin=str(self._mutant.path))


class Chosen:
    """A plugin of pytest: these tests alone, in this order; random ones quick and always alike."""

    def __init__(self, tests: list[str] | None = None) -> None:
        self._order = None if tests is None else {test: at for at, test in enumerate(tests)}

    def pytest_sessionstart(self) -> None:
        hypothesis.settings.register_profile(
            "mutation",
            deadline=None,
            derandomize=True,
            database=None,
            max_examples=60,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.settings.load_profile("mutation")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        order = self._order
        if order is not None:
            items[:] = sorted(
                (item for item in items if item.nodeid in order), key=lambda i: order[i.nodeid]
            )


def in_a_fork(work: Callable[[], int], seconds: float) -> int | None:
    """What `work` returns in a process of its own; None if it took too long."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            status = work()
        except BaseException as error:  # the parent must not go on twice
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def silent() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def tried(mutant: Mutant | None, tests: list[str], *, loud: bool = False) -> str:
    """`survived`, or by what the mutant was killed: `test`, `import`, `time`, `crash`."""

    def work() -> int:
        if not loud:
            silent()
        if mutant is not None:
            sys.meta_path.insert(0, Finder(mutant))
        files = list(dict.fromkeys(str(ROOT / test.partition("::")[0]) for test in tests))
        how = ["-x", "--tb=short"] if loud else ["-x", "--tb=no", "--no-header"]
        return int(pytest.main([*options(ROOT), *how, *files], plugins=[Chosen(tests)]))

    match in_a_fork(work, SECONDS):
        case 0 | 5:
            return "survived"
        case 1:
            return "test"
        case 2 | 3 | 4:
            return "import"
        case None:
            return "time"
        case _:
            return "crash"


def judged(mutant: Mutant, covering: Covering) -> str:
    tests = covering.of(mutant.path, ROOT, *mutant.lines)
    outcome = "survived"
    for some in (nearest(tests), tests[:FIRST], tests):
        if outcome == "survived" and some:
            outcome = tried(mutant, some)
    return outcome


def nearest(tests: list[str]) -> list[str]:
    """Those of the files that have the most of them: to import a file costs more than a test."""
    counts = Counter(test.partition("::")[0] for test in tests)
    files = {file for file, _count in counts.most_common(NEAREST_FILES)}
    return [test for test in tests if test.partition("::")[0] in files][:FIRST]


def preload() -> None:
    """What tests import of others, once for all mutants."""
    for name in (
        *("asyncio", "cryptography.hazmat.primitives.asymmetric.ec", "json", "ssl", "subprocess"),
        *("cryptography.hazmat.primitives.ciphers.aead", "hypothesis.strategies", "unittest.mock"),
        *("cryptography.hazmat.primitives.asymmetric.x448", "hypothesis.stateful"),
        *("cryptography.hazmat.primitives.asymmetric.mlkem", "cffi"),
    ):
        with contextlib.suppress(ImportError):
            __import__(name)
    taken = [name for name in sys.modules if name.partition(".")[0] == "tcpcrypt"]
    assert not taken, f"imported before any change: {taken}"


def covering_of_now(directory: Path) -> Covering:
    """Measured in a fork, because it imports the program; kept for the next run."""
    kept = directory / "covering.json"
    newest = max(path.stat().st_mtime for path in ROOT.glob("t*/**/*.py"))
    if not kept.exists() or kept.stat().st_mtime < newest:
        print("measuring which tests run which line ...", flush=True)

        def work() -> int:
            measure(ROOT, [Chosen()]).save(kept)
            return 0

        if in_a_fork(work, 1800) != 0:
            sys.exit("the tests fail without any change, so that mutants cannot be judged")
    return Covering.load(kept)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=500, help="how many; 0 for all")
    parser.add_argument("--only", default="", metavar="NAME", help="modules with NAME in theirs")
    parser.add_argument("--key", help="try one mutant and show what pytest says")
    parser.add_argument("--score", type=float, default=0.9, help="least that is good enough")
    parser.add_argument("--again", action="store_true", help="forget what earlier runs found")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Run it; the exit status."""
    wanted = arguments(given)
    directory = ROOT / "build/mutation"
    directory.mkdir(parents=True, exist_ok=True)
    preload()
    chosen = [mutant for mutant in all_mutants() if wanted.only in mutant.module]
    if wanted.key:
        chosen = [mutant for mutant in chosen if mutant.key == wanted.key]
    if not chosen:
        print("no such mutant", file=sys.stderr)
        return 2
    covering = covering_of_now(directory)
    if wanted.key:
        (mutant,) = chosen
        print(mutant, flush=True)
        outcome = tried(mutant, covering.of(mutant.path, ROOT, *mutant.lines), loud=True)
        print(outcome)
        return int(outcome == "survived")
    results = directory / "results.jsonl"
    known: dict[str, str] = {}
    if wanted.again:
        results.unlink(missing_ok=True)
    elif results.exists():
        known = dict(json.loads(line) for line in results.read_text().splitlines())
        # Tests that were written since may kill it.
        known = {key: outcome for key, outcome in known.items() if outcome != "survived"}
    known.update(dict.fromkeys(explained(), "equivalent"))
    outcomes: dict[str, str] = {}
    gc.freeze()  # or each fork would copy what the collector looks at
    with results.open("a") as file:
        for mutant in chosen[: wanted.sample or None]:
            outcome = known.get(mutant.key)
            if outcome is None:
                outcome = judged(mutant, covering)
                file.write(json.dumps([mutant.key, outcome]) + "\n")
                file.flush()
            if outcome == "survived" and not wanted.json:
                print(mutant, flush=True)
            outcomes[mutant.key] = outcome
    return told(outcomes, wanted)


def told(outcomes: dict[str, str], wanted: argparse.Namespace) -> int:
    """Say how it went; an equivalent mutant counts neither way."""
    counts: dict[str, Any] = {}
    for outcome in outcomes.values():
        counts[outcome] = counts.get(outcome, 0) + 1
    real = len(outcomes) - counts.get("equivalent", 0)
    score = 1 - counts.get("survived", 0) / real if real else 1.0
    counts |= {"mutants": len(outcomes), "score": round(score, 4)}
    print(json.dumps(counts) if wanted.json else f"score {score:.1%} of {real}: {counts}")
    return int(score < wanted.score)


if __name__ == "__main__":
    sys.exit(main())
