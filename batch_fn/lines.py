"""A stream of chunks in, the lines of a drop out. In memory are never more than two chunks and two lines."""

import itertools
from collections.abc import Iterable, Iterator

import msgspec

BOM = b"\xef\xbb\xbf"  # the service refuses a file that begins with one, editors on Windows write one
_BLANK = b" \t\r"


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line of a drop that is not blank.

    `number` counts physical lines from 1. `offset` is the byte of the drop at which the line begins, after a byte order
    mark, and `length` its size in bytes, without its end (LF or CRLF). `raw` is empty if the line is `too_long`.
    """

    number: int
    offset: int
    length: int
    raw: bytes
    too_long: bool = False


def lines(chunks: Iterable[bytes], max_line_bytes: int) -> Iterator[Line]:
    """Yield the lines of the drop whose bytes are `chunks`, in order; where the chunks are cut makes no difference.

    Repaired on the way: a byte order mark, CRLF line ends, blank lines (counted, not yielded), a missing last line end.
    A line of more than `max_line_bytes` bytes is yielded as too long, and its bytes are dropped while they arrive.
    """
    offset, stream = _without_bom(chunks)
    number = 1
    unfinished = _Unfinished(max_line_bytes)
    for chunk in stream:
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            piece = chunk[begin:end]
            begin = end + 1
            size = unfinished.length + len(piece)
            if unfinished.length:
                line = unfinished.finish(piece, number, offset)
            elif piece.endswith(b"}") and size <= max_line_bytes:  # most lines: nothing to repair
                line = Line(number, offset, size, piece)
            else:
                line = _line(piece, number, offset, max_line_bytes)
            if line is not None:
                yield line
            number += 1
            offset += size + 1
        unfinished.add(chunk[begin:])
    line = unfinished.finish(b"", number, offset)
    if line is not None:
        yield line


def _without_bom(chunks: Iterable[bytes]) -> tuple[int, Iterator[bytes]]:
    """Return the size of the byte order mark (0 or 3 bytes), and the chunks that follow it."""
    stream = iter(chunks)
    head = b""
    for chunk in stream:
        head += chunk
        if len(head) >= len(BOM):
            break
    size = len(BOM) if head.startswith(BOM) else 0
    return size, itertools.chain((head[size:],), stream)


def _line(piece: bytes, number: int, offset: int, max_line_bytes: int) -> Line | None:
    """Return the line whose bytes up to the line feed are `piece`, None if it is blank."""
    raw = piece[:-1] if piece.endswith(b"\r") else piece
    if len(raw) > max_line_bytes:
        return Line(number, offset, len(raw), b"", too_long=True)
    if not raw.strip(_BLANK):
        return None
    return Line(number, offset, len(raw), raw)


class _Unfinished:
    """The bytes of a line whose end has not arrived yet; beyond the limit it goes on counting and forgets the bytes."""

    def __init__(self, max_line_bytes: int) -> None:
        self.length = 0
        self._limit = max_line_bytes
        self._held = bytearray()
        self._last = b""

    def add(self, piece: bytes) -> None:
        if not piece:
            return
        self.length += len(piece)
        self._last = piece[-1:]
        if self.length > self._limit + 1:  # one more than the limit may still turn out to be a line and its CR
            self._held = bytearray()
        else:
            self._held += piece

    def finish(self, piece: bytes, number: int, offset: int) -> Line | None:
        """Return the line that ends with `piece`, None if it is blank, and be empty again."""
        self.add(piece)
        length, held, ends_in_cr = self.length, bytes(self._held), self._last == b"\r"
        self.length, self._held, self._last = 0, bytearray(), b""
        if length > self._limit + 1:
            return Line(number, offset, length - ends_in_cr, b"", too_long=True)
        return _line(held, number, offset, self._limit)
