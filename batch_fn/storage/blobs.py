"""Blob storage: read a drop by range and ETag, keep a copy of it, write results. No file is held in memory whole."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec

from batch_fn.runtime import log
from batch_fn.storage.blob_streams import (
    ANY_VERSION,
    AS_STORED,
    CHUNK_BYTES,
    Writer,
    creating_container,
    if_unchanged,
    read_ahead,
    replacing,
    says_container_is_missing,
)
from batch_fn.storage.drops import Drop, check_source, drop_of, is_folder, is_there, version_at, wait_for_copy

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, BlobServiceClient, ContainerClient

    from batch_fn.settings import Settings


NOT_DELETABLE = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED})
"""What storage answers where a lease, a snapshot, a policy or a missing right keeps a blob from being deleted."""


class ArchiveGoneError(Exception):
    """The archive's copy of a drop was deleted by someone else."""


class Blobs:
    """Typed access to the blob containers."""

    def __init__(self, service: "BlobServiceClient", settings: "Settings") -> None:
        self._service = service
        self._settings = settings

    def drop(self, name: str) -> Drop | None:
        """Return the current version of an inbox blob; None if there is none, or if it only marks a folder."""
        return version_at(self.drop_client(name))

    def inbox(self) -> Iterator[Drop]:
        """Yield the drops in the inbox; a missing inbox is created."""
        from azure.core.exceptions import ResourceNotFoundError

        container = self._container(self._settings.input_container)
        try:
            for found in container.list_blobs(include=["metadata"]):
                drop = drop_of(found)
                if not is_folder(drop):
                    yield drop
        except ResourceNotFoundError as error:
            if not says_container_is_missing(error):
                raise
            creating_container(container, container.get_container_properties)

    def drop_client(self, name: str) -> "BlobClient":
        """Return the client for a blob in the inbox."""
        return self._blob(self._settings.input_container, name)

    def read_drop(self, drop: Drop) -> Generator[bytes]:
        """Yield the content of that version of a drop.

        Raises:
            DropGoneError: if the blob is overwritten or deleted before all of it is read.
        """
        from azure.core.exceptions import HttpResponseError

        blob = self._blob(drop.container, drop.name)
        try:
            yield from read_ahead(blob, 0, None, drop.etag)
        except HttpResponseError:
            check_source(blob, drop.etag)
            raise

    def archive(self, container: str, name: str, etag: str, path: str, *, gzip: bool = False) -> None:
        """Copy that version of a drop to the archive, within storage: no byte passes through this process.

        An existing copy is left as it is: a batch fails when its input is written to, even with the same bytes.

        Raises:
            DropGoneError: if the drop itself was overwritten or deleted. Any other failure raises its own error.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError

        source = self._blob(container, name)
        archive = self._settings.archive_container
        kept = self._blob(archive, _archive_name(path, gzip=gzip))

        def copy() -> str:
            started = kept.start_copy_from_url(
                source.url,
                source_etag=f'"{etag}"',
                source_match_condition=MatchConditions.IfNotModified,
                match_condition=MatchConditions.IfMissing,
            )
            return str(started["copy_status"])

        try:
            status = creating_container(self._container(archive), copy)
        except HttpResponseError:
            if not is_there(kept):
                check_source(source, etag)
                raise
            status = "pending"  # the instance that began this copy may have died
        wait_for_copy(kept, status)

    def archive_path(self, path: str, *, gzip: bool = False) -> str:
        """Return the archive's blob for that path, as container/name; `gzip`: of the bytes as they were dropped."""
        return f"{self._settings.archive_container}/{_archive_name(path, gzip=gzip)}"

    def delete_from_inbox(self, container: str, name: str, etag: str, path: str, size: int) -> None:
        """Delete that version of a drop from the inbox if the archive has its `size` bytes under that path.

        A drop that cannot be deleted stays, and is logged: its job ends all the same.
        """
        from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError

        job_id = path.rpartition("/")[2]
        if not self._is_archived(path, size):
            log.warning("drop_stays", job_id=job_id, name=name, reason="the archive does not have its bytes")
            return
        try:
            self._blob(container, name).delete_blob(**if_unchanged(etag))
        except (ResourceModifiedError, ResourceNotFoundError):
            return  # deleted, or a new version with a job of its own
        except HttpResponseError as error:
            if error.status_code not in NOT_DELETABLE:
                raise
            log.warning("drop_stays", job_id=job_id, name=name, reason=error.reason)

    def _is_archived(self, path: str, size: int) -> bool:
        """Return whether the archive has a complete copy of that length."""
        from azure.core.exceptions import ResourceNotFoundError

        for gzip in (False, True):
            with contextlib.suppress(ResourceNotFoundError):
                kept = self._blob(self._settings.archive_container, _archive_name(path, gzip=gzip))
                found = kept.get_blob_properties()
                if found.size == size and found.copy.status in {None, "success"}:
                    return True
        return False

    def read(
        self, container: str, name: str, offset: int = 0, length: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        """Yield a blob's content, or that byte range of it."""
        if length == 0:
            return
        yield from read_ahead(self._blob(container, name), offset, length, chunk_bytes=chunk_bytes)

    def writer(
        self,
        container: str,
        name: str,
        block_bytes: int = CHUNK_BYTES,
        over: str | None = ANY_VERSION,
        metadata: Mapping[str, str] | None = None,
    ) -> "Writer":
        """Return a writer for a blob; the former content stays visible until the writer is closed.

        `over` is the version to replace, None where there must be no such blob yet.
        """
        return Writer(self._blob(container, name), self._container(container), block_bytes, over, metadata)

    def write(self, container: str, name: str, content: Iterable[bytes], over: str | None = ANY_VERSION) -> str | None:
        """Write a blob of lines. Return its path as container/name, None if there was no line.

        Raises:
            BlobChangedError: if another instance has written it.
        """
        with self.writer(container, name, over=over) as writer:
            for piece in content:
                writer.write(piece)
        return writer.path

    def write_report(self, path: str, report: Any, over: str | None = ANY_VERSION) -> str:
        """Write a job's report over that version of it. Return its path as container/name.

        Raises:
            BlobChangedError: if another instance has written it.
        """
        from azure.storage.blob import ContentSettings

        container = self._settings.reports_container
        document = msgspec.json.format(msgspec.json.encode(report), indent=2)
        json = ContentSettings(content_type="application/json")
        blob = self._blob(container, f"{path}.json")
        with replacing(over) as condition:
            creating_container(
                self._container(container),
                lambda: blob.upload_blob(document, overwrite=True, content_settings=json, **condition),
            )
        return f"{container}/{path}.json"

    def report(self, path: str) -> dict[str, Any] | None:
        """Return a job's report, None if it is not written yet."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            blob = self._blob(self._settings.reports_container, f"{path}.json")
            document = blob.download_blob(**AS_STORED).readall()
        except ResourceNotFoundError:
            return None
        found: dict[str, Any] = msgspec.json.decode(document)
        return found

    def archived(self, path: str) -> Drop:
        """Return the lines of a drop in the archive, with the drop's own metadata. Raises: ArchiveGoneError."""
        found = version_at(self._blob(self._settings.archive_container, _archive_name(path)))
        if found is None:
            raise ArchiveGoneError(self.archive_path(path))
        return found

    def version(self, container: str, name: str) -> str | None:
        """Return the current ETag of a blob, None if there is no such blob."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return str(self._blob(container, name).get_blob_properties().etag).strip('"')
        except ResourceNotFoundError:
            return None

    def remove(self, container: str, name: str, version: str = ANY_VERSION) -> None:
        """Delete a blob, or that version of it, if it is there."""
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
            return self._blob(*self._at(url)).download_blob(**AS_STORED).chunks()
        except ResourceNotFoundError:
            return None

    def lists_url(self, url: str) -> bool:
        """Return whether a list of the container has the blob at a URL that the service gave."""
        container, name = self._at(url)
        names = self._container(container).list_blob_names(name_starts_with=name)
        return any(each == name for each in names)

    def clear_work(self, folder: str, after_each: Callable[[], None] | None = None) -> None:
        """Delete everything in a folder of the work container (see `names.work_folder`)."""
        from azure.core.exceptions import ResourceNotFoundError

        work = self._container(self._settings.work_container)
        try:
            names = sorted(work.list_blob_names(name_starts_with=f"{folder}/"), reverse=True)
        except ResourceNotFoundError as error:
            if not says_container_is_missing(error):
                raise
            return
        # In an account with a hierarchical namespace folders are listed too, and only empty ones can be deleted.
        for name in names:
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

    def _container(self, name: str) -> "ContainerClient":
        return self._service.get_container_client(name)


def _archive_name(path: str, *, gzip: bool = False) -> str:
    return f"{path}.jsonl.gz" if gzip else f"{path}.jsonl"
