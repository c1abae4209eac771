"""The session of a flow between its two streams: who seals, and who opens.

The core (`tcpcrypt.core.session`) speaks of bytes; here they come in frames,
one by one, so that it is known which input each output holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tcpcrypt.core.config import Config
from tcpcrypt.core.events import (
    Aborted,
    DataReceived,
    Established,
    Event,
    PeerProved,
    Rekeyed,
    Role,
    StreamEnded,
    UrgentReceived,
)
from tcpcrypt.core.key_log import KeyLog
from tcpcrypt.core.lease import Lease, Returned
from tcpcrypt.core.negotiation import Negotiated
from tcpcrypt.core.resumption import ResumptionCache
from tcpcrypt.core.session import Session
from tcpcrypt.errors import PeerError, PeerReason
from tcpcrypt.registry import FRAME_HEADER_LEN, FRAME_URGENT_LEN, INIT1_MAGIC, INIT2_MAGIC
from tcpcrypt.segment.stream import OVERHEAD, Stream
from tcpcrypt.wire.messages import message_length

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Crypt", "Ended"]

_INIT_MAX: Final = 1 << 16
_DATALESS_MAX: Final = 1024
"""Frames without data (answers to new keys) that a peer may leave unacknowledged:
it can ask for any number of them, and they are kept."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What is still asked of a `Crypt` whose streams have both ended."""

    established: Established | None
    peer_proved: bool
    rekeys: int


