"""`tcpcrypt peers`: prompts, warnings, files, what a daemon is told."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.keys import NOW, A, B, C, Commands, S, T
from daemon.overview import Service, peer, serving

from tcpcrypt.auth.fingerprint import randomart, short_form
from tcpcrypt.auth.known_peers import KnownPeer, KnownPeers, TrustLevel
from tcpcrypt.cli import keys, peers_change
from tcpcrypt.cli import tcpcrypt as command
from tcpcrypt.daemon import control


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(tmp_path, capsys)


@pytest.fixture
def service(run: Commands) -> Iterator[Service]:
    with serving(run.directory / "control.sock") as running:
        run.control = running.path
        yield running


# --- list, show -----------------------------------------------------------------------


def test_list(run: Commands, service: Service) -> None:
    run.know((S, "tofu", A), (S, "pinned", B), ("*", "pinned", C), (T, "revoked", A))
    now = int(time.time())
    run.file.update(lambda known: known.put(KnownPeer(C, "*", NOW, None, TrustLevel.PINNED)))
    run.file.update(lambda known: known.put(KnownPeer(A, T, now, now - 90_600, TrustLevel.REVOKED)))
    service.memory.known = [
        peer("2001:db8::7", port=22, connections=5),
        peer("10.0.0.9", "plain", reason="no ENO"),
        peer("fe80::1%eth0 (odd)", port=1),
    ]
    status, out, err = run("peers", "list")
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][:5] == ["PEER", "PORT", "TRUST", "KEY", "SEEN"]
    assert ["*", "-", "pinned", short_form(C), "-", "-", "-", "-", "-"] in rows
    seen = ["1", "d", "1", "h", "ago"]  # no clock ticks between the two commands below
    assert [
        *("2001:db8::7", "22", "revoked", short_form(A), *seen, "encrypted", "5", "-", "-")
    ] in rows
    assert sorted(row[3] for row in rows if row[:2] == ["10.0.0.2", "5432"]) == sorted(
        [short_form(A), short_form(B)]
    )
    assert ["10.0.0.9", "443", "-", "-", "-", "plain", "1", "-", "no", "ENO"] in rows
    assert len(rows) == 7
    assert run("peers")[1] == out


def test_list_as_json(run: Commands, service: Service) -> None:
    run.know((S, "tofu", A), ("*", "pinned", B))
    service.memory.known = [peer("10.0.0.9", "plain")]
    answer = run.json("peers", "list")
    assert answer == {
        "peers": service.memory.known,
        "known": [
            {"key": B, "scope": "*", "trust": "pinned", "first": NOW, "last": NOW},
            {"key": A, "scope": S, "trust": "tofu", "first": NOW, "last": NOW},
        ],
    }
    pinned = run.json("peers", "list", "--trust", "pinned")
    assert (pinned["peers"], [one["key"] for one in pinned["known"]]) == ([], [B])
    plain = run.json("peers", "list", "--last", "plain")
    assert (plain["peers"], plain["known"]) == (service.memory.known, [])


def test_list_without_a_daemon(run: Commands) -> None:
    run.know((S, "tofu", A))
    status, out, err = run("peers")
    assert status == 0
    assert short_form(A) in out
    assert "listed are known keys alone" in err
    status, out, err = run("peers", "--last", "plain")
    assert (status, out) == (1, "")
    assert "no tcpcryptd answers" in err


def test_list_for_who_may_not_read_keys(
    run: Commands, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.memory.known = [peer("10.0.0.9")]
    _forbid(monkeypatch, run.directory / "known_peers")
    status, out, err = run("peers", "--json")
    assert (status, json.loads(out)["known"]) == (0, None)
    assert "Permission denied: known keys are for root" in err
    assert "10.0.0.9" in run("peers")[1]
    run.control = run.directory / "nobody"
    status, out, err = run("peers")
    assert (status, out) == (1, "")
    assert run("peers", "show", S)[0] == 1


def _forbid(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    real = os.stat

    def stat(what: object, **more: object) -> os.stat_result:
        if what in (path, str(path)):
            raise PermissionError(13, "Permission denied")
        return real(what, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", stat)


def test_a_faulty_file_is_an_error_with_its_place(run: Commands) -> None:
    (run.directory / "known_peers").write_text("tcpcrypt-known-peers-1\nx\nend\n")
    for words in (["peers"], ["peers", "show", S], ["peers", "trust", S, A], ["peers", "export"]):
        status, out, err = run(*words)
        assert (status, out) == (1, "")
        assert f"{run.directory}/known_peers:2: 1 columns, not 5" in err


def test_show(run: Commands) -> None:
    run.know((S, "tofu", A), (T, "pinned", A), (S, "psk", B))
    run.file.update(lambda known: known.put(KnownPeer(A, T, NOW, None, TrustLevel.PINNED)))
    status, out, err = run("peers", "show", S)
    assert (status, err) == (0, "")
    for text in (A, B, randomart(A), randomart(B), f"also for     {T}", "trust        psk"):
        assert text in out
    status, out, _err = run("peers", "show", A)
    assert (status, out.count("fingerprint")) == (0, 2)
    assert "last seen    never" in out
    assert [one["scope"] for one in run.json("peers", "show", A)["known"]] == [S, T]
    assert run("peers", "show", C) == (1, "", f"tcpcrypt: nothing is known of {C}\n")
    assert run.json("peers", "show", C, status=1) == {"known": []}


# --- trust ------------------------------------------------------------------------------


def test_trust_what_is_unknown(run: Commands) -> None:
    before = int(time.time())
    assert run("peers", "trust", "[2001:DB8:0::7]:22", A) == (0, f"{T}: tofu {A}\n", "")
    (line,) = run.json("peers", "show", T)["known"]
    assert (line["trust"], line["last"]) == ("tofu", None)
    assert before <= line["first"] <= time.time()
    status, out, _err = run("peers", "trust", T, A)
    assert status == 0
    assert out.startswith(f"{T}: is known so already: {A}  tofu")


@pytest.mark.parametrize("typed", ["yes\n", f"{B}\n", "what?\nyes\n", "y\n yes \n"])
def test_a_changed_key_is_accepted_by_a_person(run: Commands, typed: str) -> None:
    run.know((S, "tofu", A))
    status, out, err = run("peers", "trust", S, B, typed=typed)
    assert (status, out) == (0, f"{S}: tofu {B}\n{S}: forgotten {A}\n")
    assert f"WARNING: the key of {S} is not the one that was remembered" in err
    assert f"known: {A}" in err
    assert f"new:   {B}" in err
    assert "(yes/no/the whole fingerprint)" in err
    assert run.known == {(S, "tofu", B)}


@pytest.mark.parametrize("typed", ["no\n", "", "y\n", f"{A}\n", "what?\nno\nyes\n"])
def test_a_changed_key_is_refused_by_a_person(run: Commands, typed: str) -> None:
    run.know((S, "tofu", A))
    status, out, err = run("peers", "trust", S, B, typed=typed)
    assert (status, out) == (1, "")
    assert err.endswith("tcpcrypt: nothing was changed\n")
    assert run.known == {(S, "tofu", A)}


def test_a_changed_key_where_nobody_can_be_asked(run: Commands) -> None:
    run.know((S, "tofu", A))
    status, out, err = run("peers", "trust", S, B)
    assert (status, out) == (1, "")
    assert A in err
    assert B in err
    assert "there is nobody to ask; --force goes on without" in err
    assert run.known == {(S, "tofu", A)}
    answer = run.json("peers", "trust", S, B, "--force")
    assert (answer["changed"], answer["forgotten"], answer["known"]["key"]) == (True, [A], B)
    assert answer["daemon"] is False
    assert run.known == {(S, "tofu", B)}


def test_a_name_is_not_what_the_daemon_looks_up(run: Commands) -> None:
    status, _out, err = run("peers", "pin", "DB.example.org:5432", A)
    assert status == 0
    assert err == (
        "tcpcrypt: db.example.org:5432: the daemon knows services by their addresses; names are"
        " for programs that connect by name\n"
    )
    assert run.known == {("db.example.org:5432", "pinned", A)}


def test_trust_several_hosts_of_one_service(run: Commands) -> None:
    run.know((S, "tofu", A))
    assert run("peers", "trust", S, B, "--also")[0] == 0
    assert run.known == {(S, "tofu", A), (S, "tofu", B)}
    status, _out, err = run("peers", "trust", S, C, "--force")
    assert status == 0
    assert A in err
    assert B in err
    assert run.known == {(S, "tofu", C)}


def test_trust_does_not_replace_a_pinned_key(run: Commands) -> None:
    run.know((S, "pinned", A))
    status, _out, err = run("peers", "trust", S, B, "--force")
    assert status == 1
    assert f"{A} is pinned; `tcpcrypt peers pin` replaces it" in err
    status, out, _err = run("peers", "trust", S, A)
    assert (status, "is known so already" in out) == (0, True), "and lowers none"
    assert run.known == {(S, "pinned", A)}


@pytest.mark.parametrize("action", ["trust", "pin"])
def test_a_revoked_key_is_not_accepted(run: Commands, action: str) -> None:
    run.know((T, "revoked", A))
    status, _out, err = run("peers", action, S, A, "--force")
    assert status == 1
    assert f"{A} is revoked; `tcpcrypt peers forget` it first" in err
    assert run.known == {(T, "revoked", A)}


@pytest.mark.parametrize("action", ["trust", "pin"])
def test_a_new_key_after_a_revoked_one_needs_no_question(run: Commands, action: str) -> None:
    run.know((S, "revoked", A))
    status, _out, err = run("peers", action, S, B)
    assert (status, err) == (0, "")
    level = "tofu" if action == "trust" else "pinned"
    assert run.known == {(S, "revoked", A), (S, level, B)}


# --- pin ----------------------------------------------------------------------------------


def test_pin_what_is_known(run: Commands) -> None:
    run.know((S, "tofu", A))
    status, out, err = run("peers", "pin", S, typed="yes\n")
    assert (status, out) == (0, f"{S}: pinned {A}\n")
    assert randomart(A) in err
    assert f"{A}  tofu, first known " in err
    assert run.known == {(S, "pinned", A)}
    (line,) = run.json("peers", "show", S)["known"]
    assert (line["first"], line["last"]) == (NOW, NOW)
    status, out, err = run("peers", "pin", S)
    assert (status, err) == (0, "")
    assert "is known so already" in out


def test_pin_a_key_that_was_learnt_or_is_new(run: Commands) -> None:
    run.know((S, "tofu", A))
    assert run("peers", "pin", S, A) == (0, f"{S}: pinned {A}\n", "")
    assert run("peers", "pin", "*", A)[0] == 0
    assert run("peers", "pin", "*", B)[0] == 0, "keys that are let in do not exclude each other"
    assert run.known == {(S, "pinned", A), ("*", "pinned", A), ("*", "pinned", B)}


def test_pin_replaces_a_pinned_key_if_a_person_says_so(run: Commands) -> None:
    run.know((S, "pinned", A))
    assert run("peers", "pin", S, B)[0] == 1
    assert run("peers", "pin", S, B, typed=f"{B}\n")[0] == 0
    assert run.known == {(S, "pinned", B)}


def test_pin_without_a_key_that_is_meant(run: Commands) -> None:
    assert run("peers", "pin", S)[2] == f"tcpcrypt: {S}: no key is known; say which to pin\n"
    run.know((S, "tofu", A), (S, "tofu", B))
    assert run("peers", "pin", S)[2] == f"tcpcrypt: {S}: 2 keys are known; say which to pin\n"


def test_what_changes_while_a_person_thinks(run: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was agreed to is done, or nothing."""
    real = keys.ask

    def slow(*words: object, **more: object) -> None:
        real(*words, **more)  # type: ignore[arg-type]
        run.know((S, "tofu", C))

    monkeypatch.setattr(peers_change.keys, "ask", slow)
    run.know((S, "tofu", A))
    status, _out, err = run("peers", "trust", S, B, "--force")
    assert status == 1
    assert "what is known has changed meanwhile; try again" in err
    assert run.known == {(S, "tofu", C)}
    run.know((S, "pinned", A))
    monkeypatch.setattr(peers_change.keys, "ask", lambda *_w, **_m: run.know((S, "pinned", C)))
    status, _out, err = run("peers", "forget", S)
    assert status == 1
    assert "changed meanwhile" in err
    assert run.known == {(S, "pinned", C)}


