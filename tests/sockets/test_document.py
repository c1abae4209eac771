"""What docs/sockets.md shows is what happens, and so does the example."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpcrypt.sockets import Failure, KeyDirectory, State
from tcpcrypt.sockets.peer import Demand

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "sockets.md").read_text()
PATIENCE = 20.0


class Device:
    """A directory of keys, and programs that use it."""

    def __init__(self, path: Path) -> None:
        self.keys = path
        self.programs: list[subprocess.Popen[str]] = []

    def start(self, *argv: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-u", *argv],
            env=os.environ | {"TCPCRYPT_KEYS": str(self.keys), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.programs.append(program)
        return program

    def end(self) -> None:
        for program in self.programs:
            program.kill()
            program.communicate(timeout=PATIENCE)


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[tuple[Device, Device]]:
    made = Device(tmp_path / "collector"), Device(tmp_path / "meter")
    yield made
    for device in made:
        device.end()


def line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().rstrip()


def test_the_five_minutes(devices: tuple[Device, Device], tmp_path: Path) -> None:
    collector, meter = devices
    blocks = re.findall(r"```python\n(from.*?)```", TEXT, re.DOTALL)
    # A port that the kernel chooses, and one host instead of two.
    scripts = []
    for name, block in zip(("collector.py", "meter.py"), blocks, strict=True):
        scripts.append(tmp_path / name)
        scripts[-1].write_text(block)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    for script in scripts:
        text = script.read_text()
        assert "5020" in text
        text = text.replace("5020", port).replace("collector.example.org", "127.0.0.1")
        script.write_text(text.replace('("", ', '("127.0.0.1", '))
    serving = collector.start(str(scripts[0]))
    for _ in range(400):  # until it listens
        time.sleep(0.05)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                break
    else:
        pytest.fail("the collector does not listen")
    assert "refused" in line(serving)
    for _ in range(2):
        out, _err = meter.start(str(scripts[1])).communicate(timeout=PATIENCE)
        own = {device: KeyDirectory.at(device.keys).identity.fingerprint for device in devices}
        assert out.split() == ["ok", "AES-128-GCM", own[collector]]
        assert line(serving).split() == [own[meter], "21.5", "C"]
    assert own[collector] in (meter.keys / "known_peers").read_text()
    (collector.keys / "identity").unlink()
    out, _err = meter.start(str(scripts[1])).communicate(timeout=PATIENCE)
    assert "IdentityChangedError" in out
    assert "refused" in line(serving)


def test_the_telemetry_example(devices: tuple[Device, Device]) -> None:
    receiver, sensor = devices
    example = str(ROOT / "examples" / "telemetry.py")
    receiving = receiver.start(example, "receive", "0")
    port = line(receiving).removeprefix("listening on port ")
    assert port.isdecimal()
    sending = sensor.start(example, "send", "127.0.0.1", port, "5")
    out, _err = sending.communicate(timeout=PATIENCE)
    assert sending.returncode == 0, out
    own = KeyDirectory.at(sensor.keys).identity.fingerprint
    for number in range(5):
        words = line(receiving).split()
        assert words[0] == own
        assert int(words[2]) == 30_001 + number % 4
        assert 20_000 <= int(words[3]) <= 20_500


def test_every_state_failure_and_demand_has_its_row() -> None:
    rows = set(re.findall(r"^\| `([^`]+)` \|", TEXT, re.M))
    assert {state.value for state in State} <= rows
    assert {failure.name for failure in Failure} <= rows
    assert all(f"| `{failure.name}` | `{failure.value}`" in TEXT for failure in Failure)
    assert {row.partition(":")[0] for row in rows} >= {demand.value for demand in Demand}
