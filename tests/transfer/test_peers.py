"""Who the other end of a transfer is: known before one byte is said, or not at all."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.transfers import until
from support.wire import Wire

from tcpcrypt import sockets
from tcpcrypt.auth.identity import Identity
from tcpcrypt.auth.terms import VERSION_HYBRID, VERSION_X25519, PeerProof
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import AuthenticationError, NoEncryptionError, PeerError
from tcpcrypt.sockets import SecureSocket, State
from tcpcrypt.transfer.keys import ClientKey, ClientTable, create_key, read_key
from tcpcrypt.transfer.peers import (
    Admission,
    KeyedClient,
    KeyedServer,
    _ReceiverTerms,
    _SenderTerms,
)

PATIENCE = 10.0


class Receiver:
    """Accepts, says who it was, and keeps what came of it."""

    def __init__(self, table: ClientTable) -> None:
        self.listener = KeyedServer(table).listen(socket.create_server(("127.0.0.1", 0)))
        self.port = self.listener.getsockname()[1]
        self.accepted: list[tuple[str, SecureSocket, bytes]] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                secured, _address = self.listener.accept()
            except OSError:
                return
            assert isinstance(secured, Admission)
            got = b""
            if secured.error is None:
                secured.settimeout(PATIENCE)
                secured.sendall(secured.client.encode())
                with contextlib.suppress(PeerError):
                    got = secured.recv(100)
            secured.close()
            self.accepted.append((secured.client, secured, got))

    def close(self) -> None:
        self.listener.close()
        self._thread.join(PATIENCE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("laptop", "phone"):
        create_key(tmp_path / "keys" / name)
    return tmp_path / "keys"


@pytest.fixture
def table(folder: Path) -> ClientTable:
    table = ClientTable(folder, print)
    table.refresh()
    return table


@pytest.fixture
def receiver(table: ClientTable) -> Iterator[Receiver]:
    receiver = Receiver(table)
    yield receiver
    receiver.close()


def key(folder: Path, file: str, name: str = "") -> ClientKey:
    return ClientKey.of(name or file, read_key(folder / file))


def meet(client: KeyedClient, port: int) -> tuple[bytes, SecureSocket]:
    with client.connect("127.0.0.1", port, PATIENCE) as secured:
        secured.settimeout(PATIENCE)
        secured.sendall(b"a file")
        return secured.recv(100), secured


def test_the_receiver_knows_whose_connection_it_is(folder: Path, receiver: Receiver) -> None:
    for name in ("laptop", "phone", "laptop"):
        greeting, _secured = meet(KeyedClient(key(folder, name)), receiver.port)
        assert greeting == name.encode()


def test_a_second_connection_resumes_the_session(folder: Path, receiver: Receiver) -> None:
    client = KeyedClient(key(folder, "laptop"))
    assert [meet(client, receiver.port)[1].resumed for _ in range(3)] == [False, True, True]
    assert [meet(client, receiver.port)[0] for _ in range(2)] == [b"laptop"] * 2


@pytest.mark.parametrize(("file", "name"), [("phone", "laptop"), ("laptop", "phone")])
def test_the_wrong_key_is_told_of_and_nothing_is_said(
    folder: Path, receiver: Receiver, file: str, name: str
) -> None:
    with pytest.raises(AuthenticationError, match="check --id and STX_KEY"):
        KeyedClient(key(folder, file, name)).connect("127.0.0.1", receiver.port, PATIENCE)
    until(lambda: receiver.accepted)
    ((client, secured, got),) = receiver.accepted
    assert (client, got) == ("", b"")
    assert secured.state is State.FAIL


def test_a_key_that_is_taken_away_counts_no_more(folder: Path, receiver: Receiver) -> None:
    laptop = KeyedClient(key(folder, "laptop"))
    assert meet(laptop, receiver.port)[1].resumed is False
    (folder / "laptop").unlink()
    create_key(folder / "another")
    with pytest.raises(AuthenticationError):
        laptop.connect("127.0.0.1", receiver.port, PATIENCE)


def test_a_key_that_is_replaced_ends_sessions_made_with_the_old_one(
    folder: Path, receiver: Receiver
) -> None:
    laptop = KeyedClient(key(folder, "laptop"))
    assert meet(laptop, receiver.port)[1].resumed is False
    create_key(folder / "laptop", replace=True)
    with pytest.raises(AuthenticationError):
        laptop.connect("127.0.0.1", receiver.port, PATIENCE)
    assert meet(KeyedClient(key(folder, "laptop")), receiver.port)[0] == b"laptop"


def test_a_client_without_a_key_is_heard_by_nobody(receiver: Receiver, tmp_path: Path) -> None:
    """It does not go by the rules of stx-send, and shows a key of its own alone."""
    with (
        contextlib.suppress(PeerError),
        sockets.connect(
            ("127.0.0.1", receiver.port), peer="tofu", transport="inband", keys=tmp_path / "own"
        ) as secured,
    ):
        secured.settimeout(PATIENCE)
        secured.sendall(b"let me in")
        assert secured.recv(100) == b""
    until(lambda: receiver.accepted)
    ((client, secured, got),) = receiver.accepted
    assert (client, got) == ("", b"")
    assert isinstance(secured.error, AuthenticationError)


def test_a_rogue_that_echoes_gets_nothing(folder: Path) -> None:
    """Faults of the originals: a server that returned the client's own proof was believed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        got = bytearray()

        def echo() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                while data := sock.recv(65536):
                    got.extend(data)
                    sock.sendall(data)

        thread = threading.Thread(target=echo)
        thread.start()
        with pytest.raises(NoEncryptionError):
            KeyedClient(key(folder, "laptop")).connect(
                "127.0.0.1", listener.getsockname()[1], PATIENCE
            )
        thread.join(PATIENCE)
    assert len(got) < 200, "public values of a handshake, and no more"


