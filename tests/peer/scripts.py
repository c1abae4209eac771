"""Handshakes and conversations with a subject, and the faults put into them.

A script is a function of a host and a subject; it returns once the fault is
played.  Whoever runs it looks at the subject then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from peer.frames import Refused
from peer.host import Host
from peer.options import eno, find, pad

ACK = eno(b"")
"""RFC 8547 section 4.1: the non-SYN form."""
QUESTION, REPLY = b"what the host says", b"what the subject says"


class Subject(Protocol):
    """The host under test."""

    @property
    def encrypted(self) -> bool:
        """Whether its negotiation ended with encryption on."""

    @property
    def over(self) -> bool:
        """Whether its negotiation ended in plain TCP, or its session was aborted."""

    @property
    def received(self) -> bytes:
        """The application data that it was given."""

    @property
    def ended(self) -> bool:
        """Whether it was told of the end of the stream."""

    def option(self, syn: bool, ack: bool) -> bytes:
        """The ENO option that it puts into a segment with these flags, or nothing."""

    def segment(self, syn: bool, ack: bool, options: bytes) -> None:
        """A segment with these flags and options arrives."""

    def receive(self, data: bytes) -> None:
        """Bytes of the stream arrive."""

    def sent(self) -> bytes:
        """The bytes of its stream since the last call."""

    def eof(self) -> None: ...

    def reset(self) -> None: ...

    def too_late(self) -> None:
        """Its handshake deadline passes."""

    def send(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def rekey(self) -> None: ...


Script = Callable[[Host, Subject], None]
Region = Callable[[Host], bytes]
Mangle = Callable[[Host, bytes], bytes | list[bytes]]


# --- honest ------------------------------------------------------------------------


def negotiate(host: Host, subject: Subject, *, syn: Region | None = None, ack: bytes = ACK) -> bool:
    """RFC 8547 section 4.6: the three segments; whether encryption is on at both ends."""
    if host.role == "A":
        subject.segment(True, False, host.says(syn(host) if syn else None))
        syn_ack = subject.option(True, True)
        if not syn_ack:
            return False
        host.heard(syn_ack)
        subject.segment(False, True, ack)
    else:
        host.heard(subject.option(True, False))
        subject.segment(True, True, host.says(syn(host) if syn else None))
        if not subject.option(False, True):
            return False
        subject.segment(False, True, b"")
    if not subject.encrypted:
        return False
    host.settle()
    return True


def exchange(host: Host, subject: Subject, *, mangle: Mangle | None = None) -> bool:
    """RFC 8548 section 3.3, or 3.5; whether both ends have keys."""
    if host.resuming:
        host.start_resumed()
        return True
    if host.role == "A":
        own = _send_init(host, subject, host.init1(), mangle)
        stream = subject.sent()
        if subject.over or not stream:
            return False
        rest = host.hear_init(stream)
        host.start_fresh(own)
        answer(host, subject, rest)
    else:
        host.hear_init(subject.sent())
        own = _send_init(host, subject, host.init2(), mangle)
        if subject.over:
            return False
        host.start_fresh(own)
    return True


def _send_init(host: Host, subject: Subject, message: bytes, mangle: Mangle | None) -> bytes:
    """Send it, as one write or several; returns the bytes that count as the message."""
    sent = mangle(host, message) if mangle else message
    chunks = [sent] if isinstance(sent, bytes) else sent
    for chunk in chunks:
        subject.receive(chunk)
    whole = b"".join(chunks)
    return whole[: int.from_bytes(whole[4:8], "big")]


def connect(host: Host, subject: Subject) -> bool:
    return negotiate(host, subject) and exchange(host, subject)


def answer(host: Host, subject: Subject, stream: bytes) -> None:
    """The host reads; a rekey of the subject it follows at once (section 3.8)."""
    owed = host.read(stream)
    if owed:
        subject.receive(owed)


def converse(host: Host, subject: Subject) -> None:
    """Data both ways, FINp both ways, FIN.  Raises `Refused` if anything is amiss."""
    before = subject.received
    subject.receive(host.writer.frame(QUESTION))
    if subject.received != before + QUESTION:
        raise Refused(f"subject received {subject.received!r}")
    subject.send(REPLY)
    answer(host, subject, subject.sent())
    if not host.data.endswith(REPLY):
        raise Refused(f"subject sent {host.data!r}")
    subject.finish()
    answer(host, subject, subject.sent())
    if not host.reader.finished or host.reader.stream:
        raise Refused("the last frame of the subject has no FINp")
    subject.receive(host.writer.frame(fin=True))
    subject.eof()
    if not subject.ended or subject.over:
        raise Refused("an orderly end was not taken as one")


# --- with a fault ------------------------------------------------------------------


def option(region: Region | str | bytes, *, ack: bytes = ACK) -> Script:
    """The SYN-form option is another one.

    As text: its contents in hex, `g` being the global byte of the role (00 for A).
    """

    def says(host: Host) -> bytes:
        if isinstance(region, str):
            glob = "01" if host.role == "B" else "00"
            return pad(eno(region.replace("g", glob)))
        return region if isinstance(region, bytes) else region(host)

    def play(host: Host, subject: Subject) -> None:
        if negotiate(host, subject, syn=says, ack=ack) and exchange(host, subject):
            _say(host, subject)

    return play


def _say(host: Host, subject: Subject) -> None:
    """A first frame, so that a subject with other keys notices."""
    subject.receive(host.writer.frame(b"first"))


def honest(host: Host, subject: Subject) -> None:
    """What the host does wrong is its quirk."""
    if connect(host, subject):
        _say(host, subject)


def acks(*regions: bytes) -> Script:
    """A: the segments behind the SYN-ACK carry these options."""

    def play(host: Host, subject: Subject) -> None:
        subject.segment(True, False, host.says(None))
        host.heard(subject.option(True, True))
        for region in regions:
            subject.segment(False, True, region)
        if subject.encrypted:
            host.settle()
            if exchange(host, subject):
                _say(host, subject)

    return play


def init(mangle: Mangle) -> Script:
    """The own Init message goes out as `mangle` makes it, `bytes` or a list of writes."""

    def play(host: Host, subject: Subject) -> None:
        if negotiate(host, subject) and exchange(host, subject, mangle=mangle):
            _say(host, subject)

    return play


def public_key(key: Callable[[Host], bytes]) -> Script:
    """The public key in the own Init message is another one."""

    def mangle(host: Host, message: bytes) -> bytes:
        new = key(host)
        whole = message[: host.key_at] + new
        return whole[:4] + len(whole).to_bytes(4, "big") + whole[8:]

    return init(mangle)


def negotiated(then: Script) -> Script:
    """Behind an honest negotiation; no Init message of the host has left yet."""

    def play(host: Host, subject: Subject) -> None:
        if negotiate(host, subject):
            then(host, subject)

    return play


def keyed(then: Script) -> Script:
    """With keys at both ends, and nothing sent under them."""

    def play(host: Host, subject: Subject) -> None:
        if connect(host, subject):
            then(host, subject)

    return play


def opened(then: Script) -> Script:
    """As `keyed`, and each has received a frame of the other."""

    def play(host: Host, subject: Subject) -> None:
        if connect(host, subject):
            subject.receive(host.writer.frame(QUESTION))
            subject.send(REPLY)
            answer(host, subject, subject.sent())
            then(host, subject)

    return play


def wire(make: Callable[[Host], bytes | Iterable[bytes]]) -> Script:
    """`opened`, then these bytes (or several writes)."""

    def play(host: Host, subject: Subject) -> None:
        made = make(host)
        for chunk in [made] if isinstance(made, bytes) else made:
            subject.receive(chunk)

    return opened(play)


def syns(*regions: Region | bytes, answered_before: int = 99) -> Script:
    """A: several SYNs, the SYN-ACK asked for before the one with that number."""

    def play(host: Host, subject: Subject) -> None:
        for number, region in enumerate(regions):
            if number == answered_before:
                host.heard(subject.option(True, True))
            octets = region if isinstance(region, bytes) else region(host)
            if not number:
                host.own_region = octets
            subject.segment(True, False, octets)
        syn_ack = subject.option(True, True)
        if not syn_ack:
            return
        host.heard(syn_ack)
        subject.segment(False, True, ACK)
        if subject.encrypted:
            host.settle()
            if exchange(host, subject):
                _say(host, subject)

    return play


def syn_acks(*regions: Region | bytes) -> Script:
    """B: several SYN-ACKs before the subject's ACK."""

    def play(host: Host, subject: Subject) -> None:
        host.heard(subject.option(True, False))
        for number, region in enumerate(regions):
            octets = region if isinstance(region, bytes) else region(host)
            if not number:
                host.own_region = octets
            subject.segment(True, True, octets)
        if not subject.option(False, True):
            return
        subject.segment(False, True, b"")
        host.settle()
        if exchange(host, subject):
            _say(host, subject)

    return play


def crossed(syn: Region | bytes, syn_ack: Region | bytes) -> Script:
    """B: a simultaneous open, RFC 9293 figure 7; the host's SYN and its SYN-ACK."""

    def play(host: Host, subject: Subject) -> None:
        host.crossed = True
        host.heard(subject.option(True, False))
        octets = syn if isinstance(syn, bytes) else syn(host)
        host.own_region = octets
        subject.segment(True, False, octets)
        if not subject.option(True, True):
            return
        subject.segment(True, True, syn_ack if isinstance(syn_ack, bytes) else syn_ack(host))
        if subject.encrypted:
            host.settle()
            if exchange(host, subject):
                _say(host, subject)

    return play


def truth(host: Host) -> bytes:
    """The option region an honest host sends."""
    return pad(host.syn_form())


def own_eno(host: Host) -> bytes:
    return find(truth(host))
