"""Blob storage: read a drop by range and ETag, keep a copy of it, write results. Nothing here holds a file whole."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from batch_fn.runtime import log
from batch_fn.storage.blob_streams import ANY_VERSION, CHUNK_BYTES, Writer, if_unchanged, read_ahead, replacing

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, BlobServiceClient

    from batch_fn.settings import Settings


FIRST_COPY_POLL_SECONDS = 0.02
COPY_POLL_SECONDS = 0.5


class DropGoneError(Exception):
    """The version of the drop that was to be read is there no more: it was overwritten or deleted."""


class Drop(NamedTuple):
    """One version of a blob in the inbox."""

    container: str
    name: str
    etag: str
    bytes: int
    last_modified: datetime
    metadata: dict[str, str]


class Blobs:
    """The blob containers, by what the app asks of them."""

    def __init__(self, service: "BlobServiceClient", settings: "Settings") -> None:
        self._service = service
        self._settings = settings

    def drop(self, name: str) -> Drop | None:
        """Return the version of an inbox blob that is there now, None if there is none, or it only marks a folder."""
        return _version_at(self.drop_client(name))

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
            yield from read_ahead(blob, 0, None, drop.etag)
        except (ResourceModifiedError, ResourceNotFoundError) as error:
            raise DropGoneError(drop.name) from error

    def archive(self, container: str, name: str, etag: str, path: str) -> None:
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

    def archive_path(self, path: str) -> str:
        """Return the archive's place for that path, as container/name."""
        return f"{self._settings.archive_container}/{path}.jsonl"

    def delete_from_inbox(self, container: str, name: str, etag: str) -> None:
        """Delete the drop from the inbox, if that very version is still there and nobody keeps it there."""
        from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError

        try:
            self._blob(container, name).delete_blob(**if_unchanged(etag))
        except (ResourceModifiedError, ResourceNotFoundError):
            return  # deleted, or a new version with a job of its own
        except HttpResponseError as error:
            if error.status_code not in {409, 412}:
                raise
            # Somebody has a lease or a snapshot of it, or a policy holds it: the job ends all the same.
            log.warning("drop_stays", name=name, reason=error.reason)

    def read(
        self, container: str, name: str, offset: int = 0, length: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        """Yield a blob's content, or that byte range of it."""
        if length == 0:
            return
        yield from read_ahead(self._blob(container, name), offset, length, chunk_bytes=chunk_bytes)

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
        return writer.path

    def write_report(self, path: str, report: Any, over: str | None = ANY_VERSION) -> str:
        """Write a job's report, over that version of it. Return its place, as container/name.

        Raises:
            BlobChangedError: if the report is another one by now.
        """
        from azure.storage.blob import ContentSettings

        container = self._settings.reports_container
        document = msgspec.json.format(msgspec.json.encode(report), indent=2)
        json = ContentSettings(content_type="application/json")
        with replacing(over) as condition:
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
        found = _version_at(self._blob(self._settings.archive_container, f"{path}.jsonl"))
        if found is None:
            raise FileNotFoundError(self.archive_path(path))
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
            self._blob(container, name).delete_blob(**({} if version == ANY_VERSION else if_unchanged(version)))

    def url(self, container: str, name: str) -> str:
        """Return the URL of a blob, or of a folder of blobs."""
        return self._blob(container, name).url

    def read_url(self, url: str) -> Iterator[bytes] | None:
        """Return the content of the blob at a URL that the service gave, None if there is no such blob."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self._blob(*self._at(url)).download_blob().chunks()
        except ResourceNotFoundError:
            return None

    def lists_url(self, url: str) -> bool:
        """Return whether a list of the container has the blob at a URL that the service gave."""
        container, name = self._at(url)
        names = self._service.get_container_client(container).list_blob_names(name_starts_with=name)
        return any(each == name for each in names)

    def clear_work(self, folder: str, after_each: Callable[[], None] | None = None) -> None:
        """Delete everything in a folder of the work container (see `names.work_folder`)."""
        from azure.core.exceptions import ResourceNotFoundError

        work = self._service.get_container_client(self._settings.work_container)
        # Where the account has a hierarchy, folders are listed too, and can only be deleted when they are empty.
        for name in sorted(work.list_blob_names(name_starts_with=f"{folder}/"), reverse=True):
            with contextlib.suppress(ResourceNotFoundError):
                work.delete_blob(name)
            if after_each is not None:
                after_each()

    def _at(self, url: str) -> tuple[str, str]:
        """Return container and name of the blob at a URL that the service gave."""
        # Only the path counts: the service may write host or port in another way, and add a query.
        root = urlsplit(self._service.url).path.rstrip("/") + "/"
        container, _, name = unquote(urlsplit(url).path.removeprefix(root)).partition("/")
        return container, name

    def _blob(self, container: str, name: str) -> "BlobClient":
        return self._service.get_blob_client(container, name)


def _version_at(client: "BlobClient") -> Drop | None:
    from azure.core.exceptions import ResourceNotFoundError

    try:
        found = _drop(client.get_blob_properties())
    except ResourceNotFoundError:
        return None
    return None if _is_folder(found) else found


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
