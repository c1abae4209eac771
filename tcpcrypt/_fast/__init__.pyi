"""The one switch between the Cython extension and its Python twin.

Both twins pass the same tests.  They take and return plain tuples, ints and
buffers; `tcpcrypt.wire` and `tcpcrypt.crypto` wrap them in values.
"""

from collections.abc import Callable, Container, Iterable
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

from _typeshed import ReadableBuffer as Buffer
from _typeshed import WriteableBuffer

IMPLEMENTATION: Final[Literal["c", "python"]]

def parse_eno(contents: Buffer) -> tuple[int, tuple[tuple[int, bool, bytes], ...]]:
    """Parse the contents of a SYN-form ENO option (RFC 8547 section 4.4).

    Returns the first global suboption byte (0 where there is none) and, in
    order, `(tep, v, data)` of each TEP suboption, `tep` without bit `v`.
    Raises `PeerError` with ENO_DATA_PAST_END or ENO_RESERVED_LENGTH.
    """

def walk_options(options: Buffer) -> tuple[tuple[int, int, int], ...]:
    """List the TCP options of a header as `(kind, start, end)`.

    `start` is the index of the kind byte, `end` one past the last data byte.
    NOPs are left out; the walk ends at end-of-options.  Raises `PeerError`
    with OPTION_LENGTH, also for more than 40 bytes of options.
    """

def checksum(data: Buffer, initial: int = 0) -> int:
    """One's-complement sum of `data` (RFC 1071), folded to 16 bits, not inverted.

    `initial` is a folded sum to go on from; an odd last byte is padded with 0.
    """

def parse_segment(
    packet: Buffer,
) -> tuple[int, int, int, int, bytes, int, bytes, int, int, int, int]:
    """Find the TCP segment in an IP packet (RFC 9293 section 3.1).

    Returns IP version, index of the TCP header, end of the packet, length of
    the TCP header; source address and port, destination address and port
    (addresses packed); sequence number, acknowledgement number, flags.
    Raises `PeerError` with SEGMENT_TRUNCATED, SEGMENT_MALFORMED,
    SEGMENT_FRAGMENT or SEGMENT_NOT_TCP.
    """

def rebuild_segment(packet: Buffer, tcp: int, region: Buffer, payload: Buffer) -> bytes:
    """`packet`, whose TCP header is at `tcp`, with other options and payload.

    Lengths and checksums are made anew.  Raises `LocalError` for a `region`
    that is no whole option region and for more than IP's length field holds,
    `ValueError` where no TCP header can be.
    """

def parse_queue(
    datagram: Buffer,
) -> list[tuple[int, int] | tuple[int, int, int, int, int, int]]:
    """Take apart a datagram of nfnetlink_queue: answers and queued packets, in order.

    An answer is its sequence number and an errno or 0; a packet its queue,
    identifier, hook, mark (0 where there is none), and where its content begins
    and ends.  Other messages are left out.  Raises `LocalError` for lengths
    that contradict each other, which no kernel sends.
    """

def build_verdict(
    queue: int, identifier: int, what: int, payload: Buffer | None, mark: int | None
) -> bytes:
    """The message that decides on a queued packet; `payload` and `mark` if they are to change.

    Raises `ValueError` for a queue or a packet that cannot be.
    """

def check_verdicts(datagram: Buffer, numbers: Container[int]) -> str:
    """Why `datagram` is something else than verdicts on packets of the queues `numbers`; or "".

    A verdict says DROP, ACCEPT or REPEAT, perhaps with a mark and a packet, each
    once and in this order; and every byte belongs to one of them.
    """

class Octets:
    """Key material (RFC 8548 section 8): a copy of `octets`, overwritten in the end.

    That is by `wipe`, at the end of a `with` block, or when the last reference
    goes, be it to this object or to a view.  It is no buffer, but `expand`, `extract`
    and `resume_identifiers` of the same twin take it for one.  To be subclassed without further attributes.
    """

    def __init__(self, octets: Buffer) -> None: ...
    def fill(
        self, length: int, write: Callable[..., object], arguments: tuple[object, ...]
    ) -> None:
        """Instead of `__init__`: the `length` bytes that `write(*arguments, buffer)` writes.

        `buffer` has zeros; no copy is left behind.  Raises `RuntimeError` where
        there are bytes already.
        """

    def view(self) -> memoryview:
        """The bytes, read-only; `RuntimeError` once wiped.

        A view taken earlier reads zeros then.
        """

    def wipe(self) -> None:
        """Overwrite the bytes with zeros.  Idempotent."""

    @property
    def wiped(self) -> bool:
        """Whether `wipe` was called."""

    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

