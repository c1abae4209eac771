"""Turns: so many at a time, the others in their order."""

import pytest

from tcpcrypt.runtime import turns as module
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.turns import Turn, Turns


class Openings:
    """Connections to two services, by name, as they begin."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.turns = Turns(loop)
        self.begun: list[str] = []
        self.taken: dict[str, Turn] = {}

    def open(self, *names: str) -> None:
        for name in names:
            self.taken[name] = self.turns.take(
                name[0], 2, lambda name=name: self.begun.append(name)
            )
        self.settle()

    def over(self, *names: str) -> None:
        for name in names:
            self.turns.over(self.taken[name])
        self.settle()

    def settle(self) -> None:
        for _ in range(3):
            self.loop.step(0)


@pytest.fixture
def openings():
    loop = Loop()
    yield Openings(loop)
    loop.close()


def test_so_many_at_a_time_and_each_service_for_itself(openings) -> None:
    openings.open("a1", "a2", "a3", "a4", "b1")
    assert openings.begun == ["a1", "a2", "b1"]
    openings.over("a2")
    assert openings.begun[3:] == ["a3"]
    openings.over("a1", "a3")
    assert openings.begun[4:] == ["a4"]
    openings.over("a4", "b1")
    assert not openings.turns._services


def test_one_that_is_not_wanted_any_more_gives_up_its_place(openings) -> None:
    openings.open("a1", "a2", "a3", "a4")
    openings.over("a3")
    openings.over("a1")
    assert openings.begun == ["a1", "a2", "a4"]


def test_one_that_ends_before_it_has_begun_never_begins(openings) -> None:
    turn = openings.turns.take("a", 2, lambda: openings.begun.append("a1"))
    openings.turns.over(turn)
    openings.settle()
    assert openings.begun == []


def test_the_end_is_idempotent(openings) -> None:
    openings.open("a1", "a2", "a3", "a4", "a5")
    openings.over("a1", "a1", "a1")
    assert openings.begun == ["a1", "a2", "a3"]
    openings.over("a2", "a3", "a4", "a5", "a5")
    assert not openings.turns._services


def test_who_does_not_come_to_an_end_keeps_nobody_for_ever(openings, monkeypatch) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 0)
    openings.open("a1", "a2", "a3", "a4", "a5")
    openings.settle()
    openings.settle()
    assert openings.begun == ["a1", "a2", "a3", "a4", "a5"]


def test_thousands_that_fail_at_once_do_not_call_each_other(openings) -> None:
    turns: list[Turn] = []

    def fail() -> None:
        openings.begun.append("")
        openings.turns.over(turns[len(openings.begun) - 1])

    turns += [openings.turns.take("a", 2, fail) for _ in range(5000)]
    for _ in range(10_000):
        if len(openings.begun) == 5000:
            break
        openings.loop.step(0)
    assert len(openings.begun) == 5000
    assert not openings.turns._services
