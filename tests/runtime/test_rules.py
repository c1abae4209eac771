"""Rules as data: what they say, without a kernel to say it to."""

import ipaddress
from pathlib import Path

import pytest

from tcpcrypt.cli.tcpcryptd import _quoted
from tcpcrypt.core.policy import Mode
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.eno_backend import PortRange
from tcpcrypt.runtime.rules import Firewall, Rule, _transaction
from tcpcrypt.runtime.steering import (
    OlderConnection,
    _accepting_rules,
    _opening_rules,
    older_connections,
)

PORTS = (PortRange(80, 80), PortRange(8000, 8099))


def test_a_transaction_removes_before_it_adds() -> None:
    left = {"mangle": ["-D OUTPUT -j TCPCRYPT-OUTPUT", "-F TCPCRYPT-OUTPUT", "-X TCPCRYPT-OUTPUT"]}
    rules = [Rule("mangle", "INPUT", ("-p", "tcp", "-j", "RETURN"))]
    assert _transaction(rules, left).splitlines() == [
        "*mangle",
        "-D OUTPUT -j TCPCRYPT-OUTPUT",
        "-F TCPCRYPT-OUTPUT",
        "-X TCPCRYPT-OUTPUT",
        ":TCPCRYPT-INPUT - [0:0]",
        "-A TCPCRYPT-INPUT -p tcp -j RETURN",
        "-I INPUT -j TCPCRYPT-INPUT",
        "COMMIT",
    ]
    assert _transaction([], {}) == ""


def steered(mode: Mode, older: tuple[OlderConnection, ...] = ()) -> list[Rule]:
    return [*_opening_rules(PORTS, mode, older), *_accepting_rules(PORTS, mode)]


def words(rules: list[Rule], table: str, hook: str, family: int = 4) -> list[str]:
    return [
        " ".join(rule.words)
        for rule in rules
        if (rule.table, rule.hook) == (table, hook) and family in rule.families
    ]


def test_never_fail_open() -> None:
    for mode in (Mode.OPPORTUNISTIC, Mode.REQUIRE):
        rules = steered(mode)
        assert not any("--queue-bypass" in rule.words for rule in rules)
        # What is steered leaves by no other device, and no SYN leaves unmarked.
        assert any(
            line.startswith("! -o lo") and line.endswith("DROP")
            for line in words(rules, "mangle", "POSTROUTING")
        )
        assert len([x for x in words(rules, "filter", "OUTPUT") if x.endswith("DROP")]) == 2


def test_only_require_refuses_plain_clients() -> None:
    assert words(steered(Mode.OPPORTUNISTIC), "filter", "INPUT") == []
    refusing = words(steered(Mode.REQUIRE), "filter", "INPUT")
    assert [line.split("--dport ")[1].split()[0] for line in refusing] == ["80", "8000:8099"]


def test_connection_tracking_only_for_older_connections() -> None:
    without = words(steered(Mode.REQUIRE), "mangle", "OUTPUT")
    assert not any("CONNMARK" in line for line in without)
    old = OlderConnection(
        ipaddress.ip_address("10.0.0.1"), 40000, ipaddress.ip_address("10.0.0.2"), 80
    )
    with_old = steered(Mode.REQUIRE, (old,))
    lines = words(with_old, "mangle", "OUTPUT")
    exempt = next(i for i, line in enumerate(lines) if "-s 10.0.0.1 --sport 40000" in line)
    marks = next(i for i, line in enumerate(lines) if "-j MARK" in line)
    assert exempt < marks
    assert not any("10.0.0.1" in line for line in words(with_old, "mangle", "OUTPUT", 6))


def test_older_connections_are_read_from_proc(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
    (tmp_path / "tcp").write_text(
        head
        + "   0: 0100000A:9C40 0200000A:0050 01 00000000:00000000\n"
        + "   1: 00000000:0050 00000000:0000 0A 00000000:00000000\n"
        + "   2: 0100000A:9C41 0200000A:01BB 01 00000000:00000000\n"
        + "   3: 0100007F:9C42 0100007F:0050 01 00000000:00000000\n"
    )
    (tmp_path / "tcp6").write_text(
        head
        + "   0: 0000000000000000FFFF00000100000A:9C43"
        + " 0000000000000000FFFF00000200000A:1F40 01 0:0\n"
        + "   1: B80D0120000000000000000001000000:9C44"
        + " B80D0120000000000000000002000000:0050 08 0:0\n"
    )
    assert [
        (str(old.local), old.local_port, str(old.remote), old.remote_port)
        for old in older_connections(PORTS, tmp_path)
    ] == [
        ("10.0.0.1", 40000, "10.0.0.2", 80),
        ("10.0.0.1", 40003, "10.0.0.2", 8000),
        ("2001:db8::1", 40004, "2001:db8::2", 80),
    ]
    (tmp_path / "tcp6").unlink()
    assert len(older_connections(PORTS, tmp_path)) == 1


def test_no_iptables_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalError, match="iptables-restore is not installed"):
        Firewall((4,)).install([Rule("raw", "OUTPUT", ("-j", "RETURN"))])


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("plain", "plain"), ("", '""'), ("two words", '"two words"'), ('a"b\n\\', '"a\\"b\\n\\\\"')],
)
def test_log_values_stay_one_word(text: str, quoted: str) -> None:
    """What a peer can influence must not look like another field or another line."""
    assert _quoted(text) == quoted
