"""Blob storage: read a drop by range and ETag, keep a copy of it, write results. Nothing here holds a file whole."""

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from batch_fn import journal

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, BlobServiceClient, StorageStreamDownloader

    from batch_fn.settings import Settings

CHUNK_BYTES = 2 * 1024 * 1024
"""How much is asked for, and sent, at a time: each call costs a millisecond of our processor time."""

LEAST_CHUNK_BYTES = 64 * 1024
"""The same where many blobs are read or written side by side, and share what is held."""

AHEAD = 2
"""How many chunks are asked for before they are needed, or are on their way to a blob while the next one fills: the
network then works while we do, and what is held stays the same for a blob of any size."""

FIRST_COPY_POLL_SECONDS = 0.02
COPY_POLL_SECONDS = 0.5


class DropGoneError(Exception):
    """The version of the drop that was to be read is there no more: it was overwritten or deleted."""


class BlobChangedError(Exception):
    """A blob is not what it was when its replacement was begun: another instance has written it meanwhile."""


ANY_VERSION = "*"
"""Of a blob that is replaced, whatever it is."""


class Drop(NamedTuple):
    """One version of a blob in the inbox."""

    container: str
    name: str
    etag: str
    bytes: int
    last_modified: datetime
    metadata: dict[str, str]


class Containers:
    """The blob containers, by what the app asks of them."""

    def __init__(self, service: "BlobServiceClient", settings: "Settings") -> None:
        self._service = service
        self._settings = settings

    def drop(self, client: "BlobClient") -> Drop | None:
        """Return the version of the blob that is there now, None if there is none, or it only marks a folder."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            found = _drop(client.get_blob_properties())
        except ResourceNotFoundError:
            return None
        return None if _is_folder(found) else found

    def inbox(self) -> Iterator[Drop]:
        """Yield what lies in the inbox."""
        container = self._service.get_container_client(self._settings.input_container)
        for found in container.list_blobs(include=["metadata"]):
            drop = _drop(found)
            if not _is_folder(drop):
                yield drop

    def drop_client(self, name: str) -> "BlobClient":
        """Return the client for a blob in the inbox."""
        return self._blob(self._settings.input_container, name)

    def read_drop(self, drop: Drop) -> Iterator[bytes]:
        """Yield the drop's content, of that very version.

        Raises:
            DropGoneError: if the blob is overwritten or deleted before all is read.
        """
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError

        blob = self._blob(drop.container, drop.name)
        try:
            yield from _read_ahead(blob, 0, None, drop.etag)
        except (ResourceModifiedError, ResourceNotFoundError) as error:
            raise DropGoneError(drop.name) from error

    def keep(self, container: str, name: str, etag: str, path: str) -> None:
        """Copy that very version of a drop to its place in the archive, within storage: no byte passes through here.

        A copy that is there already is left as it is: a batch whose input was written to, if with the same, fails.

        Raises:
            DropGoneError: if the blob was overwritten or deleted.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError

        source = self._blob(container, name)
        kept = self._blob(self._settings.archive_container, f"{path}.jsonl")
        try:
            copy = kept.start_copy_from_url(
                source.url,
                source_etag=f'"{etag}"',
                source_match_condition=MatchConditions.IfNotModified,
                match_condition=MatchConditions.IfMissing,
            )
            status = str(copy["copy_status"])
        except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError) as error:
            if not kept.exists():
                raise DropGoneError(name) from error
            status = "pending"  # for all we know: whoever began it may have died
        _wait_for_copy(kept, status)

    def kept(self, path: str) -> str:
        """Return the archive's place for that path, as container/name."""
        return f"{self._settings.archive_container}/{path}.jsonl"

    def take_out(self, container: str, name: str, etag: str) -> None:
        """Delete the drop from the inbox, if that very version is still there and nobody keeps it there."""
        from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError

        try:
            self._blob(container, name).delete_blob(**_if_still(etag))
        except (ResourceModifiedError, ResourceNotFoundError):
            return  # deleted, or a new version with a job of its own
        except HttpResponseError as error:
            if error.status_code not in {409, 412}:
                raise
            # Somebody has a lease or a snapshot of it, or a policy holds it: the job ends all the same.
            journal.warn("drop_stays", name=name, reason=error.reason)

    def read(
        self, container: str, name: str, offset: int = 0, length: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        """Yield a blob's content, or that byte range of it."""
        if length == 0:
            return
        yield from _read_ahead(self._blob(container, name), offset, length, chunk_bytes=chunk_bytes)

    def writer(
        self, container: str, name: str, block_bytes: int = CHUNK_BYTES, over: str | None = ANY_VERSION
    ) -> "Writer":
        """Return a writer for a blob; until it is closed, what was there before stays to be seen.

        `over` is the version that is to be replaced, None where there is to be no such blob.
        """
        return Writer(self._blob(container, name), f"{container}/{name}", block_bytes, over)

    def write(self, container: str, name: str, content: Iterable[bytes]) -> str | None:
        """Write a blob of lines whole. Return its place, as container/name, None if there was no line."""
        with self.writer(container, name) as writer:
            for piece in content:
                writer.write(piece)
        return writer.place

    def write_report(self, path: str, report: Any, over: str | None = ANY_VERSION) -> str:
        """Write a job's report, over that version of it. Return its place, as container/name.

        Raises:
            BlobChangedError: if the report is another one by now.
        """
        from azure.storage.blob import ContentSettings

        container = self._settings.reports_container
        document = msgspec.json.format(msgspec.json.encode(report), indent=2)
        json = ContentSettings(content_type="application/json")
        with _replacing(over) as condition:
            self._blob(container, f"{path}.json").upload_blob(
                document, overwrite=True, content_settings=json, **condition
            )
        return f"{container}/{path}.json"

    def report(self, path: str) -> dict[str, Any] | None:
        """Return a job's report, None if it is not written yet."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            document = self._blob(self._settings.reports_container, f"{path}.json").download_blob().readall()
        except ResourceNotFoundError:
            return None
        found: dict[str, Any] = msgspec.json.decode(document)
        return found

    def archived(self, path: str) -> Drop:
        """Return the archive's copy of a drop, with the drop's own metadata. Raises: FileNotFoundError."""
        found = self.drop(self._blob(self._settings.archive_container, f"{path}.jsonl"))
        if found is None:
            raise FileNotFoundError(self.kept(path))
        return found

    def version(self, container: str, name: str) -> str | None:
        """Return the ETag of a blob as it is now, None if there is no such blob."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return str(self._blob(container, name).get_blob_properties().etag).strip('"')
        except ResourceNotFoundError:
            return None

    def remove(self, container: str, name: str, version: str = ANY_VERSION) -> None:
        """Delete a blob, or that version of it; one that is gone already is fine."""
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError

        with contextlib.suppress(ResourceModifiedError, ResourceNotFoundError):
            self._blob(container, name).delete_blob(**({} if version == ANY_VERSION else _if_still(version)))

    def url(self, container: str, name: str) -> str:
        """Return the URL of a blob, or of a folder of blobs."""
        return self._blob(container, name).url

    def read_url(self, url: str) -> Iterator[bytes] | None:
        """Return the content of the blob at a URL that the service gave, None if there is no such blob."""
        from azure.core.exceptions import ResourceNotFoundError

        # Only the path counts: the service may write host or port in another way, and add a query.
        root = urlsplit(self._service.url).path.rstrip("/") + "/"
        path = unquote(urlsplit(url).path.removeprefix(root))
        container, _, name = path.partition("/")
        try:
            return self._blob(container, name).download_blob().chunks()
        except ResourceNotFoundError:
            return None

    def clear_work(self, folder: str) -> None:
        """Delete everything in a folder of the work container (see `jobs.work_folder`)."""
        from azure.core.exceptions import ResourceNotFoundError

        work = self._service.get_container_client(self._settings.work_container)
        # Where the account has a hierarchy, folders are listed too, and can only be deleted when they are empty.
        for name in sorted(work.list_blob_names(name_starts_with=f"{folder}/"), reverse=True):
            with contextlib.suppress(ResourceNotFoundError):
                work.delete_blob(name)

    def _blob(self, container: str, name: str) -> "BlobClient":
        return self._service.get_blob_client(container, name)


def _is_folder(drop: Drop) -> bool:
    """Return whether the blob stands for a folder: where the account has a hierarchy of them, or a client acts so."""
    return drop.metadata.get("hdi_isfolder") == "true"


def _drop(properties: Any) -> Drop:
    return Drop(
        container=properties.container,
        name=properties.name,
        etag=properties.etag.strip('"'),
        bytes=properties.size,
        last_modified=properties.last_modified,
        # Their names are case-insensitive. Source: Azure Storage, "Setting and retrieving properties and metadata".
        metadata={name.lower(): value for name, value in (properties.metadata or {}).items()},
    )


def _read_ahead(
    blob: "BlobClient", offset: int, length: int | None, etag: str = "", chunk_bytes: int = CHUNK_BYTES
) -> Iterator[bytes]:
    """Yield a byte range of one version of a blob, to its end if there is no length, AHEAD chunks before they are used.

    Without an ETag it is the version that is there at first.
    """
    from azure.core.exceptions import HttpResponseError

    def chunk(start: int, size: int, etag: str) -> "StorageStreamDownloader[bytes]":
        return blob.download_blob(start, size, **(_if_still(etag) if etag else {}))

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

    pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="read-ahead")  # it starts no thread before it is asked
    try:
        for _ in range(AHEAD):
            ask_for_more()
        while coming:
            piece = coming.popleft().result()
            ask_for_more()
            yield piece
    finally:
        pool.shutdown(cancel_futures=True)


