"""Both ends of a connection without one: bytes carried from machine to machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tcpcrypt.transfer.receiver import Receiving
from tcpcrypt.transfer.rules import OnExist, Rules
from tcpcrypt.transfer.sender import Sending
from tcpcrypt.transfer.source import Entry, entries
from tcpcrypt.transfer.store import Store

TURNS_MAX = 100_000


class Cut(Exception):
    """The link is gone."""


def feed(receiving: Receiving, data: memoryview | bytes) -> None:
    """What a socket would do."""
    view = memoryview(data)
    while view:
        buffer = receiving.get_buffer()
        size = min(len(buffer), len(view))
        buffer[:size] = view[:size]
        receiving.received(size)
        view = view[size:]


def carry(
    sending: Sending,
    receiving: Receiving,
    *,
    budget: int | None = None,
    spy: Callable[[bytes], None] | None = None,
) -> int:
    """Until all is sent; or until `budget` bytes have gone towards B, and then `Cut`.

    Returns the bytes that went towards B.
    """
    sent = 0
    for _ in range(TURNS_MAX):
        moved = False
        for buffer in sending.data_to_send():
            view, moved = memoryview(buffer), True
            if budget is not None and sent + len(view) > budget:
                feed(receiving, view[: budget - sent])
                raise Cut
            sent += len(view)
            if spy is not None:
                spy(bytes(view))
            feed(receiving, view)
        while out := receiving.work():
            moved = True
            for message in out:
                sending.receive_data(message)
        if sending.finished:
            receiving.receive_eof()
            return sent
        if not moved:
            sending.wait(0)
    raise AssertionError("the transfer does not end")


def transfer(
    files: Iterable[Path | Entry],
    out: Path,
    *,
    rules: Rules | None = None,
    client: str = "client",
    folder: bytes | None = None,
    budget: int | None = None,
    block: int = 65536,
) -> list[object]:
    """One connection from start to end; the events of the sender."""
    wanted: list[Entry] = []
    for file in files:
        if isinstance(file, Entry):
            wanted.append(file)
        else:
            wanted += [entry for entry in entries(str(file)) if isinstance(entry, Entry)]
    store = Store(out, rules or Rules(on_exist=OnExist.FAIL))
    try:
        account = store.account(client, folder=folder)
        sending, receiving = Sending(wanted, peer="b", block=block), Receiving(account)
        try:
            carry(sending, receiving, budget=budget)
        finally:
            sending.close()
            receiving.close()
            store.leave(account)
    finally:
        store.close()
    return list(iter(sending.next_event, None))
