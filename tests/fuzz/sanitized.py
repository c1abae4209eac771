"""The extension under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/fuzz/sanitized.py                   corpora, twins, options, frames, pump, lanes
    python tests/fuzz/sanitized.py tests/fast -k open    these tests alone

It builds the extension in a folder of its own with gcc's sanitizers, aborting at
the first finding, and runs tests of what is compiled there.  Python takes every
buffer from malloc meanwhile, so that one byte past its end is seen.  Leaks are
not looked for: the interpreter keeps much until the end (what the extension
keeps is counted by tests/fast/test_cache_memory.py).

Exit status: that of pytest; a finding of a sanitizer is printed and ends it with another than 0.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    "tests/fuzz/test_corpora.py",
    "tests/fast",
    "tests/wire",
    "tests/runtime/test_pump.py",
    "tests/segment/test_lanes.py",
    "tests/segment/test_stream_twins.py",
    "tests/segment/test_twins.py",
    "tests/segment/test_memory.py",
    # They build, count or measure the extension as it is installed; memory that is
    # freed waits in quarantine here.
    "--ignore=tests/fast/test_build.py",
    "--ignore=tests/fast/test_instructions.py",
    "--ignore=tests/fast/test_cache_memory.py",
    # It reads what was freed, on purpose.
    "--ignore=tests/fast/test_octets_memory.py",
    "--deselect=tests/runtime/test_pump.py::test_memory_and_descriptors_come_back",
)
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"


def built(folder: Path) -> dict[str, str]:
    """Copies the tree, builds the extension there; the environment to run it in."""
    for name in ("tcpcrypt", "ext", "tests", "vectors", "docs", "bench"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    environment = os.environ | {"TCPCRYPT_REQUIRE_EXT": "1", "TCPCRYPT_PUREPYTHON": ""}
    # -O1 after setup.py's -O2 would be undone, but frames stay readable without it.
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--parallel", "2"],
        cwd=folder,
        env=environment | {"CFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address,undefined"},
        check=True,
    )
    runtime = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return environment | {
        "PYTHONPATH": str(folder),
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }


def main(given: list[str]) -> int:
    """Build, run, and say how it went."""
    with tempfile.TemporaryDirectory(prefix="tcpcrypt-sanitized-") as made:
        folder = Path(made)
        environment = built(folder)
        where = subprocess.run(
            [sys.executable, "-c", "import tcpcrypt._fast._c_frames as c; print(c.__file__)"],
            cwd=folder, env=environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        if not where.startswith(str(folder)):
            raise RuntimeError(f"another extension would be tested: {where.strip()}")
        words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        return subprocess.run(
            [*words, *(given or TESTS)], cwd=folder, env=environment, check=False
        ).returncode


if __name__ == "__main__":
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__)
    else:
        sys.exit(main(sys.argv[1:]))
