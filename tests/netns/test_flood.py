"""More half-open handshakes than the listener has room for: Linux answers with SYN cookies.

client ---- veth1 ---- middle ---- veth2 ---- server         the flood comes from `middle`

With `net.ipv4.tcp_syncookies = 1`, as it is by default, Linux keeps nothing of a
SYN while `net.core.somaxconn` others wait: 4,096 by default, and here in the long
profile.  What plain TCP would have served is served, encrypted, and hardly slower.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
from dataclasses import replace

import pytest
from middlebox.packet import ACK, ENO, FIN, PSH, RST, SYN, Packet
from netns.flood import (
    FACTOR,
    OFFER,
    SECRET,
    SPARE,
    SynFlood,
    honest,
    latency,
    nobody_there,
    service,
)
from netns.network import PORT, Network

from tcpcrypt.registry import INIT1_MAGIC
from tcpcrypt.runtime.nfqueue import SYN_QUEUE_LENGTH
from tcpcrypt.runtime.rules import QUEUE_NUMBER, SYN_QUEUE
from tcpcrypt.tools.labdaemon import LabDaemon
from tcpcrypt.tools.netns import Capture, Host, free_of, wait_until

HONEST = 25
DROP = ("-j", "DROP")


def counter(host: Host, name: str) -> int:
    """One of the kernel's `TcpExt` counters."""
    lines = host.run("cat", "/proc/net/netstat").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(values[names.index(name)])


def sessions(daemon: LabDaemon) -> list[str]:
    return [line["session"] for line in daemon.events("enabled")]


BACKLOGS = [(4, "require", 1024), (6, "opportunistic", 512)]
if os.environ.get("TCPCRYPT_TEST_PROFILE") == "long":
    BACKLOGS.append((4, "require", 4096))


@pytest.mark.parametrize(("family", "mode", "backlog"), BACKLOGS)
def test_a_flood_beyond_the_backlog_costs_no_honest_client_its_connection(
    path: Network, family: int, mode: str, backlog: int
) -> None:
    nobody_there(path)
    path.server.sysctl("net.core.somaxconn", str(backlog))
    path.server.sysctl("net.ipv4.tcp_syncookies", "1")
    ours, theirs = path.both("--mode", mode)
    with service(path, family), Capture(path.client_end) as near, Capture(path.server_end) as far:
        latency(path, family, 5)  # warm
        alone = latency(path, family)
        before = len(sessions(theirs))
        with SynFlood(path, 4 * backlog, family=family, again=True) as flood:
            wait_until(lambda: flood.sent > 3 * backlog, "flood", 60)
            received = counter(path.server, "SyncookiesRecv")
            took = [honest(path, family) for _ in range(HONEST)]
            cookies = counter(path.server, "SyncookiesRecv") - received
    assert near.dropped == far.dropped == 0
    assert counter(path.server, "SyncookiesSent")
    # The queue of requests empties now and then.
    assert cookies >= HONEST // 2
    assert statistics.median(took) <= FACTOR * alone + SPARE
    # Each is encrypted, and both ends agree.
    assert len(sessions(theirs)) == before + HONEST
    assert sessions(ours) == sessions(theirs)
    assert not theirs.events("fallback", "failed", "aborted", "bug")
    assert free_of(near.packets + far.packets, SECRET) == [SECRET]


def waiting(host: Host, queue: int) -> tuple[int, int]:
    """How many packets wait in a netfilter queue, and how many had no room in it."""
    for line in host.run("cat", "/proc/net/netfilter/nfnetlink_queue").stdout.splitlines():
        number, _process, total, _copies, _range, dropped, *_ = map(int, line.split())
        if number == queue:
            return total, dropped
    raise LookupError(queue)


@pytest.mark.usefixtures("accepted_by_queue")
@pytest.mark.parametrize(("family", "flags"), [(6, SYN), (4, ACK)])
def test_syns_that_nobody_reads_take_no_room_from_what_was_answered(
    path: Network, family: int, flags: int
) -> None:
    """They are what is dropped, and who comes afterwards waits for few of them.

    So it is with what might answer a cookie, and belongs to nothing that is known.
    """
    nobody_there(path)
    count = 2 * SYN_QUEUE_LENGTH
    theirs = path.daemon(path.server, "--mode", "require")
    path.daemon(path.client, "--mode", "require")
    with service(path, family):
        honest(path, family)
        os.kill(theirs.worker, signal.SIGSTOP)
        try:
            # A worker that does nothing for ten seconds is given up by its parent.
            with SynFlood(path, count, family=family, rate=20_000, flags=flags) as flood:
                wait_until(lambda: flood.sent == count, "flood", 6)
            wait_until(lambda: sum(waiting(path.server, SYN_QUEUE)) == count, "arrival", 2)
            assert waiting(path.server, SYN_QUEUE)[0] <= SYN_QUEUE_LENGTH
            assert waiting(path.server, QUEUE_NUMBER) == (0, 0)
        finally:
            os.kill(theirs.worker, signal.SIGCONT)
        honest(path, family)
    assert waiting(path.server, QUEUE_NUMBER)[1] == 0
    assert not theirs.events("bug")


