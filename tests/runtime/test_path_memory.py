"""What is remembered of peers, and what is not to follow from it."""

import pytest

from tcpcrypt.runtime.path_memory import PathMemory

HERE, PORT = b"\x0a\0\0\1", 80
DAY = 86_400.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def paths(clock: Clock) -> PathMemory:
    return PathMemory(600, clock=clock)


@pytest.mark.parametrize("other", ["rfc8548", "both"])
def test_one_policy_does_not_make_the_connections_of_another_plain(
    paths: PathMemory, other: str
) -> None:
    """RFC 8547 section 4.6 has option 69 left out only where it was sent in vain."""
    assert paths.note(HERE, PORT, "plain", profile="stanford", allowed="stanford")
    assert paths.is_plain(HERE, PORT, "stanford")
    assert not paths.is_plain(HERE, PORT, other)


def test_one_policy_does_not_choose_the_dialect_of_another(paths: PathMemory) -> None:
    paths.note(HERE, PORT, "encrypted", profile="stanford", allowed="stanford")
    assert paths.profile(HERE, PORT, "both") == ""


def test_an_option_stripped_once_does_not_weaken_connections_for_ever(
    paths: PathMemory, clock: Clock
) -> None:
    def note(last: str, spoken: str, other: str) -> None:
        paths.note(HERE, PORT, last, profile=spoken, others=(other,), allowed="both")

    note("plain", "rfc8548", "stanford")
    for clock.now in (1.0, DAY / 2, DAY - 1):
        assert paths.profile(HERE, PORT, "both") == "stanford"
        note("encrypted", "stanford", "rfc8548")
    clock.now = DAY
    assert paths.profile(HERE, PORT, "both") == ""
    note("encrypted", "rfc8548", "stanford")
    assert paths.profile(HERE, PORT, "both") == "rfc8548"


def test_what_is_forgotten_is_forgotten_for_all_policies(paths: PathMemory) -> None:
    for allowed in ("rfc8548", "both"):
        paths.note(HERE, PORT, "plain", profile="rfc8548", allowed=allowed)
    assert [(address, port) for address, port, _ in paths] == [(HERE, PORT)] * 2
    assert paths.forget(HERE) == 2
    assert not paths.is_plain(HERE, PORT, "rfc8548")


def test_silence_counts_for_a_tenth_of_the_time_unless_it_comes_again(
    paths: PathMemory, clock: Clock
) -> None:
    """A peer that was stopped for some seconds must not be spoken to in clear for long."""

    def silent() -> bool:
        return paths.note(HERE, PORT, "plain", "silence", profile="rfc8548", silent=True)

    assert silent()
    clock.now = 1.0
    assert silent()  # one of many that were tried at once
    clock.now = 59.0
    assert paths.is_plain(HERE, PORT)
    clock.now = 61.0
    assert not paths.is_plain(HERE, PORT)
    assert silent()
    clock.now = 62.0
    assert silent()
    clock.now = 660.0
    assert paths.is_plain(HERE, PORT)
    clock.now = 662.0
    assert not paths.is_plain(HERE, PORT)
    # Once it has worked, silence is chance again.
    paths.note(HERE, PORT, "encrypted", profile="rfc8548")
    assert silent()
    clock.now = 662.0 + 61.0
    assert not paths.is_plain(HERE, PORT)


def test_an_answer_without_the_option_counts_for_all_of_the_time(
    paths: PathMemory, clock: Clock
) -> None:
    paths.note(HERE, PORT, "plain", "no option", profile="rfc8548")
    clock.now = 599.0
    assert paths.is_plain(HERE, PORT)


def test_which_paths_have_carried_the_option_in_a_dialect(paths: PathMemory) -> None:
    assert not paths.encrypts(HERE, PORT, "rfc8548")
    paths.note(HERE, PORT, "encrypted", profile="rfc8548")
    assert paths.encrypts(HERE, PORT, "rfc8548")
    assert not paths.encrypts(HERE, PORT, "stanford")
    assert not paths.encrypts(HERE, PORT, "rfc8548", "both")
    paths.unanswered(HERE, PORT)
    assert not paths.encrypts(HERE, PORT, "rfc8548")
    paths.unanswered(HERE, PORT + 1)  # nothing is known of it
    paths.note(HERE, PORT, "encrypted", profile="rfc8548")
    assert paths.encrypts(HERE, PORT, "rfc8548")
    paths.note(HERE, PORT, "plain", profile="rfc8548", silent=True)
    assert not paths.encrypts(HERE, PORT, "rfc8548")
