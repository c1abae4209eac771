"""What Prometheus reads: the families, the page over HTTP, and what readers can cost."""

from __future__ import annotations

import builtins
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tcpcrypt.auth.known_peers import TrustLevel
from tcpcrypt.daemon import metrics_server
from tcpcrypt.daemon.metrics import Page, Pages
from tcpcrypt.daemon.metrics_address import MetricsAddress
from tcpcrypt.daemon.metrics_server import CLIENTS_MAX, REQUEST_MAX, MetricsServer, answer
from tcpcrypt.daemon.metrics_socket import MetricsSocket
from tcpcrypt.errors import FallbackReason, LocalError, PeerReason
from tcpcrypt.runtime.figures import Figures
from tcpcrypt.runtime.loop import Loop
from tcpcrypt.runtime.tally import Tally

DOCUMENT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


def shown(figures: Figures) -> str:
    content_type, text = Pages(lambda: figures)("")
    assert content_type.startswith("text/plain; version=0.0.4")
    return text.decode()


# --- what is told --------------------------------------------------------------------------


def test_a_host_that_has_not_begun_shows_every_series_at_zero() -> None:
    found = samples(shown(Figures()))
    assert {number for (name, _labels), number in found.items() if name != "tcpcrypt_info"} == {0}
    reasons = {dict(labels).get("reason") for _name, labels in found}
    for reason in (*FallbackReason, *PeerReason):
        assert reason.name.lower() in reasons


def test_the_numbers_are_those_of_the_host() -> None:
    tally = Tally()
    for name, reason in (
        *(("fresh", ""), ("resumed", ""), ("resumed", "")),
        *(("fallback", "no_eno_in_syn_ack"), ("direct", ""), ("exhausted", "")),
        *(("refused", "identity_changed"), ("aborted", "frame_tag"), ("aborted", "internal")),
        *(("failed", "econnrefused"), ("closed", "closed"), ("closed", "reset_by_peer")),
    ):
        tally.count(name, reason)
    for seconds in (0.0001, 0.004, 99.0):
        tally.setups["outgoing", "fresh"].add(seconds)
    tally.bugs = 1
    text = shown(
        Figures(
            backend="nfqueue",
            steering="tproxy",
            started=1_790_000_000.5,
            cpu=1.5,
            policies=2,
            key_log=True,
            tally=tally,
            connections={("encrypted", "outgoing"): 3},
            tcps={"encrypted": 14},
            slots=100,
            moved={(True, "sent"): 10, (True, "received"): 20, (False, "sent"): 5},
            frames=7,
            rekeys=6,
            cached=4,
            cache_capacity=1000,
            overruns=8,
            evicted=9,
            held=11,
            held_overflowed=12,
            identities={TrustLevel.TOFU: 13},
        )
    )
    for name, expected, labels in (
        ("start_time_seconds", 1_790_000_000.5, {}),
        ("cpu_seconds_total", 1.5, {}),
        ("policies", 2, {}),
        ("keylog_enabled", 1, {}),
        ("bugs_total", 1, {}),
        ("connections_encrypted_total", 1, {"start": "fresh"}),
        ("connections_encrypted_total", 2, {"start": "resumed"}),
        ("connections_plain_total", 1, {"how": "fallback", "reason": "no_eno_in_syn_ack"}),
        ("connections_plain_total", 1, {"how": "direct", "reason": "path_memory"}),
        ("connections_refused_total", 1, {"reason": "identity_changed"}),
        ("connections_aborted_total", 1, {"reason": "frame_tag"}),
        ("connections_aborted_total", 1, {"reason": "internal"}),
        ("connections_failed_total", 1, {"reason": "econnrefused"}),
        ("connections_closed_total", 1, {"how": "reset_by_peer"}),
        ("connections_exhausted_total", 1, {}),
        ("setup_seconds_bucket", 1, {"direction": "outgoing", "start": "fresh", "le": "0.0005"}),
        ("setup_seconds_bucket", 2, {"direction": "outgoing", "start": "fresh", "le": "0.005"}),
        ("setup_seconds_bucket", 3, {"direction": "outgoing", "start": "fresh", "le": "+Inf"}),
        ("setup_seconds_count", 3, {"direction": "outgoing", "start": "fresh"}),
        ("setup_seconds_sum", 99.0041, {"direction": "outgoing", "start": "fresh"}),
        ("connections", 3, {"state": "encrypted", "direction": "outgoing"}),
        ("tcps_connections", 14, {"state": "encrypted"}),
        ("connection_slots", 100, {}),
        ("application_bytes_total", 10, {"protection": "encrypted", "direction": "sent"}),
        ("application_bytes_total", 20, {"protection": "encrypted", "direction": "received"}),
        ("application_bytes_total", 5, {"protection": "plain", "direction": "sent"}),
        ("application_bytes_total", 0, {"protection": "plain", "direction": "received"}),
        ("frames_sealed_total", 7, {}),
        ("rekeys_total", 6, {}),
        ("resumption_cache_entries", 4, {}),
        ("resumption_cache_capacity", 1000, {}),
        ("queue_overruns_total", 8, {}),
        ("handshakes_evicted_total", 9, {}),
        ("syns_held", 11, {}),
        ("syns_held_overflowed_total", 12, {}),
        ("known_identities", 13, {"trust": "tofu"}),
        ("known_identities", 0, {"trust": "revoked"}),
    ):
        assert value(text, f"tcpcrypt_{name}", **labels) == pytest.approx(expected), name
    assert 'backend="nfqueue"' in text


