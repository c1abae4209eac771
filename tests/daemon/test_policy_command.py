"""`tcpcrypt policy`: the starter file, and what `check` says of any file."""

import io
import json
import re
import stat
from pathlib import Path

import pytest
from daemon.overview import serving

from tcpcrypt.cli import tcpcrypt as command
from tcpcrypt.core.policy import Match, Mode, Policy
from tcpcrypt.daemon.configuration import parse, read_document
from tcpcrypt.daemon.keys import KEYS
from tcpcrypt.daemon.review import sentence, warnings
from tcpcrypt.daemon.starter import starter_file


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    try:
        status = command.main(["policy", *map(str, words)])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def flat(text: str) -> str:
    return " ".join(text.split())


# --- init ----------------------------------------------------------------------


def test_the_starter_file_is_valid_and_careful() -> None:
    policies = parse(starter_file()).policies
    assert policies[0] == Policy(Mode.NEVER, Match(ports=(range(22, 23),)))
    for policy in policies[1:]:
        assert policy.mode is Mode.OPPORTUNISTIC
        assert all(network.is_private for network in policy.match.remote)
        assert policy.match.remote
        assert not any(22 in ports for ports in policy.match.ports)


def test_the_starter_file_of_a_package_leaves_every_connection_alone() -> None:
    text = starter_file(policies=False)
    assert parse(text).policies == ()
    # With the "#" taken away as it says, it is the other one.
    _head, said, policies = text.partition("# --- Nothing is encrypted yet")
    assert said
    given = re.sub(r"^#(?=\[\[|\w)", "", f"#{policies}", flags=re.MULTILINE)
    assert parse(given).policies == parse(starter_file()).policies


def test_the_starter_file_shows_every_key() -> None:
    text = starter_file()
    for key in KEYS:
        assert re.search(rf"^#\s?{key.name}\b", text, re.MULTILINE), key.name
        assert flat(key.text) in flat(re.sub(r"\n#? *", " ", text)), key.name
    assert all(len(line) <= 90 for line in text.splitlines())


def test_what_the_starter_file_leaves_out_is_the_default() -> None:
    text = starter_file()
    given = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert given.count("\n") == text.count("\n")
    assert given != text
    assert parse(given) == parse(text)


def test_the_examples_of_the_starter_file_are_valid() -> None:
    examples = starter_file().split("# --- Examples to adapt")[1]
    code = re.findall(r"^# (\[\[policy\]\]|\w+ = .*)$", examples, re.MULTILINE)
    policies = parse("\n".join(code)).policies
    assert [(policy.mode, policy.auth) for policy in policies] == [
        (Mode.REQUIRE, "none"),
        (Mode.REQUIRE, "tofu"),
        (Mode.OPPORTUNISTIC, "none"),
    ]


def test_init_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "init") == (0, starter_file(), "")


def test_init_writes_a_file_that_check_accepts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "tcpcrypt.toml"
    status, out, err = run(capsys, "init", path)
    assert (status, err) == (0, "")
    assert str(path) in out
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.read_text() == starter_file()
    status, out, err = run(capsys, "check", path)
    assert (status, err) == (0, "")
    assert "policy 1: Connections to port 22 (ssh)" in out


