"""The receiver's side of the network: a listener, and two threads for each sender.

One thread reads and one writes; what is said is `tcpcrypt.transfer.receiver`'s,
where it goes `tcpcrypt.transfer.store`'s.  As many senders are served at once
as was asked for; others wait, authenticated, and each in turn.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from tcpcrypt import sockets
from tcpcrypt.errors import LocalError, TcpcryptError
from tcpcrypt.sockets import SecureListener, SecureSocket
from tcpcrypt.transfer import names
from tcpcrypt.transfer.codes import Code, TransferError
from tcpcrypt.transfer.keys import ClientTable
from tcpcrypt.transfer.peers import Admission, KeyedServer
from tcpcrypt.transfer.progress import Progress, readable
from tcpcrypt.transfer.receiver import Completed, Event, Failed, Receiving, Started
from tcpcrypt.transfer.rules import IDLE_TIMEOUT, Rules
from tcpcrypt.transfer.status import FileError, Status, UsageError, status_of
from tcpcrypt.transfer.store import Store

__all__ = ["Service", "Setup"]

_TURN: Final = 1.0
"""Seconds after which a thread that waits looks around."""
_WAITING_MAX: Final = 256
"""Senders that wait for their turn."""
_SHARE: Final = 4
"""One client has at most this part of the connections, and of those that wait."""
_BACKLOG: Final = 128
_IDLE_MAX: Final = 60.0
"""Seconds that a sender keeps its place for doing nothing, while others wait for it."""
_FAREWELL: Final = 2.0
"""Seconds that senders have to leave when they are told to come again."""
_SCARCE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a service is to do."""

    port: int
    address: str = ""
    """Empty: all."""
    out: Path = field(default_factory=Path)
    keys: Path | None = None
    """Folder of the clients' keys; None: `peer` says who may send."""
    peer: str = "key"
    state: Path | None = None
    rules: Rules = field(default_factory=Rules)
    per_client: bool = False
    connections: int = 64


