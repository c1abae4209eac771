"""Lines of a key log: what they say, what is none, and that both hosts write the same."""

import pytest
from support.hosts import Host, connect, exchange, negotiate, outcome, simultaneous
from support.terms import TA, Conditions, identity, ta_host

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import Role
from tcpcrypt.core.key_log import KeyLine
from tcpcrypt.core.negotiation import Negotiation, Opener
from tcpcrypt.core.session import Session
from tcpcrypt.crypto.schedule import SessionSecret
from tcpcrypt.crypto.secret import Secret
from tcpcrypt.errors import LocalError

N_A, IDENTIFIER, SESSION_ID, SS = bytes(range(32)), bytes(range(9)), b"\x23" * 33, b"\x07" * 32
FRESH = f"TCPCRYPT_SS {N_A.hex()} {SESSION_ID.hex()} {SS.hex()} - 0001 A"
RESUMED = f"TCPCRYPT_SS {IDENTIFIER.hex()} {SESSION_ID.hex()} {SS.hex()} 0102 0010 B"


def test_lines_are_built_and_parsed() -> None:
    fresh = KeyLine(N_A, SESSION_ID, Secret(SS), b"", 1, Role.A)
    resumed = KeyLine(IDENTIFIER, SESSION_ID, Secret(SS), b"\x01\x02", 16, Role.B)
    assert fresh.build() == FRESH
    assert resumed.build() == RESUMED
    assert KeyLine.parse(FRESH) == fresh
    assert KeyLine.parse(RESUMED + "\r\n") == resumed
    assert (fresh.resumed, resumed.resumed) == (False, True)
    assert SS.hex() not in repr(fresh)
    assert "ss=" not in repr(fresh)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "7 fields"),
        (FRESH + " A", "7 fields"),
        (FRESH.replace("_SS", "_S"), "begins with TCPCRYPT_SS"),
        (FRESH.replace("0001 A", "0001 C"), "A or B"),
        (FRESH.replace("0001 A", "xx A"), "AEAD in hex"),
        (FRESH.replace("0001 A", "0 A"), "not a 16-bit number"),
        (FRESH.replace("0001 A", "10000 A"), "not a 16-bit number"),
        (FRESH.replace(N_A.hex(), "00"), "match has 1 bytes, not 32 or 9"),
        (FRESH.replace(N_A.hex(), "-"), "match is not hexadecimal"),
        (FRESH.replace(SESSION_ID.hex(), "00"), "session ID has 1 bytes, not 33"),
        (FRESH.replace(SS.hex(), "0707"), "ss has 2 bytes, not 32"),
        (RESUMED.replace(" 0102 ", " 01g2 "), "sn is not hexadecimal"),
    ],
)
def test_what_is_no_line(line: str, why: str) -> None:
    with pytest.raises(LocalError, match=why) as caught:
        KeyLine.parse(line)
    assert SS.hex() not in str(caught.value)


class Logged:
    """Two hosts that log; lines as (client's, server's)."""

    def __init__(self, client: Host, server: Host) -> None:
        self.client, self.server = client, server
        self.lines: list[tuple[str, str]] = []

    def connect(self, *, swapped: bool = False) -> tuple[Session, Session]:
        hosts = (self.server, self.client) if swapped else (self.client, self.server)
        logs: tuple[list[str], list[str]] = ([], [])
        negotiations = hosts[0].negotiation(Opener.ACTIVE), hosts[1].negotiation(Opener.PASSIVE)
        negotiate(*negotiations)
        sessions = [
            host.session(negotiation, key_log=lambda line, log=log: log.append(line.build()))
            for host, negotiation, log in zip(hosts, negotiations, logs, strict=True)
        ]
        for session in sessions:
            session.send_data(b"x")
        exchange(*sessions)
        (one,), (other,) = logs
        self.lines.append((one, other))
        return sessions[0], sessions[1]


@pytest.mark.parametrize("tep", [0x20, 0x21, 0x23], ids=hex)
def test_both_hosts_write_the_same_line(tep: int) -> None:
    if tep == TA:
        hosts = [ta_host(Conditions(identity(n))) for n in (1, 2)]
    else:
        hosts = [Host(Config(teps=(tep,))) for _ in range(2)]
    logged = Logged(*hosts)
    for swapped in (False, False, True):
        session, _ = logged.connect(swapped=swapped)
        one, other = logged.lines[-1]
        assert one == other
        line = KeyLine.parse(one)
        assert line.session_id == session.session_id
        assert line.aead == session.aead
        assert line.resumed is session.resumed
        assert line.opener is (Role.B if swapped else Role.A)
        # The line gives what the connection has.
        secret = SessionSecret(Secret(line.ss.view()), int(line.resumed))
        if line.resumed:
            assert line.match == secret.resume_ids()[line.opener]
        else:
            assert line.sn == b""
        assert secret.use(session.session_id[0], line.sn)[0] == session.session_id


def test_the_match_of_a_fresh_exchange_is_n_a() -> None:
    lines: list[KeyLine] = []

    def keep(line: KeyLine) -> None:
        assert not line.ss.wiped
        lines.append(line)

    client = Host()
    active, passive = client.negotiation(Opener.ACTIVE), Host().negotiation(Opener.PASSIVE)
    negotiate(active, passive)
    one, other = client.session(active, key_log=keep), Host().session(passive)
    init1 = bytes(one.bytes_to_send())
    other.receive_data(init1)
    one.receive_data(other.bytes_to_send())
    (line,) = lines
    assert line.match in init1
    assert line.ss.wiped, "the log's copy goes with the call"


def test_without_a_log_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionSecret, "copy", lambda _self: pytest.fail("copied"))
    exchange(*connect(Host(), Host()))


def test_in_a_simultaneous_open_host_a_is_the_opener() -> None:
    """RFC 8547 section 4.3: bit `b` tells who is A where both open."""
    logs: list[str] = []
    configs = Config(), Config(active_b=True)
    first, second = (Negotiation(config, Opener.ACTIVE) for config in configs)
    simultaneous(first, second)
    sessions = [
        Session(config, outcome(one), key_log=lambda line: logs.append(line.build()))
        for config, one in zip(configs, (first, second), strict=True)
    ]
    exchange(*sessions)
    one, other = logs
    assert one == other
    assert one.endswith(" A")