# --- forget, revoke ----------------------------------------------------------------------


def test_forget_a_service_or_a_key(run: Commands) -> None:
    run.know((S, "tofu", A), (S, "psk", B), (T, "tofu", A), ("*", "tofu", A))
    assert run("peers", "forget", A) == (
        0,
        "".join(f"{scope}: forgotten {A}\n" for scope in ("*", S, T)),
        "",
    )
    answer = run.json("peers", "forget", S)
    assert [line["key"] for line in answer["forgotten"]] == [B]
    assert run.known == set()
    assert run("peers", "forget", S) == (1, "", f"tcpcrypt: nothing is known of {S}\n")
    assert run.json("peers", "forget", S, status=1)["forgotten"] == []


@pytest.mark.parametrize("level", ["pinned", "revoked"])
def test_forgetting_what_the_administrator_said_is_asked(run: Commands, level: str) -> None:
    run.know((S, level, A), (S, "tofu", B))
    status, _out, err = run("peers", "forget", S)
    assert status == 1
    assert f"{S}: {A}  {level}" in err
    assert "nobody to ask" in err
    assert run("peers", "forget", S, typed="no\n")[0] == 1
    assert run.known == {(S, level, A), (S, "tofu", B)}
    status, _out, err = run("peers", "forget", S, typed="yes\n")
    assert status == 0
    assert "(yes/no)" in err
    assert run.known == set()


