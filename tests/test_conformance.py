"""The table of what the RFCs ask names tests that there are; and what no other suite shows."""

import ast
import inspect
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from adversary.test_misbehaviours import MISBEHAVIOURS
from support.hosts import Host, connect, drain, negotiate
from support.hosts import exchange as exchange_bytes
from support.named_tests import missing, named

import tcpcrypt
from tcpcrypt import sockets
from tcpcrypt.core import exchange
from tcpcrypt.core.config import Config
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.core.session import Session
from tcpcrypt.crypto.groups import group
from tcpcrypt.registry import Tep
from tcpcrypt.wire.messages import Init1, Init2

DOCUMENT = Path(__file__).parent.parent / "docs/conformance.md"
LEVELS = {"MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY"}
SECTIONS = {
    "RFC 8547, TCP-ENO": {"4.1", "4.2", "4.2.1", "4.3", "4.4", "4.5", "4.6", "4.7", "4.8"}
    | {"5", "5.1", "7", "9", "10", "11"},
    "RFC 8548, tcpcrypt": {"3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "3.8", "3.9"}
    | {"4.1", "4.2.1", "4.2.2", "4.2.3", "5", "7", "8"},
}


FORESEEABLE = ("tools/", "runtime/incoming.py", "transfer/limits.py")
"""What may use `random`, for nothing that is a secret: a free port, a pause between attempts."""


class Row(NamedTuple):
    """One demand."""

    rfc: str
    sections: str
    level: str
    what: str
    tests: str
    peers: str


def rows() -> Iterator[Row]:
    for part in DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:]:
        rfc = part.partition("\n")[0]
        for line in part.splitlines():
            if line.startswith("|") and not line.startswith(("| §", "|--")):
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                assert len(cells) == 5, line
                yield Row(rfc, *cells)


ROWS = list(rows())


def test_every_test_and_every_misbehaviour_that_is_named_is_there() -> None:
    assert missing(DOCUMENT.read_text(encoding="utf-8")) == []
    names = {entry.name for entry in MISBEHAVIOURS}
    told = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row.peers)}
    assert told <= names, told - names


def test_no_demand_is_without_a_test() -> None:
    assert [row for row in ROWS if not named(row.tests)] == []
    assert {row.level for row in ROWS} == LEVELS


def test_every_section_that_demands_something_is_there() -> None:
    for rfc, sections in SECTIONS.items():
        told = {part for row in ROWS if row.rfc == rfc for part in row.sections.split(", ")}
        assert told == sections


def test_a_name_that_is_no_test_is_found() -> None:
    assert missing("`test_that_nobody_wrote` `tests/nowhere.py`") == [
        "test_that_nobody_wrote",
        "tests/nowhere.py",
    ]
    assert missing("`tests/test_conformance.py::test_every_tep`") != []
    here = "tests/test_conformance.py"
    own = "test_a_name_that_is_no_test_is_found"
    assert missing(f"`{own}` `{here}` `{here}::{own}` `{own}[with-a-parameter]` `tox`") == []
    assert named(f"`{here}::{own}` and `{own}`") == [f"{here}::{own}", own]


# --- what no other suite shows ----------------------------------------------------------


def test_47_10_all_randomness_is_the_kernels() -> None:
    """Nothing that protects a connection takes it from a generator that can be foreseen.

    `os.urandom` waits until the kernel's generator is seeded, so that before it no
    option leaves.  (tools/ measures and makes vectors, and protects nothing.)
    """
    root = Path(tcpcrypt.__file__).parent
    for path in root.rglob("*.py"):
        if str(path.relative_to(root)).startswith(FORESEEABLE):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {"random", "numpy.random", "uuid"} & set(names), path
    for made in (Negotiation, Session, exchange.prepare):
        assert inspect.signature(made).parameters["random"].default is os.urandom


@pytest.mark.parametrize("tep", list(Tep)[-4:])
def test_48_3_3_every_exchange_has_keys_and_nonces_of_its_own(tep: Tep) -> None:
    """N_A, N_B and both public keys are new each time, whatever was made ahead."""
    config = Config(teps=(tep,), resume=False, cache=False)
    seen: set[bytes] = set()
    key_len = group(tep).public_key_len
    for _ in range(8):
        one, other = connect(Host(config), Host(config))
        init1 = drain(one)
        other.receive_data(init1)
        for message in (Init1.parse(init1, key_len), Init2.parse(drain(other), key_len)):
            assert not {message.nonce, message.public_key} & seen
            seen |= {message.nonce, message.public_key}


def test_48_3_5_every_resumption_has_a_nonce_of_its_own() -> None:
    client, server = Host(), Host()
    exchange_bytes(*connect(client, server))
    nonces: set[bytes] = set()
    for _ in range(8):
        active, passive = client.negotiation(Opener.ACTIVE), server.negotiation(Opener.PASSIVE)
        seen = negotiate(active, passive)
        for _who, _syn, _ack, option in seen.segments[:2]:
            assert option[-18] & 0x80, "a resumption, nine bytes of identifier, eight of nonce"
            assert option[-8:] not in nonces
            nonces.add(option[-8:])


def test_48_3_9_tcp_keeps_connections_alive_below(tmp_path: Path) -> None:
    with (
        sockets.create_server(
            ("127.0.0.1", 0), peer="tofu", transport="inband", keys=tmp_path / "server"
        ) as listener,
        ThreadPoolExecutor(1) as pool,
    ):
        accepted = pool.submit(listener.accept)
        address = listener.getsockname()[:2]
        with sockets.connect(
            address, peer="tofu", transport="inband", keys=tmp_path / "client"
        ) as one:
            other = accepted.result(20)[0]
            with other:
                for end in (one, other):
                    assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
