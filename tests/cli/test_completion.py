"""`tcpcrypt completion`: the shells complete what the parsers take."""

import argparse
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tcpcrypt.cli import tcpcrypt as program
from tcpcrypt.tools import completions
from tcpcrypt.tools.completions import SHELLS, levels, script

CASES = [
    # line, what it is completed to; the first word of each is unique
    ("tcpcrypt pol", {"policy"}),
    ("tcpcrypt policy ", {"check", "init", "show"}),
    ("tcpcrypt policy ch", {"check"}),
    ("tcpcrypt --json policy ch", {"check"}),
    ("tcpcrypt decode --ra", {"--raw"}),
    ("tcpcrypt decode --raw cl", {"client"}),
    ("tcpcrypt decode --keylog keys", {"keys.log"}),
    ("tcpcrypt decode some", {"some.pcap"}),
    ("tcpcrypt decode --keylog keys.log so", {"some.pcap"}),
    ("tcpcrypt id show --state sub", {"subdirectory"}),
    # `list` is meant where no action is named
    ("tcpcrypt peers --tru", {"--trust"}),
    ("tcpcrypt peers --trust pi", {"pinned"}),
    ("tcpcryptd --mode ", {"opportunistic", "require"}),
    ("/usr/sbin/tcpcryptd --mode req", {"require"}),
    # HOST PORT FILE...
    ("stx-send receiver.example.org 12345 so", {"some.pcap"}),
    ("stx-send receiver.example.org 12345 some.pcap key", {"keys.log"}),
    ("stx-send receiver.example.org 12", set()),
    ("stx-recv --on-exist ren", {"rename"}),
    ("tcpcrypt policy check -- some", {"some.pcap"}),
    ("tcpcrypt nothing-like-it --zzz", set()),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the scripts beside it and something to be completed in it."""
    top = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (top / f"tcpcrypt.{shell}").write_text(script(shell))
    (top / "zsh").mkdir()
    (top / "zsh/_tcpcrypt").write_text(script("zsh"))
    place = top / "place"
    (place / "subdirectory").mkdir(parents=True)
    for name in ("some.pcap", "keys.log"):
        (place / name).write_text("")
    return place


def shell(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is needed to try its completion (Debian: {name})"
    return found


def environment(place: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(place.parent), "LC_ALL": "C", "TERM": "dumb"}


# --- bash -----------------------------------------------------------------------------------

COMPLETE = """
source ../tcpcrypt.bash
while IFS= read -r line; do
    # As readline cuts it: at spaces, and around each "=".
    spaced=${line//=/ = }
    read -ra COMP_WORDS <<<"$spaced"
    case $spaced in *' ') COMP_WORDS+=('') ;; esac
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _tcpcrypt
    (IFS='|'; echo "${COMPREPLY[*]}")
done
"""


def test_bash(place: Path) -> None:
    lines = [line for line, _wanted in CASES] + [
        "tcpcrypt decode --raw=se",
        "tcpcrypt id show --a=",
    ]
    done = subprocess.run(
        [shell("bash"), "--norc", "-c", COMPLETE],
        cwd=place, env=environment(place), input="".join(f"{line}\n" for line in lines),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    answers = [set(filter(None, line.split("|"))) for line in done.stdout.splitlines()]
    wanted = [wanted for _line, wanted in CASES] + [{"server"}, set()]
    assert dict(zip(lines, answers, strict=True)) == dict(zip(lines, wanted, strict=True))


def test_bash_knows_for_which_programs(place: Path) -> None:
    done = subprocess.run(
        [shell("bash"), "--norc", "-c", "source ../tcpcrypt.bash; complete -p"],
        cwd=place, env=environment(place), capture_output=True, text=True, check=True,
    )  # fmt: skip
    named = {line.split()[-1] for line in done.stdout.splitlines() if "-F _tcpcrypt" in line}
    assert named == {"tcpcrypt", "tcpcryptd", "stx-send", "stx-recv", "stx-keygen"}


# --- fish -----------------------------------------------------------------------------------


def test_fish(place: Path) -> None:
    # fish knows a program by its name, whatever its directory; "=" is in one word.
    cases = [*CASES, ("tcpcrypt decode --raw=se", {"--raw=server"})]
    asked = "; ".join(f"echo '#'; complete -C '{line}'" for line, _wanted in cases)
    done = subprocess.run(
        [shell("fish"), "--no-config", "-c", f"source ../tcpcrypt.fish; {asked}"],
        cwd=place, env=environment(place), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    answers = [
        {line.partition("\t")[0].rstrip("/") for line in part.splitlines() if line}
        for part in done.stdout.split("#\n")[1:]
    ]
    assert dict(zip([line for line, _ in cases], answers, strict=True)) == dict(cases)


# --- zsh ------------------------------------------------------------------------------------


class Terminal:
    """An interactive zsh at a terminal of its own."""

    def __init__(self, place: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(place)
            os.execve(shell("zsh"), ["zsh", "-f", "-i"], environment(place))
        self.text = ""
        self.say("PS1='' PROMPT_EOL_MARK=''; unsetopt zle_bracketed_paste beep")
        self.say("fpath=(../zsh $fpath); autoload -Uz compinit; compinit -u -D; bindkey -e")

    def say(self, line: str, timeout: float = 30) -> str:
        """Type `line` and Enter; what was printed when the shell is ready again."""
        self.text = ""
        os.write(self.fd, line.encode() + b"\n" + b"print -r -- re''ady\n")
        end = time.monotonic() + timeout
        while "\nready" not in self.text.replace("\r", ""):
            assert time.monotonic() < end, self.text
            if select.select([self.fd], [], [], 0.2)[0]:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
        return self.text

    def completed(self, line: str) -> list[str]:
        """The words of `line` after Tab."""
        # Ctrl-A is the begin of the line; it is printed instead of run.
        said = self.say(f"{line}\t\x01print -r -- '<' \x05 '>'").replace("\r", "")
        (found,) = re.findall(r"^< (.*) ?>$", said, re.MULTILINE)
        return found.split()

    def close(self) -> None:
        os.write(self.fd, b"\x04exit\n")
        os.close(self.fd)
        os.waitpid(self.pid, 0)


def test_zsh(place: Path) -> None:
    terminal = Terminal(place)
    try:
        for line, wanted in CASES:
            words = line.split()
            if len(wanted) == 1:
                # What a Tab makes of it where one word alone is meant.
                (word,) = wanted
                got = terminal.completed(line)
                assert [*got[:-1], got[-1].rstrip("/")] == [*words[:-1], word], line
        got = terminal.completed("tcpcrypt decode --raw=se")
        assert got == ["tcpcrypt", "decode", "--raw=server"]
    finally:
        terminal.close()


# --- the table ------------------------------------------------------------------------------


def test_every_command_and_option_is_in_the_table() -> None:
    found = levels()
    assert set(found["tcpcrypt"].commands) == set(program.COMMANDS)
    for path in ("tcpcrypt peers pin", "tcpcryptd", "stx-keygen"):
        words = path.split()
        module = {"tcpcryptd": "tcpcryptd", "stx-keygen": "stx_keygen"}.get(words[0], "tcpcrypt")
        said = subprocess.run(
            [sys.executable, "-m", f"tcpcrypt.cli.{module}", *words[1:], "--help"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        options = set(re.findall(r"(?<=[ \[])--[a-z-]+", said))
        assert options - {"--version"} <= set(found[path].options), path


def test_quotes_in_a_help_text_stay_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--odd", help='it\'s `$(touch harm)` \\ "so": or not')
    level = completions._level(parser)
    monkeypatch.setattr(completions, "levels", lambda: {"tcpcrypt": level})
    for name, check in (
        ("zsh", ["zsh", "-fn"]),
        ("fish", ["fish", "-n"]),
        ("bash", ["bash", "-n"]),
    ):
        text = script(name)
        done = subprocess.run(
            [shell(check[0]), *check[1:], "/dev/stdin"],
            input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), name


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for name in SHELLS:
        assert program.main(["completion", name]) == 0
        assert capsys.readouterr().out == script(name)
    assert program.main(["completion", "fish", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shell": "fish", "text": script("fish")}
    with pytest.raises(SystemExit) as ended:
        program.main(["completion", "csh"])
    assert ended.value.code == 2