def test_init_never_overwrites(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    status, out, err = run(capsys, "init", path)
    assert (status, out) == (1, "")
    assert err == f"tcpcrypt: {path}: File exists\n"
    assert path.read_text() == "mine"


def test_init_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, out, _ = run(capsys, "init", "--json")
    assert json.loads(out) == {"file": None, "text": starter_file()}
    path = tmp_path / "x.toml"
    _, out, _ = run(capsys, "init", path, "--json")
    assert json.loads(out) == {"file": str(path), "text": starter_file()}


# --- check ---------------------------------------------------------------------

FILE = """\
[daemon]
path_memory = 300

[[policy]]  # the database
match = { direction = "outgoing", remote = "10.1.0.0/16",
PORTS, uid = 0 }
mode = "require"
"""
FILE = FILE.replace("\nPORTS", " ports = [5432, 5433]")


def test_check_explains_each_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(FILE)
    status, out, err = run(capsys, "check", path)
    assert (status, err) == (0, "")
    head = out.split("\n\n")[0]
    assert re.findall(r"^ +(\d+) +(\S+)", head, re.MULTILINE) == [
        ("1", "[daemon]"),
        ("2", "path_memory"),
        ("4", "[[policy]]"),
        ("5", "match"),
        ("6", "mode"),
    ]
    words = flat(out)
    assert "is remembered for 300 seconds and tried in plain TCP meanwhile" in words
    assert "direction This host opens the connection." in words
    assert "remote The other host's address is in 10.1.0.0/16." in words
    assert "ports The service has ports 5432 (PostgreSQL) or 5433." in words
    assert "uid The program that opens the connection runs as user 0 (root)." in words
    assert (
        "policy 1: Connections that programs of user 0 (root) open to ports 5432 (PostgreSQL)"
        " or 5433 of hosts in 10.1.0.0/16 are encrypted or refused."
    ) in words
    assert "Every other connection is left alone." in words


def test_check_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(FILE)
    status, out, _ = run(capsys, "check", "--json", path)
    answer = json.loads(out)
    assert status == 0
    assert (answer["file"], answer["ok"], answer["errors"]) == (str(path), True, [])
    assert [(line["line"], line["key"]) for line in answer["lines"]] == [
        (1, ""), (2, "path_memory"), (4, ""), (5, ""), (5, "direction"), (5, "remote"),
        (5, "ports"), (5, "uid"), (6, "mode"),
    ]  # fmt: skip
    (policy,) = answer["policies"]
    assert (policy["policy"], policy["line"], policy["mode"]) == (1, 4, "require")
    assert policy["meaning"].endswith("are encrypted or refused.")


def test_check_tells_all_faults(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text('[daemon]\ncontrl = 1\nguard = "keep"\n[[policy]]\nmode = "on"\n')
    status, out, err = run(capsys, "check", path)
    assert (status, err) == (1, "")
    assert 'line 2: error: daemon.contrl: no such key; did you mean "control"?' in out
    assert 'line 5: error: policy 1, mode: "on" is not' in out
    assert "  3    guard" in out, "what could be read is explained"
    assert "are encrypted" not in out, "no promise of what a faulty file does"
    assert out.endswith(f"{path}: 2 errors\n")
    status, out, _ = run(capsys, "check", path, "--json")
    answer = json.loads(out)
    assert (status, answer["ok"]) == (1, False)
    assert [(e["line"], e["key"]) for e in answer["errors"]] == [
        (2, "daemon.contrl"),
        (5, "policy 1, mode"),
    ]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_check_of_no_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    status, out, err = run(capsys, "check", tmp_path / "none", *words)
    assert status == 2
    assert err == f"tcpcrypt: {tmp_path / 'none'}: No such file or directory\n"
    if words:
        assert json.loads(out)["ok"] is False


def test_check_of_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[daemon]\nguard = 1\n")))
    status, out, _ = run(capsys, "check", "-")
    assert status == 1
    assert out.endswith("standard input: 1 error\n")


def test_a_file_that_others_may_write(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(starter_file())
    path.chmod(0o664)
    assert "warning: others than its owner may write the file" in run(capsys, "check", path)[1]
    path.chmod(0o644)
    assert "may write" not in run(capsys, "check", path)[1]


# --- sentences -----------------------------------------------------------------

SENTENCES = [
    ("", "All TCP connections between this host and others are left alone."),
    ("ports = 22", "Connections to port 22 (ssh), opened by this host or by others, are"),
    ('remote = "::1"', "Connections between this host and hosts in ::1 are"),
    (
        'ports = [80, 443], remote = ["10.0.0.0/8", "fd00::/8"], local = "10.0.0.1"',
        "Connections to ports 80 (HTTP) or 443 (HTTPS) between this host and hosts in 10.0.0.0/8"
        " or fd00::/8, at this host's address 10.0.0.1, are",
    ),
    ('direction = "incoming"', "Connections that other hosts open to this host are"),
    (
        'direction = "incoming", ports = "1-9", remote = "10.0.0.0/8", local = "::2"',
        "Connections that hosts in 10.0.0.0/8 open to ports 1 to 9,"
        " at this host's address ::2, are",
    ),
    ('direction = "outgoing"', "Connections that this host opens are"),
    (
        'direction = "outgoing", remote = "10.0.0.0/8", local = "10.0.0.1"',
        "Connections that this host opens to hosts in 10.0.0.0/8, from this host's address"
        " 10.0.0.1, are",
    ),
    ('cgroup = "a"', "Connections that programs of control group a open are"),
    (
        'uid = "1-2", cgroup = ["a", "b"], ports = 80',
        "Connections that programs of users 1 to 2 in control group a or b open to port 80"
        " (HTTP) are",
    ),
]


@pytest.mark.parametrize(("match", "expected"), SENTENCES)
def test_a_policy_in_one_sentence(match: str, expected: str) -> None:
    (policy,) = parse(f'[[policy]]\nmode = "never"\nmatch = {{ {match} }}').policies
    assert sentence(policy).startswith(expected)


def test_a_long_list_is_cut() -> None:
    (policy,) = parse(f'[[policy]]\nmode = "never"\nmatch.ports = {[*range(1, 31)]}').policies
    assert "9, 10 or 20 more" in sentence(policy)


# --- warnings ------------------------------------------------------------------


def warned(*policies: tuple[str, str], daemon: str = 'user = "nobody"') -> list[str]:
    text = f"[daemon]\n{daemon}\n"
    for mode, match in policies:
        text += f'[[policy]]\nmode = "{mode}"\nmatch = {{ {match} }}\n'
    document = read_document(text)
    assert document.problems == ()
    found = warnings(document)
    for warn in found:
        assert warn.line == (0 if warn.policy is None else 3 * warn.policy)
    return [f"{warn.policy or ''}: {warn.message}" for warn in found]


NOT_SSH = ("never", "ports = 22")


@pytest.mark.parametrize(
    "policies",
    [
        [("opportunistic", "ports = 80")],
        [("require", 'ports = 80, remote = "10.0.0.0/8"')],
        [NOT_SSH, ("opportunistic", "")],
        [NOT_SSH, ("require", 'remote = "10.0.0.0/8"')],
        [NOT_SSH, ("opportunistic", "ports = [22, 23]")],
        [("require", 'ports = 80, remote = "10.0.0.0/8"'), ("opportunistic", "ports = 80")],
        [("never", "ports = 80, uid = 5"), ("opportunistic", "ports = 80")],
        [("never", 'ports = 80, cgroup = "a/b"'), ("opportunistic", 'ports = 80, cgroup = "a"')],
        [("never", 'ports = 80, remote = "0.0.0.0/0"'), ("opportunistic", "ports = 80")],
        [("never", 'direction = "incoming", ports = 80'), ("opportunistic", "ports = 80")],
        [("never", 'ports = 80, remote = "10.0.0.0/9"'),
         ("opportunistic", 'ports = 80, remote = "10.0.0.0/8"')],
    ],
)  # fmt: skip
def test_nothing_to_warn_of(policies: list[tuple[str, str]]) -> None:
    assert warned(*policies) == []


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([], ": no policy: no connection will be encrypted"),
        ([NOT_SSH], ': every policy says "never": no connection will be encrypted'),
        ([("opportunistic", "ports = 22")], "1: names port 22: be sure of another way"),
        ([("opportunistic", 'ports = "1-1000"')], "1: names port 22: be sure of another way"),
        ([("opportunistic", "")], "1: names all ports, ssh's 22 among them: be sure"),
        ([("require", 'ports = 22, remote = "10.0.0.0/8"')],
         "1: names port 22, and requires encryption: you could lock yourself out"),
        ([("never", 'ports = 22, remote = "10.0.0.0/8"'), ("opportunistic", "ports = 22")],
         "2: names port 22"),
        ([("require", "ports = 80")], "1: requires encryption from hosts everywhere"),
        ([("opportunistic", 'ports = 80, local = "10.0.0.1", remote = "::2"')],
         "1: never used: `local` and `remote` have no IP version in common"),
        ([("opportunistic", 'ports = 80, remote = "127.0.0.0/8"')],
         "1: names the loopback alone: connections within this host are left alone"),
        ([("opportunistic", 'ports = 80, remote = "fe80::/10"')],
         "1: names link-local addresses alone: connections to these are left alone"),
        ([("require", 'ports = 80, remote = "fe80::/64"')],
         "1: names link-local addresses alone: connections to these are refused"),
    ],
)  # fmt: skip
def test_what_may_not_be_meant(policies: list[tuple[str, str]], expected: str) -> None:
    (found,) = warned(*policies)
    assert found.startswith(expected)


@pytest.mark.parametrize(
    "policies",
    [
        [("never", "ports = 80"), ("opportunistic", "ports = 80")],
        [("opportunistic", 'ports = "70-90"'), ("opportunistic", 'ports = ["80-85", 70]')],
        [("opportunistic", 'ports = ["70-80", "81-90"]'), ("never", 'ports = "75-85"')],
        [("never", "ports = 80"), ("opportunistic", 'ports = 80, direction = "incoming"')],
        [("never", "ports = 80"), ("opportunistic", "ports = 80, uid = 5")],
        [("never", "ports = 80"), ("opportunistic", 'ports = 80, cgroup = "a"')],
        [("never", 'ports = 80, uid = "1-9"'), ("opportunistic", "ports = 80, uid = [5, 6]")],
        [("never", 'ports = 80, cgroup = "a"'), ("opportunistic", 'ports = 80, cgroup = "a/b"')],
        [("never", 'ports = 80, remote = ["10.0.0.0/9", "10.128.0.0/9"]'),
         ("opportunistic", 'ports = 80, remote = "10.0.0.0/8"')],
        [("never", 'ports = 80, remote = ["0.0.0.0/0", "::/0"]'), ("opportunistic", "ports = 80")],
    ],
)  # fmt: skip
def test_a_policy_that_an_earlier_one_covers(policies: list[tuple[str, str]]) -> None:
    assert "2: never used: policy 1 (line 3) covers all it names" in warned(*policies)


def test_a_policy_that_several_earlier_ones_cover() -> None:
    found = warned(
        ("opportunistic", 'ports = "70-79"'),
        ("opportunistic", "ports = 443"),
        ("opportunistic", 'ports = "80-90"'),
        ("opportunistic", 'ports = "75-85"'),
    )
    assert found == ["4: never used: policies 1 (line 3) and 3 (line 9) cover all it names"]


def test_a_guard_that_is_removed() -> None:
    policy = ("require", 'ports = 80, remote = "10.0.0.0/8"')
    daemon = 'user = "nobody"\nguard = "remove"'
    text = f'[daemon]\n{daemon}\n[[policy]]\nmode = "{policy[0]}"\nmatch = {{ {policy[1]} }}'
    (warn,) = warnings(read_document(text))
    assert "once it is stopped, connections under `require` go in the clear" in warn.message


def test_an_ip_version_that_is_left_out() -> None:
    text = '[daemon]\nuser = "nobody"\nfamilies = 4\n[[policy]]\nmode = "opportunistic"\n'
    (warn,) = warnings(read_document(text + "match.ports = 80"))
    assert warn.message == (
        "reaches IPv6, which `families` leaves out: connections there are left alone"
    )
    required = text.replace("opportunistic", "require") + 'match = {ports = 80, remote = "::2"}'
    (warn,) = warnings(read_document(required))
    assert warn.message.endswith("connections there are refused")
    assert warnings(read_document(text + 'match = {ports = 80, remote = "10.0.0.0/8"}')) == []


def test_a_user_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_there(name: str) -> object:
        raise KeyError(name)

    monkeypatch.setattr("pwd.getpwnam", nobody_there)
    (warn,) = warnings(read_document('[[policy]]\nmode = "opportunistic"\nmatch.ports = 80'))
    assert warn.message == 'this host has no user "tcpcrypt"; "nobody" takes its place'


def test_a_control_group_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tcpcrypt.daemon.review.CGROUPS", tmp_path)
    policy = ("opportunistic", 'ports = 80, cgroup = ["a.slice/b", "c.slice"]')
    assert warned(policy) == [], "where cgroup v2 is not mounted alone, nothing is known"
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "c.slice").mkdir()
    assert warned(policy) == ["1: names control group a.slice/b, which this host does not have now"]


