"""docs/control.md: every example is sent to a real server, every table is complete."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.overview import Memory, Service, entry, peer, plain, serving

from tcpcrypt.daemon import control
from tcpcrypt.daemon.requests import METHODS, SESSIONS_MAX, WAIT_MAX, Code
from tcpcrypt.daemon.sockopt import Option
from tcpcrypt.runtime.tally import Counters

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/control.md").read_text()
BLOCKS = re.findall(r"```jsonl(?: uid=(\d+))?\n(.*?)```", DOCUMENT, re.DOTALL)


def host() -> Memory:
    """The one of which the document tells."""
    first = entry(7, "192.0.2.1:51234", "192.0.2.7:443")
    second = plain(8, "192.0.2.1:51235", "192.0.2.9:80")
    reason = "SYN with option 69 got no answer"
    return Memory(
        connections=[first, second],
        known=[
            peer("192.0.2.7"),
            peer(
                "192.0.2.9",
                "plain",
                port=80,
                reason=reason,
                until=1_790_000_600.0,
                connections=3,
            ),
        ],
        by_socket={
            (("192.0.2.1", 51234), ("192.0.2.7", 443)): first,
            (("192.0.2.1", 51235), ("192.0.2.9", 80)): second,
        },
    )


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "control.sock", host()) as running:
        yield running


def exchanges(block: str) -> Iterator[tuple[str, object]]:
    for part in re.split(r"^-> ", block, flags=re.MULTILINE)[1:]:
        request, _, answer = part.partition("\n<- ")
        assert "\n" not in request
        yield request, json.loads(answer)


@pytest.mark.parametrize(("uid", "block"), BLOCKS, ids=lambda text: text.strip()[:60])
def test_examples(service: Service, monkeypatch: pytest.MonkeyPatch, uid: str, block: str) -> None:
    credentials = struct.pack("3i", 1, int(uid or 0), 0)
    monkeypatch.setattr(control, "_credentials", lambda _sock: credentials)
    count = 0
    with service.connect() as sock, sock.makefile("rb") as answers:
        for request, answer in exchanges(block):
            sock.sendall(request.encode() + b"\n")
            assert json.loads(answers.readline()) == answer
            count += 1
    assert count == block.count("->") >= 1


def test_every_method_has_an_example_and_a_section() -> None:
    requests = [request for _uid, block in BLOCKS for request, _answer in exchanges(block)]
    for name, method in METHODS.items():
        assert any(f'"method": "{name}"' in request for request in requests), name
        (section,) = re.findall(rf"^### `{name}`\n(.*?)(?=^##)", DOCUMENT, re.M | re.S)
        for param in method.params:
            assert f"`{param}`" in section, f"{name}: {param}"


def test_every_key_is_described() -> None:
    status = Memory().status()
    nested = (status["counters"], status["queue"])
    for part in (*host().connections, *host().known, status, *nested):
        for key in part:
            assert f"`{key}`" in DOCUMENT, key


def test_the_counters_are_those_of_a_host() -> None:
    names = [field.name for field in dataclasses.fields(Counters)]
    assert sorted(Memory().status()["counters"]) == sorted(names)


def test_tables_and_numbers_are_those_of_the_code() -> None:
    codes = re.findall(r"^\| `([a-z-]+)` \|", DOCUMENT.partition("### Who may")[0], re.M)
    assert codes == [code.value for code in Code]
    (options,) = re.findall(r"^\| option \|.*?\n\n", DOCUMENT, re.M | re.S)
    assert set(re.findall(r"`(TCP_[A-Z_]+)`", options)) == {option.name for option in Option}
    for text in (
        f"{control.LINE_MAX:,} bytes",
        f"{control.CLIENTS_MAX} clients, {control.CLIENTS_PER_USER_MAX} of one user",
        f"{control.PENDING_MAX >> 20} MiB",
        f"1 to {SESSIONS_MAX}",
        f"to {WAIT_MAX:g})",
        str(control.DEFAULT_PATH),
    ):
        assert text in DOCUMENT, text
    assert control.STALL_MAX == 10  # "ten seconds"


def test_the_library_example(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    example = example.replace(str(control.DEFAULT_PATH), str(service.path))
    exec(compile(example, "docs/control.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "192.0.2.1:51234 192.0.2.7:443 23" + "5a" * 32,
        "192.0.2.1:51235 192.0.2.9:80 None",
    ]


def test_the_sockopt_example(service: Service) -> None:
    (example,) = re.findall(r"^    (from tcpcrypt\.daemon\.sockopt.*?)^\|", DOCUMENT, re.M | re.S)
    path = f"control={str(service.path)!r}, wait=5"
    text = example.replace("\n    ", "\n").replace("wait=5", path)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        service.memory.by_socket[sock.getsockname(), sock.getpeername()] = entry(9, "-", "-")
        names: dict[str, object] = {"sock": sock}
        exec(compile(text, "docs/control.md", "exec"), names)
    assert names["name"] == b"\0\x23" + b"\x5a" * 32
