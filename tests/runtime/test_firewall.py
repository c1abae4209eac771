"""Which implementation of the firewall serves, and what becomes of the other's rules."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tcpcrypt.core.policy import Match, Mode, Policy
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Settings
from tcpcrypt.runtime.firewall import Firewall
from tcpcrypt.runtime.installation import Installation
from tcpcrypt.runtime.iptables import Iptables
from tcpcrypt.runtime.nft import Nft
from tcpcrypt.runtime.rules import Rule
from tcpcrypt.runtime.ruleset import guard_rules

RULE = Rule("filter", "OUTPUT", ("-j", "RETURN"))


class Told:
    """An implementation that writes down what it is told, and fails where it shall."""

    def __init__(self, name: str, *failing: str) -> None:
        self.name = name
        self.failing = set(failing)
        self.told: list[tuple[str, tuple[Rule, ...]]] = []

    def _tell(self, what: str, rules: Iterable[Rule] = ()) -> None:
        self.told.append((what, tuple(rules)))
        if what in self.failing:
            raise LocalError(f"{self.name} cannot {what}")

    def install(self, rules: Iterable[Rule]) -> None:
        self._tell("install", rules)

    def rehearse(self, rules: Iterable[Rule]) -> None:
        self._tell("rehearse", rules)

    def missing(self) -> int:
        self._tell("missing")
        return 3

    def remove(self, keep: Iterable[Rule] = ()) -> int:
        self._tell("remove", keep)
        return 2


def test_the_first_that_takes_the_rules_serves() -> None:
    first, second = Told("first"), Told("second")
    firewall = Firewall(implementations=(first, second))
    assert (firewall.name, firewall.missing()) == ("", 0)
    firewall.rehearse([RULE])
    firewall.install([RULE])
    assert firewall.name == "first"
    # Once the rules are in, and not before: what the other left may be a guard.
    assert (first.told, second.told) == ([("install", (RULE,))], [("remove", ())])
    firewall.install([RULE])
    firewall.rehearse([RULE])
    assert firewall.missing() == 3
    assert len(second.told) == 1


def test_the_next_serves_where_the_first_cannot() -> None:
    first, second = Told("first", "install"), Told("second")
    firewall = Firewall(implementations=(first, second))
    firewall.install(iter([RULE]))
    assert firewall.name == "second"
    assert second.told == [("install", (RULE,))]
    assert first.told[1:] == [("remove", ())]
    first.failing.clear()
    firewall.install([RULE])
    assert firewall.name == "second"


def test_a_change_that_fails_leaves_the_choice() -> None:
    first, second = Told("first"), Told("second")
    firewall = Firewall(implementations=(first, second))
    firewall.install([RULE])
    first.failing.add("install")
    with pytest.raises(LocalError, match="first cannot install"):
        firewall.install([RULE])
    assert firewall.name == "first"
    assert len(second.told) == 1


def test_all_reasons_are_told() -> None:
    firewall = Firewall(implementations=(Told("a", "install"), Told("b", "install")))
    with pytest.raises(LocalError, match="with a: a cannot install; with b: b cannot install"):
        firewall.install([RULE])
    assert firewall.name == ""


def test_what_is_kept_is_kept_by_the_one_that_serves() -> None:
    first, second = Told("first"), Told("second", "remove")
    firewall = Firewall(implementations=(first, second))
    with pytest.raises(LocalError, match="second cannot remove"):
        firewall.install([RULE])
    assert firewall.name == "first"
    with pytest.raises(LocalError, match="second cannot remove"):
        firewall.remove([RULE])
    # Again, as the janitor does: it is still known what is to be kept.
    second.failing.clear()
    assert firewall.remove([RULE]) == 4
    assert [told for told in first.told if told[0] == "remove"] == [("remove", (RULE,))] * 2
    assert all(told == ("remove", ()) for told in second.told)
    assert firewall.remove([RULE]) == 4
    assert first.told[-1] == ("remove", ())


def test_an_installation_that_could_not_be_removed_can_be_the_next_time() -> None:
    """As the janitor tries, while somebody else holds the lock of iptables."""
    stubborn = Told("stubborn", "remove")
    installation = Installation(Settings(policies=(Policy(Mode.REQUIRE, Match()),)))
    installation._steering = SimpleNamespace(application_listeners=())
    installation._routing = SimpleNamespace(remove=lambda: 0)
    installation._firewall = Firewall(implementations=(stubborn,))
    installation._firewall.install([RULE])
    installation._installed = True
    with pytest.raises(LocalError, match="stubborn cannot remove"):
        installation.remove(guard=True)
    stubborn.failing.clear()
    installation.remove(guard=True)
    kept = tuple(guard_rules(installation.settings.policies, serving=False))
    assert stubborn.told[1:] == [("remove", kept)] * 2
    installation.remove(guard=True)
    assert len(stubborn.told) == 3


def test_nothing_is_installed_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalError) as caught:
        Firewall((4,)).install([RULE])
    assert str(caught.value) == (
        "the rules cannot be installed"
        " with iptables: iptables-restore is not installed; with nft: nft is not installed"
    )
    assert Firewall().remove() == 0


def _program(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def test_a_line_that_nft_does_not_take_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _program(tmp_path, "nft", 'echo "/dev/stdin:6:3-8: Error: No such thing" >&2; exit 1\n')
    with pytest.raises(LocalError, match=r"^nft: No such thing \(return\)$"):
        Nft().install([RULE])
    assert Nft().remove() == 0
    _program(tmp_path, "nft", 'echo "/dev/stdin:99:3-8: Error: No such thing" >&2; exit 1\n')
    with pytest.raises(LocalError, match=r"^nft: No such thing$"):
        Nft().install([RULE])
    _program(tmp_path, "nft", "exit 3\n")
    with pytest.raises(LocalError, match=r"^nft: exit 3$"):
        Nft().install([RULE])
    _program(tmp_path, "nft", 'echo "out of luck" >&2; exit 1\n')
    queueing = Rule("mangle", "OUTPUT", ("-j", "NFQUEUE", "--queue-num", "7"))
    with pytest.raises(LocalError, match=r"queue statement \(CONFIG_NFT_QUEUE\).*out of luck"):
        Nft().install([queueing])
    (tmp_path / "nft").chmod(0o600)
    with pytest.raises(LocalError, match=r"^nft: Permission denied$"):
        Nft().install([RULE])


def test_a_kernel_that_keeps_less_than_it_was_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was there before is put back."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    log, told = tmp_path / "log", tmp_path / "told"
    _program(
        tmp_path,
        "nft",
        f'case "$*" in *"-f -") echo LOAD >> {log}; cat >> {log};; *) cat {told};; esac\n',
    )
    told.write_text("")
    with pytest.raises(LocalError, match="other rules than were installed"):
        Nft((4,)).install([RULE])
    first, again = log.read_text().split("LOAD\n")[1:]
    assert "return" in first
    assert again.splitlines() == ["add table inet tcpcrypt", "delete table inet tcpcrypt"]
    firewall = Nft((4,))
    told.write_text("table inet tcpcrypt\n\tchain a {\n\t\treturn # handle 1\n\t}\n")
    firewall.install([RULE])
    log.unlink()
    with pytest.raises(LocalError, match="other rules than were installed"):
        firewall.install([RULE, RULE])
    assert log.read_text().split("LOAD\n")[2] == first
    assert firewall.missing() == 0


def test_iptables_that_fails_when_removing_knows_what_to_keep_the_next_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    state, log = tmp_path / "state", tmp_path / "log"
    _program(tmp_path, "iptables-save", f"cat {state}\n")
    _program(tmp_path, "iptables-restore", f"cat >> {log}\n")
    state.write_text("")
    firewall = Iptables((4,))
    firewall.install([])
    state.write_text("*filter\n:TCPCRYPT-OUTPUT - [0:0]\n-A OUTPUT -j TCPCRYPT-OUTPUT\nCOMMIT\n")
    _program(tmp_path, "iptables-restore", 'echo "another app holds the lock" >&2; exit 4\n')
    with pytest.raises(LocalError, match="holds the lock"):
        firewall.remove([RULE])
    _program(tmp_path, "iptables-restore", f"cat >> {log}\n")
    assert firewall.remove([RULE]) == 1
    assert "-A TCPCRYPT-OUTPUT -j RETURN" in log.read_text()