def expand(key: Buffer | Octets, info: bytes, out: WriteableBuffer) -> None:
    """HKDF-Expand with SHA-256 (RFC 5869 section 2.3): fill `out`, 1 to 8160 bytes.

    Raises `ValueError` for another length.
    """

def extract(salt: Buffer | Octets, parts: Iterable[Buffer | Octets], out: WriteableBuffer) -> None:
    """HKDF-Extract with SHA-256 (RFC 5869 section 2.2) of `parts`, one behind the other.

    `out` has 32 bytes.  Raises `ValueError` for another length.
    """

def resume_identifiers(
    secret: Buffer | Octets, steps: int, half: int, prefix: bytes
) -> tuple[bytes, ...]:
    """`prefix` and one half of resume[i], resume[i+1], ... (RFC 8548 section 3.5).

    `secret` is ss[i], of 32 bytes; there are `steps` results, one at least, of
    `prefix` (at most 8 bytes) and 9 bytes each: those that original A (`half`
    0) or original B (1) sends.  Raises `ValueError` for values out of range.
    """

class AeadParameters(Protocol):
    """What a twin needs to know of an AEAD (`tcpcrypt.crypto.aead` has them)."""

    @property
    def evp_name(self) -> str: ...
    @property
    def key_len(self) -> int: ...
    @property
    def nonce_len(self) -> int: ...
    @property
    def tag_len(self) -> int: ...
    def construct(self, key: bytes) -> Any: ...

# Why FrameOpener.open came back.
STOP_NEED_MORE: Final = 0
STOP_OUT_FULL: Final = 1
STOP_REKEY: Final = 2
STOP_FIN: Final = 3
STOP_URGENT: Final = 4
STOP_BAD_TAG: Final = 5
STOP_TOO_SHORT: Final = 6
STOP_URGENT_TRUNCATED: Final = 7

class FrameSealer:
    """Seals frames under one traffic key (RFC 8548 sections 3.6 and 4.2)."""

    def __init__(self, aead: AeadParameters, traffic_key: Buffer, nonce_form: int = 0) -> None: ...
    def seal(
        self,
        data: Buffer,
        out: WriteableBuffer,
        offset: int,
        frame_data: int,
        rekey: bool = False,
        fin: bool = False,
        urgent: int = -1,
    ) -> tuple[int, int, int]:
        """Seal `data` as frames of at most `frame_data` data bytes into `out`.

        `offset` is the stream offset of the first frame's control byte.
        `rekey` is set on the first frame, `fin` on the last, `urgent` (0 to
        65535, -1 for none) goes into the first, which then holds 2 data bytes
        less than the largest.  Empty data makes one empty frame.  Frames that do not fit `out` are left undone (and `fin` with
        them).  `data` and `out` must not overlap.

        Returns `(data bytes consumed, bytes written, frames)`.
        Raises `ValueError` for a `frame_data` that no frame can hold, an
        `urgent` out of range, buffers that overlap or a stream past 2**64 (before
        anything is sealed); `RuntimeError` once wiped, or while another thread
        is in a call on this object.
        """

    def wipe(self) -> None:
        """Forget the key.  Idempotent."""

class FrameOpener:
    """Opens frames under one traffic key (RFC 8548 sections 3.6 and 4.2)."""

    def __init__(self, aead: AeadParameters, traffic_key: Buffer, nonce_form: int = 0) -> None: ...
    def open(
        self, wire: Buffer, out: WriteableBuffer, offset: int, accept_rekey: bool = False
    ) -> tuple[int, int, int, int, int, int]:
        """Open the whole frames at the start of `wire` into `out`.

        `offset` is the stream offset of `wire[0]`.  A frame with the rekey bit
        is left alone (STOP_REKEY) unless it is the first and `accept_rekey` is
        set.  Stops behind a frame with FINp or URGp, and before a frame that
        is bad, incomplete, or larger than the rest of `out` (room is asked for
        as if it had no urgent field).  A frame is incomplete before it has the
        rekey bit, and too short as soon as its header says so.

        Returns `(bytes consumed, data bytes written, frames, stop, urgent,
        last)`: `stop` is one of the STOP_ constants, `urgent` the urgent field
        of the last frame opened or -1 (it may come with STOP_FIN), `last` the
        number of data bytes in the last frame opened.  Whatever is reported as
        written was authenticated; bytes of `out` past it are undefined but
        never hold plaintext that failed authentication.
        Raises `RuntimeError` once wiped, or while another thread is in a call
        on this object; `ValueError` for buffers that overlap and for a `wire`
        that reaches past 2**64.
        """

    def wipe(self) -> None:
        """Forget the key.  Idempotent."""

