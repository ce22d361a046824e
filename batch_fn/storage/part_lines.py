"""The lines of a part, in the archive or the work container: read one by one, or sent as one file.

They were accepted once, so they are read whatever their length: MAX_LINE_BYTES may have been lowered since.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple, cast

from batch_fn.core.jobs import InputRange, Part
from batch_fn.settings import Settings
from batch_fn.storage.blob_streams import CHUNK_BYTES, BlobChangedError
from batch_fn.storage.blobs import Blobs
from batch_fn.validation.lines import NO_LIMIT, lines
from batch_fn.validation.requests import fill_deployment

_GONE = frozenset({"BlobNotFound", "ContainerNotFound"})


class SourceLine(NamedTuple):
    """One request of a part."""

    line: int
    """Its line number in the drop."""
    raw: bytes


class InputGoneError(Exception):
    """The blob that holds a part's lines was deleted."""

    def __init__(self, source: InputRange) -> None:
        super().__init__(f"The blob {source.container}/{source.name} was deleted.")


def read_lines(containers: Blobs, source: InputRange) -> Iterator[SourceLine]:
    """Yield the requests of a part in the drop's order. Raises: InputGoneError."""
    for each in lines(read_range(containers, source), NO_LIMIT):
        if source.picked:
            number, raw = each.raw.split(b"\t", 1)
            yield SourceLine(int(number), raw)
        else:
            yield SourceLine(source.first_line + each.number - 1, each.raw)


def read_range(containers: Blobs, source: InputRange) -> Iterator[bytes]:
    """Yield the bytes of a part as the blob has them. Raises: InputGoneError."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        yield from containers.read(source.container, source.name, source.offset, source.length)
    except ResourceNotFoundError as error:
        if getattr(error, "error_code", None) in _GONE:  # storage itself says so, and not something in between
            raise InputGoneError(source) from error
        raise


def picked(line: SourceLine) -> bytes:
    """Return the request as one line of a blob of picked lines."""
    return b"%d\t%b\n" % line


def input_blob_of(containers: Blobs, part: Part, settings: Settings) -> str:
    """Return the URL of a blob that holds exactly what is sent: the drop's copy itself where that can be sent.

    An existing blob is left as it is: a batch may read it already, and fails when its input is written to.

    Raises: InputGoneError.
    """
    source = part.source
    if source.verbatim and source.whole:
        if containers.version(source.container, source.name) is None:
            raise InputGoneError(source)
        return containers.url(source.container, source.name)
    container, name = settings.work_container, f"{part.work_path}.jsonl"
    if containers.version(container, name) is None:
        with (
            upload_content(containers, part) as content,
            contextlib.suppress(BlobChangedError),  # another instance was quicker
        ):
            containers.write(container, name, iter(lambda: content.read(CHUNK_BYTES), b""), over=None)
    return containers.url(container, name)


@contextlib.contextmanager
def upload_content(containers: Blobs, part: Part) -> Iterator[IO[bytes]]:
    """Give the part as the file to upload: read from the blob where it is sent as it is, else rewritten.

    Raises: InputGoneError.
    """
    source = part.source
    if source.verbatim and source.length is not None:
        yield cast(IO[bytes], _Range(lambda: read_range(containers, source), source.length))
        return
    with tempfile.TemporaryFile() as spool:
        for each in read_lines(containers, source):
            spool.write(fill_deployment(each.raw, part.deployment) if source.fill else each.raw)
            spool.write(b"\n")
        spool.seek(0)
        yield spool


class _Range(io.RawIOBase):
    """A byte range of a blob as the file that the SDK uploads: it asks for the length by seeking, then reads once."""

    def __init__(self, chunks: Callable[[], Iterator[bytes]], length: int) -> None:
        self._open, self._length = chunks, length
        self._chunks = chunks()
        self._rest = memoryview(b"")
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (self._length if whence == io.SEEK_END else 0)
        if self._position not in {0, self._length}:
            raise io.UnsupportedOperation("a range is read from its beginning")
        if self._position == 0:
            self._chunks, self._rest = self._open(), memoryview(b"")
        return self._position

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return self.readall()
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        piece = self._rest[:size]
        self._rest = self._rest[len(piece) :]
        self._position += len(piece)
        return bytes(piece)
