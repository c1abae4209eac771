"""The site: its diagrams, its policies, its examples, and where its commands are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.documents import COMMANDS, VECTORS, Shown

from tcpcrypt.cli import tcpcrypt as command
from tcpcrypt.daemon.configuration import parse
from tcpcrypt.tools.diagrams import connection_diagrams
from tcpcrypt.tools.ladder import Arrow, drawing, ladder

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return [text for named, text in FENCE.findall(path.read_text()) if named == language]


# --- diagrams ------------------------------------------------------------------------------


def test_the_messages_shown_are_those_that_the_core_sends() -> None:
    text = (ROOT / "docs/how-it-works.md").read_text()
    for diagram in connection_diagrams():
        assert diagram in text


@pytest.mark.parametrize("path", [p for p in DOCS if "```mermaid" in p.read_text()], ids=str)
def test_every_line_of_a_diagram_is_drawn(path: Path) -> None:
    text = path.read_text()
    drawn = drawing(text)
    assert "```mermaid" not in drawn
    pictures = re.findall(r"<svg.*?</svg>", drawn)
    diagrams = blocks(path, "mermaid")
    assert len(pictures) == len(diagrams)
    for picture, diagram in zip(pictures, diagrams, strict=True):
        root = ElementTree.fromstring(picture)
        width = float(root.attrib["viewBox"].split()[2])
        steps = [e for e in root.iter() if e.get("class") == "step"]
        labels = [e for e in root.iter() if e.get("class") in ("label", "remark")]
        assert len(steps) == len(re.findall(r"-->|->>", diagram)) - diagram.count("[*] -->")
        for label in labels:
            assert label.text is not None
            assert label.text in diagram
            assert 0 <= float(label.attrib["x"]) <= width


def test_what_cannot_be_drawn_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        drawing("```mermaid\nstateDiagram-v2\n    whatever\n```\n")


def test_labels_are_text_and_stay_on_the_picture() -> None:
    root = ElementTree.fromstring(ladder(["<a>", "b"], [Arrow(0, 1, "x < y & " + "z" * 90)]))
    texts = [element.text for element in root.iter() if element.text]
    assert texts[0] == "<a>"
    assert texts[-1].startswith("x < y & z")


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<a href="https://example.org/">x</a><img src="a.svg">', ""),
        ('<link rel="canonical" href="https://example.org/">', ""),
        ('<script src="https://unpkg.com/mermaid"></script>', "fetches https://unpkg.com/mermaid"),
        ('<link rel="stylesheet" href="//fonts.example.org/a.css">', "fetches //fonts"),
        ('<pre class="mermaid">', "was not drawn"),
    ],
)
def test_a_site_that_fetches_from_elsewhere_is_noticed(
    tmp_path: Path, html: str, fault: str
) -> None:
    """What `tox run -e docs` does with the built one."""
    (tmp_path / "page.html").write_text(html)
    program = ROOT / "docs/hooks/offline.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == bool(fault)
    assert fault in done.stdout


# --- policies --------------------------------------------------------------------------------


def policies() -> list[tuple[str, str]]:
    return [
        (f"{path.name}-{number}", text)
        for path in [ROOT / "README.md", *DOCS]
        for number, text in enumerate(blocks(path, "toml"), 1)
    ]


@pytest.mark.parametrize(("name", "text"), policies())
def test_every_policy_shown_passes_policy_check(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tcpcrypt.toml"
    file.write_text(text)
    assert command.main(["policy", "check", str(file)]) == 0, capsys.readouterr()


def test_the_cookbook_has_what_it_is_for() -> None:
    path = ROOT / "docs/cookbook.md"
    found = [parse(text) for text in blocks(path, "toml")]
    assert len(found) >= 6
    asked = {policy.auth for file in found for policy in file.policies}
    assert asked == {"none", "tofu", "psk", "pinned"}


# --- examples and commands -----------------------------------------------------------------


def test_the_examples_for_programmers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = blocks(ROOT / "docs/programmer.md", "python")
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "programmer.md", "exec"), {"__name__": "example"})
    assert (tmp_path / "server.keys").exists()


def shown() -> list[Shown]:
    return [one for path in [ROOT / "README.md", *DOCS] for one in Shown.of(path, path.read_text())]


def test_every_command_shown_is_run_or_it_is_said_why_not() -> None:
    missing = [f"{one.document}: {one.command}" for one in shown() if one.plan is None]
    assert not missing, "say in tests/support/documents.py who runs these:\n" + "\n".join(missing)


def test_nothing_is_planned_that_is_not_shown() -> None:
    there = {(one.document, one.command) for one in shown()}
    for document, plans in COMMANDS.items():
        for text in plans:
            assert (document, text) in there, f"{document} does not show: {text}"


def test_who_is_said_to_run_a_command_is_there() -> None:
    for one in shown():
        if one.plan is not None and one.plan.test:
            path, _, name = one.plan.test.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(), one.plan.test


def test_the_vectors_commands_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ran = 0
    for one in shown():
        if one.plan is VECTORS:
            words = one.words
            if words[0] == "tcpcrypt":
                words = [str(Path(sys.executable).with_name("tcpcrypt")), *words[1:]]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            ran += 1
    assert ran == 2


@pytest.mark.parametrize("one", [o for o in shown() if o.words[0] == "tcpcrypt"], ids=str)
def test_every_tcpcrypt_command_shown_is_one_that_there_is(one: Shown) -> None:
    """Also those that are not run: their options are parsed by the program itself."""
    words = one.words[1:]
    name = words[0]
    parser = command._parser(name)
    arguments = parser.parse_args(command._with_action(words, name))
    assert arguments.command == name