def _if_still(etag: str) -> dict[str, Any]:
    """Return the condition that a blob is of that version. ETags are kept without the quotes that HTTP puts around."""
    from azure.core import MatchConditions

    return {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified}


@contextlib.contextmanager
def _replacing(version: str | None) -> Iterator[dict[str, Any]]:
    """Give the condition for a write over that version of a blob. Raises: BlobChangedError if it is another by now."""
    from azure.core import MatchConditions
    from azure.core.exceptions import ResourceExistsError, ResourceModifiedError

    missing = {"match_condition": MatchConditions.IfMissing}
    try:
        yield {} if version == ANY_VERSION else missing if version is None else _if_still(version)
    except (ResourceExistsError, ResourceModifiedError) as error:
        raise BlobChangedError(f"Another instance has written the blob: {error.reason}") from error


def _wait_for_copy(blob: "BlobClient", status: str | None) -> None:
    """Wait until the copy is there; within one account it mostly is at once, or soon after."""
    seconds = FIRST_COPY_POLL_SECONDS
    while status == "pending":
        time.sleep(seconds)
        seconds = min(2 * seconds, COPY_POLL_SECONDS)
        status = blob.get_blob_properties().copy.status
    if status in {"failed", "aborted"}:
        blob.delete_blob()  # the next try is to begin anew
        raise OSError(f"the copy to the archive ended as {status}")


class Writer:
    """Writes one blob, a block at a time; the blob appears, whole, when the writer is closed without an error.

    Nothing is written if nothing was given: `place` is None then. To be closed raises BlobChangedError if the version
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
    def place(self) -> str | None:
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
            self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="write")
        while len(self._on_their_way) >= AHEAD:
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
            with _replacing(self._over) as condition:
                done = self._blob.upload_blob(bytes(self._held), overwrite=True, content_settings=jsonl, **condition)
            self.version = str(done["etag"]).strip('"')
            return
        if self._held:
            self._stage()
        while self._on_their_way:
            self._on_their_way.popleft().result()
        with _replacing(self._over) as condition:
            done = self._blob.commit_block_list(self._blocks, content_settings=jsonl, **condition)
        self.version = str(done["etag"]).strip('"')