# --- show ----------------------------------------------------------------------


def test_show_tells_what_is_in_force(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with serving(tmp_path / "control.sock") as service:
        status, out, err = run(capsys, "show", "--control", service.path)
        assert (status, err) == (0, "")
        assert out.startswith("policy 1: Connections to port 22 (ssh), opened by this host or by")
        assert out.endswith("Every other connection is left alone.\n")
        status, out, err = run(capsys, "show", "--control", service.path, "--json")
        assert (status, err) == (0, "")
        assert json.loads(out)["policies"][0]["match"] == {"ports": ["22"]}


def test_show_without_a_daemon(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = run(capsys, "show", "--control", tmp_path / "none")
    assert (status, out) == (1, "")
    assert err.startswith("tcpcrypt: ")


@pytest.mark.parametrize(
    ("text", "said", "warned"),
    [
        (
            'mode = "opportunistic"\nauth = "tofu"',
            "The key that a host first proves to have is remembered",
            "the first contact with a host may go in the clear",
        ),
        (
            'mode = "require"\nauth = "tofu"\nmatch.direction = "incoming"',
            "Each host that proves a key is remembered by it",
            "",
        ),
        (
            'mode = "opportunistic"\nauth = "pinned"',
            "are encrypted or refused. A host has to prove a key that was pinned.",
            '`auth` = "pinned" makes its mode "require"',
        ),
        (
            'mode = "require"\nauth = "psk"\npsk = "site"\npq = "require"',
            'the pre-shared key "site". Keys are agreed on with a post-quantum hybrid or not',
            "",
        ),
    ],
)
def test_who_has_to_prove_what(text: str, said: str, warned: str) -> None:
    document = read_document(f"[[policy]]\n{text}\n")
    (policy,) = document.policies
    assert said in sentence(policy)
    found = [warn.message for warn in warnings(document)]
    identities = [text for text in found if "key" in text or "auth" in text]
    assert bool(identities) is bool(warned)
    assert warned in "".join(identities)


def test_not_enforcing_is_warned_of_where_it_matters() -> None:
    text = "[daemon]\ntofu_enforce = false\n" + '[[policy]]\nmode = "require"\n'
    assert not [w for w in warnings(read_document(text)) if "tofu" in w.message]
    assert [w for w in warnings(read_document(text + 'auth = "tofu"')) if "tofu" in w.message]