class Crypt:
    """The keys of one flow.  `sealing` and `opening` are its streams."""

    def __init__(
        self,
        config: Config,
        negotiated: Negotiated,
        sealing: Stream,
        opening: Stream,
        *,
        resumption: ResumptionCache | None,
        peer: bytes,
        key_log: KeyLog | None,
        clock: Callable[[], float],
    ) -> None:
        self.session = Session(
            config,
            negotiated,
            resumption=resumption,
            peer=peer,
            key_log=key_log,
            clock=clock,
        )
        self._sealing = sealing
        self._opening = opening
        self._begun = bytearray()
        """Of the peer's stream: the beginning of a message or frame."""
        self._init_due = not negotiated.resuming
        self._init_owed = not negotiated.resuming
        self._magic = INIT2_MAGIC if negotiated.role is Role.A else INIT1_MAGIC
        self._found: list[ReadableBuffer] = []
        self._urgent_field = 0
        """Bytes that the next frame has besides OVERHEAD."""
        self._urgent: int | None = None
        """Offset in the own application's stream of a byte that is urgent."""
        self.error: PeerError | None = None
        self.peer_finished = False
        self.peer_urgent: int | None = None
        """Offset in the peer's application stream of its last urgent byte."""
        self.established: Established | None = None
        self.peer_proved = False
        """Whether the peer has proved what `established` tells of it."""
        self.rekeys = 0
        """Key changes of both directions."""
        self._drain()

    @property
    def between_frames(self) -> bool:
        """Whether nothing of a frame has come that is not whole."""
        return not self._begun

    # --- to the peer -------------------------------------------------------------------

    def seal(self, data: bytes | memoryview, urgent: int | None = None) -> None:
        """Make frames of application data; `urgent`: the offset of the last urgent byte."""
        begin = self._sealing.cells.app_end
        if urgent is not None and urgent >= begin:
            self._urgent = urgent
        index = -1
        if self._urgent is not None and self._urgent < begin + len(data):
            index = min(self._urgent - begin, 0xFFFF)
            self._urgent = None
            self._urgent_field = FRAME_URGENT_LEN
        self.session.send_data(data, urgent=index)
        self._drain()

    def finish(self) -> None:
        """The application's FIN came: the frame with FINp goes before it."""
        self._drain()
        self.session.finish()
        finp = b"".join(self._taken())
        self._sealing.finish(finp)
        self._hear()

    def _drain(self) -> None:
        """Whatever the session has for the peer is output."""
        for out in self._taken():
            view = memoryview(out)
            if self._init_owed:
                self._init_owed = False
                self._sealing.sealed(0, view)
                continue
            while view:
                length = FRAME_HEADER_LEN + int.from_bytes(view[1:FRAME_HEADER_LEN], "big")
                self._add_frame(view[:length])
                view = view[length:]
        self._hear()

    def _add_frame(self, frame: memoryview) -> None:
        # Frames are read, not told of: the only one that can be longer than
        # its data and OVERHEAD is the one with the urgent field.
        self._sealing.sealed(len(frame) - OVERHEAD - self._urgent_field, frame)
        self._urgent_field = 0

    def _taken(self) -> list[memoryview | bytes]:
        taken = []
        while out := self.session.bytes_to_send():
            taken.append(out)
        return taken

    # --- from the peer -----------------------------------------------------------------

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes of the peer's stream, in order; what they hold is output of `opening`."""
        begun = self._begun
        view = memoryview(data)
        try:
            if begun:
                begun += data
                view = memoryview(b"")
                if self._whole(begun):
                    view = memoryview(bytes(begun))
                    begun.clear()
            while not self.error and (length := self._whole(view)):
                self._open(view[:length])
                view = view[length:]
        except PeerError as error:
            # Not with the frames that it came through, which hold this one.
            self.error = error.with_traceback(None)
        begun += view
        end = self._opening.input.end - len(begun)
        known = len(begun) >= FRAME_HEADER_LEN and not self._init_due
        self._opening.under_way = end + self._length() if known else 0
        if self._sealing.dataless > _DATALESS_MAX and not self.error:
            self.error = PeerError(PeerReason.TIMEOUT)

    def _length(self) -> int:
        return FRAME_HEADER_LEN + int.from_bytes(self._begun[1:FRAME_HEADER_LEN], "big")

    def _whole(self, view: memoryview | bytearray) -> int:
        """Bytes of the message or frame that has come whole; 0 if none has."""
        if self._init_due:
            length = message_length(view, self._magic, _INIT_MAX) if view else None
        elif len(view) < FRAME_HEADER_LEN:
            return 0
        else:
            length = FRAME_HEADER_LEN + int.from_bytes(view[1:FRAME_HEADER_LEN], "big")
        return length if length is not None and length <= len(view) else 0

    def _open(self, piece: memoryview) -> None:
        self._init_due = False
        self._found = []
        self.session.receive_data(piece)
        self._hear()
        if not self.error:
            self._opening.opened(self._found, len(piece))
        self._drain()

    def _hear(self) -> None:
        while (event := self.session.next_event()) is not None:
            self._note(event)

    def _note(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self._found.append(event.data)
        elif isinstance(event, UrgentReceived):
            self.peer_urgent = event.index
        elif isinstance(event, Established):
            self.established = event
        elif isinstance(event, PeerProved):
            self.peer_proved = True
        elif isinstance(event, Rekeyed):
            self.rekeys += 1
        elif isinstance(event, StreamEnded):
            self.peer_finished = True
        elif isinstance(event, Aborted):
            self.error = event.error

    # --- lent ---------------------------------------------------------------------------

    @property
    def begun(self) -> bytes:
        """The beginning of the peer's next frame."""
        return bytes(self._begun)

    def lend(self) -> Lease | None:
        """Let another seal and perhaps open, until `take_back`; None if this is to seal.

        The peer's first frame is opened here, for where its stream begins is in doubt.
        """
        if self._init_due or self._init_owed or self._urgent is not None or self.error:
            return None
        lease = self.session.lend()
        if lease is not None and lease.sealing is None:
            self.session.take_back(lease.unused())
            return None
        return lease

    def take_back(self, returned: Returned, begun: bytes) -> None:
        """Go on where the borrower stopped; `begun` is what there is of the next frame."""
        self.session.take_back(returned)
        self._begun[:] = begun
        self._hear()

    def end(self) -> Ended:
        """Both streams have ended: forget the keys, and let the session go."""
        self.wipe()
        return Ended(self.established, self.peer_proved, self.rekeys)

    def wipe(self) -> None:
        """Forget the keys."""
        self.session.wipe()
        self._begun.clear()
