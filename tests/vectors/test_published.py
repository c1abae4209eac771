"""The published vectors: complete, reproducible, and right by two verifiers."""

import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tcpcrypt import _fast
from tcpcrypt.registry import AeadId, Tep
from tcpcrypt.tools.vector_generator import TEPS, generate
from tcpcrypt.tools.vectors import verify_file

VECTORS = Path(__file__).parents[2] / "vectors"
OWN = sorted(VECTORS.glob("rfc8548-*.json"))
SESSIONS = [*OWN, VECTORS / "peers" / "rfc8548-sample.json"]


@pytest.fixture
def on_twin(twin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FrameSealer", "FrameOpener", "parse_eno", "walk_options"):
        monkeypatch.setattr(_fast, name, getattr(twin, name))


@pytest.mark.usefixtures("on_twin")
@pytest.mark.parametrize("path", [*SESSIONS, VECTORS / "eno-parse.json"], ids=lambda p: p.name)
def test_every_value_matches(path: Path) -> None:
    report = verify_file(path)
    assert report.mismatches == ()
    assert report.vectors == len(json.loads(path.read_text())["vectors"])
    assert report.values > 2 * report.vectors


@pytest.mark.usefixtures("on_twin")
@pytest.mark.parametrize("name", TEPS)
def test_files_can_be_made_again(name: str) -> None:
    published = json.loads((VECTORS / f"rfc8548-{name}.json").read_text())
    assert generate(TEPS[name]) == published


def test_another_seed_makes_other_vectors_that_match(tmp_path: Path) -> None:
    document = generate(Tep.ECDHE_CURVE25519, "another")
    assert document != generate(Tep.ECDHE_CURVE25519)
    path = tmp_path / "another.json"
    path.write_text(json.dumps(document))
    assert verify_file(path).mismatches == ()


def node(*paths: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("node")
    assert program, "the independent verifier needs Node (Debian's nodejs)"
    command = [program, str(VECTORS / "verify.mjs"), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_independent_verifier_agrees_on_every_published_file() -> None:
    done = node()
    assert done.returncode == 0, done.stdout + done.stderr
    for path in SESSIONS:
        count = len(json.loads(path.read_text())["vectors"])
        assert f"{path.name}: {count} of {count} vectors match" in done.stdout


@pytest.mark.parametrize(
    ("field", "value"),
    [("session_id", "00" * 33), ("es", "00" * 32), ("ss2", "00" * 32), ("aead", 2)],
)
def test_independent_verifier_notices(field: str, value: object, tmp_path: Path) -> None:
    document = json.loads((VECTORS / "rfc8548-x25519.json").read_text())
    document["vectors"][0][field] = value
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(document))
    done = node(path)
    assert done.returncode == 1
    assert document["vectors"][0]["name"] in done.stdout


# --- what the set has to hold -----------------------------------------------------

ALL: list[dict[str, Any]] = [
    vector for path in OWN for vector in json.loads(path.read_text())["vectors"]
]
SCHEMA_OF_PEERS = json.loads((VECTORS / "peers" / "rfc8548-sample.json").read_text())["vectors"][0]


@pytest.mark.parametrize("aead", AeadId)
@pytest.mark.parametrize("tep", TEPS.values())
def test_every_tep_with_every_aead_resumed_both_ways(tep: Tep, aead: AeadId) -> None:
    openers = {v["resumed"]["opener"] for v in ALL if (v["tep"], v["aead"]) == (tep, aead)}
    assert openers == {"original A", "original B"}


@pytest.mark.parametrize("vector", ALL, ids=lambda v: v["name"])
def test_each_session_has_every_kind_of_frame_both_ways(vector: dict[str, Any]) -> None:
    for sender in "AB":
        frames = [frame for frame in vector["frames"] if frame["sender"] == sender]
        assert {frame["generation"] for frame in frames} == {0, 1, 2}
        assert sum(frame["rekey"] for frame in frames) == 2
        assert any(frame["urgent"] is not None for frame in frames)
        assert any(frame["data"] == "" for frame in frames)
        assert [frame["fin"] for frame in frames][-1]
        assert not any(frame["fin"] for frame in frames[:-1])


@pytest.mark.parametrize("vector", ALL, ids=lambda v: v["name"])
def test_fields_are_those_of_the_format(vector: dict[str, Any]) -> None:
    assert set(vector) == set(SCHEMA_OF_PEERS)
    assert set(vector["resumed"]) == set(SCHEMA_OF_PEERS["resumed"])
    for frame in vector["frames"]:
        assert set(frame) == set(SCHEMA_OF_PEERS["frames"][0])


def test_edges_are_there() -> None:
    lengths = {(len(v["resumed"]["nonce_a"]), len(v["resumed"]["nonce_b"])) for v in ALL}
    assert {(0, 0), (0, 16), (16, 0), (16, 16)} <= lengths
    assert any(v["init1_ignored"] for v in ALL)
    assert any(v["init2_ignored"] for v in ALL)
    assert any(v["es"].startswith("00") for v in ALL if v["tep"] == Tep.ECDHE_P256)
    assert any(v["es"].startswith("0000") for v in ALL if v["tep"] == Tep.ECDHE_P521)
    assert any(len(f["data"]) == 2 * 65518 for v in ALL for f in v["frames"])
    assert any(f["fin"] and f["urgent"] is not None for v in ALL for f in v["frames"])
    assert any(v["ciphers"] == [v["aead"]] for v in ALL)
    assert any(0xFFFE in v["ciphers"] for v in ALL)
    assert len({v["eno_a"] for v in ALL}) > 12
    assert len({v["private_a"] for v in ALL} | {v["n_a"] for v in ALL}) == 2 * len(ALL)
