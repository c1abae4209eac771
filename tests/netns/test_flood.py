"""More half-open handshakes than the listener has room for: Linux answers with SYN cookies.

client ---- veth1 ---- middle ---- veth2 ---- server         the flood comes from `middle`

With `net.ipv4.tcp_syncookies = 1`, as it is by default, Linux keeps nothing of a
SYN while `net.core.somaxconn` others wait: 4,096 by default, and here in the long
profile.  What plain TCP would have served is served, encrypted, and hardly slower.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
from dataclasses import replace

import pytest
from middlebox.packet import ACK, ENO, PSH, RST, SYN, Packet
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


@pytest.mark.parametrize(("family", "forgotten"), [(4, False), (6, True)])
def test_a_cookie_of_ours_is_none_for_the_service(
    pair: Network, family: int, forgotten: bool
) -> None:
    """RFC 8547 section 4.6 under `require`: who asks with the option and goes on without it.

    Cookies are true for any listener of the host that has sent some lately, and the
    daemon's own connections to the service can make it such a one.  `forgotten`: by
    connection tracking, which happens before the cookie ends.
    """
    pair.server.sysctl("net.ipv4.tcp_syncookies", "2")
    theirs = pair.daemon(pair.server, "--mode", "require")
    if forgotten:
        pair.server.sysctl("net.netfilter.nf_conntrack_tcp_timeout_syn_recv", "1")
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    here, there = (
        socket.inet_pton(kind, end.v4 if family == 4 else end.v6)
        for end in (pair.client_end, pair.server_end)
    )
    # The kernel of the client knows nothing of this connection, and would say so.
    for command in ("iptables", "ip6tables"):
        pair.client.run(command, "-A", "OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", *DROP)
    syn = Packet(here, there, 4444, PORT, 1000, 0, SYN, 64_000, 0, ((ENO, OFFER),), b"")
    with (
        pair.listen(family) as listener,
        pair.client.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
        Capture(pair.client_end) as capture,
    ):
        local = pair.server.socket(kind, socket.SOCK_STREAM)
        with local:  # the service sends a cookie
            local.connect((socket.inet_ntop(kind, there), PORT))
            listener.accept()[0].close()

        def answer(flag: int) -> Packet | None:
            for packet in capture.packets:
                with contextlib.suppress(ValueError):
                    parsed = Packet.parse(packet)
                    if parsed.sport == PORT and parsed.flags & flag:
                        return parsed
            return None

        to = (socket.inet_ntop(kind, there), 0)
        raw.sendto(syn.build(), to)
        answered = wait_until(lambda: answer(SYN), "SYN-ACK")
        assert answered.option(ENO) is not None
        if forgotten:
            table = ("cat", "/proc/net/nf_conntrack")
            wait_until(lambda: " sport=4444 " not in pair.server.run(*table).stdout, "expiry")
        ack = replace(syn, seq=1001, ack=answered.end, flags=ACK, options=())
        raw.sendto(ack.build(), to)
        raw.sendto(replace(ack, flags=ACK | PSH, payload=SECRET).build(), to)
        listener.settimeout(1)
        with pytest.raises(TimeoutError):
            listener.accept()
        assert wait_until(lambda: answer(RST), "reset")
        # Nor does what comes behind the refusal find the service.
        raw.sendto(replace(ack, flags=ACK | PSH, payload=SECRET).build(), to)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert not theirs.events("enabled", "bug")
