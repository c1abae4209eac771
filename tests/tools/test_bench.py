"""`tcpcrypt bench`: the form of its figures, its limits of time, and its picture."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tcpcrypt.cli import bench as command
from tcpcrypt.cli.tcpcrypt import main
from tcpcrypt.errors import LocalError
from tcpcrypt.tools import bench_plot

TCPCRYPT = (sys.executable, "-m", "tcpcrypt.cli.tcpcrypt")
QUICK_MAX = 45.0
"""Seconds, as the command's help says."""
OPENED = {
    f"{kind}_{figure}"
    for kind in ("plain", "fresh", "resumed")
    for figure in ("per_s", "p50_ms", "cpu_us")
}
FIGURES = {
    "bulk": {
        "ratio_to_plain": 0.3,
        "gbit_s": 3.0,
        "plain_gbit_s": 10.0,
        "cpu_s_per_gb": 1.5,
        "plain_cpu_s_per_gb": 0.4,
    },
    "connections": {
        "at_once": 64,
        "plain_per_s": 20000.0,
        "fresh_per_s": 1500.0,
        "resumed_per_s": 2000.0,
        "failed": 0,
        "by_concurrency": {
            "64": {
                "resumed_share": 0.5,
                "plain_per_s": 20000.0,
                "fresh_per_s": 1500.0,
                "resumed_per_s": 2000.0,
                "failed": 0,
            }
        },
    },
    "round_trip": {"bytes": 100, "us": 60.0, "plain_us": 20.0},
    "rounds": 3,
    "plane": {"backend": "nfqueue", "steering": "tproxy"},
    "machine": {
        "processors": 2,
        "processor": "a processor",
        "kernel": "6.1",
        "python": "3.11.0",
        "implementation": "c",
        "version": "1",
    },
}


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*TCPCRYPT, *words),
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=100,
        check=False,
    )


def test_quick_measures_everything_in_time() -> None:
    begun = time.monotonic()
    done = run("bench", "--quick", "--json")
    if (took := time.monotonic() - begun) > QUICK_MAX:
        # Says little on a machine that has other work.
        raise TimeoutError(f"{took:.1f} s")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    bulk, opened, trip = found["bulk"], found["connections"], found["round_trip"]
    assert set(bulk) == set(FIGURES["bulk"])
    assert min(bulk.values()) > 0
    assert bulk["ratio_to_plain"] == pytest.approx(bulk["gbit_s"] / bulk["plain_gbit_s"], rel=0.5)
    assert set(opened) == OPENED | {"at_once", "resumed_share", "failed", "by_concurrency"}
    for one in opened["by_concurrency"].values():
        assert one["failed"] == 0
        assert min(one[name] for name in OPENED) > 0
        assert 0 <= one["resumed_share"] <= 1
    assert opened["plain_per_s"] == opened["by_concurrency"]["64"]["plain_per_s"]
    assert 0 < trip["plain_us"] < trip["us"]
    assert found["plane"]["backend"] in {"nfqueue", "sockops"}
    assert found["machine"]["processors"] == os.cpu_count()


def test_it_says_what_it_needs() -> None:
    done = run("bench", "--quick", CC="no-such-compiler")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "a C compiler is needed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_for_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.bench, "measure", lambda _extent, _progress: FIGURES)
    assert main(["bench"]) == 0
    table = {
        words[0].strip(): words[1:]
        for line in capsys.readouterr().out.splitlines()
        if len(words := line.split("  ")) > 1
    }
    assert [word.strip() for word in table["bulk, Gbit/s"] if word] == ["10.00", "3.00", "0.300"]
    assert any(name.startswith("resumed connections/s, 64 at once (50% were)") for name in table)


def test_connections_that_failed_are_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures: dict[str, Any] = json.loads(json.dumps(FIGURES))
    figures["connections"]["by_concurrency"]["64"]["failed"] = 2
    monkeypatch.setattr(command.bench, "measure", lambda _extent, _progress: figures)
    assert main(["bench", "--json"]) == 1
    out, error = capsys.readouterr()
    assert json.loads(out) == figures
    assert "2 connections failed" in error


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, magic: bytes
) -> None:
    monkeypatch.setattr(command.bench, "measure", lambda _extent, _progress: FIGURES)
    path = tmp_path / f"bench.{ending}"
    assert main(["bench", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(magic)


@pytest.mark.parametrize("name", ["bench.nonsense", "no/such/directory.png"])
def test_a_picture_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(LocalError, match=name):
        bench_plot.draw(FIGURES, tmp_path / name)


def test_without_matplotlib_nothing_is_measured_in_vain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(command.bench, "measure", lambda *_: pytest.fail("measured"))
    assert main(["bench", "--plot", "bench.png"]) == 1
    assert "pip install 'tcpcrypt[bench]'" in capsys.readouterr().err