def test_every_metric_and_every_label_is_documented() -> None:
    for family in text_string_to_metric_families(shown(Figures())):
        name = family.name + "_total" * (family.type == "counter")
        (row,) = [line for line in DOCUMENT.splitlines() if line.startswith(f"| `{name}` |")]
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        for label in labels:
            assert f"`{label}`" in row, (name, label)
        assert family.documentation.rstrip(".") in row, name


def test_a_page_is_made_again_only_after_nine_times_what_it_took() -> None:
    """Readers, however many and whatever they accept, cost the loop a tenth of its time."""
    now, made = [0.0], []

    def figures() -> Figures:
        made.append(now[0])
        now[0] += 0.010
        return Figures()

    page = Pages(figures, lambda: now[0])
    for _ in range(100):
        page("")
        page("application/openmetrics-text; version=1.0.0")
        now[0] += 0.001
    for one, other in zip(made[::2], made[2::2], strict=False):
        assert other - one >= 2 * 0.010 * 9
    assert 2 <= len(made) <= 6


# --- HTTP ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "first", "has"),
    [
        (GET, "HTTP/1.0 200 OK", "tcpcrypt_connections{"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK", "tcpcrypt_connections{"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.0 404 Not Found", "metrics are at /metrics"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.0 501 Unsupported", "POST"),
        (b"GET /metrics HTTP/9.1\r\n\r\n", "HTTP/1.0 505", ""),
    ],
)
def test_answers(request_: bytes, first: str, has: str) -> None:
    head, _, body = answer(request_, Pages(Figures)).decode().partition("\r\n\r\n")
    assert head.startswith(first)
    assert has in body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((name, 200) for name in ("localhost", "localhost:9469", "127.0.0.1:9469", "127.9.9.9")),
        *((name, 200) for name in ("[::1]:9469", "[::1]", "")),
        *((name, 403) for name in ("evil.example.org", "10.0.0.1:9469", "[::2]", "localhost.evil")),
        *((name, 403) for name in ("[", "]", "::1:", "1.2", "127.0.0.1.evil.example")),
    ],
)
def test_a_page_of_another_host_gets_nothing_through_a_browser(host: str, status: int) -> None:
    """DNS rebinding: the name in the field Host is that of the other host."""
    text = answer(GET.replace(b"localhost", host.encode()), Pages(Figures)).decode()
    assert text.startswith(f"HTTP/1.0 {status} ")
    assert ("tcpcrypt_policies" in text) is (status == 200)


