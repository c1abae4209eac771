"""ICMP errors about segments of one connection, with the numbers of whom they go to.

Sans-IO.  Whoever does not know which segments are under way must not say anything of them
(RFC 5927 section 4.1).  A host finds out by itself that its packets are longer than the
path takes; one behind a gateway is told how much of that a frame needs.
"""

from __future__ import annotations

from typing import Final

from tcpcrypt.segment.composer import Composer, Packets
from tcpcrypt.segment.exchange import Exchange
from tcpcrypt.segment.opening import Opening, Side
from tcpcrypt.segment.quoting import Quotation
from tcpcrypt.segment.stream import Stream

__all__ = ["Reported"]

INNER, OUTER = Side.INNER, Side.OUTER
_TCP_LEN: Final = 20


class Reported:
    """Translates them; `forwards` as in `Flow`."""

    def __init__(
        self,
        streams: dict[Side, Stream],
        composer: Composer,
        exchange: Exchange,
        opening: Opening,
        *,
        forwards: bool,
    ) -> None:
        self._streams = streams
        self._ends = composer.ends
        self._exchange = exchange
        self._opening = opening
        self._forwards = forwards

    def sealed(self, side: Side, error: Quotation) -> Packets:
        """What goes on in place of an error, from `side`, about a segment to the wire."""
        seq, mtu = self._number_inside(side, error), error.mtu
        if seq is None:
            return []
        if mtu is not None:
            self._opening.narrow(OUTER, mtu - error.beneath - _TCP_LEN)
            mtu -= self._opening.overhead if self._forwards else 0
        return [(side.other, error.with_numbers(seq, mtu))]

    def opened(self, error: Quotation) -> Packets:
        """What is said in place of one about a segment that was opened, from behind a gateway.

        It quotes what is in clear, and goes no further.  Who has sent too much for a link there
        is told so nevertheless: with the number on the wire, and nothing else.
        """
        opening, seq, mtu = self._streams[OUTER], error.seq, error.mtu
        if seq is None or mtu is None:
            return []
        offset = self._exchange.offset(OUTER, seq, opening.una)
        if not opening.una <= offset < opening.emitted:
            return []
        self._opening.narrow(INNER, mtu - error.beneath - _TCP_LEN)
        number = self._ends[OUTER].isn + 1 + opening.input_to(offset)
        return [(OUTER, error.with_numbers(number, mtu, short=True))]

    def _number_inside(self, side: Side, error: Quotation) -> int | None:
        """The inner host's number of the segment that is quoted; None: there is no such segment."""
        sealing, seq, data = self._streams[INNER], error.seq, bytes(error.data)
        if seq is None:
            return None
        offset = self._exchange.offset(INNER, seq, sealing.una)
        sent = sealing.una <= offset < sealing.emitted
        if side is INNER:
            # A gateway's kernel looks at packets before the engine does, and once more afterwards.
            stop = min(offset + len(data), sealing.emitted)
            sent = sent and sealing.cut(offset, stop)[0] == data[: stop - offset] != b""
            if not sent:
                offset = self._exchange.offset(INNER, seq, sealing.input.end)
                return seq if sealing.arrived <= offset <= sealing.limit else None
        return self._ends[INNER].isn + 1 + sealing.input_to(offset) if sent else None
