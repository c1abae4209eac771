"""The benchmarks of scale run, in short, and find that every connection works."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tcpcrypt.tools.labdaemon import BACKEND

BENCH = Path(__file__).parents[2] / "bench"
BYTES_EACH_MAX = 64 << 10
"""Twenty times less than what a relay may buffer while it is busy."""


def bench(name: str, *arguments: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        (sys.executable, BENCH / name, "--json", *arguments),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=180,
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
    # With timestamps, which these hosts have, the kernel has no room for the answer, and
    # policies of hosts that prove who they are it does not judge.
    alone = os.environ.get(BACKEND) == "sockops"
    kinds = ("--kinds", "plain,fresh,resumed") if alone else ()
    found = bench("connections.py", "--rounds", "1", "--seconds", "0.5", *kinds)
    resumed = 0.0 if alone else 1.0
    for kind, share in (("fresh", 0.0), ("resumed", resumed)):
        for said in found[kind].values():
            assert said["ok"] > 0
            assert said["failed"] == 0
            assert abs(said["resumed_share"] - share) < 0.05


def test_whole_chains_beside_each_other(tmp_path: Path) -> None:
    chains = ("plain", "plain, no offloads", "ours, nfqueue", "Python ssl")
    only = [word for chain in (*chains, "stunnel") for word in ("--only", chain)]
    programs = tmp_path / "bin"  # a machine that has no stunnel
    programs.mkdir()
    for program in (*Path("/usr/bin").iterdir(), *Path("/usr/sbin").iterdir()):
        if not program.name.startswith("stunnel") and not (programs / program.name).exists():
            (programs / program.name).symlink_to(program)
    plot = tmp_path / "planes.png"
    found = bench(
        "planes.py",
        *("--quick", "--seconds", "0.1", "--idle", "100", "--plot", str(plot), *only),
        PATH=str(programs),
        TCPCRYPT_INTEROP_STANFORD="",
    )
    assert list(found["chains"]) == list(chains)
    assert found["left_out"]["stunnel"] == "stunnel is not installed"
    for chain in chains:
        said = found["chains"][chain]
        assert said["open/64"]["failed"] == 0, chain
        for what, figure in (("bulk/1", "gbit_s"), ("bulk/64", "gbit_s"), ("open/4", "per_s"),
                             ("first byte", "p50_ms"), ("ping", "p50_us"),
                             ("loss/0.50%", "gbit_s")):  # fmt: skip
            assert said[what][figure] > 0, (chain, what)
    assert found["memory"]["ours, nfqueue"]["100"] >= found["memory"]["ours, nfqueue"]["0"]
    assert plot.read_bytes().startswith(b"\x89PNG")
