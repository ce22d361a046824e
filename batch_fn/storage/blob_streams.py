"""Reading a blob ahead of its use, and writing one block by block."""

import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from batch_fn.runtime import log

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, ContainerClient, StorageStreamDownloader


CHUNK_BYTES = 2 * 1024 * 1024
"""Bytes that one call reads or writes: each call costs a millisecond of processor time here."""

MIN_CHUNK_BYTES = 64 * 1024
"""The same where many blobs are read or written side by side and share the memory."""

PREFETCH = 2
"""Chunks that are requested before they are needed, or that are sent while the next one fills: the network and this
process work at the same time, and the memory does not depend on the size of the blob."""

ANY_VERSION = "*"
"""The version of a blob to replace, where it does not matter."""

AS_STORED: dict[str, Any] = {"decompress": False}
"""Read the bytes as they are stored: by default the SDK decompresses what has a Content-Encoding header."""


CHANGED = frozenset({"BlobAlreadyExists", "BlobOverwritten", "ConditionNotMet", "InvalidBlockList"})
"""What storage answers to a conditional write, or to a commit of discarded blocks, where another writer was first."""


class BlobChangedError(Exception):
    """Another instance has written the blob since its replacement was begun."""


def error_code(error: BaseException) -> str:
    """Return the code that storage gave an error, such as `BlobNotFound`; empty if it gave none."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")  # some codes are members of an enumeration


def says_blob_is_missing(error: BaseException) -> bool:
    """Return whether storage says that there is no such blob, in a container that is there."""
    return error_code(error) == "BlobNotFound"


def says_container_is_missing(error: BaseException) -> bool:
    """Return whether storage says that there is no such container."""
    return error_code(error) == "ContainerNotFound"


def creating_container[T](container: "ContainerClient", write: Callable[[], T]) -> T:
    """Return the result of `write`; where its container is missing, create that first."""
    from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

    try:
        return write()
    except ResourceNotFoundError as error:
        if not says_container_is_missing(error):
            raise
    with contextlib.suppress(ResourceExistsError):  # by another instance; or it is still being deleted
        container.create_container()
        log.warning("container_created", container=container.container_name)
    return write()


def read_ahead(
    blob: "BlobClient", offset: int, length: int | None, etag: str = "", chunk_bytes: int = CHUNK_BYTES
) -> Iterator[bytes]:
    """Yield a byte range of one version of a blob as it is stored, PREFETCH chunks ahead; no length: to its end.

    Without an ETag, the version is the one that the first chunk has.
    """
    from azure.core.exceptions import HttpResponseError

    def chunk(start: int, size: int, etag: str) -> "StorageStreamDownloader[bytes]":
        return blob.download_blob(start, size, **AS_STORED, **(if_unchanged(etag) if etag else {}))

    def content(start: int, size: int, etag: str) -> bytes:
        return next(chunk(start, size, etag).chunks())  # the only one, without the copies that readall makes

    try:
        first = chunk(offset, chunk_bytes if length is None else min(chunk_bytes, length), etag)
    except HttpResponseError as error:
        if not offset and error.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the blob is empty
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
    """Return the condition that a blob is of that version. ETags are kept here without the quotes that HTTP adds."""
    from azure.core import MatchConditions

    return {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified}


@contextlib.contextmanager
def replacing(version: str | None) -> Iterator[dict[str, Any]]:
    """Give the condition for a write over that version of a blob; None: there is no such blob.

    Raises:
        BlobChangedError: if it has another version by now, or if another commit has discarded this writer's blocks.
    """
    from azure.core import MatchConditions
    from azure.core.exceptions import HttpResponseError

    missing = {"match_condition": MatchConditions.IfMissing}
    try:
        yield {} if version == ANY_VERSION else missing if version is None else if_unchanged(version)
    except HttpResponseError as error:
        if error_code(error) not in CHANGED:
            raise  # a lease, a policy, a container that is being deleted: no new version
        raise BlobChangedError(f"Another instance has written the blob: {error.reason}") from error


class Writer:
    """Writes one blob, a block at a time; the blob appears, whole, when the writer is closed without an error.

    Nothing is written if nothing was given: `path` is None then. To close it raises BlobChangedError if the version to
    replace is not there any more. Its blocks have ids of its own, so those of two writers never end in one blob.
    """

    def __init__(
        self,
        blob: "BlobClient",
        container: "ContainerClient",
        block_bytes: int,
        over: str | None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._blob = blob
        self._container = container
        self._over = over
        self._block_bytes = block_bytes
        self._metadata = dict(metadata or {})
        self._held = bytearray()
        self._writer_id = secrets.token_hex(8)
        self._blocks: list[Any] = []
        self._pool: ThreadPoolExecutor | None = None
        self._on_their_way: deque[Future[Any]] = deque()
        self.lines = 0
        self.version: str | None = None
        """ETag of the blob, once it is written."""

    @property
    def path(self) -> str | None:
        """The blob as container/name; None if it has no line."""
        return f"{self._blob.container_name}/{self._blob.blob_name}" if self.lines else None

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
        """Send the held bytes as a block while more is written; wait where PREFETCH blocks are being sent already."""
        from azure.storage.blob import BlobBlock

        if self._pool is None:
            self._pool = ThreadPoolExecutor(PREFETCH, thread_name_prefix="write")
        while len(self._on_their_way) >= PREFETCH:
            self._on_their_way.popleft().result()
        # All ids of a blob must have one length. Source: Azure Storage, "Put Block".
        block, content = f"{self._writer_id}{len(self._blocks):08d}", bytes(self._held)
        stage = lambda: creating_container(self._container, lambda: self._blob.stage_block(block, content))  # noqa: E731
        self._on_their_way.append(self._pool.submit(stage))
        self._blocks.append(BlobBlock(block))
        self._held.clear()

    def _commit(self) -> None:
        from azure.storage.blob import ContentSettings

        how: dict[str, Any] = {"content_settings": ContentSettings(content_type="application/jsonl")}
        if self._metadata:
            how["metadata"] = self._metadata
        if not self._blocks:
            content = bytes(self._held)
            with replacing(self._over) as condition:
                done = creating_container(
                    self._container, lambda: self._blob.upload_blob(content, overwrite=True, **how, **condition)
                )
            self.version = str(done["etag"]).strip('"')
            return
        if self._held:
            self._stage()
        while self._on_their_way:
            self._on_their_way.popleft().result()
        with replacing(self._over) as condition:
            done = self._blob.commit_block_list(self._blocks, **how, **condition)
        self.version = str(done["etag"]).strip('"')
