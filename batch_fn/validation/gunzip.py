"""A gzip stream in, its content out, in pieces of bounded size. Pure."""

import zlib
from collections.abc import Iterable, Iterator

MAGIC = b"\x1f\x8b"
"""What every gzip file begins with. Source: RFC 1952, section 2.3.1."""

MAX_RATIO = 500
"""How often a file may be larger unpacked than packed. JSONL of one repeated prompt comes to about 100."""

FREE_BYTES = 16 * 1024 * 1024
"""Content up to this size may have any ratio: it cannot do harm."""

PIECE_BYTES = 512 * 1024
"""How much is unpacked at a time."""

_GZIP = zlib.MAX_WBITS | 16


class GzipError(Exception):
    """A gzip file is damaged, or too large unpacked. The sentence says so."""


def is_gzip(head: bytes) -> bool:
    """Return whether a file that begins with `head` is gzip, whatever its name or its header says."""
    return head.startswith(MAGIC)


def gunzip(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Yield the content of a gzip file. Several members count as one file, as they do for `gunzip`.

    Raises:
        GzipError: if the file is damaged or truncated, has more than `limit` bytes unpacked, or a ratio over MAX_RATIO.
    """
    unpacker = zlib.decompressobj(_GZIP)
    packed = unpacked = members = 0
    begun = False  # a member has begun, and has not ended yet
    for chunk in chunks:
        packed += len(chunk)
        rest = chunk
        while rest or begun:
            if not begun:
                rest = rest.lstrip(b"\0") if members else rest  # padding
                if not rest:
                    break
                unpacker, begun = zlib.decompressobj(_GZIP), True
            try:
                piece = unpacker.decompress(rest, PIECE_BYTES)
            except zlib.error as error:
                raise GzipError(f"The file is gzip, and damaged: {_reason(error)}. Compress it again.") from error
            unpacked += len(piece)
            _check_size(packed, unpacked, limit)
            if piece:
                yield piece
            if unpacker.eof:
                rest, begun, members = unpacker.unused_data, False, members + 1
            else:
                rest = unpacker.unconsumed_tail
                if not rest and len(piece) < PIECE_BYTES:
                    break  # it needs the next chunk
    if begun:
        raise GzipError("The file is gzip, and it is truncated: its end is missing. Upload it again, whole.")


def _check_size(packed: int, unpacked: int, limit: int) -> None:
    if unpacked > limit:
        raise GzipError(
            f"The file has more than {limit:,} bytes when it is unpacked, and that is the limit. "
            "Split it, or raise the setting MAX_DROP_BYTES."
        )
    if unpacked > FREE_BYTES and unpacked > packed * MAX_RATIO:
        raise GzipError(
            f"The file is more than {MAX_RATIO} times as large when it is unpacked, and that is the limit. "
            "Drop it as it is, without compression."
        )


def _reason(error: zlib.error) -> str:
    return str(error).rpartition(": ")[2]
