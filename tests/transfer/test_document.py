"""docs/transfer.md says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpcrypt.tools.diagrams import _mermaid
from tcpcrypt.transfer import intake, messages, outgoing, rules
from tcpcrypt.transfer.names import COMPONENTS_MAX
from tcpcrypt.transfer.part import GRID

DOCUMENT = Path(__file__).parents[2] / "docs" / "transfer.md"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text()


def test_the_diagrams_are_those_of_the_tables(text: str) -> None:
    sender = ((s, h.value, following) for (s, h), (_, following) in outgoing.TABLE.items())
    assert _mermaid(outgoing.Stage.ANNOUNCED, sender) in text
    receiver = ((s, h.value, following) for (s, h), (_, following) in intake.TABLE.items())
    assert _mermaid(intake.Stage.OFFERED, receiver) in text


def test_every_message_has_its_line(text: str) -> None:
    for number, kind in (*messages.KINDS.items(), (messages.DATA, messages.Data)):
        assert f"| {number:02x} | {kind.__name__.upper()} |" in text


def test_numbers(text: str) -> None:
    assert GRID == 1 << 20
    assert rules.Rules().window == 16 << 20
    assert (rules.IDLE_TIMEOUT, rules.HELLO_TIMEOUT, rules.ALIVE_INTERVAL) == (60, 10, 10)
    assert (messages.WINDOW_MAX, messages.BLOCK_MAX, COMPONENTS_MAX) == (16 << 20, 1 << 20, 32)
    assert "After 60 seconds of silence (10 before\n  HELLO)" in text
    assert "without being durable\n  (16 MiB)" in text
