"""Facts that are put together when they are read, and only then."""

from tcpcrypt.daemon.log import BURST, Log, Priority
from tcpcrypt.runtime.facts import Facts


class Paper:
    """A sink that keeps what is written."""

    def __init__(self) -> None:
        self.lines: list[dict[str, str]] = []

    def write(self, _priority: Priority, _event: str, fields: object) -> bool:
        self.lines.append(dict(fields))  # type: ignore[call-overload]
        return True

    def close(self) -> None: ...


def test_they_are_a_mapping_that_is_asked_for_once() -> None:
    asked = []

    def make() -> dict[str, object]:
        asked.append(True)
        return {"id": 7, "role": "A"}

    facts = Facts(make)
    assert not asked
    assert (dict(facts), len(facts), facts["id"]) == ({"id": 7, "role": "A"}, 2, 7)
    assert facts == {"id": 7, "role": "A"}
    assert asked == [True]


def test_a_line_that_is_only_counted_costs_no_facts() -> None:
    paper, made = Paper(), []
    log = Log(paper, clock=lambda: 0.0)
    for number in range(int(BURST) + 500):
        log.write("enabled", Facts(lambda number=number: made.append(number) or {"id": number}))  # type: ignore[misc]
    assert made == list(range(int(BURST)))
    assert [line["id"] for line in paper.lines] == [str(number) for number in made]
