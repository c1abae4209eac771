"""Instructions of the extension's hot functions, counted by callgrind: a bar against regressions.

Unlike times they are the same on every run.  A count above its bar is a
regression, or the price of something: then raise the bar, and say in the commit
what it pays for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PURE = os.environ.get("TCPCRYPT_PUREPYTHON", "") not in ("", "0")
CALLS = 50
TOLERANCE = 1.25
"""Other versions of Python, of the compiler and of libcrypto."""

BARS = {
    "parse_eno": 1730,
    "walk_options": 1460,
    "parse_segment": 870,
    "rebuild_segment": 790,
    "parse_queue": 770,
    "build_verdict": 500,
    "check_verdicts": 670,
    "insert": 3800,
    "lookup": 340,
    # With libcrypto's part; frames: one of 1,400 bytes and one of 16 KiB.
    "expand": 16_100,
    "resume_identifiers": 92_600,
    "seal": 50_200,
    "open": 49_700,
}
"""Instructions of one call, with all that it calls."""


def counted(directory: Path) -> dict[str, float]:
    """Instructions of one call of each function of `hot_functions`."""
    for program in ("valgrind", "callgrind_annotate"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is not installed (Debian: valgrind): nothing was counted")
    profile = directory / "callgrind"
    hot = Path(__file__).with_name("hot_functions.py")
    subprocess.run(
        ("valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", sys.executable, hot,
         str(CALLS)),
        check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "0"},
    )  # fmt: skip
    listing = subprocess.run(
        ("callgrind_annotate", "--inclusive=yes", "--threshold=100", "--show-percs=no",
         "--auto=no", profile),
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    found: dict[str, float] = {}
    for line in listing.splitlines():
        match = re.match(r" *([\d,]+) .*_c_\w+\.c:__pyx_pw_\w+?_\d+([a-z]\w*) \[", line)
        if match:
            found[match[2]] = int(match[1].replace(",", "")) / CALLS
    return found


if not PURE:  # there is nothing compiled then

    def test_no_hot_function_takes_more_instructions_than_it_did(tmp_path: Path) -> None:
        found = counted(tmp_path)
        assert set(BARS) <= set(found)
        above = {
            name: f"{found[name]:.0f} instructions, {found[name] / bar:.2f} of the bar"
            for name, bar in BARS.items()
            if found[name] > bar * TOLERANCE
        }
        assert not above
        # A bar that is far too high guards nothing.
        assert not {name for name, bar in BARS.items() if found[name] < bar / 2}
