"""The kernel carries the option: what leaves, what is remembered, and what ends in plain.

(What daemons do with it, every other test of this folder shows when it runs with
TCPCRYPT_TEST_BACKEND=sockops.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from netns import kernel_programs
from netns.network import PORT, Network
from netns.observed import eno, segments

from tcpcrypt.core.config import Config, RandomBytes
from tcpcrypt.core.negotiation import Fallback, Negotiated, Negotiation, Opener
from tcpcrypt.core.policy import Mode, Policy
from tcpcrypt.errors import FallbackReason
from tcpcrypt.runtime import bpf
from tcpcrypt.runtime.cgroup import open_own_cgroup
from tcpcrypt.runtime.eno_backend import Requested, Tuple4
from tcpcrypt.runtime.privileges import DirectPrivileges, tcp_socket
from tcpcrypt.runtime.sockops import Attachment, SockopsBackend
from tcpcrypt.tools.netns import Capture, Host, wait_until

FRESH = b"\x45\x04\x01\x23"
ACK = b"\x45\x02"


def ends(sock: socket.socket) -> Tuple4:
    return Tuple4.between(sock.getsockname(), sock.getpeername())


@dataclass
class Side:
    """A host whose sockets negotiate."""

    host: Host
    config: Config = field(default_factory=Config)
    attachment: Attachment = field(default_factory=Attachment)
    sockets: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backend = SockopsBackend(self.attachment.maps, DirectPrivileges())
        with self.host.entered():
            self.backend.configure(self.config)

    def listen(self, address: str) -> socket.socket:
        with self.host.entered():
            sock = tcp_socket(6 if ":" in address else 4)
        self.sockets.append(sock)
        sock.bind((address, PORT))
        self.backend.adopt_listener(sock, self._passive)
        sock.listen()
        return sock

    def _passive(
        self, _connection: Tuple4, *, resume: bool = True, random: RandomBytes = bytes
    ) -> Requested:
        negotiation = Negotiation(self.config, Opener.PASSIVE, random=random)
        return Requested(negotiation, Policy(Mode.OPPORTUNISTIC), self.config, None)

    def connect(
        self, address: str, port: int = PORT, *, own_port: int = 0, insist: bool = False
    ) -> tuple[socket.socket, Negotiation]:
        """Begin to connect."""
        with self.host.entered():
            sock = self.backend.opener(6 if ":" in address else 4, 0, self.config)
        self.sockets.append(sock)
        if own_port:
            sock.bind(("", own_port))
        negotiation = Negotiation(self.config, Opener.ACTIVE)
        self.backend.connect(sock, (address, port), negotiation, lambda: None, insist=insist)
        return sock, negotiation

    def finish(self, sock: socket.socket, timeout: float = 10) -> None:
        """Wait until the connection is up."""
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        assert poll.poll(timeout * 1000), "no connection"
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.backend.connected(sock)

    def open(self, address: str) -> tuple[socket.socket, Negotiation]:
        sock, negotiation = self.connect(address)
        self.finish(sock)
        return sock, negotiation

    def accept(self, listener: socket.socket) -> tuple[socket.socket, Negotiation | None]:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        assert poll.poll(10_000), "nobody came"
        sock, _address = listener.accept()
        self.sockets.append(sock)
        requested = self.backend.accepted(sock, ends(sock))
        return sock, requested.negotiation if requested is not None else None

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.attachment.close()


Make = Callable[..., Side]


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    kernel_programs.needed_by("sockops")


@pytest.fixture
def side() -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def make(host: Host, config: Config | None = None) -> Side:
            made = Side(host, config or Config())
            stack.callback(made.close)
            return made

        yield make


def options(capture: Capture, port: int = PORT) -> list[tuple[bool, bool, bool, bytes]]:
    """(from the client, SYN, ACK, ENO option or nothing) of each segment."""
    found = []
    for s in segments(capture.packets):
        contents = eno(s)
        raw = b"" if contents is None else bytes((69, 2 + len(contents))) + contents
        found.append((s.destination_port == port, s.flags.syn, s.flags.ack, raw))
    return found


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("cookies", ["1", "2"])
def test_both_sides_remember_the_same(pair: Network, side: Make, family: int, cookies: str) -> None:
    pair.server.sysctl("net.ipv4.tcp_syncookies", cookies)
    ours, theirs = side(pair.client), side(pair.server)
    address = pair.server_end.v4 if family == 4 else pair.server_end.v6
    listener = theirs.listen(address)
    for _ in range(3):
        _sock, mine = ours.open(address)
        _sock, other = theirs.accept(listener)
        assert other is not None
        assert isinstance(mine.outcome, Negotiated)
        assert isinstance(other.outcome, Negotiated)
        assert mine.outcome.eno_transcript == other.outcome.eno_transcript
        assert mine.outcome.tep == other.outcome.tep == 0x23
        assert mine.outcome.eno_transcript.endswith(FRESH)


def test_the_option_is_in_each_segment_until_the_peers_first_without_syn(
    pair: Network, side: Make
) -> None:
    """RFC 8547 section 4.6; and not in those after it."""
    ours, theirs = side(pair.client), side(pair.server)
    listener = theirs.listen(pair.server_end.v4)
    silent = ("OUTPUT", "-p", "tcp", "--tcp-flags", "SYN", "NONE", "-j", "DROP")
    pair.server.run("iptables", "-A", *silent)
    with Capture(pair.client_end) as capture:
        mine, _negotiation = ours.open(pair.server_end.v4)
        mine.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        other, _negotiation = theirs.accept(listener)
        for text in (b"one", b"two"):
            mine.sendall(text)
            time.sleep(0.05)
        pair.server.run("iptables", "-D", *silent)
        other.sendall(b"answer")
        assert wait_until(lambda: select.select([mine], [], [], 0)[0], "answer")
        before = len(segments(capture.packets))
        mine.sendall(b"three")
        time.sleep(0.3)
    found = options(capture)
    answered = next(i for i, f in enumerate(found) if not f[0] and not f[1])
    early = [option for client, syn, _ack, option in found[:answered] if client and not syn]
    assert len(early) >= 3
    assert set(early) == {ACK}
    late = [option for client, _syn, _ack, option in found[before:] if client]
    assert late
    assert set(late) == {b""}
    assert [option for client, syn, _ack, option in found if not client and syn] == [FRESH]


def test_a_repeated_syn_ack_says_the_same(pair: Network, side: Make) -> None:
    ours, theirs = side(pair.client), side(pair.server)
    listener = theirs.listen(pair.server_end.v4)
    drop = "INPUT -p tcp --tcp-flags SYN,ACK ACK -j DROP"
    pair.server.run("iptables", "-A", *drop.split())
    with Capture(pair.server_end) as capture:
        mine, _negotiation = ours.open(pair.server_end.v4)
        wait_until(lambda: sum(o[1] and o[2] for o in options(capture)) > 1, "SYN-ACK again")
        pair.server.run("iptables", "-D", *drop.split())
        mine.sendall(b"data")
        _sock, negotiation = theirs.accept(listener)
    assert {option for client, syn, _ack, option in options(capture) if syn and not client} == {
        FRESH
    }
    assert negotiation is not None
    assert isinstance(negotiation.outcome, Negotiated)


def test_a_path_that_swallows_the_option_costs_three_syns(path: Network, side: Make) -> None:
    ours = side(path.client)
    path.meddle("-p", "tcp", "--tcp-option", "69", "-j", "DROP")
    with path.listen(), Capture(path.client_end) as capture:
        _sock, negotiation = ours.open(path.server_end.v4)
    assert negotiation.outcome == Fallback(FallbackReason.SYN_RETRANSMITTED_PLAIN)
    syns = [bool(option) for client, syn, _ack, option in options(capture) if client and syn]
    assert syns == [True, True, True, False]


def test_who_insists_never_leaves_it_out(path: Network, side: Make) -> None:
    ours = side(path.client)
    path.meddle("-p", "tcp", "--tcp-option", "69", "-j", "DROP")
    with path.listen(), Capture(path.client_end) as capture:
        ours.connect(path.server_end.v4, insist=True)
        wait_until(lambda: len(options(capture)) >= 5, "SYNs", timeout=20)
    assert all(option for _client, _syn, _ack, option in options(capture))


def test_a_stripped_answer_ends_in_plain_on_both_sides(path: Network, side: Make) -> None:
    ours, theirs = side(path.client), side(path.server)
    strip = "-p tcp --tcp-flags SYN,ACK SYN,ACK -j TCPOPTSTRIP --strip-options 69"
    path.meddle(*strip.split())
    listener = theirs.listen(path.server_end.v4)
    with Capture(path.client_end) as capture:
        _sock, mine = ours.open(path.server_end.v4)
        _sock, other = theirs.accept(listener)
    assert mine.outcome == Fallback(FallbackReason.NO_ENO_IN_SYN_ACK)
    assert other is not None
    assert other.outcome == Fallback(FallbackReason.NO_ENO_IN_FIRST_ACK)
    assert not any(option for client, syn, _ack, option in options(capture) if client and not syn)


def test_without_a_common_tep_nothing_is_answered(pair: Network, side: Make) -> None:
    ours = side(pair.client, Config(teps=(0x21,)))
    theirs = side(pair.server, Config(teps=(0x24,)))
    listener = theirs.listen(pair.server_end.v4)
    with Capture(pair.client_end) as capture:
        _sock, mine = ours.open(pair.server_end.v4)
        _sock, other = theirs.accept(listener)
    assert mine.outcome == Fallback(FallbackReason.NO_ENO_IN_SYN_ACK)
    assert other is not None
    assert other.outcome == Fallback(FallbackReason.NO_COMMON_TEP)
    assert [bool(option) for *_rest, option in options(capture)].count(True) == 1


def test_a_simultaneous_open_ends_in_plain(pair: Network, side: Make) -> None:
    """The kernel shows nobody the SYN that crosses ours, so that there is no judging it."""
    ours, theirs = side(pair.client), side(pair.server)
    drop = f"INPUT -p tcp --syn --dport {PORT} -j DROP"
    pair.server.run("iptables", "-A", *drop.split())
    mine, one = ours.connect(pair.server_end.v4, own_port=PORT + 1)
    other, two = theirs.connect(pair.client_end.v4, PORT + 1, own_port=PORT)
    with Capture(pair.client_end):
        ours.finish(mine)
        theirs.finish(other)
    assert isinstance(one.outcome, Fallback)
    assert isinstance(two.outcome, Fallback)
    other.sendall(b"in plain, as TCP always could")
    assert wait_until(lambda: select.select([mine], [], [], 0)[0], "data")


def test_what_the_two_see_otherwise_is_not_taken(pair: Network, side: Make) -> None:
    """The answer was made by other settings than those that hold now."""
    ours, theirs = side(pair.client), side(pair.server)
    listener = theirs.listen(pair.server_end.v4)
    ours.open(pair.server_end.v4)
    theirs.config = replace(theirs.config, teps=(0x24,))
    _sock, negotiation = theirs.accept(listener)
    assert negotiation is None


def test_an_acknowledgement_that_the_core_would_not_give_ends_the_connection(
    pair: Network, side: Make
) -> None:
    ours, theirs = side(pair.client), side(pair.server)
    theirs.listen(pair.server_end.v4)
    sock, negotiation = ours.connect(pair.server_end.v4)
    # As if the program had a mistake: what it holds for good, the core refuses.
    negotiation.segment_received = lambda *_: Negotiation.segment_received(  # type: ignore[method-assign]
        negotiation, True, True, b""
    )
    with pytest.raises(OSError) as caught:
        ours.finish(sock)
    assert caught.value.errno == errno.ECONNABORTED


@pytest.fixture
def own_group() -> Iterator[None]:
    """This process is in a control group where nobody else is, whose connections would count."""
    above = open_own_cgroup()
    name = f"tcpcrypt-test-{os.getpid()}"

    def move(where: str) -> None:
        members = os.open(where, os.O_WRONLY, dir_fd=above)
        with open(members, "w") as file:
            file.write(str(os.getpid()))

    os.mkdir(name, dir_fd=above)
    try:
        move(f"{name}/cgroup.procs")
        yield
    finally:
        move("cgroup.procs")
        os.rmdir(name, dir_fd=above)
        os.close(above)


@pytest.fixture
def runs() -> Iterator[Callable[[], int]]:
    """How often programs of this process have run."""
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = switch.read_text()
    switch.write_text("1")

    def count() -> int:
        found = 0
        for entry in Path("/proc/self/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):  # that of the directory
                for line in entry.read_text().splitlines():
                    found += int(line.split()[1]) if line.startswith("run_cnt:") else 0
        return found

    yield count
    switch.write_text(before)


def test_it_does_not_run_for_segments_once_the_handshake_is_over(
    own_group: None, pair: Network, side: Make, runs: Callable[[], int]
) -> None:
    server, client = side(pair.server), side(pair.client)
    listener = server.listen(pair.server_end.v4)
    opened, _negotiation = client.open(pair.server_end.v4)
    accepted, _other = server.accept(listener)
    for sock in (opened, accepted):
        sock.setblocking(True)
    for one, other in ((accepted, opened), (opened, accepted)) * 2:
        one.sendall(b"first")
        assert other.recv(5) == b"first"
    before = runs()
    assert before > 0
    for one, other in ((accepted, opened), (opened, accepted)) * 100:
        one.sendall(b"more")
        assert other.recv(4) == b"more"
    assert runs() - before < 50


def test_sockets_of_others_are_left_alone(pair: Network, side: Make) -> None:
    """They are in the same control group."""
    side(pair.client)
    side(pair.server)
    with pair.listen() as listener, Capture(pair.client_end) as capture, pair.connect() as one:
        other, _address = listener.accept()
        with other:
            one.sendall(b"x")
            assert other.recv(1) == b"x"
    assert not any(option for *_rest, option in options(capture))


def test_a_connection_of_which_the_program_knows_nothing_is_not_taken(
    pair: Network, side: Make
) -> None:
    theirs = side(pair.server)
    listener = theirs.listen(pair.server_end.v4)
    theirs.attachment.close()
    with pair.connect():
        sock, _address = listener.accept()
        with sock:
            replaced = side(pair.server)
            assert replaced.backend.accepted(sock, ends(sock)) is None
            assert replaced.backend.evicted == 1


def test_nothing_of_it_stays(pair: Network, side: Make) -> None:
    ours = side(pair.client)
    theirs = side(pair.server)
    listener = theirs.listen(pair.server_end.v4)
    ours.attachment.close()
    with Capture(pair.client_end) as capture, pair.connect():
        listener.accept()[0].close()
    assert not any(option for *_rest, option in options(capture))


def programs(pid: int) -> set[int]:
    """The numbers of the programs that a process has."""
    texts = [file.read_text() for file in Path(f"/proc/{pid}/fdinfo").iterdir()]
    lines = [line.split() for text in texts for line in text.splitlines()]
    return {int(words[1]) for words in lines if words[:1] == ["prog_id:"]}


def is_loaded(program: int) -> bool:
    descriptor: int = bpf.library().bpf_prog_get_fd_by_id(program)
    if descriptor >= 0:
        os.close(descriptor)
    return descriptor >= 0


# --- daemons ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    "kinds",
    [("sockops", "nfqueue"), ("nfqueue", "sockops"), ("mixed", "mixed"), ("mixed", "sockops")],
)
def test_the_backends_understand_each_other(
    pair: Network, tmp_path: Path, family: int, kinds: tuple[str, str]
) -> None:
    (tmp_path / "page").write_bytes(b"a page")
    pair.web(tmp_path)
    ours = pair.daemon(pair.client, "--backend", kinds[0], "--mode", "require")
    theirs = pair.daemon(pair.server, "--backend", kinds[1], "--mode", "require")
    for _ in range(3):
        assert pair.curl("/page", family) == "a page"
    mine = ours.wait_for("enabled", count=3)
    assert [line["session"] for line in mine] == [
        line["session"] for line in theirs.wait_for("enabled", count=3)
    ]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_program_goes_with_the_daemon(pair: Network, how: signal.Signals) -> None:
    daemon = pair.daemon(pair.client, "--backend", "sockops")
    (program,) = programs(daemon.process.pid)
    assert is_loaded(program)
    assert not programs(daemon.worker)
    daemon.stop(how)
    wait_until(lambda: not is_loaded(program), "end of the program")


@pytest.mark.parametrize(
    ("backend", "timestamps", "second"),
    [("sockops", "0", "resumed"), ("sockops", "1", "fresh"), ("mixed", "1", "resumed")],
)
def test_a_resumption_is_answered_where_there_is_room(
    pair: Network, tmp_path: Path, backend: str, timestamps: str, second: str
) -> None:
    """The answer takes 21 bytes; beside timestamps Linux leaves 20, and the queue more."""
    (tmp_path / "page").write_bytes(b"a page")
    pair.client.sysctl("net.ipv4.tcp_timestamps", timestamps)
    pair.web(tmp_path)
    daemons = [
        pair.daemon(host, "--backend", backend, "--mode", "require")
        for host in (pair.client, pair.server)
    ]
    for _ in range(4):
        assert pair.curl("/page") == "a page"
    for daemon in daemons:
        starts = [line["start"] for line in daemon.wait_for("enabled", count=4)]
        assert starts == ["fresh", second, second, second]
        assert not daemon.events("aborted", "failed")