class Service:
    """A receiver; a context manager, within which it listens."""

    def __init__(self, setup: Setup, progress: Progress) -> None:
        """Raises `LocalError` for keys and a store that cannot be used, `FileError`."""
        self._setup = setup
        self._progress = progress
        self._table: ClientTable | None = None
        if setup.rules.quota is not None and not setup.per_client:
            raise UsageError("--quota needs --per-client: what is in a folder is what counts")
        if setup.keys is not None:
            self._table = ClientTable(setup.keys, progress.fault)
            self._table.refresh()
        try:
            self._store = Store(setup.out, setup.rules)
        except OSError as error:
            raise FileError.of(setup.out, error) from error
        except LocalError as error:
            raise FileError(str(error)) from error
        try:
            self._listener = self._listen()
        except BaseException:
            self._store.close()
            raise
        self._name = self._listener.getsockname()
        self._lock = threading.Lock()
        self._talks: set[_Talk] = set()
        self._waiting: deque[_Talk] = deque()
        self._look_again = False
        self._over = False
        self._first = threading.Event()
        self._status = Status.OK

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._name[1])

    def serve(self, *, once: bool = False) -> Status:
        """Serve senders, for ever, or one with the status of what became of it.

        On SIGHUP the folder of keys is looked at again.
        """
        name = self._name
        clients = "" if self._table is None else f", {len(self._table)} clients"
        self._progress.say(
            "listening", f"listening on {_place(name)}{clients}", address=name[0], port=name[1]
        )
        with self._on_hangup():
            self._listener.settimeout(_TURN)
            while not self._over and not (once and self._first.is_set()):
                if self._look_again:
                    self._look_again = False
                    self._refresh()
                self._make_way()
                try:
                    self._admit(*self._listener.accept())
                except TimeoutError:
                    continue
                except OSError as error:
                    if self._over:
                        break
                    if error.errno not in _SCARCE:
                        raise
                    # Those who are being served give back what is needed.
                    self._progress.fault(f"nobody more can be let in: {error.strerror}")
                    time.sleep(_TURN)
        return self._status

    def stop(self) -> None:
        """Let `serve` return; for another thread."""
        self._over = True
        self._listener.close()

    def close(self) -> None:
        """End: senders are told to come again; what has arrived of their files stays."""
        self.stop()
        with self._lock:
            talks, waiting = [*self._talks], [*self._waiting]
            self._waiting.clear()
        for talk in waiting:
            talk.drop()
        end = time.monotonic() + _FAREWELL
        for talk in talks:
            talk.dismiss()
        for talk in talks:
            talk.join(max(end - time.monotonic(), 0))
            talk.drop()
        for talk in talks:
            talk.join()
        self._store.close()

    # --- inside --------------------------------------------------------------------------

    def _listen(self) -> SecureListener:
        setup, family, dual = self._setup, socket.AF_INET, False
        if ":" in setup.address or (not setup.address and socket.has_dualstack_ipv6()):
            family, dual = socket.AF_INET6, not setup.address
        if self._table is None:
            return sockets.create_server(
                (setup.address, setup.port),
                peer=setup.peer,
                family=family,
                backlog=_BACKLOG,
                dualstack_ipv6=dual,
                transport="inband",
                keys=setup.state,
            )
        sock = socket.create_server(
            (setup.address, setup.port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual
        )
        return KeyedServer(self._table).listen(sock)

    @contextlib.contextmanager
    def _on_hangup(self) -> Any:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(_number: int, _frame: object) -> None:
            self._look_again = True

        before = signal.signal(signal.SIGHUP, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def _refresh(self) -> None:
        if self._table is None:
            return
        try:
            self._table.refresh(force=True)
            self._progress.say("keys", f"{len(self._table)} clients", clients=len(self._table))
        except LocalError as error:
            self._progress.fault(str(error))

    def _admit(self, secured: SecureSocket, address: Any) -> None:
        """A connection whose handshake is over, well or not."""
        where = _place(address)
        if secured.error is not None:
            self._progress.say(
                "refused",
                f"{where}: {secured.error}",
                address=where,
                error=type(secured.error).__name__,
                message=str(secured.error),
            )
            return
        client = secured.client if isinstance(secured, Admission) else secured.peer_identity
        if not client:  # `insecure-unauthenticated`: all of them are one
            client = "anybody"
        talk = _Talk(self, secured, client, where)
        with self._lock:
            self._waiting.append(talk)
            dropped = self._one_too_many(client)
        if dropped is not None:
            dropped.drop()
        self._next()

    def _one_too_many(self, client: str) -> _Talk | None:
        """The oldest of those who wait, or of the client's own, if they are too many."""
        own = [talk for talk in self._waiting if talk.client == client]
        if len(own) > _WAITING_MAX // _SHARE:
            self._waiting.remove(own[0])
            return own[0]
        return self._waiting.popleft() if len(self._waiting) > _WAITING_MAX else None

    def _next(self) -> None:
        """Begin with those who wait, as far as there is room."""
        with self._lock:
            most = max(1, self._setup.connections // _SHARE)
            for talk in list(self._waiting):
                if len(self._talks) >= self._setup.connections:
                    return
                if sum(other.client == talk.client for other in self._talks) < most:
                    self._waiting.remove(talk)
                    self._talks.add(talk)
                    talk.start()

    def _make_way(self) -> None:
        """Who only says that it is there gives way to one who waits, and comes again."""
        with self._lock:
            if not self._waiting:
                return
            client = self._waiting[0].client
            talks = self._talks
            if len(talks) < self._setup.connections:  # it waits for one of its own
                talks = {talk for talk in talks if talk.client == client}
            overstaying = [talk for talk in talks if talk.overstays]
            idlest = max(talks, key=lambda talk: talk.idle, default=None)
        for talk in overstaying:
            talk.drop()
        if idlest is not None and idlest.idle >= _IDLE_MAX:
            idlest.dismiss()

    def ended(self, talk: _Talk) -> None:
        """For a sender that is done with."""
        with self._lock:
            self._talks.discard(talk)
        if not self._first.is_set():
            self._status = talk.status
            self._first.set()
        self._next()

    @contextlib.contextmanager
    def receiving(self, client: str) -> Iterator[Receiving]:
        """Where the files of a client go.  Raises `TransferError`, `LocalError`, `OSError`."""
        folder = client.encode() if self._setup.per_client else None
        account = self._store.account(client, folder=folder)
        try:
            receiving = Receiving(account)
            try:
                yield receiving
            finally:
                receiving.close()
        finally:
            self._store.leave(account)

    @property
    def progress(self) -> Progress:
        """Where to tell."""
        return self._progress


class _Talk:
    """One sender: the thread that reads, and one that writes."""

    def __init__(self, service: Service, secured: SecureSocket, client: str, where: str) -> None:
        self.client = client
        self.status = Status.OK
        self._service = service
        self._secured = secured
        self._where = where
        self._progress = service.progress
        self._error: Exception | None = None
        self._receiving: Receiving | None = None
        self._dismissed: float | None = None
        """When it was told to come again."""
        self._reader = threading.Thread(target=self._run, name=f"client {client}", daemon=True)

    def start(self) -> None:
        """Begin to serve it."""
        self._reader.start()

    @property
    def idle(self) -> float:
        """Seconds since it has sent anything but that it is there."""
        receiving = self._receiving
        if receiving is None or self._dismissed is not None:
            return 0.0
        return receiving.idle

    @property
    def overstays(self) -> bool:
        """Whether it was told to come again, and has not left."""
        dismissed = self._dismissed
        return dismissed is not None and time.monotonic() - dismissed >= _FAREWELL

    def dismiss(self) -> None:
        """Tell it to come again, if it is in the middle of something."""
        self._dismissed = time.monotonic()
        receiving = self._receiving
        if receiving is None or not receiving.shut_down():
            self.drop()

    def drop(self) -> None:
        """Break it off: what has arrived stays, and the sender comes again."""
        self._secured.abort()

    def join(self, timeout: float | None = None) -> None:
        """Until it is over, or for so many seconds."""
        if self._reader.ident is not None:
            self._reader.join(timeout)

    # --- threads -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._secured.settimeout(IDLE_TIMEOUT)
            with self._service.receiving(self.client) as receiving:
                self._receiving = receiving
                self._progress.say(
                    "connected", f"{self.client} from {self._where}", client=self.client,
                    address=self._where, cipher=self._secured.cipher,
                    resumed=self._secured.resumed,
                )  # fmt: skip
                self._serve(receiving)
        except (TcpcryptError, OSError) as error:
            self._error = _of_files(error)
        finally:
            self._receiving = None
            self._conclude()
            self._service.ended(self)

    def _serve(self, receiving: Receiving) -> None:
        writer = threading.Thread(
            target=self._write, args=(receiving,), name=f"to {self.client}", daemon=True
        )
        writer.start()
        try:
            while True:
                buffer = receiving.get_buffer()
                size = self._receive(buffer)
                del buffer
                if not size:
                    break
                receiving.received(size)
                self._progress.arrived(size)
            receiving.receive_eof()
        except Exception as error:
            self._error = self._error or error
            self._secured.abort()
            if not isinstance(error, (OSError, TcpcryptError)):
                raise
        finally:
            receiving.wake()
            writer.join()  # it uses what is closed next
        self._events(receiving)

    def _receive(self, buffer: memoryview) -> int:
        while True:
            try:
                return self._secured.recv_into(buffer)
            except TimeoutError:
                if self._secured.error is not None:
                    raise
                # Silence is the writer's to judge.

    def _write(self, receiving: Receiving) -> None:
        try:
            while self._error is None:
                out = receiving.work()
                if out:
                    self._secured.sendall(b"".join(out))
                self._events(receiving)
                if receiving.finished:
                    self._secured.shutdown(socket.SHUT_WR)
                    return
                if not out:
                    receiving.handle_timeout()
                    receiving.wait(_TURN)
        except Exception as error:
            self._error = self._error or error
            self._secured.abort()  # whoever reads is to wait no more
            if not isinstance(error, (OSError, TcpcryptError)):
                raise

    def _conclude(self) -> None:
        error = self._error
        if error is None:
            self._secured.close()
        else:
            self._secured.abort()
        if error is not None and self._dismissed is None:  # who leaves as told is at no fault
            self._fault(f"{self.client}: {error}", status_of(error), error=type(error).__name__)
        self._progress.say(
            "disconnected", f"{self.client} from {self._where} is gone", client=self.client,
            address=self._where, status=int(self.status),
        )  # fmt: skip

    # --- what is told of it --------------------------------------------------------------------

    def _events(self, receiving: Receiving) -> None:
        while (event := receiving.next_event()) is not None:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Started):
            if self._progress.counts:
                self._progress.file(names.shown(event.path))
            return
        if not isinstance(event, Failed) and not self._progress.tells:
            return
        path = names.shown(event.path)
        if isinstance(event, Completed):
            self._progress.file_done(
                f"{path}: {readable(event.size)} from {self.client}, {event.digest}",
                file=path, client=self.client, size=event.size, digest=str(event.digest),
            )  # fmt: skip
        elif isinstance(event, Failed):
            detail = f" ({event.detail})" if event.detail else ""
            status = Status(event.code.exit_status)
            self._fault(f"{path}: {event.code.text}{detail}", status, code=event.code.name)

    def _fault(self, text: str, status: Status, **values: object) -> None:
        self.status = self.status or status
        self._progress.fault(text, client=self.client, status=int(status), **values)


def _place(address: Any) -> str:
    """An address as people write it, without what a socket for both families adds."""
    host, port = str(address[0]).removeprefix("::ffff:"), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _of_files(error: Exception) -> Exception:
    """What is raised before a connection is used has to do with the store."""
    if isinstance(error, OSError) and not isinstance(error, TcpcryptError):
        return TransferError(Code.of(error), error.strerror or str(error))
    if isinstance(error, LocalError):
        return TransferError(Code.STORAGE, str(error))
    return error