def test_head_has_no_body() -> None:
    text = answer(GET.replace(b"GET", b"HEAD"), Pages(Figures)).decode()
    assert text.startswith("HTTP/1.0 200 OK")
    assert text.endswith("\r\n\r\n")
    assert "Content-Length: " in text


def test_who_accepts_openmetrics_gets_it() -> None:
    request = GET.replace(b"\r\n\r\n", b"\r\nAccept: application/openmetrics-text\r\n\r\n")
    text = answer(request, Pages(Figures)).decode()
    assert "application/openmetrics-text" in text.partition("\r\n\r\n")[0]
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize("garbage", [b"\r\n\r\n", b"\0" * 50 + b"\r\n\r\n", b"GET\r\n\r\n"])
def test_garbage_gets_an_error_or_nothing(garbage: bytes) -> None:
    text = answer(garbage, Pages(Figures))
    assert b"tcpcrypt_" not in text


# --- in a loop ---------------------------------------------------------------------------------


@dataclass
class Running:
    server: MetricsServer
    address: Any
    reports: list[tuple[str, dict[str, object]]]
    call: Callable[[Callable[[], Any]], Any]

    def connect(self) -> socket.socket:
        if isinstance(self.address, str):
            sock = socket.socket(socket.AF_UNIX)
        else:
            sock = socket.socket(socket.AF_INET)
        sock.settimeout(10)
        sock.connect(self.address)
        return sock

    def ask(self, request: bytes = GET) -> bytes:
        with self.connect() as sock:
            sock.sendall(request)
            return read_all(sock)

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if self.call(condition):
                return
            threading.Event().wait(0.01)
        raise AssertionError("it does not come about")


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


@contextlib.contextmanager
def running(address: MetricsAddress, page: Page) -> Iterator[Running]:
    sock, loop = MetricsSocket(address), Loop()
    reports: list[tuple[str, dict[str, object]]] = []
    server = MetricsServer(loop, sock.socket, page, lambda *event: reports.append(event))
    server.start()
    calls: list[tuple[Callable[[], Any], list[Any], threading.Event]] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            loop.step(0.02)
            while calls:
                job, results, done = calls.pop(0)
                results.append(job())
                done.set()

    def call(job: Callable[[], Any]) -> Any:
        results: list[Any] = []
        done = threading.Event()
        calls.append((job, results, done))
        assert done.wait(10)
        return results[0]

    thread = threading.Thread(target=work)
    thread.start()
    try:
        where = str(address.path) if address.path is not None else sock.socket.getsockname()
        yield Running(server, where, reports, call)
    finally:
        call(server.close)
        over.set()
        thread.join(10)
        loop.close()
        sock.close()


def anywhere() -> MetricsAddress:
    return MetricsAddress(None, "127.0.0.1", 0)


def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with running(MetricsAddress(path), Pages(Figures)) as it:
        assert b"tcpcrypt_policies 0.0" in it.ask()
        assert path.stat().st_mode & 0o777 == 0o666
    assert not path.exists()


def test_over_tcp_in_pieces() -> None:
    with running(anywhere(), Pages(Figures)) as it, it.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(GET), 7):
            sock.sendall(GET[at : at + 7])
        assert b"tcpcrypt_policies 0.0" in read_all(sock)
        it.until(lambda: it.server.clients == 0)


def test_a_page_larger_than_all_buffers() -> None:
    large = b"#" * (16 << 20)
    with running(anywhere(), lambda _accept: ("text/plain", large)) as it:
        assert it.ask().endswith(large)


def test_a_request_that_does_not_end_is_hung_up_on() -> None:
    with running(anywhere(), Pages(Figures)) as it, it.connect() as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * REQUEST_MAX)
            assert read_all(sock) == b""
        it.until(lambda: it.server.clients == 0)


