"""The stream of a transfer, as messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tcpcrypt.transfer.codes import Code, MessageError
from tcpcrypt.transfer.messages import (
    AT,
    BLOCK_MAX,
    DATA,
    DATA_HEADER,
    HEADER,
    KINDS,
    LENGTHS_MAX,
    SIZE_MAX,
    Data,
    Message,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Parser"]


class Parser:
    """Messages of a stream that comes in pieces of any length.

    It keeps less than one message, DATA never: that is handed on as it comes.
    """

    def __init__(self, block: int = BLOCK_MAX) -> None:
        """Take no DATA with more than `block` bytes."""
        self._kept = bytearray()
        self._data_max = AT.size + min(block, BLOCK_MAX)
        self._file = self._offset = self._left = 0
        """Of the DATA that is under way."""

    @property
    def between(self) -> bool:
        """Whether the stream may end here: behind a message."""
        return not self._kept and not self._left

    def feed(self, data: ReadableBuffer) -> Iterator[Message]:
        """The messages that end in `data`, and the file bytes that stand in it.

        Iterate to the end.  Raises `MessageError`, after which nothing more can
        be told of the stream.
        """
        view = memoryview(data).cast("B")
        at, end = 0, len(view)
        while at < end:
            if self._left:
                took = min(self._left, end - at)
                yield Data(self._file, self._offset, view[at : at + took])
                at, self._offset, self._left = at + took, self._offset + took, self._left - took
                continue
            need = self._needed() - len(self._kept)
            self._kept += view[at : at + need]
            at += min(need, end - at)
            if len(self._kept) == self._needed():
                message = self._whole()
                if message is not None:
                    yield message

    def _header(self) -> tuple[int, int]:
        kind, length = HEADER.unpack_from(self._kept)
        return kind, length

    def _needed(self) -> int:
        """Bytes to keep before anything can be said.  Raises `MessageError`."""
        if len(self._kept) < HEADER.size:
            return HEADER.size
        kind, length = self._header()
        limit = LENGTHS_MAX.get(kind)
        if limit is None:
            raise MessageError(detail=f"message type 0x{kind:02x}")
        if length > (self._data_max if kind == DATA else limit):
            code = Code.BLOCK_SIZE if kind == DATA else Code.PROTOCOL
            raise MessageError(code, f"a message of {length} bytes")
        if kind == DATA:
            if length <= AT.size:
                raise MessageError(detail="a DATA without data")
            return DATA_HEADER.size
        return HEADER.size + length

    def _whole(self) -> Message | None:
        kind, length = self._header()
        body = bytes(self._kept[HEADER.size :])
        self._kept.clear()
        if kind == DATA:
            self._file, self._offset = AT.unpack(body)
            self._left = length - AT.size
            if self._offset + self._left > SIZE_MAX:
                raise MessageError(Code.SIZE, "an offset past 63 bits")
            return None
        return KINDS[kind].parse(body)
