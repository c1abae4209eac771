"""The manual pages are those of this version, complete, and good roff."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tcpcrypt.cli import tcpcrypt as program
from tcpcrypt.daemon import app
from tcpcrypt.daemon.configuration import parse
from tcpcrypt.daemon.keys import KEYS, MATCH, Key
from tcpcrypt.tools import manpages, roff

ROOT = Path(__file__).parents[2]
PAGES = [
    "stx-keygen.1",
    "stx-recv.1",
    "stx-send.1",
    "tcpcrypt.1",
    "tcpcrypt.toml.5",
    "tcpcryptd.8",
]
HOW = "run: python -m tcpcrypt.tools.manpages docs/man"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return manpages.pages()


def read(page: str) -> str:
    """A page as words, without its macros."""
    text = re.sub(r"^\.(SH|SS|TP|IP|PP|RS|RE|EX|EE|br).*$", "", page, flags=re.MULTILINE)
    text = re.sub(r"\\f[BIR]|\\&", "", text)
    for mark, char in ((r"\-", "-"), (r"\(aq", "'"), (r"\(ga", "`"), (r"\(dq", '"'),
                       (r"\(ha", "^"), (r"\(ti", "~"), (r"\e", "\\")):  # fmt: skip
        text = text.replace(mark, char)
    return " ".join(text.split())


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_current(pages: dict[str, str], name: str) -> None:
    assert sorted(pages) == PAGES
    assert (ROOT / "docs" / "man" / name).read_text() == pages[name], HOW


@pytest.mark.parametrize("name", PAGES)
def test_groff_finds_no_fault(pages: dict[str, str], name: str) -> None:
    if shutil.which("groff") is None:
        pytest.fail(
            "groff is not installed (Debian: groff-base): the pages' syntax was not checked"
        )
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-rCHECKSTYLE=3"],
        input=pages[name], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", PAGES)
def test_man_finds_no_fault(pages: dict[str, str], name: str, tmp_path: Path) -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.fail("man is not installed (Debian: man-db): the pages were not shown")
    path = tmp_path / name
    path.write_text(pages[name])
    done = subprocess.run(
        ["man", "--warnings", "-l", path],
        env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    if done.stdout.strip() and "has been minimized" not in done.stdout:
        assert "SEE ALSO" in done.stdout


def nothing(key: Key) -> str:
    return "any" if key.section == MATCH else "see below"


def test_every_key_is_in_the_page(pages: dict[str, str]) -> None:
    text = read(pages["tcpcrypt.toml.5"])
    for key in KEYS:
        default = "must be given" if key.required else f"default: {key.default or nothing(key)}"
        assert f"{key.name} ({default}) {' '.join(key.text.replace('`', '').split())}" in text
        for word, _ in key.meanings:
            assert f'"{word}"' in text


def test_the_example_of_the_page_is_valid(pages: dict[str, str]) -> None:
    policies = parse(manpages.EXAMPLE).policies
    assert [policy.mode.value for policy in policies] == ["never", "require", "opportunistic"]
    assert " ".join(manpages.EXAMPLE.split()) in read(pages["tcpcrypt.toml.5"])


def test_what_a_reload_changes() -> None:
    keys = {key.name for key in KEYS if key.section == "daemon"}
    assert keys - set(app._AT_START) == set(manpages.RELOADED)


def test_every_command_is_in_the_page(pages: dict[str, str]) -> None:
    page = pages["tcpcrypt.1"]
    for name, command in program.COMMANDS.items():
        assert f'.SS "tcpcrypt {roff.escape(name)}' in page, name
        assert command.module
    text = read(page)
    assert "tcpcrypt policy check [--json] [FILE]" in text
    assert "Example: tcpcrypt policy check /etc/tcpcrypt/tcpcrypt.toml" in text


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("tcpcryptd.8", "tcpcryptd"),
        ("stx-send.1", "stx_send"),
        ("stx-recv.1", "stx_recv"),
        ("stx-keygen.1", "stx_keygen"),
    ],
)
def test_every_option_of_a_program_is_in_its_page(
    pages: dict[str, str], name: str, module: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tcpcrypt.cli.{module}", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    options = set(re.findall(r"(?<=[ \[])--[a-z-]+", done.stdout))
    assert len(options) > 3
    words = set(re.findall(r"--[a-z-]+", read(pages[name])))
    assert options <= words


def test_the_command_writes_all_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert manpages.main([str(tmp_path / "man")]) == 0
    assert sorted(path.name for path in (tmp_path / "man").iterdir()) == PAGES
    assert manpages.main([]) == 2
    assert manpages.main(["--help"]) == 2
    (tmp_path / "file").write_text("")
    assert manpages.main([str(tmp_path / "file")]) == 1
    assert "File exists" in capsys.readouterr().err


def test_text_is_not_taken_for_requests() -> None:
    assert roff.prose(".so /etc/passwd") == [".PP", r"\&.so /etc/passwd"]
    assert roff.prose("'x' \\fB `a-b` naïve") == [
        ".PP",
        r"\(aqx\(aq \efB \fBa\-b\fR na\[u00EF]ve",
    ]
    assert roff.prose("One.  Two.\nThree.\n\n  code  \n  .more") == [
        ".PP", "One.", "Two.", "Three.", ".PP", ".RS 4", ".EX", "code", r"\&.more", ".EE", ".RE",
    ]  # fmt: skip


def test_every_form_of_argument() -> None:
    parser = argparse.ArgumentParser(prog="p")
    parser.add_argument("--pair", nargs=2, metavar=("A", "B"), required=True, help="two")
    parser.add_argument("--two", nargs=2, help="%(dest)s of %(prog)s")
    parser.add_argument("--hidden", help=argparse.SUPPRESS)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("-4", dest="four", action="store_true", help="100%% IPv4")
    group.add_argument("-6", dest="six", action="store_true")
    parser.add_argument("which", choices=["x", "y"], help="one of %(choices)s")
    parser.add_argument("files", nargs="*")
    usage = read(manpages._usage(parser))
    assert usage == "p --pair A B [--two TWO TWO] {-4 | -6} {x|y} [files...]"
    options = read("\n".join(manpages._options(parser)))
    assert options == ("--pair A B Two. --two TWO TWO Two of p. -4 100% IPv4. {x|y} One of x, y.")
