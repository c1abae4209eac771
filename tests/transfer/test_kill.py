"""kill -9 of either end, at any byte, and the next try delivers."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from transfer.link import transfer
from transfer.processes import kill_at

from tcpcrypt.transfer.rules import OnExist, Rules
from tcpcrypt.transfer.sender import Accepted, Delivered

KILLS = 200 if os.environ.get("TCPCRYPT_TEST_PROFILE") == "long" else 20
RULES = Rules(on_exist=OnExist.FAIL)
LONG = 3_300_000
SMALL = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "data"
    (folder / "sub").mkdir(parents=True)
    chance = random.Random(7)
    (folder / "long").write_bytes(chance.randbytes(LONG))
    for number in range(SMALL):
        (folder / "sub" / f"small{number:02}").write_bytes(chance.randbytes(number * 100))
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("victim", ["a", "b"])
def test_killed_at_any_byte(source: Path, tmp_path: Path, victim: str) -> None:
    """Nothing acknowledged is lost, nothing is spliced, and nothing is there in part."""
    wanted = contents(source)
    total = sum(map(len, wanted.values()))
    chance = random.Random(victim)
    for number in range(KILLS // 2):
        out = tmp_path / str(number)
        out.mkdir()
        # Every third one dies around the end, between syncs and renames.
        offset = total + 4000 if number % 3 == 0 else chance.randrange(1, total + 10_000)
        delay = chance.random() * 0.03
        told = kill_at(out, [source], RULES, offset=offset, delay=delay, victim=victim)
        about = f"kill {number} at {offset} + {delay:.4f} s"

        there = {path: data for path, data in contents(out).items() if path.parts[0] != ".stx"}
        whole = {source.name / path: data for path, data in wanted.items()}
        assert {path: whole[path] for path in there} == there, about
        for path in told.receipts:
            assert (out / os.fsdecode(b"/".join(path))).exists(), about

        events = transfer([source], out, rules=RULES)
        assert contents(out / source.name) == wanted, about
        assert not list(out.glob(".stx/*/*.part")), about
        for event in events:
            assert isinstance(event, (Accepted, Delivered)) or not hasattr(event, "code"), about
            if isinstance(event, Accepted):
                assert event.offset >= told.acked.get(event.entry.path, 0), about
