"""A receiver that lacks what it needs, or has a fault of its own: it goes on for the others."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.transfers import PATIENCE, Receiver, until

from tcpcrypt.cli import stx_send
from tcpcrypt.sockets import SecureSocket
from tcpcrypt.transfer import service
from tcpcrypt.transfer.digest import Algorithm
from tcpcrypt.transfer.keys import ClientKey, read_key
from tcpcrypt.transfer.messages import Alive, Hello, Kind, Put, data_header
from tcpcrypt.transfer.peers import KeyedClient
from tcpcrypt.transfer.receiver import Receiving
from tcpcrypt.transfer.store import Store


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_TURN", 0.05)


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Receiver], int]:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"hello")

    def run(to: Receiver) -> int:
        monkeypatch.setenv("STX_KEY_FILE", str(to.keys / "default"))
        words = ("--retries", "0", "--json", "127.0.0.1", str(to.port), str(file))
        return stx_send.main(words)

    return run


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_a_host_without_room_for_connections_is_no_reason_to_end(
    tmp_path: Path,
    send: Callable[[Receiver], int],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    to = Receiver(tmp_path)
    listener = to.service._listener
    accept, refusals = listener.accept, [OSError(number, os.strerror(number))]

    def scarce() -> Any:
        if refusals:
            raise refusals.pop()
        return accept()

    monkeypatch.setattr(listener, "accept", scarce)
    with to:
        until(lambda: to.events("error"))
        assert os.strerror(number) in to.events("error")[0]["message"]
        assert send(to) == 0
    assert (to.out / "notes.txt").read_bytes() == b"hello"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("where", ["received", "work"])
def test_a_fault_in_one_thread_of_a_connection_ends_the_other_before_files_are_closed(
    tmp_path: Path,
    send: Callable[[Receiver], int],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    alive: list[str] = []
    leave = Store.leave

    def then_leave(store: Store, account: Any) -> None:
        alive.extend(thread.name for thread in threading.enumerate())
        leave(store, account)

    def fault(*_: object) -> None:
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(Store, "leave", then_leave)
    with Receiver(tmp_path) as to:
        with monkeypatch.context() as faulty:
            faulty.setattr(Receiving, where, fault)
            assert send(to) == 1
            until(lambda: to.events("disconnected"))
        assert to.events("disconnected")[0]["status"] != 0
        assert "to default" not in alive, "the thread that writes"
        assert send(to) == 0
    assert (to.out / "notes.txt").read_bytes() == b"hello"


def test_one_client_does_not_push_others_out_of_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_WAITING_MAX", 8)

    with Receiver(tmp_path, clients=("evil", "good"), connections=1) as to:
        keys = {name: ClientKey.of(name, read_key(to.keys / name)) for name in ("evil", "good")}

        def connect(name: str) -> SecureSocket:
            return KeyedClient(keys[name]).connect("127.0.0.1", to.port, PATIENCE)

        evil = [connect("evil") for _ in range(3)]
        until(lambda: len(to.service._waiting) == 2)
        good = connect("good")
        until(lambda: len(to.service._waiting) == 3)
        for _ in range(12):
            evil.append(connect("evil"))
        for secured in evil:
            secured.abort()
        good.settimeout(PATIENCE)
        assert good.recv(100), "HELLO"
        good.close()


@pytest.mark.parametrize("begun", [None, b"", b"h"], ids=["nothing", "announced", "begun"])
def test_who_only_says_that_it_is_there_gives_way_to_one_who_waits(
    tmp_path: Path,
    send: Callable[[Receiver], int],
    monkeypatch: pytest.MonkeyPatch,
    begun: bytes | None,
) -> None:
    """Also who has a file under way, hears that it is to come again, and does not leave."""
    monkeypatch.setattr(service, "_IDLE_MAX", 0.3)
    monkeypatch.setattr(service, "_FAREWELL", 0.3)
    said = Hello(1 << 20, 1 << 20, 1, frozenset(Algorithm)).build()
    if begun is not None:
        said += Put(
            0, bytes(16), Kind.FILE, Algorithm.SHA256, 0o644, 5, 0, 1 << 20, (b"idle",)
        ).build()
        said += data_header(0, 0, len(begun)) + begun if begun else b""
    with Receiver(tmp_path, clients=("default", "idle"), connections=1) as to:
        key = ClientKey.of("idle", read_key(to.keys / "idle"))
        idle = KeyedClient(key).connect("127.0.0.1", to.port, PATIENCE)
        idle.settimeout(PATIENCE)
        assert idle.recv(100), "HELLO"
        over = threading.Event()

        def stay() -> None:
            with contextlib.suppress(OSError):
                idle.sendall(said)
                while not over.wait(0.02):
                    idle.sendall(Alive().build())

        thread = threading.Thread(target=stay)
        thread.start()
        assert send(to) == 0
        over.set()
        thread.join()
        idle.abort()
        assert {event["code"] for event in to.events("error")} <= {"SHUTDOWN"}
    assert (to.out / "notes.txt").read_bytes() == b"hello"
