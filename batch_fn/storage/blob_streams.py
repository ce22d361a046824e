"""Reading a blob ahead of its use, and writing one block by block."""

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, StorageStreamDownloader


CHUNK_BYTES = 2 * 1024 * 1024
"""How much is asked for, and sent, at a time: each call costs a millisecond of our processor time."""

MIN_CHUNK_BYTES = 64 * 1024
"""The same where many blobs are read or written side by side, and share what is held."""

PREFETCH = 2
"""How many chunks are asked for before they are needed, or are on their way to a blob while the next one fills: the
network then works while we do, and what is held stays the same for a blob of any size."""

ANY_VERSION = "*"
"""Of a blob that is replaced, whatever it is."""


class BlobChangedError(Exception):
    """A blob is not what it was when its replacement was begun: another instance has written it meanwhile."""


def read_ahead(
    blob: "BlobClient", offset: int, length: int | None, etag: str = "", chunk_bytes: int = CHUNK_BYTES
) -> Iterator[bytes]:
    """Yield a byte range of one version of a blob, to its end if there is no length, AHEAD chunks before they are used.

    Without an ETag it is the version that is there at first.
    """
    from azure.core.exceptions import HttpResponseError

    def chunk(start: int, size: int, etag: str) -> "StorageStreamDownloader[bytes]":
        return blob.download_blob(start, size, **(if_unchanged(etag) if etag else {}))

    def content(start: int, size: int, etag: str) -> bytes:
        return next(chunk(start, size, etag).chunks())  # the one there is, without the copies that readall makes

    try:
        first = chunk(offset, chunk_bytes if length is None else min(chunk_bytes, length), etag)
    except HttpResponseError as error:
        if not offset and error.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # it is empty
        raise
    version = first.properties.etag.strip('"')
    end = int(str(first.properties.content_range).rpartition("/")[2])  # of the blob; `size` is that of the range
    end = end if length is None else min(end, offset + length)
    head = next(first.chunks())
    starts = iter(range(offset + len(head), end, chunk_bytes))
    del first  # it holds the first chunk, too
    yield head
    del head
    coming: deque[Future[bytes]] = deque()

    def ask_for_more() -> None:
        if (start := next(starts, None)) is not None:
            coming.append(pool.submit(content, start, min(chunk_bytes, end - start), version))

    pool = ThreadPoolExecutor(PREFETCH, thread_name_prefix="read-ahead")  # it starts no thread before it is asked
    try:
        for _ in range(PREFETCH):
            ask_for_more()
        while coming:
            piece = coming.popleft().result()
            ask_for_more()
            yield piece
    finally:
        pool.shutdown(cancel_futures=True)


def if_unchanged(etag: str) -> dict[str, Any]:
    """Return the condition that a blob is of that version. ETags are kept without the quotes that HTTP puts around."""
    from azure.core import MatchConditions

    return {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified}


@contextlib.contextmanager
def replacing(version: str | None) -> Iterator[dict[str, Any]]:
    """Give the condition for a write over that version of a blob. Raises: BlobChangedError if it is another by now."""
    from azure.core import MatchConditions
    from azure.core.exceptions import ResourceExistsError, ResourceModifiedError

    missing = {"match_condition": MatchConditions.IfMissing}
    try:
        yield {} if version == ANY_VERSION else missing if version is None else if_unchanged(version)
    except (ResourceExistsError, ResourceModifiedError) as error:
        raise BlobChangedError(f"Another instance has written the blob: {error.reason}") from error


class Writer:
    """Writes one blob, a block at a time; the blob appears, whole, when the writer is closed without an error.

    Nothing is written if nothing was given: `path` is None then. To be closed raises BlobChangedError if the version
    that was to be replaced is there no more.
    """

    def __init__(self, blob: "BlobClient", place: str, block_bytes: int, over: str | None) -> None:
        self._blob = blob
        self._over = over
        self._block_bytes = block_bytes
        self._place = place
        self._held = bytearray()
        self._blocks: list[Any] = []
        self._pool: ThreadPoolExecutor | None = None
        self._on_their_way: deque[Future[Any]] = deque()
        self.lines = 0
        self.version: str | None = None
        """ETag of the blob, once it is written."""

    @property
    def path(self) -> str | None:
        """Where the blob is, as container/name; None if it has no line."""
        return self._place if self.lines else None

    def write(self, line: bytes) -> None:
        """Add one line, with its end."""
        self.lines += 1
        self._held += line
        if len(self._held) >= self._block_bytes:
            self._stage()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.lines:
                self._commit()
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def _stage(self) -> None:
        """Send what is held as a block, while more is written; wait where AHEAD blocks are on their way already."""
        from azure.storage.blob import BlobBlock

        if self._pool is None:
            self._pool = ThreadPoolExecutor(PREFETCH, thread_name_prefix="write")
        while len(self._on_their_way) >= PREFETCH:
            self._on_their_way.popleft().result()
        # The ids are the same each time: writing again what was half written leaves no blocks of another kind behind.
        block = f"{len(self._blocks):08d}"
        self._on_their_way.append(self._pool.submit(self._blob.stage_block, block, bytes(self._held)))
        self._blocks.append(BlobBlock(block))
        self._held.clear()

    def _commit(self) -> None:
        from azure.storage.blob import ContentSettings

        jsonl = ContentSettings(content_type="application/jsonl")
        if not self._blocks:
            with replacing(self._over) as condition:
                done = self._blob.upload_blob(bytes(self._held), overwrite=True, content_settings=jsonl, **condition)
            self.version = str(done["etag"]).strip('"')
            return
        if self._held:
            self._stage()
        while self._on_their_way:
            self._on_their_way.popleft().result()
        with replacing(self._over) as condition:
            done = self._blob.commit_block_list(self._blocks, content_settings=jsonl, **condition)
        self.version = str(done["etag"]).strip('"')
