"""`tcpcrypt vectors`: what it prints and how it exits."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tcpcrypt.cli import tcpcrypt as command
from tcpcrypt.errors import LocalError

VECTORS = Path(__file__).parents[2] / "vectors"
SAMPLE = VECTORS / "peers" / "rfc8548-sample.json"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    try:
        status = command.main([str(word) for word in words])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    document = json.loads(SAMPLE.read_text())
    document["vectors"][0]["ss1"] = "00" * 32
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(document))
    return path


def test_verify_prints_one_line_when_all_match(capsys: pytest.CaptureFixture[str]) -> None:
    files = [*VECTORS.glob("*.json"), *(VECTORS / "peers").glob("*.json")]
    status, out, err = run(capsys, "vectors", "verify", *files)
    assert (status, err) == (0, "")
    assert re.fullmatch(r"\d+ vectors, \d+ values checked, all match\n", out)


def test_verify_names_vector_and_field(capsys: pytest.CaptureFixture[str], wrong: Path) -> None:
    status, out, _err = run(capsys, "vectors", "verify", SAMPLE, wrong)
    assert status == 1
    first, last = out.splitlines()
    assert first.startswith(f"{wrong}: tep-23-aead-1-sample: ss1: stated 0000")
    assert re.fullmatch(r"2 vectors, \d+ values checked, 1 do not match", last)


def test_verify_says_which_file_it_cannot_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    absent = tmp_path / "absent.json"
    status, out, err = run(capsys, "vectors", "verify", absent)
    assert (status, out) == (2, "")
    assert err == f"tcpcrypt: {absent}: {os.strerror(2)}\n"
    status, out, _err = run(capsys, "vectors", "verify", absent, SAMPLE)
    assert status == 2
    assert out.startswith("1 vectors, ")


def test_verify_as_json(capsys: pytest.CaptureFixture[str], wrong: Path, tmp_path: Path) -> None:
    status, out, _err = run(capsys, "vectors", "verify", "--json", SAMPLE)
    assert status == 0
    answer = json.loads(out)
    assert (answer["vectors"], answer["ok"], answer["mismatches"]) == (1, True, [])
    absent = tmp_path / "absent.json"
    status, out, _err = run(capsys, "vectors", "verify", "--json", wrong, absent)
    assert status == 2
    answer = json.loads(out)
    assert not answer["ok"]
    (mismatch,) = answer["mismatches"]
    assert mismatch["file"] == str(wrong)
    assert (mismatch["vector"], mismatch["field"]) == ("tep-23-aead-1-sample", "ss1")
    assert mismatch["stated"] == "00" * 32
    assert answer["errors"] == [{"file": str(absent), "error": os.strerror(2)}]


def test_generate_writes_the_published_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, _err = run(capsys, "vectors", "generate", tmp_path)
    assert status == 0
    published = sorted(VECTORS.glob("rfc8548-*.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in published]
    for path in published:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
        assert f"{tmp_path / path.name}: 6 vectors\n" in out


def test_generate_from_another_seed_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, _err = run(capsys, "vectors", "generate", "--json", "--seed", "x", tmp_path)
    assert status == 0
    files = [entry["file"] for entry in json.loads(out)["files"]]
    assert run(capsys, "vectors", "verify", *files)[0] == 0
    assert Path(files[0]).read_bytes() != (VECTORS / Path(files[0]).name).read_bytes()


def test_generate_where_nothing_can_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, _out, err = run(capsys, "vectors", "generate", tmp_path / "absent")
    assert status == 2
    assert os.strerror(2) in err


@pytest.mark.parametrize("words", [(), ("vectors",), ("nonsense",), ("vectors", "verify")])
def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert "usage: tcpcrypt" in err


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        *((name, "--help") for name in command.COMMANDS),
        ("vectors", "verify", "--help"),
        ("vectors", "generate", "--help"),
    ],
)
def test_every_help_has_an_example(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    status, out, _err = run(capsys, *words)
    assert status == 0
    assert "example: tcpcrypt " in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _err = run(capsys, "--version")
    assert status == 0
    assert re.fullmatch(r"tcpcrypt \d+\.\d+\.\d+\S*\n", out)


def test_errors_of_the_package_are_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tcpcrypt.cli import vectors

    def fail(_arguments: object) -> int:
        raise LocalError("cannot be")

    monkeypatch.setattr(vectors, "run", fail)
    status, _out, err = run(capsys, "vectors", "verify", SAMPLE)
    assert (status, err) == (1, "tcpcrypt: cannot be\n")


def test_runs_as_a_module() -> None:
    words = [sys.executable, "-m", "tcpcrypt.cli.tcpcrypt", "vectors", "verify", str(SAMPLE)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("all match\n")
