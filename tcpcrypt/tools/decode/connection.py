"""One captured TCP connection: its handshake, its key exchange, its two streams."""

from __future__ import annotations

from typing import Final

from tcpcrypt.errors import FallbackReason, LocalError, PeerError
from tcpcrypt.registry import INIT1_MAGIC, INIT2_MAGIC, Tep
from tcpcrypt.tools.decode.direction import NOTHING, Direction
from tcpcrypt.tools.decode.frames import FrameReader, FrameSink
from tcpcrypt.tools.decode.handshake import (
    Agreed,
    Plain,
    Undecodable,
    agree,
    has_eno,
    is_tcps,
    offered_profile,
)
from tcpcrypt.tools.decode.inband import preface
from tcpcrypt.tools.decode.keys import Exchange, KeyStore, SessionKeys
from tcpcrypt.tools.decode.report import ConnectionReport
from tcpcrypt.tools.decode.shown import shown
from tcpcrypt.tools.decode.sink import Sink
from tcpcrypt.tools.decode.tcps import TcpsReader
from tcpcrypt.wire.messages import Init1, Init2, message_length
from tcpcrypt.wire.profile import ResumptionForm
from tcpcrypt.wire.segment import Segment

__all__ = ["Connection"]

_INIT_MAX: Final = 1 << 20
"""Bytes of an Init message, here; a host takes fewer."""
_UNDECIDED_MAX: Final = 1 << 26
"""Bytes of one direction that are kept for want of a handshake or of keys."""
_UNOPENED_MAX: Final = 1 << 20
"""Bytes of one direction that are kept for keys that may still come."""
_SEQ_MOD: Final = 1 << 32
_TCPS: Final = "tcps"
_PLAIN: Final = "plain"


