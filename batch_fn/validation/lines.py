"""Cuts a stream of chunks into lines. Memory holds at most two chunks and two lines."""

import itertools
import sys
from collections.abc import Iterable, Iterator

import msgspec

BOM = b"\xef\xbb\xbf"  # the service refuses a file that begins with one, editors on Windows write one
TOGETHER_BYTES = 128 * 1024
"""The size of a block of lines that are checked together: it fits into the processor's cache."""

NO_LIMIT = sys.maxsize
"""The limit for lines of blobs that the app wrote or accepted itself: only validation limits the bytes of a line."""

NO_LIMIT = sys.maxsize
"""As the limit of a line's bytes: for lines that were accepted before."""

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


class LineBlock(msgspec.Struct, frozen=True, gc=False):
    """Whole lines of a drop, each with its line feed: those of `chunk` from `begin` to `end`.

    `offset` is the byte of the drop at which they begin. If `ascii` is true, all characters are ASCII; if it is false,
    they may be. An overlong line is a block of its own; only its size in bytes (`too_long`) is kept.
    """

    offset: int
    chunk: bytes
    begin: int
    end: int
    ascii: bool = False
    too_long: int = 0

    def head(self, count: int) -> "LineBlock":
        """Return the first `count` lines, all of them if there are fewer."""
        end = self.begin
        for _ in range(count):
            end = self.chunk.find(b"\n", end, self.end) + 1
            if not end:
                return self
        return LineBlock(self.offset, self.chunk, self.begin, end, self.ascii, self.too_long)

    def after(self, head: "LineBlock") -> "LineBlock | None":
        """Return the rest after `head`, which holds the first lines of this block; None if nothing is left."""
        if head.end == self.end:
            return None
        return LineBlock(self.offset + head.end - self.begin, self.chunk, head.end, self.end, self.ascii)

    def lines(self, number: int, max_line_bytes: int) -> Iterator[Line | None]:
        """Yield the lines, numbered from `number` on; None for a blank one."""
        if self.too_long:
            yield Line(number, self.offset, self.too_long, b"", too_long=True)
            return
        chunk, begin, end, shift = self.chunk, self.begin, self.end, self.offset - self.begin
        while begin < end:
            feed = chunk.index(b"\n", begin)
            raw = chunk[begin:feed]
            if raw.endswith(b"}") and len(raw) <= max_line_bytes:  # most lines: nothing to repair
                yield Line(number, begin + shift, len(raw), raw)
            else:
                yield _line(raw, number, begin + shift, max_line_bytes)
            number += 1
            begin = feed + 1


def lines(chunks: Iterable[bytes], max_line_bytes: int = NO_LIMIT) -> Iterator[Line]:
    """Yield the lines of the drop whose bytes are `chunks`, in order; the sizes of the chunks make no difference.

    Repaired on the way: a byte order mark, CRLF line ends, blank lines (counted, not yielded), a missing last line end.
    A line of more than `max_line_bytes` bytes is yielded as too long, and its bytes are dropped as they arrive.
    """
    number = 1
    for block in blocks(chunks, max_line_bytes):
        for line in block.lines(number, max_line_bytes):
            number += 1
            if line is not None:
                yield line


def blocks(chunks: Iterable[bytes], max_line_bytes: int) -> Iterator[LineBlock]:
    """Yield the same lines in blocks of at most TOGETHER_BYTES, or of one line if that is longer.

    A block of several lines has no line longer than `max_line_bytes`.
    """
    most = min(TOGETHER_BYTES, max_line_bytes)
    offset, stream = _without_bom(chunks)
    unfinished = _Unfinished(max_line_bytes)
    for chunk in stream:
        begin = 0
        if unfinished.length:
            begin = chunk.find(b"\n") + 1
            unfinished.add(chunk[:begin] if begin else chunk)
            if not begin:
                continue
            block, size = unfinished.finish(offset)
            yield block
            offset += size
        is_ascii = chunk.isascii()
        while end := _end(chunk, begin, most):
            yield LineBlock(offset, chunk, begin, end, is_ascii)
            offset += end - begin
            begin = end
        unfinished.add(chunk[begin:])
    if unfinished.length:
        unfinished.add(b"\n")
        yield unfinished.finish(offset)[0]


def _end(chunk: bytes, begin: int, most: int) -> int:
    """Return the end of the whole lines that fit into `most` bytes from `begin` on, or of the first; 0 if none ends."""
    return (chunk.rfind(b"\n", begin, begin + most) + 1) or (chunk.find(b"\n", begin + most) + 1)


def _without_bom(chunks: Iterable[bytes]) -> tuple[int, Iterator[bytes]]:
    """Return the size of the byte order mark (0 or 3 bytes) and the chunks after it."""
    stream = iter(chunks)
    head = b""
    for chunk in stream:
        head += chunk
        if len(head) >= len(BOM):
            break
    size = len(BOM) if head.startswith(BOM) else 0
    return size, itertools.chain((head[size:],), stream)


def _line(piece: bytes, number: int, offset: int, max_line_bytes: int) -> Line | None:
    """Return the line whose bytes before the line feed are `piece`; None if it is blank."""
    raw = piece[:-1] if piece.endswith(b"\r") else piece
    if len(raw) > max_line_bytes:
        return Line(number, offset, len(raw), b"", too_long=True)
    if not raw.strip(_BLANK):
        return None
    return Line(number, offset, len(raw), raw)


class _Unfinished:
    """The bytes of a line whose end has not arrived yet; over the limit only their number is kept."""

    def __init__(self, max_line_bytes: int) -> None:
        self.length = 0
        self._limit = max_line_bytes + len(b"\r\n")
        self._held = bytearray()
        self._last = b""

    def add(self, piece: bytes) -> None:
        if not piece:
            return
        self.length += len(piece)
        self._last = (self._last + piece[-2:])[-2:]
        if self.length > self._limit:
            self._held = bytearray()
        else:
            self._held += piece

    def finish(self, offset: int) -> tuple[LineBlock, int]:
        """Return the line, which begins at `offset`, and its size with its line feed; then start the next line."""
        length, held, last = self.length, bytes(self._held), self._last
        self.length, self._held, self._last = 0, bytearray(), b""
        if length > self._limit:
            end = b"\r\n" if last == b"\r\n" else b"\n"
            return LineBlock(offset, b"", 0, 0, too_long=length - len(end)), length
        return LineBlock(offset, held, 0, length), length