@pytest.mark.parametrize("forward", [True, False])
def test_an_offer_that_is_altered_on_the_way_is_no_connection(
    folder: Path, receiver: Receiver, forward: bool
) -> None:
    def alter(data: bytes, offset: int) -> bytes:
        # Of the ENO option: its kind is the byte behind "TCENO" and the version.
        return data if offset else data[:6] + bytes((data[6] ^ 1,)) + data[7:]

    altered = {"forward": alter} if forward else {"backward": alter}
    client = KeyedClient(key(folder, "laptop"))
    refused = pytest.raises((PeerError, NoEncryptionError))
    with Wire(("127.0.0.1", receiver.port), **altered) as wire, refused:
        client.connect("127.0.0.1", wire.port, PATIENCE)
    receiver.close()
    assert [got for _, _, got in receiver.accepted if got] == []


def test_nothing_of_a_client_is_on_the_wire_in_clear(folder: Path, receiver: Receiver) -> None:
    with Wire(("127.0.0.1", receiver.port), record=True) as wire:
        meet(KeyedClient(key(folder, "laptop")), wire.port)
        seen = b"".join(map(bytes, wire.recorded))
    assert len(seen) > 200
    for secret in (b"laptop", b"a file", bytes(read_key(folder / "laptop").view())):
        assert secret not in seen


def proof(psk: str, version: int = VERSION_X25519, shown: bytes | None = bytes(32)) -> PeerProof:
    return PeerProof(shown, psk, version)


def test_what_a_sender_accepts() -> None:
    terms = _SenderTerms(Identity.generate(), ClientKey.of("laptop", Secret(bytes(32))))
    terms.judge(proof("laptop"))
    assert terms.find_psk(bytes(8)) is None
    for bad in (
        proof(""),
        proof("phone"),
        proof("laptop", VERSION_HYBRID),
        proof("laptop", shown=None),
    ):
        with pytest.raises(AuthenticationError):
            terms.judge(bad)


def test_what_a_receiver_accepts(table: ClientTable) -> None:
    terms = _ReceiverTerms(Identity.generate(), table)
    terms.judge(proof("phone"))
    terms.admit(proof("phone"))
    terms.judge(proof(""))  # for the moment: it is to read why it is refused
    with pytest.raises(AuthenticationError):
        terms.admit(proof(""))
    for bad in (proof("tablet"), proof("phone", 9), proof("phone", shown=None)):
        with pytest.raises(AuthenticationError):
            terms.judge(bad)