def test_revoke(run: Commands) -> None:
    run.know((S, "pinned", A), (T, "tofu", A), (T, "tofu", B))
    status, out, err = run("peers", "revoke", A)
    assert (status, out, err) == (0, f"{S}: revoked {A}\n{T}: revoked {A}\n", "")
    assert run.known == {(S, "revoked", A), (T, "revoked", A), (T, "tofu", B)}
    answer = run.json("peers", "revoke", C)
    assert [(line["scope"], line["trust"]) for line in answer["revoked"]] == [("*", "revoked")]


# --- export, import ----------------------------------------------------------------------


def test_export_and_import(run: Commands, tmp_path: Path) -> None:
    lines = {(S, "tofu", A), (T, "pinned", B), ("*", "revoked", C)}
    run.know(*lines)
    status, text, err = run("peers", "export")
    assert (status, err) == (0, "")
    mail = tmp_path / "mail"
    mail.write_bytes(b"From: me\n\nGr\xfc\xdfe\n" + text.encode())
    run.know()
    status, out, err = run("peers", "import", mail)
    assert (status, err) == (0, "")
    assert f"new: {S} tofu {A}\n" in out
    assert out.endswith("3 keys imported, 0 keys known already.\n")
    assert run.known == lines
    assert run("peers", "import", mail)[1] == "0 keys imported, 3 keys known already.\n"


