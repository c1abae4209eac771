"""The vectors of TEP 0x20: complete, reproducible, and right by two verifiers."""

import copy
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tcpcrypt.tools.vectors import verify_document, verify_file

VECTORS = Path(__file__).parents[2] / "vectors"
FILES = [VECTORS / f"authenticated-v{version}.json" for version in (1, 2)]
DOCUMENTS = {path: json.loads(path.read_text()) for path in FILES}
ALL = [vector for document in DOCUMENTS.values() for vector in document["vectors"]]


def node(*paths: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("node")
    assert program, "the independent verifier needs Node (Debian's nodejs)"
    command = [program, str(VECTORS / "verify_authenticated.mjs"), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_value_matches(path: Path) -> None:
    report = verify_file(path)
    assert report.mismatches == ()
    assert report.vectors == len(DOCUMENTS[path]["vectors"])
    assert report.values > 60 * report.vectors


def test_files_can_be_made_again() -> None:
    spec = importlib.util.spec_from_file_location(
        "generate_authenticated", VECTORS / "generate_authenticated.py"
    )
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    for version, path in enumerate(FILES, 1):
        assert generator.document(version) == DOCUMENTS[path]


def test_every_combination_is_there() -> None:
    for version, aeads in ((1, 3), (2, 1)):
        shown = [
            ("static_a" in v, "static_b" in v, "psk" in v, v["psk_used"], v["aead"])
            for v in ALL
            if v["version"] == version
        ]
        assert len({one[:4] for one in shown}) == 6
        assert len(shown) == len(set(shown)) == 6 * aeads
        assert {one[4] for one in shown} == {1, 2, 0x10}
    assert {v["resumed"]["opener"] for v in ALL} == {"original A", "original B"}


def test_independent_verifier_agrees() -> None:
    done = node()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.rpartition(": ")[2] for line in lines[:2]] == [
        "18 of 18 vectors match",
        "6 of 6 vectors match",
    ]


def changes(vector: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The vector with one value changed, once for each that is hex or decides something."""
    found = []
    for where in (None, "resumed"):
        for name, value in (vector[where] if where else vector).items():
            changed = copy.deepcopy(vector)
            target = changed[where] if where else changed
            if isinstance(value, str) and name not in {"name", "opener"}:
                target[name] = f"{int(value[:2], 16) ^ 1:02x}" + value[2:]
            elif name == "opener":
                target[name] = {"original A": "original B", "original B": "original A"}[value]
            elif name == "psk_used":
                target[name] = not value
            elif name == "version":
                target[name] = 3 - value
            else:
                continue
            found.append((f"{where}.{name}" if where else name, changed))
    return found


@pytest.mark.parametrize("vector", [ALL[3], ALL[-5]], ids=lambda v: v["name"])
def test_a_change_of_any_value_is_found_by_both(vector: dict[str, Any], tmp_path: Path) -> None:
    altered = changes(vector)
    assert len(altered) > 35
    for name, changed in altered:
        # A private X25519 key has bits that do not count (RFC 7748 section 5).
        if name in {"private_a", "private_b", "static_a", "static_b"}:
            changed[name] = f"{int(vector[name][:2], 16) ^ 8:02x}" + vector[name][2:]
        document = {"format": "tcpcrypt-authenticated-1", "vectors": [changed]}
        assert verify_document(document).mismatches, name
        if name == "mlkem_seed_a":
            continue  # an older Node does not look at it
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(document))
    done = node(*sorted(tmp_path.iterdir()))
    assert done.returncode == 1
    assert "1 of 1" not in done.stdout, done.stdout


@pytest.mark.parametrize("field", ["version", "aead", "private_a", "static_a", "psk", "init2"])
def test_what_cannot_be_is_a_mismatch_not_a_crash(field: str) -> None:
    changed = copy.deepcopy(ALL[3])
    changed[field] = 999 if isinstance(changed[field], int) else "00"
    document = {"format": "tcpcrypt-authenticated-1", "vectors": [changed]}
    assert verify_document(document).mismatches
