"""What `proverif.py` makes of the model and of ProVerif's answers; ProVerif itself is not here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from models import proverif
from models.proverif import MODEL, RUNS, SWITCHES, Run

SAID = """
RESULT event(A(x)) ==> event(B(x)) is true.
RESULT inj-event(A(x)) ==> inj-event(C(x)) is false.
RESULT (but event(A(x)) ==> event(C(x)) is true.)
--------------------------------------------------------------
Verification summary:

Query event(A(x)) ==> event(B(x)) is true.

Query inj-event(A(x)) ==> inj-event(C(x)) is false.

Query not attacker(s[]) cannot be proved.

--------------------------------------------------------------
"""


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_each_run_is_a_whole_model(run: Run) -> None:
    text = run.text()
    assert "SWITCHES" not in text
    assert "QUERIES" not in text
    assert run.switches.keys() <= SWITCHES.keys()
    for name in SWITCHES:
        assert len(re.findall(rf"\bletfun {name}\b", text)) == 1
        assert len(re.findall(rf"\b{name}\b", text)) > 1, "a switch of nothing"
    assert all(query in text for query, _ in run.queries)
    process = run.process.removeprefix("process").replace("!", "").split("|")
    assert all(re.search(rf"^let {name.strip()} =", text, re.MULTILINE) for name in process)


def test_what_is_claimed_is_proved_and_what_leaves_a_part_out_has_an_attack() -> None:
    whole = {"a_shows", "b_shows", "uses"}
    crippled = [run for run in RUNS.values() if not run.switches.keys() <= whole]
    assert len(crippled) >= 7
    assert not any(holds for run in crippled for _, holds in run.queries)
    assert {holds for run in RUNS.values() if run not in crippled for _, holds in run.queries} == {
        True,
        False,
    }


def test_verdicts_are_those_of_the_summary() -> None:
    assert proverif.verdicts(SAID) == ["true", "false", "cannot be proved"]
    assert proverif.verdicts("Error: Syntax error.") == []


def test_another_answer_than_expected_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "proverif"
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{SAID}\nE\n")
    program.chmod(0o755)
    command = ["proverif.py", "--program", str(program)]
    monkeypatch.setattr("sys.argv", [*command, "who reads S_B"])
    assert proverif.main() == 1
    assert "BAD who reads S_B" in capsys.readouterr().out
    program.write_text("#!/bin/sh\necho Verification summary:; echo Query x is true.\n")
    assert proverif.main() == 0
    assert "ok  who reads S_B" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, "nothing of the kind"])
    with pytest.raises(SystemExit, match="2"):
        proverif.main()
    monkeypatch.setattr("sys.argv", ["proverif.py", "--program", str(MODEL.with_name("none"))])
    with pytest.raises(SystemExit, match="2"):
        proverif.main()
    assert "there is no" in capsys.readouterr().err
