"""Processes that fork: a connection has one owner, a listener as many as there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tcpcrypt.errors import LocalError
from tcpcrypt.sockets import SecureSocket, State
from tcpcrypt.sockets.sessions import SharedResumption

PATIENCE = 30.0

CHILD_ANSWERS = """
import os, sys, threading
from tcpcrypt import sockets
from tcpcrypt.errors import LocalError
keys = sys.argv[1]
listener = sockets.create_server(
    ("127.0.0.1", 0), peer="tofu", keys=keys + "/server", transport="inband")
heard = []
def ask():
    with sockets.connect(listener.getsockname()[:2], peer="tofu", keys=keys + "/client",
                         transport="inband") as client:
        client.settimeout(20)
        while data := client.recv(100):
            heard.append(data)
asking = threading.Thread(target=ask)
asking.start()
server, _address = listener.accept()
child = os.fork()
if child == 0:
    status = 1
    try:
        server.sendall(b"from the child")
    except LocalError:
        status = 0
    server.close()
    os._exit(status)
refused = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
server.sendall(b"from the parent")
server.close()
asking.join()
print(refused, b"".join(heard))
"""

EACH_LISTENS = """
import os, sys
from tcpcrypt import sockets
keys = sys.argv[1]
listener = sockets.create_server(
    ("127.0.0.1", 0), peer="tofu", keys=keys + "/server", transport="inband")
address = listener.getsockname()[:2]
children = []
for number in range(2):
    child = os.fork()
    if child == 0:
        with listener:
            connection, _address = listener.accept()
            connection.sendall(str(os.getpid()).encode())
            connection.close()
        os._exit(0)
    children.append(child)
listener.close()
told = []
for _ in children:
    with sockets.connect(address, peer="tofu", keys=keys + "/client", transport="inband") as client:
        client.settimeout(20)
        told.append(int(client.recv(100)))
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(sorted(told) == sorted(children), codes)
"""


@pytest.mark.parametrize(
    ("program", "output"),
    [(CHILD_ANSWERS, "True b'from the parent'\n"), (EACH_LISTENS, "True [0, 0]\n")],
    ids=["connection", "listener"],
)
def test_a_process_that_forks(tmp_path: Path, program: str, output: str) -> None:
    """A child neither seals with the keys of a connection nor ends it; listening it may share."""
    run = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.returncode) == (output, 0), done.stderr


def test_a_child_may_do_nothing_but_let_go(
    pair: tuple[SecureSocket, SecureSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = pair
    parent = os.getpid()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: parent + 1)
        for use in (
            lambda: client.send(b"x"),
            lambda: client.sendall(b"x"),
            lambda: client.recv(1),
            lambda: client.recv(0),
            lambda: client.recv_into(bytearray(1)),
            lambda: client.shutdown(1),
            lambda: client.cork().__enter__(),
            client.do_handshake,
        ):
            with pytest.raises(LocalError, match="stays with the process"):
                use()
    assert client.state is State.AES_MODE
    client.sendall(b"hello")
    assert server.recv(10) == b"hello"


@pytest.mark.parametrize("how", ["close", "abort"])
def test_what_a_child_lets_go_of_says_nothing(
    pair: tuple[SecureSocket, SecureSocket], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    client, server = pair
    parent, kept = os.getpid(), os.dup(client.fileno())  # as the parent keeps it
    server.settimeout(0.2)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: parent + 1)
        getattr(client, how)()
    assert client.fileno() == -1
    with pytest.raises(TimeoutError):
        server.recv(1)
    os.close(kept)


def test_a_child_resumes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SharedResumption()
    with cache.lock:
        lock, parent = cache.lock, os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: parent + 1)
        assert cache.offer(b"somebody", (0x20,)) is None
        assert cache.lock is not lock
