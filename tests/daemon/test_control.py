"""The control socket: what it answers, and what it puts up with."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.overview import Memory, Service, entry, peer, plain, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tcpcrypt.core.policy import FlowDirection, Match, Mode, Policy
from tcpcrypt.daemon import control
from tcpcrypt.daemon.control import LINE_MAX, ControlSocket
from tcpcrypt.daemon.requests import METHODS, Access, RefusedError, describe_policy, parse
from tcpcrypt.daemon.review import sentence
from tcpcrypt.errors import LocalError


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "control.sock") as running:
        yield running


def read_line(sock: socket.socket) -> dict[str, Any]:
    received = bytearray()
    while not received.endswith(b"\n"):
        data = sock.recv(1 << 16)
        assert data, f"hung up after {bytes(received[-100:])!r}"
        received += data
    (line,) = received.splitlines()
    value: dict[str, Any] = json.loads(line)
    assert value["v"] == 1
    assert set(value) in ({"v", "result"}, {"v", "error"})
    return value


def ask_raw(service: Service, line: bytes) -> dict[str, Any]:
    with service.connect() as sock:
        sock.sendall(line)
        return read_line(sock)


def ask(service: Service, method: str, **params: object) -> Any:
    request = {"v": 1, "method": method, "params": params}
    return ask_raw(service, json.dumps(request).encode() + b"\n")


def refused(service: Service, line: bytes) -> tuple[str, str]:
    error = ask_raw(service, line)["error"]
    return error["code"], error["message"]


def test_every_method_answers(service: Service) -> None:
    memory = service.memory
    memory.connections = [entry(2, "10.0.0.1:4000", "10.0.0.2:443")]
    memory.known = [peer("10.0.0.2"), peer("10.0.0.3", "plain")]
    memory.by_socket[("10.0.0.1", 4000), ("10.0.0.2", 443)] = memory.connections[0]
    assert ask(service, "status")["result"]["connections"] == 1
    assert ask(service, "sessions")["result"] == {"sessions": memory.connections, "more": False}
    assert len(ask(service, "peers")["result"]["peers"]) == 2
    found = ask(service, "find", local=["10.0.0.1", 4000], remote=["10.0.0.2", 443])
    assert found["result"] == {"session": memory.connections[0]}
    assert ask(service, "flush", peer="10.0.0.2")["result"] == {"forgotten": 1}
    assert ask(service, "flush")["result"] == {"forgotten": 1}
    assert memory.flushed == ["10.0.0.2", None]
    policies = ask(service, "policy")["result"]["policies"]
    assert [policy["mode"] for policy in policies] == ["never", "require"]


def test_params_may_be_left_out(service: Service) -> None:
    assert "result" in ask_raw(service, b'{"v":1,"method":"status"}\n')


def test_requests_in_one_write_are_answered_in_order(service: Service) -> None:
    service.memory.connections = [plain(1, "10.0.0.1:1", "10.0.0.2:2")]
    with service.connect() as sock, sock.makefile("rb") as answers:
        sock.sendall(
            b'{"v":1,"method":"status"}\nnonsense\n{"v":1,"method":"peers"}\n'
            b'{"v":1,"method":"sessions"}\n'
        )
        got = [json.loads(answers.readline()) for _ in range(4)]
    assert "pid" in got[0]["result"]
    assert got[1]["error"]["code"] == "bad-request"
    assert got[2]["result"] == {"peers": []}
    assert got[3]["result"]["sessions"][0]["id"] == 1


def test_a_client_that_has_said_everything_still_gets_its_answer(service: Service) -> None:
    with service.connect() as sock:
        sock.sendall(b'{"v":1,"method":"status"}\n')
        sock.shutdown(socket.SHUT_WR)
        assert "result" in read_line(sock)
        assert sock.recv(1) == b""


def test_a_line_in_pieces(service: Service) -> None:
    with service.connect() as sock:
        for byte in b'{"v":1,"method":"status"}\n':
            sock.sendall(bytes([byte]))
        assert "result" in read_line(sock)


def test_sessions_come_in_pages(service: Service) -> None:
    service.memory.connections = [entry(n, "10.0.0.1:1", "10.0.0.2:2") for n in (3, 1, 2)]
    first = ask(service, "sessions", limit=2)["result"]
    assert ([e["id"] for e in first["sessions"]], first["more"]) == ([1, 2], True)
    rest = ask(service, "sessions", limit=2, after=2)["result"]
    assert ([e["id"] for e in rest["sessions"]], rest["more"]) == ([3], False)


def test_addresses_are_taken_as_programs_have_them(service: Service) -> None:
    known = service.memory.by_socket
    known[("10.0.0.1", 1), ("10.0.0.2", 2)] = entry(1, "10.0.0.1:1", "10.0.0.2:2")
    known[("fe80::1", 1), ("fe80::2", 2)] = entry(2, "[fe80::1]:1", "[fe80::2]:2")
    mapped = ask(service, "find", local=["::ffff:10.0.0.1", 1], remote=["::ffff:10.0.0.2", 2])
    assert mapped["result"]["session"]["id"] == 1
    zoned = ask(service, "find", local=["fe80:0::1%eth0", 1], remote=["FE80::2", 2])
    assert zoned["result"]["session"]["id"] == 2
    unknown = ask(service, "find", local=["10.0.0.1", 1], remote=["10.0.0.2", 3])
    assert unknown["result"] == {"session": None}


# --- waiting -----------------------------------------------------------------------


def test_find_waits_for_the_end_of_the_handshake(service: Service) -> None:
    where = ("10.0.0.1", 1), ("10.0.0.2", 2)
    service.memory.by_socket[where] = plain(1, "10.0.0.1:1", "10.0.0.2:2", "exchanging")

    def settle() -> None:
        service.memory.by_socket[where] = entry(1, "10.0.0.1:1", "10.0.0.2:2")

    timer = threading.Timer(0.3, settle)
    timer.start()
    began = time.monotonic()
    found = ask(service, "find", local=list(where[0]), remote=list(where[1]), wait=30)
    assert found["result"]["session"]["state"] == "encrypted"
    assert 0.25 < time.monotonic() - began < 10
    timer.join()


def test_find_gives_what_there_is_when_patience_ends(service: Service) -> None:
    service.memory.by_socket[("10.0.0.1", 1), ("10.0.0.2", 2)] = plain(
        1, "10.0.0.1:1", "10.0.0.2:2", "connecting"
    )
    began = time.monotonic()
    found = ask(service, "find", local=["10.0.0.1", 1], remote=["10.0.0.2", 2], wait=0.3)
    assert found["result"]["session"]["state"] == "connecting"
    assert time.monotonic() - began >= 0.3


def test_find_does_not_wait_long_for_what_is_none_of_ours(service: Service) -> None:
    began = time.monotonic()
    found = ask(service, "find", local=["10.0.0.1", 1], remote=["10.0.0.2", 2], wait=60)
    assert found["result"] == {"session": None}
    assert time.monotonic() - began < 10


def test_who_waits_keeps_nobody_else_waiting(service: Service) -> None:
    where = ("10.0.0.1", 1), ("10.0.0.2", 2)
    service.memory.by_socket[where] = plain(1, "10.0.0.1:1", "10.0.0.2:2", "exchanging")
    line = {"v": 1, "method": "find"} | {
        "params": {"local": ["10.0.0.1", 1], "remote": ["10.0.0.2", 2], "wait": 60}
    }
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(service.connect()).sendall(json.dumps(line).encode() + b"\n")
        began = time.monotonic()
        assert "result" in ask(service, "status")
        assert time.monotonic() - began < 5
    wait_for_clients(service, 0)  # they hung up with their question open


# --- bad input ---------------------------------------------------------------------


def test_a_name_given_twice_is_found_in_one_pass() -> None:
    """One thread answers: what anybody may send must not cost the square of its length."""

    def seconds(line: bytes) -> float:
        started = time.process_time()
        with pytest.raises(RefusedError):
            parse(line)
        return time.process_time() - started

    names = [f'"{number:04d}":0' for number in range(7000)]
    twice = ("{" + ",".join([*names, names[-1]]) + "}").encode()
    once = ("{" + ",".join(names) + "}").encode()
    assert len(twice) <= LINE_MAX
    # In two passes and more it was 200 times.
    assert min(seconds(twice) for _ in range(3)) < 30 * min(seconds(once) for _ in range(3))


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b"\n", "bad-request", "character 0: not JSON: Expecting value"),
        (b'{"v":1,}\n', "bad-request", "character 7: not JSON: Expecting property name"),
        (b'{"v":1,"method":"\xff"}\n', "bad-request", "byte 17: not UTF-8"),
        (b"[" * 60000 + b"\n", "bad-request", "nested too deeply"),
        (b'{"v":' + b"9" * 60000 + b"}\n", "bad-request", "a number has too many digits"),
        (b'{"v":1,"method":"status","params":{"a":NaN}}\n', "bad-request", "NaN is no JSON number"),
        (b'{"v":1,"v":1,"method":"status"}\n', "bad-request", '"v": given twice'),
        (b"[]\n", "bad-request", "the request is not an object"),
        (b"{}\n", "bad-version", "v: this server speaks version 1"),
        (b'{"v":2,"method":"status"}\n', "bad-version", "v: this server speaks version 1"),
        (b'{"v":true,"method":"status"}\n', "bad-version", "v: this server speaks version 1"),
        (b'{"v":1.0,"method":"status"}\n', "bad-version", "v: this server speaks version 1"),
        (b'{"v":1}\n', "bad-request", "method: not a string"),
        (b'{"v":1,"method":["status"]}\n', "bad-request", "method: not a string"),
        (b'{"v":1,"method":"status","id":7}\n', "bad-request", '"id": a request has no such key'),
        (b'{"v":1,"method":"state"}\n', "unknown-method", 'method: "state" is none of status, '),
        (b'{"v":1,"method":"status","params":[]}\n', "bad-request", "params: not an object"),
        (
            b'{"v":1,"method":"status","params":{"\\u001b[31m":1}}\n',
            "bad-params",
            'params."\\u001b[31m": status takes nothing',
        ),
        (b'{"v":1,"method":"find"}\n', "bad-params", "params.local: missing"),
        (
            b'{"v":1,"method":"find","params":{"local":"::1","remote":["::1",1]}}\n',
            "bad-params",
            "params.local: not an array of an address and a port",
        ),
        (
            b'{"v":1,"method":"find","params":{"local":[1,1],"remote":["::1",1]}}\n',
            "bad-params",
            "params.local[0]: not a string with an IP address",
        ),
        (
            b'{"v":1,"method":"find","params":{"local":["::1",1],"remote":["x.de",1]}}\n',
            "bad-params",
            'params.remote[0]: "x.de" is not an IP address',
        ),
        (
            b'{"v":1,"method":"find","params":{"local":["::1",65536],"remote":["::1",1]}}\n',
            "bad-params",
            "params.local[1]: not an integer from 1 to 65535",
        ),
        (
            b'{"v":1,"method":"find","params":{"local":["::1",true],"remote":["::1",1]}}\n',
            "bad-params",
            "params.local[1]: not an integer from 1 to 65535",
        ),
        (
            b'{"v":1,"method":"find","params":{"local":["::1",1],"remote":["::1",1],"wait":61}}\n',
            "bad-params",
            "params.wait: not a number of seconds from 0 to 60",
        ),
        (
            b'{"v":1,"method":"sessions","params":{"limit":0}}\n',
            "bad-params",
            "params.limit: not an integer from 1 to 10000",
        ),
        (
            b'{"v":1,"method":"flush","params":{"peer":"10.0.0.0/8"}}\n',
            "bad-params",
            'params.peer: "10.0.0.0/8" is not an IP address',
        ),
        (b'{"v":1,"method":"st', "bad-request", "the request does not end in a newline"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
def test_bad_requests_get_an_error_that_names_the_place(
    service: Service, line: bytes, code: str, message: str
) -> None:
    with service.connect() as sock:
        sock.sendall(line)
        sock.shutdown(socket.SHUT_WR)
        error = read_line(sock)["error"]
    assert error["code"] == code
    assert error["message"].startswith(message)
    assert len(error["message"]) < 300
    assert service.reports == []


def test_after_a_bad_request_comes_a_good_one(service: Service) -> None:
    with service.connect() as sock:
        sock.sendall(b"{]\n")
        assert read_line(sock)["error"]["code"] == "bad-request"
        sock.sendall(b'{"v":1,"method":"status"}\n')
        assert "result" in read_line(sock)


def test_the_longest_line(service: Service) -> None:
    request = b'{"v":1,"method":"status","params":{}}'
    assert "result" in ask_raw(service, request.ljust(LINE_MAX) + b"\n")


@pytest.mark.parametrize("size", [LINE_MAX + 1, 1 << 20])
def test_a_line_that_is_too_long(service: Service, size: int) -> None:
    with service.connect() as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(b" " * size + b"\n")
        assert read_line(sock)["error"]["code"] == "too-long"
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | JSON,
        "method": st.sampled_from(list(METHODS)) | JSON,
        "params": st.dictionaries(
            st.sampled_from(["local", "remote", "wait", "after", "limit", "peer"]) | st.text(),
            JSON | st.tuples(st.ip_addresses().map(str), st.integers(0, 70000)),
        )
        | JSON,
    },
)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, socket.socket]]:
    with (
        serving(tmp_path_factory.mktemp("control") / "control.sock") as running,
        running.connect() as sock,
    ):
        yield running, sock


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    line=st.binary().filter(lambda line: b"\n" not in line)
    | REQUESTS.map(lambda request: json.dumps(request).encode())
)
def test_whatever_comes_is_answered(lasting: tuple[Service, socket.socket], line: bytes) -> None:
    running, sock = lasting
    sock.sendall(line + b"\n")
    answer = read_line(sock)
    assert "result" in answer or answer["error"]["code"] in {
        *("bad-request", "bad-version", "unknown-method", "bad-params"),
    }
    assert running.reports == []


# --- who may -----------------------------------------------------------------------


@contextlib.contextmanager
def called_by(service: Service, monkeypatch: pytest.MonkeyPatch, uid: int) -> Iterator[None]:
    """Clients that come meanwhile are of this user."""
    monkeypatch.setattr(control, "_credentials", lambda _sock: struct.pack("3i", 1, uid, uid))
    service.call(service.server._administrators.clear)
    service.call(lambda: service.server._administrators.update({0, 990}))
    yield
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("uid", "access", "allowed"),
    [
        (0, Access.ROOT, True),
        (0, Access.ADMINISTRATOR, True),
        (990, Access.ADMINISTRATOR, True),
        (990, Access.ROOT, False),
        (1000, Access.ADMINISTRATOR, False),
        (1000, Access.ROOT, False),
        (1000, Access.EVERYBODY, True),
    ],
)
def test_who_may_do_what(
    service: Service, monkeypatch: pytest.MonkeyPatch, uid: int, access: Access, allowed: bool
) -> None:
    params = {"find": {"local": ["::1", 1], "remote": ["::1", 1]}}
    with called_by(service, monkeypatch, uid):
        for name in (name for name, method in METHODS.items() if method.access is access):
            answer = ask(service, name, **params.get(name, {}))
            if allowed:
                assert "result" in answer, name
            else:
                assert answer["error"]["code"] == "denied"
                assert answer["error"]["message"] == (
                    f"{name} is for {access.value}, not for user {uid}"
                )
    assert service.memory.flushed == ([None] if allowed and access is Access.ADMINISTRATOR else [])
    root = [True] if allowed and access is Access.ROOT else []
    assert (service.confirmed, service.looked) == (root, root)


def test_the_kernel_says_who_calls(service: Service) -> None:
    """A process of another user, where there can be one: no trick of ours in between."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            if os.geteuid() == 0:
                service.path.parent.chmod(0o755)
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(10)
                os.chdir(service.path.parent)
                os.setresuid(12345, 12345, 12345)
                sock.connect(service.path.name)
                sock.sendall(b'{"v":1,"method":"flush"}\n')
                status = 0 if read_line(sock)["error"]["code"] == "denied" else 2
            else:
                status = 0 if "result" in ask(service, "flush") else 3
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert service.memory.flushed == ([] if os.geteuid() == 0 else [None])