def test_readers_beyond_the_bound_are_hung_up_on() -> None:
    with running(anywhere(), Pages(Figures)) as it, contextlib.ExitStack() as stack:
        for _ in range(CLIENTS_MAX):
            stack.enter_context(it.connect())
        it.until(lambda: it.server.clients == CLIENTS_MAX)
        with it.connect() as sock:
            assert sock.recv(1) == b""
        stack.close()
        it.until(lambda: it.server.clients == 0)
        assert b"tcpcrypt_policies" in it.ask()


def test_requests_cost_the_loop_a_tenth_of_its_time() -> None:
    """Whatever it is that makes an answer dear: nobody is let in until the loop has rested."""
    made, over = [0], threading.Event()

    def dear(_accept: str) -> tuple[str, bytes]:
        made[0] += 1
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        return "text/plain", b"dear"

    with running(anywhere(), dear) as it:

        def hammer() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    it.ask()

        threads = [threading.Thread(target=hammer) for _ in range(2)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        it.until(lambda: made[0] >= 2)
        over.wait(1.0)
        over.set()
        for _ in threads:  # who waits is let in when its time has come
            it.until(lambda: not any(thread.is_alive() for thread in threads))
        # Two may be in before the first answer is made.
        assert made[0] * 0.5 <= time.monotonic() - began + 3 * 0.5


def test_a_reader_that_does_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "PATIENCE", 0.05)
    with running(anywhere(), Pages(Figures)) as it, it.connect() as sock:
        assert sock.recv(1) == b""


def test_readers_that_wait_are_hung_up_on_at_the_end() -> None:
    with running(anywhere(), Pages(Figures)) as it:
        sock = it.connect()
        it.until(lambda: it.server.clients == 1)
    with sock:
        assert sock.recv(1) == b""


def test_without_room_for_another_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(anywhere(), Pages(Figures)) as it:
        listener = it.server._listener
        failures = iter([OSError(24, "Too many open files")])

        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(listener, name)

            def accept(self) -> Any:
                for failure in failures:
                    raise failure
                return listener.accept()

        it.call(lambda: monkeypatch.setattr(it.server, "_listener", Full()))
        assert b"tcpcrypt_policies" in it.ask()


def test_a_mistake_is_reported_and_the_service_goes_on() -> None:
    broken = [True]

    def page(accept: str) -> tuple[str, bytes]:
        if broken.pop():
            raise RuntimeError("a mistake")
        return "text/plain", accept.encode() + b"fine"

    with running(anywhere(), page) as it:
        assert it.ask().startswith(b"HTTP/1.0 500")
        broken.append(False)
        assert it.ask().endswith(b"fine")
        assert it.reports == [
            ("bug", {"error": "RuntimeError: a mistake", "at": "metrics"}),
        ]


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with contextlib.closing(MetricsSocket(anywhere())) as first:
        port = first.socket.getsockname()[1]
        with pytest.raises(LocalError, match=f"127.0.0.1:{port}: Address already in use"):
            MetricsSocket(MetricsAddress(None, "127.0.0.1", port))


def test_without_prometheus_client_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.delitem(sys.modules, "tcpcrypt.daemon.metrics")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(LocalError, match=r"pip install 'tcpcrypt\[metrics\]'"):
        metrics_server.load()


def test_pages_are_made_before_privileges_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they import is imported then; later it may not be readable."""
    answers: list[bytes] = []

    def told(request: bytes, page: Page) -> bytes:
        answers.append(answer(request, page))
        return answers[-1]

    monkeypatch.setattr(metrics_server, "answer", told)
    metrics_server.load()
    assert [text.split()[1] for text in answers] == [b"200", b"200", b"400"]


def test_nothing_is_imported_where_nothing_is_configured() -> None:
    with metrics_server.open_metrics(None) as sock:
        assert sock is None
    source = Path(metrics_server.__file__).parent
    importing = [
        path.name for path in source.glob("*.py") if "prometheus_client import" in path.read_text()
    ]
    assert importing == ["metrics.py"]
