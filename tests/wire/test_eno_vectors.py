"""vectors/eno-parse.json, on both twins and through `SynOption`; and the verifier itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tcpcrypt.errors import PeerError, PeerReason
from tcpcrypt.wire.eno import SynOption, find_eno

VECTORS = Path(__file__).parents[2] / "vectors"
FILE = VECTORS / "eno-parse.json"
DOCUMENT = json.loads(FILE.read_text(encoding="ascii"))
CASES = [pytest.param(vector, id=vector["name"]) for vector in DOCUMENT["vectors"]]


def outcome(option: SynOption) -> dict[str, object]:
    return {
        "global": option.global_bits,
        "suboptions": [
            {"tep": s.tep, "v": s.data is not None, "data": (s.data or b"").hex()}
            for s in option.suboptions
        ],
    }


def test_there_are_enough_of_both() -> None:
    assert DOCUMENT["format"] == "tcpcrypt-eno-1"
    assert sum("result" in vector for vector in DOCUMENT["vectors"]) >= 40
    assert sum("error" in vector for vector in DOCUMENT["vectors"]) >= 30


@pytest.mark.parametrize("vector", CASES)
def test_twin_reads_vector(twin: ModuleType, vector: dict[str, Any]) -> None:
    contents = bytes.fromhex(vector["contents"])[2:]
    if "error" in vector:
        with pytest.raises(PeerError) as caught:
            twin.parse_eno(contents)
        assert caught.value.reason is PeerReason[vector["error"]]
        return
    global_bits, suboptions = twin.parse_eno(contents)
    assert global_bits == vector["result"]["global"]
    assert [{"tep": tep, "v": v, "data": data.hex()} for tep, v, data in suboptions] == vector[
        "result"
    ]["suboptions"]


@pytest.mark.usefixtures("fast_twin")
@pytest.mark.parametrize("vector", CASES)
def test_syn_option_reads_vector(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["contents"])
    (found,) = find_eno(raw).options
    assert found == raw
    if "error" in vector:
        with pytest.raises(PeerError) as caught:
            SynOption.parse(raw[2:])
        assert caught.value.reason is PeerReason[vector["error"]]
        return
    assert outcome(SynOption.parse(raw[2:])) == vector["result"]


def test_generator_gives_the_file(tmp_path: Path) -> None:
    made = tmp_path / "eno-parse.json"
    script = str(VECTORS / "generate_eno.py")
    subprocess.run([sys.executable, "-I", script, str(made)], check=True, timeout=60)
    assert made.read_bytes() == FILE.read_bytes()


def verify(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", str(VECTORS / "verify_eno.mjs"), str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_verifier_agrees() -> None:
    done = verify(FILE)
    assert done.stdout == f"{len(CASES)} vectors, none wrong\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("tep-p256", "contents", "450322"),
        ("tep-p256", "contents", "450421"),
        ("global-b", "result", {"global": 0, "suboptions": []}),
        ("bad-reserved-23", "error", "ENO_DATA_PAST_END"),
        ("tep-p256", "why", "because"),
        ("tep-p256", "name", "global-b"),
        ("tep-p256", "error", "ENO_DATA_PAST_END"),
    ],
)
def test_verifier_finds_a_wrong_vector(tmp_path: Path, name: str, key: str, value: object) -> None:
    document = json.loads(FILE.read_text(encoding="ascii"))
    (vector,) = (vector for vector in document["vectors"] if vector["name"] == name)
    vector[key] = value
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(document), encoding="ascii")
    done = verify(changed)
    assert done.returncode == 1
    assert done.stderr
