"""What fuzzing has found so far, once more, in every twin there is; see run.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from fuzz import harness

from tcpcrypt.daemon import requests

SIZE_MAX = 64 << 10
"""Bytes of one corpus: it is read by people, and replayed by every run."""


@pytest.mark.parametrize("name", harness.TARGETS)
def test_every_kept_input_ends_well(name: str) -> None:
    target = harness.target(name)
    kept = harness.corpus(name)
    assert len(kept) >= 10, "run: python tests/fuzz/run.py --keep"
    assert all(len(data) <= target.MAX_LEN for data in kept)
    for data in [*kept, *target.seeds(), b""]:
        target.check(data)


def test_a_corpus_for_each_target_and_a_small_one() -> None:
    found = {path.stem: path.stat().st_size for path in harness.CORPORA.iterdir()}
    assert found.keys() == set(harness.TARGETS)
    assert max(found.values()) <= SIZE_MAX


def test_targets_are_all_there_are() -> None:
    here = Path(__file__).parent
    modules = {path.stem for path in here.glob("*.py") if "\ndef check(data" in path.read_text()}
    assert modules == set(harness.TARGETS)


# --- a fault is noticed ------------------------------------------------------------


def test_twins_that_differ_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"py": SimpleNamespace(parse_eno=len), "c": SimpleNamespace(parse_eno=bytes)}
    monkeypatch.setattr(harness, "twin_names", ["py", "c"])
    monkeypatch.setattr(harness, "load_twin", answers.__getitem__)
    with pytest.raises(AssertionError, match=r"py: 1, c: b'!'"):
        harness.target("eno_option").check(b"!")


def test_an_exception_that_is_no_refusal_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_data: bytes) -> None:
        raise IndexError("index out of range")

    monkeypatch.setattr(harness, "twin_names", ["py"])
    monkeypatch.setattr(harness, "load_twin", lambda _name: SimpleNamespace(walk_options=broken))
    with pytest.raises(IndexError):
        harness.target("option_walk").check(b"\x45")


def test_data_that_nobody_sealed_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    deframer = harness.target("deframer")
    genuine = next(deframer.seeds())
    deframer.check(genuine)
    step = deframer.RecordReceiver._given
    monkeypatch.setattr(
        deframer.RecordReceiver, "_given", lambda self, n: bytes(step(self, n)).upper()
    )
    with pytest.raises(AssertionError, match="something else than was sealed"):
        deframer.check(genuine)


def test_a_message_that_a_terminal_would_obey_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_shown", str)
    with pytest.raises(AssertionError, match="terminal"):
        harness.target("control_request").check(b'{"v":1,"\\u001b[31m":1}')