class Connection:
    """Takes the segments of one connection; what it carries goes to the sink."""

    __slots__ = ("_agreed", "_finished", "_first_ack", "_frames", "_over", "_sink", "_store",
                 "_unopened", "client", "last", "reopening", "report", "server")  # fmt: skip

    def __init__(
        self,
        report: ConnectionReport,
        store: KeyStore,
        sink: Sink,
        frames: FrameSink | None = None,
    ) -> None:
        self.report = report
        self.last = 0.0
        """When its last segment came."""
        self.reopening: Segment | None = None
        """The last SYN between its ports that is not its own."""
        self._frames = frames
        self._unopened: tuple[Agreed, Exchange | None] | None = None
        """What keys are waited for."""
        self.client = Direction("client to server", report.client_to_server)
        self.server = Direction("server to client", report.server_to_client)
        self._store = store
        self._sink = sink
        self._agreed: Agreed | Plain | Undecodable | TcpsReader | None = None
        self._first_ack: bytes | None = None
        """Options of the client's first segment without SYN."""
        self._over = False
        """Nothing more can be read, whatever comes."""
        self._finished = False

    @property
    def ended(self) -> bool:
        """Both sides have ended it; what was lost may come once more."""
        return self.client.ended and self.server.ended

    @property
    def complete(self) -> bool:
        """Both sides have ended it, and all was read."""
        return self.client.complete and self.server.complete

    @property
    def answered(self) -> bool:
        """The numbers of both sides are known."""
        return self.client.isn is not None and self.server.isn is not None

    @property
    def opening(self) -> bool:
        """Only SYNs of the client have been seen."""
        return self.server.isn is None and self._first_ack is None

    def segment(self, segment: Segment, from_client: bool, time: float, missing: int = 0) -> None:
        """Take a segment of this connection; its last `missing` bytes were not captured."""
        mine, other = (self.client, self.server) if from_client else (self.server, self.client)
        flags, seq, payload = segment.flags, segment.seq, segment.payload
        self.last = time
        if flags.syn:
            mine.start(seq)
            if flags.ack:
                other.start((segment.ack - 1) % _SEQ_MOD)
            seq = (seq + 1) % _SEQ_MOD
            if self._note_syn(mine, bytes(segment.options)):
                payload = payload[:0]  # RFC 8547 section 4.7: such data are not the stream's
        elif flags.rst:
            mine.reset = other.reset = True
            return
        elif from_client and flags.ack and self._first_ack is None:
            self._first_ack = bytes(segment.options)
        if mine.isn is None:
            return
        fin = flags.fin
        if self._is_tcps() and not flags.syn:
            payload, fin = self._open_tcps(segment, from_client, missing)
        if fin and mine.fin_at is None:
            mine.fin_at = mine.stream.offset(seq + len(payload))
        mine.cut |= missing > 0
        if not self._over:
            mine.stream.add(seq, payload[: max(0, len(payload) - missing)])
            self._advance(time)
            most = _UNDECIDED_MAX if self._unopened is None else _UNOPENED_MAX
            if mine.stream.held > most and not self._over:
                self._decide_now(time)

    def _is_tcps(self) -> bool:
        """Whether segments have tags; settled before the first of them is looked at."""
        if self._agreed is None and self._first_ack is not None:
            one, other = self.client.region, self.server.region
            if one is not None and other is not None and is_tcps(one) and is_tcps(other):
                self._decide()
        return isinstance(self._agreed, TcpsReader)

    def _open_tcps(
        self, segment: Segment, from_client: bool, missing: int
    ) -> tuple[memoryview, bool]:
        if missing or not isinstance(self._agreed, TcpsReader):
            return memoryview(b""), False
        data, fin = self._agreed.read(segment, from_client=from_client)
        return memoryview(data), fin

    @staticmethod
    def _note_syn(mine: Direction, region: bytes) -> bool:
        """Keep the options of the last SYN with ENO; whether this one has it."""
        eno = offered_profile(region) is not None
        if mine.region is None or eno:
            mine.region = region
        return eno

    def _advance(self, time: float) -> None:
        if self._agreed is None:
            self._decide()
        if isinstance(self._agreed, Plain | TcpsReader):
            for mine in (self.client, self.server):
                self._read_plain(mine, time)
                if mine.stream.overfull:
                    self._skip_gap(mine, time)
        elif isinstance(self._agreed, Agreed):
            if self.client.reader is None:
                self._exchange(self._agreed)
            for mine in (self.client, self.server):
                if mine.reader is not None:
                    for data in mine.reader.read():
                        self._give(mine, data, time)

    # --- what was agreed on ------------------------------------------------------------

    def _decide(self, *, last: bool = False) -> None:
        """Judge the handshake once the client's first segment without SYN is there."""
        one, other = self.client.region, self.server.region
        if self._first_ack is None and not last:
            return
        if one is None or other is None:
            self._agreed = self._half(one, other)
        elif is_tcps(one) and is_tcps(other):
            self._agreed = self._agree_tcps(one, other)
        else:
            agreed = agree(one, other)
            if isinstance(agreed, Agreed) and not self._acknowledged(agreed):
                doubt = None if agreed.resuming else self._exchanging()
                if doubt is None and not (agreed.resuming or last):
                    return
                if not doubt:
                    agreed = Plain(FallbackReason.NO_ENO_IN_FIRST_ACK)
            self._agreed = agreed
        if isinstance(self._agreed, Plain):
            within = self._within()
            if within is True and not last:
                self._agreed = None
                return
            if not isinstance(within, bool):
                self._agreed, self.report.in_band = within, True
        self._note_agreed(self._agreed)

    def _within(self) -> Agreed | Undecodable | bool:
        """What prefaces of both streams agree on; True: they may yet, False: they are none."""
        client, server = (preface(mine.stream.buffer) for mine in (self.client, self.server))
        if isinstance(client, bool) or isinstance(server, bool):
            return client is not False and server is not False
        agreed = agree(client[0], server[0])
        if isinstance(agreed, Plain):
            return False
        self.client.stream.consume(client[1])
        self.server.stream.consume(server[1])
        return agreed

    def _agree_tcps(self, one: bytes, other: bytes) -> TcpsReader | Undecodable:
        self.report.profile = _TCPS
        isns = self.client.isn or 0, self.server.isn or 0
        reader = self._store.tcps.reader(one, other, *isns)
        return Undecodable(None, None, reader) if isinstance(reader, str) else reader

    def _decide_now(self, time: float) -> None:
        """So much has come that what is still missing will not."""
        if self._agreed is None:
            self._decide(last=True)
            self._advance(time)
        if isinstance(self._agreed, Agreed) and self.client.reader is None and not self._over:
            if self._unopened is not None:
                self._give_up(self._why_no_key(*self._unopened))
            else:
                self._give_up(self._why_no_exchange(self._agreed))

    @staticmethod
    def _half(one: bytes | None, other: bytes | None) -> Plain | Undecodable:
        """One of the two SYN segments is not in the capture."""
        if one is None:
            profile = offered_profile(other or b"")
            if profile is None:
                return Plain(FallbackReason.NO_ENO_IN_SYN_ACK)
            return Undecodable(profile, None, "its SYN is not in the capture")
        profile = offered_profile(one)
        if profile is None:
            return Plain(FallbackReason.NO_ENO_IN_SYN)
        return Undecodable(profile, None, "its SYN-ACK is not in the capture")

    def _acknowledged(self, agreed: Agreed) -> bool:
        """RFC 8547 section 4.6: the client's first ACK has the option, too."""
        by_id = agreed.profile.resumption is ResumptionForm.SESSION_ID
        if agreed.resuming and by_id:
            return True
        return self._first_ack is not None and has_eno(agreed.profile, self._first_ack)

    def _exchanging(self) -> bool | None:
        """Whether Init messages follow; the ACK with the option may not be captured."""
        found = {self.client.begins(INIT1_MAGIC), self.server.begins(INIT2_MAGIC)}
        return True if True in found else False if False in found else None

    def _note_agreed(self, agreed: Agreed | Plain | Undecodable | TcpsReader) -> None:
        report = self.report
        if isinstance(agreed, TcpsReader):
            for direction in (report.client_to_server, report.server_to_client):
                direction.readable, direction.frames = True, 0
            return
        if isinstance(agreed, Plain):
            report.profile, report.fallback = _PLAIN, agreed.reason
            for direction in (report.client_to_server, report.server_to_client):
                direction.readable = True
            return
        if agreed.profile is not None:
            report.profile = agreed.profile.name
        report.tep = agreed.tep
        for direction in (report.client_to_server, report.server_to_client):
            direction.frames, direction.authenticated = 0, False
        if isinstance(agreed, Undecodable):
            self._give_up(agreed.why)
            return
        report.resumed, report.application_aware = agreed.resuming, agreed.application_aware

    # --- keys --------------------------------------------------------------------------

    def keys_came(self, time: float) -> None:
        """The store has more than before."""
        if self._unopened is not None:
            self._find_keys(*self._unopened)
            if self._unopened is None:
                self._advance(time)

    def _exchange(self, agreed: Agreed) -> None:
        if self._unopened is not None or self._over:
            return
        if agreed.resuming:
            self._find_keys(agreed, None)
            return
        host_a, host_b = self.client, self.server
        if not agreed.client_is_a:
            host_a, host_b = host_b, host_a
        first = self._message("Init1", host_a, INIT1_MAGIC)
        second = self._message("Init2", host_b, INIT2_MAGIC)
        if first is None or second is None or self._over:
            return
        try:
            # The public keys are looked at by those who need them.
            init1 = Init1.parse(first, 0, agreed.profile)
            init2 = Init2.parse(second, 0, agreed.profile)
        except PeerError as error:
            self._give_up(str(error))
            return
        self.report.aead = init2.cipher
        if agreed.tep == Tep.EXPERIMENTAL:
            self.report.shown = shown(agreed, init1, init2)
        host_a.stream.consume(len(first))
        host_b.stream.consume(len(second))
        self._find_keys(agreed, Exchange(first, second, init1.nonce, init2.cipher))

    def _message(self, name: str, mine: Direction, magic: bytes) -> bytes | None:
        """Init1 or Init2 once it is whole."""
        buffer = mine.stream.buffer
        try:
            length = message_length(buffer, magic, _INIT_MAX)
        except PeerError as error:
            self._give_up(f"{name}: {error}")
            return None
        return None if length is None or len(buffer) < length else bytes(buffer[:length])

    def _find_keys(self, agreed: Agreed, exchange: Exchange | None) -> None:
        refused = []
        for material in self._store.find(agreed, exchange):
            try:
                keys, chain = material.keys(agreed, exchange)
            except LocalError as error:
                refused.append(str(error))
                continue
            if chain is not None:
                self._store.add_chain(material.source, chain)
            self._unopened = None
            self._start(agreed, keys)
            return
        for why in refused:
            self.report.note(why)
        if self._store.growing and not refused:
            self._unopened = agreed, exchange
        else:
            self._give_up(self._why_no_key(agreed, exchange))

    def _why_no_key(self, agreed: Agreed, exchange: Exchange | None) -> str:
        what = f"N_A {exchange.nonce_a.hex()}" if exchange else f"session {agreed.identifier.hex()}"
        fits = "that fits" if self.report.errors else "of it"
        return f"no key: the {self._store.entries} secrets given hold none {fits} ({what})"

    def _start(self, agreed: Agreed, keys: SessionKeys) -> None:
        self.report.session_id, self.report.aead = keys.session_id, keys.aead.id
        for mine, ab in (
            (self.client, keys.client_sends_ab),
            (self.server, not keys.client_sends_ab),
        ):
            mine.report.readable = True
            master = keys.master()
            mine.reader = FrameReader(
                mine.stream, agreed.profile, keys.aead, master, ab=ab, frames=self._frames
            )

    def _give_up(self, why: str) -> None:
        self.report.note(why)
        self._over = True
        self._unopened = None
        self.client.stream = self.server.stream = NOTHING

    # --- data --------------------------------------------------------------------------

    def _read_plain(self, mine: Direction, time: float) -> None:
        stream = mine.stream
        if stream.buffer:
            data = bytes(stream.buffer)
            stream.consume(len(data))
            self._give(mine, data, time)

    def _give(self, mine: Direction, data: bytes, time: float) -> None:
        mine.report.update(data)
        self._sink.data(self.report, mine is self.client, data, time)

    # --- the end -----------------------------------------------------------------------

    def finish(self, time: float) -> None:
        """Nothing more comes.  Idempotent."""
        if self._finished:
            return
        self._finished = True
        if self.client.isn is None or self.server.isn is None:
            self._no_beginning()
        else:
            self._decide_now(time)
        for mine in (self.client, self.server):
            self._finish(mine, time)
        self._over = True
        for mine in (self.client, self.server):
            # Late copies may come; what is kept for them is that it is over.
            mine.stream, mine.reader, mine.region = NOTHING, None, None
            mine.report.seal()
        self._first_ack, self._agreed = None, None
        self._sink.end(self.report, time)

    def _no_beginning(self) -> None:
        if self.client.isn is None:
            self._give_up("its beginning is not in the capture")
        elif self._agreed is None:
            self.report.profile = _PLAIN  # nobody answered

    def _why_no_exchange(self, agreed: Agreed) -> str:
        host_a = self.client if agreed.client_is_a else self.server
        whole = self._message("Init1", host_a, INIT1_MAGIC)
        name = "Init2" if whole else "Init1"
        return f"its {name} is not in the capture, or not as a whole"

    def _finish(self, mine: Direction, time: float) -> None:
        report, reader = mine.report, mine.reader
        if reader is not None:
            for data in reader.finish():
                self._give(mine, data, time)
            for error in reader.errors:
                self.report.note(f"{mine.name}: {error}")
            report.frames = reader.frames
            report.authenticated = reader.intact
        elif isinstance(self._agreed, TcpsReader):
            self._finish_tcps(self._agreed, mine, time)
        elif isinstance(self._agreed, Plain):
            self._finish_plain(mine, time)
        self._missing_tail(mine)
        if mine.cut and self.report.errors:
            self.report.note(f"{mine.name}: packets were cut when captured (tcpdump -s 0 does not)")
        report.ended = self._ended(mine)

    def _finish_tcps(self, reader: TcpsReader, mine: Direction, time: float) -> None:
        from_client, whole = mine is self.client, mine.stream.gap is None and not mine.cut
        self._finish_plain(mine, time)
        for fault in reader.faults(from_client=from_client):
            self.report.note(f"{mine.name}: {fault}")
        mine.report.frames = reader.frames(from_client=from_client)
        authenticated = reader.authenticated(from_client=from_client)
        mine.report.authenticated = authenticated and whole

    def _finish_plain(self, mine: Direction, time: float) -> None:
        while mine.stream.gap is not None:
            self._skip_gap(mine, time)

    def _skip_gap(self, mine: Direction, time: float) -> None:
        gap = mine.stream.gap
        if gap is not None:
            self._note_gap(mine, *gap)
            mine.stream.skip_to(gap[1])
            self._read_plain(mine, time)

    def _missing_tail(self, mine: Direction) -> None:
        """FIN tells where the stream ended."""
        at, reader = mine.fin_at, mine.reader
        if at is None or self._over or at <= mine.stream.end or (reader and reader.failed):
            return
        self._note_gap(mine, mine.stream.end, at)
        if mine.report.authenticated:
            mine.report.authenticated = False

    def _note_gap(self, mine: Direction, start: int, end: int) -> None:
        self.report.note(
            f"{mine.name}: bytes {start} to {end - 1} of the stream are not in the capture"
        )

    @staticmethod
    def _ended(mine: Direction) -> str:
        if mine.reader is not None and mine.reader.fin:
            return "finp"
        if mine.fin_at is not None:
            return "fin"
        return "rst" if mine.reset else "open"
