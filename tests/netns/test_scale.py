"""The benchmarks of scale run, in short, and find that every connection works."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parents[2] / "bench"
BYTES_EACH_MAX = 64 << 10
"""Twenty times less than what a relay may buffer while it is busy."""


def bench(name: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        (sys.executable, BENCH / name, "--json", *arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_hundreds_of_idle_connections_cost_little_and_all_still_work() -> None:
    found = bench("idle.py", "--connections", "600")
    assert found["still_work"] == 600
    assert max(found["rss_bytes_each"]) < BYTES_EACH_MAX
    # A socket to each side, and few besides; all of them come back.
    for before, held, after in zip(
        *(found[f"descriptors{when}"] for when in ("_before", "", "_after")), strict=True
    ):
        assert 1200 <= held < 1200 + before + 100
        assert after <= before + 64


def test_connections_one_after_another_and_many_at_once() -> None:
    found = bench("connections.py", "--rounds", "1", "--seconds", "0.5")
    for kind, share in (("fresh", 0.0), ("resumed", 1.0)):
        for said in found[kind].values():
            assert said["ok"] > 0
            assert said["failed"] == 0
            assert abs(said["resumed_share"] - share) < 0.05
