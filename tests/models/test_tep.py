"""TEP 0x20 as a symbolic model, searched whole: `tep.maude`, by the Maude system.

Each run is a few sessions of honest hosts and an attacker who is the network.  The
search goes through every state that can be reached; a claim of
docs/authenticated-tep.md holds in a run if no state is the attack that it excludes.
What the model is worth is shown by variants that leave one part out, each of which has
the attack that the document says the part is there against.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import maude
import pytest

MODEL = Path(__file__).with_name("tep.maude")
ALICE, BOB, EVE = "pub(s(alice))", "pub(s(bob))", "pub(s(eve))"
PUBLIC = "base"
"""Eve's keys, and everybody's public ones."""


def opens(
    session: int,
    host: str,
    own: str,
    accepts: str,
    *,
    version: str = "v1",
    psk: str = "no-psk",
) -> str:
    return f"a({session}, {host}, {version}, ({accepts}), {own}, {psk})"


def waits(
    session: int,
    host: str,
    own: str,
    accepts: str,
    *,
    versions: str = "v1",
    psk: str = "no-psk",
) -> str:
    return f"b({session}, {host}, ({versions}), ({accepts}), {own}, {psk})"


@dataclass(frozen=True)
class Run:
    """What is known before, what is left out, and the sessions."""

    sessions: tuple[str, ...]
    known: str = PUBLIC
    variant: str = "nothing"

    def without(self, part: str) -> Run:
        return Run(self.sessions, self.known, part)

    def __str__(self) -> str:
        return f"< {self.known} | {self.variant} | {' '.join(self.sessions)} >"


A = opens(1, "alice", ALICE, BOB)
A_TO_EVE = opens(2, "alice", ALICE, EVE)
B = waits(3, "bob", BOB, f"{ALICE} , {EVE}")
B_AGAIN = waits(4, "bob", BOB, f"{ALICE} , {EVE}")
B_OPENS = opens(5, "bob", BOB, ALICE)
A_WAITS = waits(6, "alice", ALICE, f"{BOB} , {EVE}")

ATTACKS = ("deceives-a", "deceives-b", "reads-now", "reads-later")
RUNS = {
    "one connection": Run((A, B)),
    "alice also talks to eve": Run((A, A_TO_EVE, B)),
    "bob is asked twice": Run((A, B, B_AGAIN)),
    "another encoding of a key": Run(
        (A, waits(3, "bob", BOB, f"{ALICE} , twin({ALICE}) , {EVE}"), "twisted")
    ),
    "hybrid": Run(
        (opens(1, "alice", ALICE, BOB, version="v2"), waits(3, "bob", BOB, ALICE, versions="v2"))
    ),
    "both versions": Run(
        (
            opens(1, "alice", ALICE, BOB, version="v2"),
            waits(3, "bob", BOB, f"{ALICE} , {EVE}", versions="v1 , v2"),
        )
    ),
    "alice shows no key": Run((opens(1, "alice", "none", BOB), waits(3, "bob", BOB, "none"))),
    "bob shows no key": Run((opens(1, "alice", ALICE, "none"), waits(3, "bob", "none", ALICE))),
    "a pre-shared key": Run(
        (
            opens(1, "alice", ALICE, f"{BOB} , {EVE}", psk="psk-used"),
            waits(3, "bob", BOB, f"{ALICE} , {EVE}", psk="psk-used"),
        )
    ),
}
LONG = {
    "two of each": Run((A, A_TO_EVE, B, B_AGAIN)),
    "both open and both wait": Run((A, B, B_OPENS, A_WAITS)),
}
PROBED = Run((waits(3, "bob", BOB, ALICE),), known=f"eves , {ALICE}")
CAPTURED = Run((A, waits(3, "bob", BOB, ALICE)), known=f"eves , {ALICE}")
ALICE_LEAKED = Run((A, B), known=f"{PUBLIC} , s(alice)")
BOB_LEAKED = Run((A, B), known=f"{PUBLIC} , s(bob)")
KEYS_LEAKED = Run(RUNS["a pre-shared key"].sessions, known=f"{PUBLIC} , s(alice) , s(bob)")

EXCLUDED: list[tuple[str, Run, str]] = [
    *((name, run, attack) for name, run in RUNS.items() for attack in ATTACKS),
    ("hybrid", RUNS["hybrid"], "reads-by-quantum"),
    ("who probes with alice's key", PROBED, "names-b"),
    ("who sits between", CAPTURED, "names-b"),
    ("alice's key is stolen before", ALICE_LEAKED, "deceives-a"),
    ("alice's key is stolen before", ALICE_LEAKED, "reads-now"),
    ("bob's key is stolen before", BOB_LEAKED, "deceives-b"),
    ("version 2 stripped", RUNS["both versions"], "reads-by-quantum"),
    ("eve, who does not know the pre-shared key", RUNS["a pre-shared key"], "accepts-eve"),
    ("all keys but the pre-shared one are stolen before", KEYS_LEAKED, "passes-for-a-peer"),
]
TWIN = RUNS["another encoding of a key"]
EXISTING: list[tuple[str, Run, str]] = [
    *((f"it works: {name}", run, "agrees") for name, run in RUNS.items()),
    # Parts that are left out, and what they are there against.
    ("V_B: a forged e_B", Run((A, B)).without("no-proof"), "deceives-a"),
    ("V_B: bob's key is stolen later", Run((A, B)).without("no-proof"), "reads-later"),
    ("se in K1: a prober", PROBED.without("no-se"), "names-b"),
    ("se in PRK: alice's key", Run((A, B)).without("no-se-below"), "deceives-b"),
    ("es in PRK: bob's key", Run((A, B)).without("no-es"), "deceives-a"),
    ("the messages in PRK: unknown key-share", TWIN.without("unbound"), "deceives-b"),
    ("bob waits for a frame", Run((A, B)), "deceives-hasty-b"),
    ("bob sends nothing before it", Run((A, B)), "reads-hasty-b"),
    # Limits that the document states.
    ("version 1 and a quantum computer", Run((A, B)), "reads-by-quantum"),
    (
        "no keys: in the middle, as plain tcpcrypt",
        Run((opens(1, "alice", "none", "none"), waits(3, "bob", "none", "none"))),
        "in-the-middle",
    ),
    ("without a pre-shared key eve is eve", Run((A_TO_EVE,)), "accepts-eve"),
    ("bob's key is stolen before, and no other key", BOB_LEAKED, "passes-for-a-peer"),
]


@pytest.fixture(scope="module")
def model() -> maude.Module:
    maude.init(advise=False)
    assert maude.load(str(MODEL))
    return maude.getModule("RUNS")


def states(model: maude.Module, run: Run, attack: str | None = None) -> Iterable[object]:
    """Those that can be reached from a run's beginning, and are the attack."""
    start, anything = model.parseTerm(str(run)), model.parseTerm("Z:State")
    assert start is not None, run
    that = []
    if attack:
        seen = model.parseTerm(f"{attack}(Z:State)")
        assert seen is not None, attack
        that = [maude.EqualityCondition(seen, model.parseTerm("true"))]
    return start.search(maude.ANY_STEPS, anything, that)


def named(cases: list[tuple[str, Run, str]]) -> list[object]:
    return [pytest.param(run, attack, id=f"{name}: {attack}") for name, run, attack in cases]


@pytest.mark.parametrize(("run", "attack"), named(EXCLUDED))
def test_no_state_is_the_attack(model: maude.Module, run: Run, attack: str) -> None:
    for state in states(model, run, attack):
        raise AssertionError(f"{attack}: {state}")


@pytest.mark.parametrize(("run", "attack"), named(EXISTING))
def test_the_search_finds_what_is_there(model: maude.Module, run: Run, attack: str) -> None:
    assert any(True for _ in states(model, run, attack))


def test_the_search_goes_through_many_states(model: maude.Module) -> None:
    """An attacker with a choice: some thousands in the runs of every day."""
    assert sum(1 for run in RUNS.values() for _ in states(model, run)) > 3_000


@pytest.mark.long
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("run", LONG.values(), ids=LONG)
def test_no_state_of_four_sessions_is_the_attack(
    model: maude.Module, run: Run, attack: str
) -> None:
    for state in states(model, run, attack):
        raise AssertionError(f"{attack}: {state}")
