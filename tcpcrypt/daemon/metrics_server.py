"""GET /metrics over HTTP, answered in the runtime's loop.

The loop also moves the data of every connection.  So what readers cost is
bounded: how many there are, how long their requests, how long they take, and
how often a page is made anew (`tcpcrypt.daemon.metrics.Pages`); and nobody more is
let in until nine times as long has passed as was spent on those before.

One request a connection; what HTTP says is parsed by the standard library.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import ipaddress
import re
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from tcpcrypt.daemon.metrics_address import MetricsAddress
from tcpcrypt.daemon.metrics_socket import MetricsSocket
from tcpcrypt.errors import LocalError
from tcpcrypt.runtime.context import Report
from tcpcrypt.runtime.figures import Figures
from tcpcrypt.runtime.loop import READ, WRITE, Loop, Timer
from tcpcrypt.runtime.overview import Overview

if TYPE_CHECKING:
    from tcpcrypt.daemon.metrics import Page

__all__ = [
    "CLIENTS_MAX",
    "PATIENCE",
    "REQUEST_MAX",
    "MetricsServer",
    "answer",
    "load",
    "serve_metrics",
]

PATH: Final = "/metrics"
CLIENTS_MAX: Final = 16
REQUEST_MAX: Final = 8192
"""Bytes."""
PATIENCE: Final = 10.0
"""Seconds from the beginning of a connection to its end."""
_ACCEPT_PAUSE: Final = 0.1
_REST: Final = 9.0
_REST_MIN: Final = 0.001
"""Seconds that are worth a timer."""
_END: Final = b"\r\n\r\n"
_CHUNK: Final = 4096
_HOST: Final = re.compile(r"(localhost|[0-9.]+|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")


class _Request(http.server.BaseHTTPRequestHandler):
    """One request in memory, and its answer."""

    default_request_version = "HTTP/1.0"  # answers always have a head

    def __init__(self, request: bytes, page: Page) -> None:
        self.rfile = io.BytesIO(request)
        self.answer = self.wfile = io.BytesIO()
        self.close_connection = True
        self._page = page
        self.handle_one_request()

    def version_string(self) -> str:
        return "tcpcrypt"

    def do_GET(self) -> None:
        self._serve(body=True)

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def _serve(self, *, body: bool) -> None:
        if not _is_here(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.FORBIDDEN, explain="ask by localhost or its address")
            return
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"metrics are at {PATH}")
            return
        content_type, text = self._page(self.headers.get("Accept", ""))
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if body:
            self.wfile.write(text)

    def log_message(self, format: str, *_values: object) -> None:
        """Readers come every few seconds, and are no news."""


def _is_here(host: str) -> bool:
    """Whether a reader calls this host by a name of its own.

    A browser of this host would also bring a page of another one here, whose
    name was made to lead to 127.0.0.1 meanwhile; it gives that name.
    """
    found = _HOST.fullmatch(host)
    if found is None or found[1] == "localhost":
        return found is not None or not host
    try:
        return ipaddress.ip_address(found[1].strip("[]")).is_loopback
    except ValueError:
        return False


def answer(request: bytes, page: Page) -> bytes:
    """The answer to one request, whatever it holds."""
    return _Request(request, page).answer.getvalue()


def load() -> None:
    """Import all that a page takes, while this process may read it.

    To be called before privileges go.  Raises `LocalError` without prometheus_client.
    """
    try:
        from tcpcrypt.daemon.metrics import Pages  # noqa: PLC0415 (where asked for)
    except ImportError as error:
        raise LocalError(
            "`metrics` in [daemon] needs prometheus_client: pip install 'tcpcrypt[metrics]'"
        ) from error
    empty = Pages(Figures)
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        request = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n"
        answer(request.encode(), empty)
    answer(b"nonsense\r\n\r\n", empty)


@contextlib.contextmanager
def open_metrics(address: MetricsAddress | None) -> Iterator[MetricsSocket | None]:
    """The socket for readers, if there are to be any, with `load` done.  Raises `LocalError`."""
    if address is None:
        yield None
        return
    load()
    sock = MetricsSocket(address)
    try:
        yield sock
    finally:
        sock.close()


class _Client:
    def __init__(self, sock: socket.socket, timer: Timer) -> None:
        self.socket = sock
        self.timer = timer
        self.received = bytearray()
        self.answer = memoryview(b"")


class MetricsServer:
    """Shows `page` on a listening socket.  `start`, and in the end `close`."""

    def __init__(self, loop: Loop, listener: socket.socket, page: Page, report: Report) -> None:
        self._loop = loop
        self._listener = listener
        self._page = page
        self._report = report
        self._clients: dict[int, _Client] = {}
        self._rested = 0.0
        """When nine times as long has passed as was spent so far; by the loop's clock."""

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    def start(self) -> None:
        self._listener.setblocking(False)
        self._loop.watch(self._listener.fileno(), READ, self._on_listener)

    def close(self) -> None:
        """Hang up on everybody and close the listening socket.  Idempotent."""
        if self._listener.fileno() >= 0:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
        for client in tuple(self._clients.values()):
            self._drop(client)

    @contextlib.contextmanager
    def _accounted(self) -> Iterator[None]:
        began = time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - began
            self._rested = max(self._rested, time.monotonic()) + _REST * spent

    def _on_listener(self, _events: int) -> None:
        rest = self._rested - time.monotonic()
        if rest > _REST_MIN:
            self._pause(rest)
            return
        with self._accounted():
            self._accept()

    def _accept(self) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            self._pause(_ACCEPT_PAUSE)
            return
        if len(self._clients) >= CLIENTS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        client = _Client(sock, self._loop.call_later(PATIENCE, lambda: self._drop(client)))
        self._clients[sock.fileno()] = client
        self._loop.watch(sock.fileno(), READ, lambda _events: self._on_request(client))

    def _pause(self, seconds: float) -> None:
        """Whoever comes waits in the kernel."""
        self._loop.watch(self._listener.fileno(), 0, self._on_listener)
        self._loop.call_later(seconds, self._accept_again)

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.watch(self._listener.fileno(), READ, self._on_listener)

    def _drop(self, client: _Client) -> None:
        number = client.socket.fileno()
        if number >= 0:
            client.timer.cancel()
            del self._clients[number]
            self._loop.forget(number)
            client.socket.close()

    def _on_request(self, client: _Client) -> None:
        with self._accounted():
            self._read(client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.received += data
        if not data or len(client.received) > REQUEST_MAX:
            self._drop(client)
        elif _END in client.received:
            client.answer = memoryview(self._answer(bytes(client.received)))
            self._loop.watch(client.socket.fileno(), WRITE, lambda _events: self._write(client))

    def _answer(self, request: bytes) -> bytes:
        try:
            return answer(request, self._page)
        except Exception as error:  # a mistake of ours must not end the service
            self._report("bug", {"error": f"{type(error).__name__}: {error}", "at": "metrics"})
            return b"HTTP/1.0 500 Internal Server Error\r\n\r\n"

    def _write(self, client: _Client) -> None:
        try:
            sent = client.socket.send(client.answer)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        client.answer = client.answer[sent:]
        if not client.answer:
            self._drop(client)


def serve_metrics(
    loop: Loop, listener: socket.socket | None, overview: Overview, report: Report
) -> MetricsServer | None:
    """A server that has begun to show the figures of `overview`; None: nobody listens.

    `load` is to be called before.
    """
    if listener is None:
        return None
    from tcpcrypt.daemon.metrics import Pages  # noqa: PLC0415 (where asked for)

    server = MetricsServer(loop, listener, Pages(overview.figures), report)
    server.start()
    return server
