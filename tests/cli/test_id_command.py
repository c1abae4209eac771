"""`tcpcrypt id` and `tcpcrypt psk`; where the directory of keys is."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.keys import Commands, S
from daemon.overview import Service, serving

from tcpcrypt.auth.fingerprint import randomart, short_form
from tcpcrypt.auth.identity import load_identity
from tcpcrypt.auth.introductions import read_text
from tcpcrypt.auth.psk import load_psk
from tcpcrypt.cli import keys
from tcpcrypt.cli import tcpcrypt as command


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(tmp_path / "state", capsys)


@pytest.fixture
def service(run: Commands, tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "control.sock") as running:
        run.control = running.path
        yield running


def identity(run: Commands) -> str:
    return load_identity(run.directory / "identity").fingerprint


# --- id -----------------------------------------------------------------------------------


def test_new_and_show(run: Commands) -> None:
    status, out, err = run("id", "new")
    assert (status, err) == (0, "")
    key = identity(run)
    art = randomart(key)
    shown = f"fingerprint  {key}\nshort        {short_form(key)}\n"
    shown += "".join(f"{' ' * 13}{line}\n" for line in art.splitlines())
    assert out == f"made         {run.directory}/identity\n{shown}"
    assert run("id", "show") == (0, shown, "")
    expected = {"fingerprint": key, "short": short_form(key), "randomart": art.splitlines()}
    assert run.json("id", "show") == expected


def test_a_key_that_exists_stays(run: Commands) -> None:
    run("id", "new")
    key = identity(run)
    status, out, err = run("id", "new")
    assert (status, out) == (1, "")
    assert "this host has a key already; `tcpcrypt id rotate` replaces it" in err
    assert identity(run) == key


def test_where_no_key_can_be(run: Commands, tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    status, _out, err = run("id", "new")
    assert status == 1
    assert "has a key already" not in err
    assert str(tmp_path / "state") in err


def test_no_key_yet(run: Commands) -> None:
    status, out, err = run("id", "show")
    assert (status, out) == (1, "")
    assert "No such file or directory; `tcpcrypt id new` makes a key" in err


def test_rotate_says_what_others_have_to_do(run: Commands) -> None:
    run("id", "new")
    old = identity(run)
    status, out, err = run("id", "rotate")
    new = identity(run)
    assert (status, err) == (0, "")
    assert new != old
    assert f"tcpcrypt peers trust SERVICE {new}" in out
    assert f"tcpcrypt peers pin '*' {new}" in out
    assert f"tcpcrypt peers revoke {old}" in out
    (kept,) = re.findall(r"The old key lies in (\S+);", out)
    assert load_identity(Path(kept)).fingerprint == old
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o600


def test_rotate_as_json(run: Commands, service: Service) -> None:
    run("id", "new")
    old = identity(run)
    (run.directory / "identity").rename(run.directory / "other")
    assert run("id", "rotate")[0] == 1
    (run.directory / "other").rename(run.directory / "identity")
    answer = run.json("id", "rotate")
    assert (answer["old"], answer["fingerprint"]) == (old, identity(run))
    assert load_identity(Path(answer["kept"])).fingerprint == old
    assert answer["daemon"] is True
    assert len(service.looked) == 2


def test_show_as_what_others_can_import(run: Commands) -> None:
    run("id", "new")
    status, out, _err = run("id", "show", "--as", "10.0.0.2:5432")
    assert status == 0
    (introduction,) = read_text(out, "x")
    assert (introduction.scope, introduction.trust) == (S, "pinned")
    assert introduction.key == identity(run)
    assert run.json("id", "show", "--as", S)["text"] == out
    assert run("id", "show", "--as", "somewhere")[0] == 2


def test_who_may_not_read_the_key_asks_the_daemon(
    run: Commands, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("id", "new")
    key = identity(run)
    real = os.open

    def guarded(path: object, *words: object, **more: object) -> int:
        if path == run.directory:
            raise PermissionError(13, "Permission denied")
        return real(path, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", guarded)
    told = service.memory.status() | {"identity": None}
    monkeypatch.setattr(service.memory, "status", lambda: told)
    status, out, err = run("id", "show")
    assert (status, out) == (1, ""), "no policy of its has needed one"
    assert "Permission denied" in err
    told["identity"] = key
    assert run.json("id", "show")["fingerprint"] == key


# --- psk ----------------------------------------------------------------------------------


def test_psk_new_and_list(run: Commands, service: Service, tmp_path: Path) -> None:
    path = run.directory / "psk" / "site-a"
    status, out, err = run("psk", "new", "site-a")
    assert (status, err) == (0, "")
    assert out.startswith(f"{path}: written; bring it to the other host")
    psk = load_psk(path)
    assert psk.key.view().hex() not in out
    assert run.json("psk", "list") == {"psks": [{"name": "site-a", "hint": psk.hint.hex()}]}
    assert run("psk", "list")[1].splitlines() == ["NAME    HINT", f"site-a  {psk.hint.hex()}"]
    status, _out, err = run("psk", "new", "site-a")
    assert status == 1
    assert "File exists" in err
    assert load_psk(path) == psk
    assert len(service.looked) == 1
    elsewhere = tmp_path / "elsewhere"
    answer = run.json("psk", "new", "b", "--directory", elsewhere)
    assert (answer["name"], answer["file"]) == ("b", str(elsewhere / "b"))
    assert [one["name"] for one in run.json("psk", "list", "--directory", elsewhere)["psks"]] == [
        "b"
    ]


def test_psk_names(run: Commands) -> None:
    status, _out, err = run("psk", "new", "../a")
    assert status == 2
    assert "is no name of a PSK" in err


# --- where keys are ---------------------------------------------------------------------------


def test_the_directory_is_that_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or a key would be revoked where no daemon looks."""
    file, state = tmp_path / "tcpcrypt.toml", tmp_path / "keys"
    monkeypatch.setattr(keys, "DEFAULT_PATH", file)
    words = ["id", "new", "--control", str(tmp_path / "nobody")]
    file.write_text(f'[daemon]\nstate = "{state}"\n')
    assert command.main(words) == 0
    assert (state / "identity").exists()
    file.write_text("[daemon]\nstat = 5\n")
    assert command.main(words) == 1
    assert f"{file}:2: daemon.stat: no such key" in capsys.readouterr().err
    file.unlink()
    monkeypatch.setattr(keys.DaemonSettings, "__init__", _elsewhere(tmp_path / "default"))
    assert command.main(words) == 0
    assert (tmp_path / "default" / "identity").exists()


def _elsewhere(path: Path) -> object:
    def init(self: object) -> None:
        object.__setattr__(self, "state", path)
        object.__setattr__(self, "control", path)

    return init


@pytest.mark.parametrize(
    "words", [["id", "show"], ["id", "new"], ["id", "rotate"], ["psk", "new"], ["psk", "list"]],
    ids=" ".join,
)  # fmt: skip
def test_help_has_an_example(run: Commands, words: list[str]) -> None:
    status, out, _err = run(*words, "--help")
    assert status == 0
    assert f"example: tcpcrypt {' '.join(words)}" in out
    assert "--json" in out
