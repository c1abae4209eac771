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
            if not self._kept and end - at >= DATA_HEADER.size and view[at] == DATA:
                # Almost all that ever comes, and worth no copy.
                _, length, file, offset = DATA_HEADER.unpack_from(view, at)
                self._begin(length, file, offset)
                at += DATA_HEADER.size
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
        if kind == DATA:
            self._check_data(length)
        elif length > limit:
            raise MessageError(detail=f"a message of {length} bytes")
        return DATA_HEADER.size if kind == DATA else HEADER.size + length

    def _whole(self) -> Message | None:
        kind, length = self._header()
        body = bytes(self._kept[HEADER.size :])
        self._kept.clear()
        if kind == DATA:
            self._begin(length, *AT.unpack(body))
            return None
        return KINDS[kind].parse(body)

    def _check_data(self, length: int) -> None:
        if length > self._data_max:
            raise MessageError(Code.BLOCK_SIZE, f"a message of {length} bytes")
        if length <= AT.size:
            raise MessageError(detail="a DATA without data")

    def _begin(self, length: int, file: int, offset: int) -> None:
        """The bytes of a DATA follow."""
        self._check_data(length)
        self._file, self._offset, self._left = file, offset, length - AT.size
        if offset + self._left > SIZE_MAX:
            raise MessageError(Code.SIZE, "an offset past 63 bits")