class Asker:
    """Asks with the option for a service that `require` keeps, and has a SYN cookie for it.

    Cookies are true for any listener of the host that has sent some lately, and the
    daemon's own connections to the service can make it such a one.
    """

    def __init__(
        self, network: Network, family: int, capture: Capture, *, address: str = ""
    ) -> None:
        """`address`: the service is bound to it alone, and there is a flood."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        here, there = (
            end.v4 if family == 4 else end.v6 for end in (network.client_end, network.server_end)
        )
        self._server, self._capture, self._to = network.server, capture, (there, 0)
        ends = (socket.inet_pton(kind, here), socket.inet_pton(kind, there))
        # The kernel of the client knows nothing of this connection, and would say so.
        for command in ("iptables", "ip6tables"):
            drop = ("-p", "tcp", "--tcp-flags", "RST", "RST", *DROP)
            network.client.run(command, "-A", "OUTPUT", *drop)
        self.listener = network.listen(family, address=address)
        if address:
            # A flood for a port on which nobody listens does not come as far.
            wait_until(lambda: counter(network.server, "SyncookiesSent"), "cookies", 30)
        with network.server.socket(kind, socket.SOCK_STREAM) as local:
            local.connect((there, PORT))  # the service sends a cookie
            self.listener.accept()[0].close()
        self._raw = network.client.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)
        syn = Packet(*ends, 4444, PORT, 1000, 0, SYN, 64_000, 0, ((ENO, OFFER),), b"")
        self._raw.sendto(syn.build(), self._to)
        answered = wait_until(lambda: self.answer(SYN), "SYN-ACK")
        assert answered.option(ENO) is not None
        self._ack = replace(syn, seq=1001, ack=answered.end, flags=ACK, options=())

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()
        self.listener.close()

    def answer(self, flag: int, taken: bytes = b"") -> Packet | None:
        """A packet with this flag, if there is one yet, that acknowledges what was `taken`."""
        for packet in self._capture.packets:
            with contextlib.suppress(ValueError):
                parsed = Packet.parse(packet)
                wanted = not taken or parsed.ack == self._ack.seq + len(taken)
                if wanted and parsed.sport == PORT and parsed.flags & flag:
                    return parsed
        return None

    def wait_until_forgotten(self) -> None:
        """By connection tracking, which happens before the cookie ends."""
        table = ("cat", "/proc/net/nf_conntrack")
        wait_until(lambda: " sport=4444 " not in self._server.run(*table).stdout, "expiry")

    def send(
        self, payload: bytes = b"", *, option: bool = False, flags: int = 0, behind: bytes = b""
    ) -> None:
        packet = replace(
            self._ack,
            seq=self._ack.seq + len(behind),
            options=((ENO, b""),) if option else (),
            flags=flags | (ACK | PSH if payload else ACK),
            payload=payload,
        )
        self._raw.sendto(packet.build(), self._to)

    def assert_not_served(self) -> None:
        self.listener.settimeout(1)
        with pytest.raises(TimeoutError):
            self.listener.accept()


def cookies_always(network: Network) -> None:
    network.server.sysctl("net.ipv4.tcp_syncookies", "2")


def forgetting(network: Network) -> None:
    network.server.sysctl("net.netfilter.nf_conntrack_tcp_timeout_syn_recv", "1")


@pytest.mark.parametrize(
    ("family", "forgotten", "flags"), [(4, False, 0), (6, True, 0), (4, True, FIN)]
)
def test_a_cookie_of_ours_is_none_for_the_service(
    pair: Network, family: int, forgotten: bool, flags: int
) -> None:
    """RFC 8547 section 4.6 under `require`: who asks with the option and goes on without it.

    To connection tracking what begins with a FIN is not even new.
    """
    cookies_always(pair)
    theirs = pair.daemon(pair.server, "--mode", "require")
    if forgotten:
        forgetting(pair)
    with Capture(pair.client_end) as capture, Asker(pair, family, capture) as asker:
        if forgotten:
            asker.wait_until_forgotten()
        asker.send(SECRET if flags else b"", flags=flags)
        asker.send(SECRET)
        asker.assert_not_served()
        assert wait_until(lambda: asker.answer(RST), "reset")
        # Nor does what comes behind the refusal find the service.
        asker.send(SECRET)
        asker.assert_not_served()
    assert not theirs.events("enabled", "bug")


@pytest.mark.parametrize("cookies", [1, 2])
def test_a_service_at_one_address_takes_a_cookie_only_where_it_sends_some_itself(
    path: Network, cookies: int
) -> None:
    """The rules cannot tell its listener from a connection that is older than they are.

    2, "a cookie for everybody", is the limit; with 1, as it is by default, Linux takes
    none at a listener that has not been flooded itself, and no flood from outside gets
    as far as the service.
    """
    nobody_there(path)
    path.server.sysctl("net.core.somaxconn", "16")
    path.server.sysctl("net.ipv4.tcp_syncookies", str(cookies))
    path.daemon(path.server, "--mode", "require")
    forgetting(path)
    with Capture(path.client_end) as capture, SynFlood(path, 200, again=True) as flood:
        wait_until(lambda: flood.sent > 200, "flood")
        with Asker(path, 4, capture, address=path.server_end.v4) as asker:
            asker.wait_until_forgotten()
            asker.send(SECRET)
            if cookies == 1:
                asker.assert_not_served()
                return
            opened, _address = asker.listener.accept()
            with opened:
                assert opened.getpeername()[1] == 4444


@pytest.mark.parametrize("backend", ["nfqueue", "sockops"])
def test_behind_a_cookie_what_follows_makes_the_connection_that_an_ack_did_not(
    pair: Network, backend: str
) -> None:
    """As when there was no room for it: TCP says nothing to that, and keeps nothing."""
    cookies_always(pair)
    once = ("-m", "statistic", "--mode", "nth", "--every", "1000000", "--packet", "0")
    ours, theirs = pair.both("--mode", "require", "--backend", backend)
    bare = ("-p", "tcp", "--dport", str(PORT), "--tcp-flags", "SYN,ACK,PSH,FIN", "ACK")
    pair.server.run("iptables", "-A", "INPUT", *bare, *once, *DROP)
    with service(pair):
        assert honest(pair) < 5
    assert sessions(ours) == sessions(theirs) != []
    dropped = pair.server.run("iptables", "-nvxL", "INPUT").stdout.splitlines()[-1]
    assert dropped.split()[:3:2] == ["1", "DROP"]


@pytest.mark.parametrize("backend", ["nfqueue", "sockops"])
def test_a_cookie_that_was_used_is_none_for_the_service(pair: Network, backend: str) -> None:
    """Nor where its SYN was forgotten when it opened the connection, and that has ended."""
    cookies_always(pair)
    theirs = pair.daemon(pair.server, "--mode", "require", "--backend", backend)
    forgetting(pair)
    with Capture(pair.client_end) as capture, Asker(pair, 4, capture) as asker:
        asker.wait_until_forgotten()
        asker.send(option=True)

        # Connection tracking keeps what was answered by more than a reset.
        def acknowledged() -> bool:
            asker.send(INIT1_MAGIC)  # the first one may overtake the ACK
            return asker.answer(ACK, INIT1_MAGIC) is not None

        wait_until(acknowledged, "acknowledgement")
        asker.send(b"nothing of the kind" * 50, behind=INIT1_MAGIC)
        wait_until(lambda: theirs.events("aborted"), "abort")
        asker.send(SECRET)
        asker.assert_not_served()
    assert not theirs.events("enabled", "bug")


@pytest.mark.parametrize("backend", ["nfqueue", "sockops"])
def test_a_cookie_outlives_a_killed_daemon_and_is_none_for_the_service(
    pair: Network, backend: str
) -> None:
    """What `require` leaves in the kernel knows what was asked of the daemon."""
    cookies_always(pair)
    theirs = pair.daemon(pair.server, "--mode", "require", "--backend", backend)
    with Capture(pair.client_end) as capture, Asker(pair, 4, capture) as asker:
        theirs.stop(signal.SIGKILL)
        table = ("iptables-save", "-t", "mangle")
        wait_until(lambda: "TPROXY" not in pair.server.run(*table).stdout, "guard")
        asker.send(SECRET)
        asker.assert_not_served()
        assert wait_until(lambda: asker.answer(RST), "reset")
