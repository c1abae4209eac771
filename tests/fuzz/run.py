"""Fuzzing with atheris (libFuzzer), guided by the coverage of the Python twin.

    python tests/fuzz/run.py                          every target, 30 seconds each, two at a time
    python tests/fuzz/run.py --seconds 3600 deframer  one target for an hour
    python tests/fuzz/run.py --seconds 3600 --keep    and renew the corpora by what was found
    python tests/fuzz/run.py --replay FILE init1      one input, with its traceback

The extension is run beside the Python twin on the same inputs, and has to give
the same answers.  An input that ends in a fault lies in build/fuzz/ and is named.
Needs `pip install tcpcrypt[test,fuzz]` and the extension.

Exit status: 0 if nothing was found, 1 if something was, 2 for usage.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
WORK = TESTS.parent / "build/fuzz"
KEPT_MAX = 120
"""Inputs of a corpus that are kept."""


def search(name: str, arguments: list[str]) -> None:
    """Runs in a process of its own, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["tcpcrypt"]):
        from fuzz import harness

        module = harness.target(name)
    harness.twin_names[:] = ["py", "c"]
    harness.alike(lambda twin: twin.IMPLEMENTATION in {"c", "python"})  # both are there
    # libFuzzer starts itself anew by its first word, which goes through a shell as it is.
    itself = f"{sys.executable} {Path(__file__).resolve()} --child {name}"
    atheris.Setup([itself, *arguments], module.check)
    atheris.Fuzz()


def prepared(name: str) -> Path:
    """The folder of a target, with its corpus and its seeds."""
    from fuzz import harness

    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate([*harness.corpus(name), *harness.target(name).seeds()]):
        (folder / f"kept-{index:03}").write_bytes(data)
    return folder


def child(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The search in another process."""
    words = [sys.executable, __file__, "--child", name, *arguments]
    environment = os.environ | {"TCPCRYPT_PUREPYTHON": "1"}
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, errors="replace", check=False
    )


def fuzzed(name: str, seconds: int) -> tuple[str, int, bool]:
    """`(target, executions, whether nothing was found)`."""
    from fuzz import harness

    limits = (f"-max_len={harness.target(name).MAX_LEN}", "-timeout=20", "-rss_limit_mb=2048")
    folder = prepared(name)
    done = child(
        name,
        *(f"-max_total_time={seconds}", f"-artifact_prefix={WORK}/{name}-"),
        *("-print_final_stats=1", *limits, str(folder)),
    )
    found = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
    executions = int(found[1]) if found else 0
    if done.returncode or not executions:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", flush=True)
    return name, executions, done.returncode == 0 and executions > 0


def renew(name: str) -> None:
    """Keep those inputs without which some line would not be reached."""
    from fuzz import harness

    least = WORK / f"{name}.least"
    least.mkdir(exist_ok=True)
    for old in least.iterdir():
        old.unlink()
    child(name, "-merge=1", str(least), str(WORK / name))
    found = sorted((path.read_bytes() for path in least.iterdir()), key=len)
    if found:
        harness.keep(name, found[:KEPT_MAX])


def main(given: list[str] | None = None) -> int:
    """Run it; the exit status."""
    from fuzz import harness

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(harness.TARGETS))
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--keep", action="store_true", help="renew the corpora")
    parser.add_argument("--json", action="store_true", help="executions by target, as JSON")
    parser.add_argument("--replay", metavar="FILE", type=Path, help="one input")
    wanted = parser.parse_args(given)
    names = wanted.targets or list(harness.TARGETS)
    unknown = set(names) - set(harness.TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}")
    if wanted.replay:
        for name in names:
            harness.target(name).check(wanted.replay.read_bytes())
        return 0
    WORK.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    fine = True
    with ThreadPoolExecutor(wanted.jobs) as pool:
        for name, executions, good in pool.map(lambda one: fuzzed(one, wanted.seconds), names):
            counts[name], fine = executions, fine and good
            if not wanted.json:
                words = "" if good else f"  a fault: see {WORK}/{name}-*"
                print(f"{executions:10,} {name}{words}", flush=True)
    if wanted.keep and fine:
        for name in names:
            renew(name)
    total = sum(counts.values())
    print(json.dumps(counts | {"total": total}) if wanted.json else f"{total:10,} executions")
    return int(not fine)


if __name__ == "__main__":
    sys.path[0] = str(TESTS)  # the program itself is the one that is installed
    if sys.argv[1:2] == ["--child"]:
        search(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