class SessionCache:
    """A bounded table of one-use secrets (RFC 8548 section 3.5).

    A record holds a peer name, a secret of at most 64 bytes, a small `meta`
    byte string (at most 128) and up to 16 identifiers of 10 bytes each.  It is
    found by any identifier or, newest first, by peer.  When the table or a
    peer's share is full the oldest record goes.  Secrets lie in memory that is
    kept out of core dumps and swap where the system allows, and are wiped when
    their record goes, at exit, and in a forked child (which starts empty, so
    that no secret is used on both sides of a fork).
    """

    def __init__(self, capacity: int = 4096, per_peer: int = 4) -> None: ...
    def insert(
        self, peer: bytes, identifiers: tuple[bytes, ...], secret: Buffer, meta: bytes
    ) -> int:
        """Add a record; returns its handle (never reused).  An identifier that
        is already there moves to the new record.  `ValueError` on sizes."""

    def lookup(self, identifier: Buffer) -> tuple[int, int] | None:
        """`(handle, position of the identifier in its record)`, or None."""

    def newest(self, peer: bytes) -> int | None:
        """Handle of the record inserted last for `peer`, or None."""

    def older(self, handle: int) -> int | None:
        """Handle of the record of the same peer that was inserted before that of
        `handle`; None if there is none, or `handle` is gone."""

    def read(
        self, handle: int, secret: WriteableBuffer
    ) -> tuple[bytes, tuple[bytes, ...], bytes] | None:
        """Copy the secret into the writable `secret` (whose length must match)
        and return `(peer, identifiers, meta)`; None if the record is gone."""

    def remove(self, handle: int) -> bool: ...
    def remove_peer(self, peer: bytes) -> int:
        """Remove all records of `peer`; returns how many."""

    def handles(self) -> list[int]:
        """Handles of all records, in order of insertion."""

    def clear(self) -> int: ...
    def __len__(self) -> int: ...

FlowResult = tuple[int, int, int, int, int, int, int, int, bytes, bytes, bytes]
"""Why (`tcpcrypt.runtime.pump.Why`), errno; data bytes sent to the peer and
received from it; offset of the next frame to seal, frames sealed; offset of the
next frame to open, data bytes opened; wire bytes not used; bytes that the
application's socket and the peer's have not taken yet."""

class Flow(Protocol):
    """A connection that was lent to a pump."""

    @property
    def sent(self) -> int:
        """Data bytes that went from the application to the peer, so far."""

    @property
    def received(self) -> int:
        """Data bytes that went from the peer to the application, so far."""

    def recall(self) -> FlowResult:
        """Take the connection back now.  Raises `RuntimeError` if it came back before."""

class Pump(Protocol):
    """Threads that move the bytes of connections without the GIL (ext/_c_pump.pyx)."""

    def fileno(self) -> int:
        """Readable when flows came back."""

    def lend(
        self,
        inner: int,
        outer: int,
        *,
        outgoing: int,
        incoming: int,
        sealer: FrameSealer | None = None,
        seal_at: int = 0,
        seal_end: int = 0,
        frames_left: int = 0,
        small_end: int = 0,
        small_frame: int = 0,
        full_frame: int = 0,
        opener: FrameOpener | None = None,
        open_at: int = 0,
        wire: Buffer = b"",
    ) -> Flow:
        """Lend the sockets of an application and of its peer, both nonblocking.

        They must not be closed, read or written before the flow came back, and
        the keys are busy for so long.  `outgoing` and `incoming` say what
        becomes of each direction (`tcpcrypt.runtime.pump.Way`).  Frames hold
        `small_frame` data bytes up to offset `small_end`, then `full_frame`;
        none reaches past `seal_end`, and there are at most `frames_left`.
        `wire` is the beginning of the peer's next frame, at `open_at`.

        Raises `ValueError` for what cannot be, `OSError` where the system
        refuses, `RuntimeError` for a key in use or a closed pump.
        """

    def collect(self) -> list[tuple[Flow, FlowResult]]:
        """The flows that came back since the last call."""

    @property
    def flows(self) -> tuple[int, ...]:
        """How many connections each thread has."""

    def close(self) -> None:
        """Stop the threads.  Idempotent.  Flows have to be recalled before or after."""

