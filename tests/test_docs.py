"""What the docs claim is what the code does."""

import importlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.named_tests import missing, named

from tcpcrypt import sockets
from tcpcrypt.tools.diagrams import states_document

ROOT = Path(__file__).parent.parent


def test_state_diagrams_are_those_of_the_tables() -> None:
    assert (ROOT / "docs/states.md").read_text() == states_document()


def test_open_points_name_files_that_exist() -> None:
    text = (ROOT / "docs/open-points.md").read_text()
    named = set(re.findall(r"`((?:wire|crypto|core|runtime)/[a-z_]*(?:\.py)?)`", text))
    assert len(named) >= 8
    for name in named:
        assert (ROOT / "tcpcrypt" / name).exists(), name


def test_every_weakness_of_tcps_names_tests_that_there_are() -> None:
    text = (ROOT / "docs/tcps-weaknesses.md").read_text()
    rows = re.findall(r"^\| (S\d+|A\d) \|.*\| (.*?) \|$", text, re.M)
    assert [name for name, _tests in rows] == [*(f"S{n}" for n in range(1, 13)), "A1", "A2"]
    assert all("`test_" in tests for _name, tests in rows)
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in set(re.findall(r"`(test_\w+)`", text)):
        assert f"def {name}(" in written, name


def test_each_weakness_of_tcps_that_is_spoken_here_has_its_tests() -> None:
    text = (ROOT / "docs/tcps.md").read_text()
    rows = re.findall(r"^\| (S\d+|A\d) \|.*\| (.*?) \|$", text, re.M)
    assert [name for name, _tests in rows] == [*(f"S{n}" for n in range(1, 13)), "A1", "A2"]
    assert all(named(tests) for _name, tests in rows)
    assert missing(text) == []


def test_what_interop_names_is_there() -> None:
    text = (ROOT / "docs/interop.md").read_text()
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 10
    for name in named:
        assert f"def {name}(" in written, name
    for path in set(re.findall(r"`((?:tests|vectors|wire)/[\w./-]+)`", text)):
        assert (ROOT / path).exists() or (ROOT / "tcpcrypt" / path).exists(), path


README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """One of README, up to the next title of its rank."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def examples(title: str, language: str) -> list[str]:
    """The fenced blocks of a section of README that are in this language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section(title), re.M | re.S)
    return [block for named, block in blocks if named == language]


def test_the_library_example_of_the_readme_runs() -> None:
    (example,) = examples("As a library, without any I/O", "python")
    exec(compile(example, "README.md", "exec"), {})


def test_the_socket_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TCPCRYPT_KEYS", str(tmp_path / "meter"))
    (example,) = examples("Without the daemon", "python")
    keys = tmp_path / "collector"
    with sockets.create_server(("127.0.0.1", 0), peer="tofu", keys=keys) as listener:
        address = listener.getsockname()
        meant = '("collector.example.org", 5020)'
        assert meant in example
        program = example.replace(meant, repr(address[:2]))
        with ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(listener.accept)
            exec(compile(program, "README.md", "exec"), {})
            connection, _address = accepted.result(10)
            with connection:
                assert connection.recv(100) == b"21.5 C"


def test_the_figures_of_the_documents_are_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    document = importlib.import_module("document")
    places = {name for names in document.DOCUMENTS.values() for name in names}
    assert places == set(document.PARTS)
    for path, names in document.DOCUMENTS.items():
        text = path.read_text()
        assert document.written(path) == text, "run: python bench/document.py"
        for name in names:  # each has its place
            document.between(text, name, "")


def test_the_pictures_of_the_performance_page_show_the_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    plot = importlib.import_module("connections_plot")
    result = json.loads((ROOT / "bench/results/connections.json").read_text())
    picture = (ROOT / "docs/connections.svg").read_text()
    kinds = plot.rows(result["text"])
    assert {"plain", "fresh", "resumed"} <= set(kinds)
    for kind, rates in kinds.items():
        for rate in rates.values():
            assert f"{rate:,}" in picture, f"{kind}: run: python bench/document.py"
    assert result["when"] in picture
    plot.draw(result, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").stat().st_size > 10_000