def test_confirming_what_nobody_asked_to_confirm(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "control.sock", confirm=False) as service,
        called_by(service, pytest.MonkeyPatch(), 0),
    ):
        assert ask(service, "confirm")["error"]["code"] == "unavailable"


# --- bounds ------------------------------------------------------------------------


def wait_for_clients(service: Service, count: int) -> None:
    end = time.monotonic() + 10
    while service.server.clients != count:
        assert time.monotonic() < end, f"{service.server.clients} clients, not {count}"
        time.sleep(0.01)


def test_too_many_clients_are_told_so(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CLIENTS_MAX", 5)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(service.connect())
        wait_for_clients(service, 5)
        with service.connect() as sock:
            assert read_line(sock)["error"]["code"] == "busy"
            assert sock.recv(1) == b""
    wait_for_clients(service, 0)
    assert "result" in ask(service, "status")


def test_one_user_cannot_keep_the_others_out(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CLIENTS_PER_USER_MAX", 3)
    with contextlib.ExitStack() as stack:
        with called_by(service, monkeypatch, 1000):
            for _ in range(3):
                sock = stack.enter_context(service.connect())
                sock.sendall(b'{"v":1,"method":"status"}\n')
                assert "result" in read_line(sock)
            assert read_line(stack.enter_context(service.connect()))["error"]["code"] == "busy"
        with called_by(service, monkeypatch, 0):
            assert "result" in ask(service, "status")


def test_a_slow_reader_is_dropped_and_holds_nobody_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "STALL_MAX", 0.4)
    service.memory.connections = [entry(n, "10.0.0.1:1", "10.0.0.2:2") for n in range(1, 3001)]
    with service.connect() as slow:
        slow.sendall(b'{"v":1,"method":"sessions"}\n' * 100)
        assert "result" in ask(service, "status")
        wait_for_clients(service, 0)
        assert service.server._pending == 0
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while data := slow.recv(1 << 20):
                received += len(data)
        assert received < 1 << 20  # one answer, cut; not a hundred


def test_a_reader_that_goes_on_gets_everything(service: Service) -> None:
    service.memory.connections = [entry(n, "10.0.0.1:1", "10.0.0.2:2") for n in range(1, 3001)]
    with service.connect() as sock, sock.makefile("rb") as answers:
        sock.sendall(b'{"v":1,"method":"sessions"}\n' * 3)
        for _ in range(3):
            assert len(json.loads(answers.readline())["result"]["sessions"]) == 3000
    wait_for_clients(service, 0)
    assert service.server._pending == 0


def test_answers_that_nobody_reads_are_bounded_in_sum(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PENDING_MAX", 2 << 20)
    service.memory.connections = [entry(n, "10.0.0.1:1", "10.0.0.2:2") for n in range(1, 3001)]
    with service.connect() as one, service.connect() as other, service.connect() as third:
        for sock in (one, other):
            sock.sendall(b'{"v":1,"method":"sessions"}\n')
            sock.recv(1)
        third.sendall(b'{"v":1,"method":"sessions"}\n')
        assert read_line(third)["error"]["code"] == "busy"


def test_requests_cost_the_loop_a_tenth_of_its_time(service: Service) -> None:
    """However many ask for how much: timers of the loop come in time."""
    service.memory.connections = [entry(n, "10.0.0.1:1", "10.0.0.2:2") for n in range(1, 501)]
    handled = 0
    honest = service.memory.sessions

    def slow() -> list[dict[str, Any]]:
        nonlocal handled
        handled += 1
        time.sleep(0.02)
        return honest()

    service.memory.sessions = slow  # type: ignore[method-assign]
    stop = threading.Event()

    def hammer() -> None:
        with service.connect() as sock, sock.makefile("rb") as answers:
            while not stop.is_set():
                sock.sendall(b'{"v":1,"method":"sessions"}\n')
                answers.readline()

    threads = [threading.Thread(target=hammer) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert 3 <= handled <= 2 * 1.2 / 0.2 + 5


def test_clients_that_go_away_never_hurt(service: Service) -> None:
    service.memory.connections = [entry(n, "10.0.0.1:1", "10.0.0.2:2") for n in range(1, 2001)]
    for data in (b"", b"{", b'{"v":1,"method":"status"}\n', b'{"v":1,"method":"sessions"}\n' * 9):
        for reset in (False, True):
            sock = service.connect()
            sock.sendall(data)
            if reset:
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
    assert "result" in ask(service, "status")
    wait_for_clients(service, 0)
    assert service.reports == []


def test_a_mistake_of_the_daemon_is_reported_and_survived(service: Service) -> None:
    service.memory.broken = True
    error = ask(service, "status")["error"]
    assert error["code"] == "failed"
    assert "RuntimeError" not in error["message"]
    assert service.reports == [("bug", {"error": "RuntimeError: a mistake", "at": "control"})]
    service.memory.broken = False
    assert "result" in ask(service, "status")


def test_a_process_without_descriptors_answers_later(service: Service) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with service.connect() as early, socket.socket(socket.AF_UNIX) as late:
        early.sendall(b'{"v":1,"method":"status"}\n')
        assert "result" in read_line(early)
        late.settimeout(10)
        lowest = os.dup(late.fileno())
        os.close(lowest)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
            late.connect(str(service.path))
            late.sendall(b'{"v":1,"method":"status"}\n')
            early.sendall(b'{"v":1,"method":"status"}\n')
            assert "result" in read_line(early)
            time.sleep(0.3)
            assert service.server.clients == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert "result" in read_line(late)


# --- the socket in the file system ---------------------------------------------------


def test_the_socket_is_for_everybody_and_its_directory_for_us(tmp_path: Path) -> None:
    path = tmp_path / "run" / "control.sock"
    before = os.umask(0o077)
    try:
        listener = ControlSocket(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert list(path.parent.iterdir()) == [path]
    listener.close()
    listener.close()
    assert not path.exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    ControlSocket(path).close(remove=False)
    assert path.exists()
    with serving(path) as service:
        assert "result" in ask(service, "status")


def test_a_socket_that_somebody_serves_is_left_alone(service: Service) -> None:
    with pytest.raises(LocalError, match="another tcpcryptd answers there"):
        ControlSocket(service.path)
    assert "result" in ask(service, "status")


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(LocalError, match="is not a socket"):
        ControlSocket(path)
    assert path.read_text() == "precious"


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(LocalError, match="others may put another socket there"):
        ControlSocket(tmp_path / "control.sock")
    tmp_path.chmod(0o1777)
    ControlSocket(tmp_path / "control.sock").close()


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="at most 100 bytes"):
        ControlSocket(tmp_path / ("x" * 120))


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match=r"control\.sock: "):
        ControlSocket(tmp_path / "file" / "control.sock")


def test_a_successor_keeps_its_socket(tmp_path: Path) -> None:
    """The old daemon ends after the new one has taken its place."""
    path = tmp_path / "control.sock"
    old = ControlSocket(path)
    old.socket.close()
    new = ControlSocket(path)
    old.close()
    assert path.exists()
    new.close()
    assert not path.exists()


def test_a_worker_serves_the_socket_of_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    listener = ControlSocket(path)
    pid = os.fork()
    if pid == 0:
        from tcpcrypt.daemon.control import ControlServer
        from tcpcrypt.runtime.loop import Loop

        loop = Loop()
        server = ControlServer(
            loop, listener.socket, Memory(), policies=lambda: (), report=lambda *_: None
        )
        server.start()
        loop.call_later(20, loop.stop)
        loop.run()
        os._exit(0)
    listener.socket.close()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(b'{"v":1,"method":"policy"}\n')
        assert read_line(sock)["result"] == {"policies": []}
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    listener.close()
    assert not path.exists()


# --- policies ------------------------------------------------------------------------


def test_policies_are_explained() -> None:
    from ipaddress import ip_network

    policy = Policy(
        Mode.REQUIRE,
        Match(
            direction=FlowDirection.OUTGOING,
            local=(ip_network("10.0.0.0/8"),),
            remote=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")),
            ports=(range(22, 23), range(8000, 8100)),
            uids=(range(1000, 1001),),
            cgroups=("system.slice/backup.service",),
        ),
    )
    assert describe_policy(3, policy) == {
        "number": 3,
        "mode": "require",
        "auth": "none",
        "pq": "off",
        "psk": None,
        "plane": "relay",
        "match": {
            "direction": "outgoing",
            "local": ["10.0.0.0/8"],
            "remote": ["192.0.2.0/24", "2001:db8::/32"],
            "ports": ["22", "8000-8099"],
            "uid": ["1000"],
            "cgroup": ["system.slice/backup.service"],
        },
        "meaning": sentence(policy),
    }
    assert describe_policy(1, Policy(Mode.OPPORTUNISTIC))["match"] == {}