def make_pump(threads: int) -> Pump | None:
    """A pump with so many threads, 1 to 64 (`ValueError`); None in the Python twin.

    Threads start when they get their first connection.
    """

LaneEnd = tuple[int, int, bytes, bool, int, int]
"""Initial sequence number, shift count of its windows, last TSval, whether a congestion mark
has yet to be told of; payload of one packet to it at most, and from it in one segment."""

LaneResult = tuple[
    int, int, int, int, bytes, float, int, float, bool, bool, bool, tuple[tuple[bytes, bool], ...]
]
"""Offset of the next frame to seal, frames sealed; offset of the next frame to open, data
bytes opened; the beginning of a frame; `due`, `tries`, `last_heard`, `greeting`; whether
FINp was sealed, and opened; of both ends the last TSval, and whether a congestion mark
has yet to be told of."""

class Lane(Protocol):
    """A connection that was lent to lanes, inner side 0 and outer side 1."""

    @property
    def due(self) -> float:
        """When something is to be repeated; 0: nothing is."""

    @property
    def last_heard(self) -> float: ...
    @property
    def over(self) -> bool:
        """Both sides have ended it, and heard that the other has."""

    def take(self, side: int, packet: Buffer, now: float) -> list[tuple[int, bytes]] | None:
        """What becomes of a packet of the connection that comes from `side`.

        The packets that leave, and to which side; None, and nothing has
        happened, for a packet that is not usual: `tcpcrypt.segment.flow` is to
        have it, after `recall`.  Raises `RuntimeError` once taken back.
        """

    def recall(self) -> LaneResult:
        """Take the connection back.  Raises `RuntimeError` if it came back before."""

class Lanes(Protocol):
    """What the segment plane lends its established connections to (ext/_c_lanes.pyx)."""

    taken: int
    """Packets of queues that were decided here."""
    injected: int
    """Packets that were added by a raw socket."""
    memory: Any
    """The `tcpcrypt.segment.memory.Memory` of all its streams; without bound as it is made."""

    def __len__(self) -> int: ...
    def stream(self, *, seals: bool) -> Any:
        """A `tcpcrypt.segment.stream.Stream` that can be lent."""

    def lend(
        self,
        key: tuple[bytes, int, bytes, int],
        sealing: Any,
        opening: Any,
        ends: tuple[LaneEnd, LaneEnd],
        timestamps: bool,
        blocks: bool,
        *,
        sealer: FrameSealer,
        seal_at: int,
        seal_end: int,
        frames_left: int,
        frame_data: int,
        opener: FrameOpener | None,
        open_at: int,
        begun: bytes,
        rto: float,
        due: float,
        tries: int,
        last_heard: float,
        greeting: bool = False,
    ) -> Lane:
        """Lend an established connection; `key` is the inner address and port, then the outer.

        Without `opener` what the peer sends is not usual.  `greeting`: each segment
        to the peer has ENO in it until one has come from there (RFC 8547 section 4.6).

        Streams and keys are busy until it was taken back.  Raises `ValueError`
        for what cannot be, `RuntimeError` for what is lent.
        """

    def serve(
        self, queue: int, verdicts: int, raw4: int, raw6: int, inner: int, outer: int
    ) -> None:
        """Packets come from the netlink socket `queue`, as numbers `inner` and `outer`.

        What cannot take their place leaves by the raw sockets.  Where `verdicts`
        is not -1, another process has the right to decide: it gets verdicts there,
        and what is to be added, each packet in a message behind four bytes of zero.
        """

    def receive(self, buffer: WriteableBuffer, most: int, before: bytearray) -> tuple[int, int]:
        """Decide on packets that wait, `most` of them, up to the first that is not for a lane.

        `before` are verdicts that have to leave before the first of these; they
        are taken out of it then.  Afterwards those are in it that have to leave
        before that of the last datagram, if it waits for one.
        Returns how many datagrams were received, and the length of the last
        one, which lies in `buffer` and waits for a decision; 0 if there is
        none, -1 if nothing waits any more.  Raises `OSError`.
        """

    def take_armed(self) -> list[tuple[tuple[bytes, int, bytes, int], float]]:
        """Connections that have something to repeat, since the last call, and when."""

    def take_ended(self) -> list[tuple[bytes, int, bytes, int]]:
        """Connections that both sides have ended since the last call; they are still lent."""

    def take_failed(self) -> list[tuple[tuple[bytes, int, bytes, int], Exception]]:
        """Connections at which `receive` failed since the last call; their packet was dropped."""

def make_lanes() -> Lanes | None:
    """Lanes without a connection; None in the Python twin."""