def test_export_some(run: Commands) -> None:
    assert run("peers", "export") == (1, "", "tcpcrypt: no keys are known\n")
    run.know((S, "tofu", A), (T, "tofu", A), (T, "pinned", B))
    answer = run.json("peers", "export", S, B)
    assert [(line["scope"], line["key"]) for line in answer["known"]] == [(S, A), (T, B)]
    assert answer["text"] == run("peers", "export", S, B)[1]
    status, out, err = run("peers", "export", S, C)
    assert (status, err) == (1, f"tcpcrypt: nothing is known of {C}\n")
    assert A in out
    assert run("peers", "export", C) == (1, "", f"tcpcrypt: nothing is known of {C}\n")


def test_import_from_standard_input(run: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    run.know((S, "tofu", A))
    text = run("peers", "export")[1]
    run.know()
    line = ["peers", "import", "-", "--state", str(run.directory), "--control", str(run.control)]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert command.main(line) == 0
    assert run.known == {(S, "tofu", A)}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\n")))
    assert command.main(line) == 1


def test_import_lowers_no_trust_and_refuses_what_contradicts(run: Commands, tmp_path: Path) -> None:
    run.know((S, "pinned", A), (T, "tofu", B))
    text = run("peers", "export")[1].replace("pinned", "tofu").replace(B, C)
    mail = tmp_path / "mail"
    mail.write_text(text)
    before = run.known
    status, out, err = run("peers", "import", mail)
    assert (status, out) == (1, "")
    for word in (T, B, C, "1 conflict: nothing was imported"):
        assert word in err
    assert run.known == before
    answer = run.json("peers", "import", mail, status=1)
    assert (answer["imported"], answer["daemon"]) == (False, False)
    assert answer["unchanged"] == [{"scope": S, "trust": "tofu", "key": A}]
    (conflict,) = answer["conflicts"]
    assert (conflict["key"], conflict["known"][0]["key"]) == (C, B)
    assert run("peers", "import", mail, "--force")[0] == 0
    assert run.known == {(S, "pinned", A), (T, "tofu", C)}, "pinned stays pinned even so"


def test_a_dry_run_changes_nothing(run: Commands, tmp_path: Path) -> None:
    run.know((S, "tofu", A))
    mail = tmp_path / "mail"
    mail.write_text(run("peers", "export")[1].replace("tofu", "pinned"))
    status, out, _err = run("peers", "import", mail, "--dry-run")
    assert (status, out) == (0, f"raised: {S} pinned {A}\nNothing was imported: --dry-run.\n")
    assert run.known == {(S, "tofu", A)}
    assert run.json("peers", "import", mail, "--dry-run")["imported"] is False


def test_import_what_is_no_such_text(
    run: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = tmp_path / "mail"
    assert f"{mail}: No such file or directory" in run("peers", "import", mail)[2]
    mail.write_text("hello\n")
    assert f"{mail}:1: there is no line" in run("peers", "import", mail)[2]
    monkeypatch.setattr("tcpcrypt.cli.peers_mail.SIZE_MAX", 3)
    assert f"{mail}: longer than 3 bytes" in run("peers", "import", mail)[2]


# --- the daemon -----------------------------------------------------------------------------


def test_a_running_daemon_is_told(run: Commands, service: Service, tmp_path: Path) -> None:
    mail = tmp_path / "mail"
    told = 0
    for words in (
        ["trust", S, A],
        ["pin", S, A],
        ["revoke", B],
        ["forget", B, "--force"],
        ["import", mail],
    ):
        if words[0] == "import":
            mail.write_text(run("peers", "export")[1])
        assert run.json("peers", *words)["daemon"] is True
        told += 1
        assert len(service.looked) == told
    run("peers", "show", S)
    run("peers", "export")
    assert len(service.looked) == told, "looking changes nothing"


def test_a_daemon_that_does_not_care_or_does_not_listen(
    run: Commands, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.call(lambda: object.__setattr__(service.server._desk, "trust_changed", None))
    status, _out, err = run("peers", "trust", S, A)
    assert (status, err) == (0, ""), "no policy of its asks for keys"
    monkeypatch.setattr(control, "_credentials", lambda _sock: _STRANGER)
    status, _out, err = run("peers", "trust", S, A)
    assert status == 0, "the file is changed; the daemon looks by itself"
    assert "tcpcrypt: the daemon was not told: " in err
    monkeypatch.setattr("tcpcrypt.daemon.client.VERSION", 2)
    status, _out, err = run("peers", "trust", T, A)
    assert (status, "the daemon was not told: " in err) == (0, True)


_STRANGER = (1).to_bytes(4, "little") + (4321).to_bytes(4, "little") * 2


# --- the command line -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        *(["trust", S], ["trust", S, short_form(A)], ["trust", A, S], ["trust", "10.0.0.2", A]),
        *(["pin", S, A[:-1]], ["revoke", S], ["revoke"], ["forget", "x"], ["show"], ["befriend"]),
        *(["list", "--trust", "blind"], ["show", short_form(A)], ["import"]),
    ],
    ids=" ".join,
)
def test_usage(run: Commands, words: list[str]) -> None:
    """A short form is for eyes: no command takes it."""
    status, out, err = run("peers", *words)
    assert (status, out) == (2, "")
    assert "usage: tcpcrypt peers" in err


ACTIONS = ["list", "show", "trust", "pin", "forget", "revoke", "export", "import"]


@pytest.mark.parametrize("action", ACTIONS)
def test_help_has_an_example(run: Commands, action: str) -> None:
    status, out, _err = run("peers", action, "--help")
    assert status == 0
    assert f"example: tcpcrypt peers {action}" in " ".join(out.split())
    assert "--json" in out


def test_help_names_every_action(run: Commands) -> None:
    status, out, _err = run("peers", "--help")
    assert status == 0
    for action in ACTIONS:
        assert f"    {action} " in out


def test_a_full_file_is_told(run: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpcrypt.auth.known_peers.PEERS_MAX", 0)
    assert "known peers already; forget some" in run("peers", "trust", S, A)[2]
    assert KnownPeers() == run.file.current
