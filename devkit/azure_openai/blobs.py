"""Blob storage as the service sees it, with the eyes of its own identity.

That identity is the option `storage`, a connection string: whoever has it may read and write every blob of that
account, and none of another. The option `no_blob_permission` takes it away, as if the role were not assigned yet.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ResourceModifiedError, ResourceNotFoundError

from devkit.azure_openai.errors import invalid
from devkit.azure_openai.options import Options

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobClient, BlobServiceClient

_CHUNK = 4 * 1024 * 1024
"""Bytes of a blob that are in memory at once."""


class NoAccessError(Exception):
    """The blob cannot be reached: not ours, not permitted, not there, or its storage does not answer."""


class ModifiedError(Exception):
    """The blob is not what it was: changed, or deleted."""


class TooLargeError(Exception):
    """The blob is larger than an input may be."""


class BlobStorage:
    """Reads and writes blobs by their URL; keeps connections until it is closed."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._services: dict[str, BlobServiceClient] = {}

    def check(self, url: str) -> None:
        """Raise NoAccessError if the URL leads to where the identity may do nothing."""
        self._blob(url)

    async def etag(self, url: str) -> str:
        """The blob's ETag now; raises NoAccessError, or ModifiedError if it is not there."""
        blob = self._blob(url)
        with _our_errors():
            return str((await blob.get_blob_properties()).etag)

    async def download(self, url: str, path: Path, etag: str | None) -> str:
        """Write the blob to `path`, and return its ETag; raises one of our errors, and so if it is not `etag`."""
        blob = self._blob(url)
        # The SDK trips over a condition that is None.
        condition: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
        with _our_errors():
            content = await blob.download_blob(**condition)
            if content.size > self._options.max_blob_bytes:
                raise TooLargeError(
                    f"The blob has {content.size} bytes, the maximum is {self._options.max_blob_bytes}."
                )
            try:
                with path.open("wb") as file:
                    async for chunk in content.chunks():
                        file.write(chunk)
            except BaseException:
                path.unlink()
                raise
        return str(content.properties.etag)

    async def upload(self, path: Path, url: str) -> None:
        """Write the file to the blob; raises NoAccessError."""
        blob = self._blob(url)
        with _our_errors(), path.open("rb") as file:
            await blob.upload_blob(file, length=path.stat().st_size, overwrite=True)

    async def close(self) -> None:
        """End the connections."""
        while self._services:
            await self._services.popitem()[1].close()

    def _blob(self, url: str) -> "BlobClient":
        """The client of that blob; raises NoAccessError if the identity has nothing to do with it."""
        if self._options.no_blob_permission:
            raise NoAccessError("The resource's identity has no role for this storage account.")
        if self._options.storage is None:
            raise NoAccessError("The emulator knows no storage account: it was started without the option `storage`.")
        service = self._service(self._options.storage)
        # A storage emulator has its account in the path, so host and path must fit.
        ours, asked = urlsplit(service.url.rstrip("/") + "/"), urlsplit(url)
        is_ours = (ours.scheme, ours.netloc.lower()) == (asked.scheme, asked.netloc.lower())
        if not is_ours or not asked.path.startswith(ours.path):
            raise NoAccessError(f"The resource's identity has no role for the storage account of {url}.")
        container, _, name = asked.path.removeprefix(ours.path).partition("/")
        if not container or not name:
            raise NoAccessError(f"{url} is not a blob.")
        return service.get_blob_client(unquote(container), unquote(name))

    def _service(self, connection_string: str) -> "BlobServiceClient":
        # Imported here since that takes as long as the rest of the start, and few who start the emulator need it.
        from azure.storage.blob.aio import BlobServiceClient, LinearRetry

        if connection_string not in self._services:
            self._services[connection_string] = BlobServiceClient.from_connection_string(
                connection_string,
                retry_policy=LinearRetry(backoff=1, retry_total=3, random_jitter_range=0),
                max_single_get_size=_CHUNK,
                max_chunk_get_size=_CHUNK,
                max_single_put_size=_CHUNK,
                max_block_size=_CHUNK,
            )
        return self._services[connection_string]


def check_url(url: str, param: str) -> None:
    """Raise HTTP 400 if that is not the URL of a blob or a folder; a SAS in it is not documented, so not taken."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or not parts.path.strip("/"):
        raise invalid("Must be the URL of a blob, or of a container or folder for output.", param)
    if parts.query or parts.fragment:
        raise invalid("Must have neither a query nor a fragment: access comes from the resource's identity.", param)


@contextmanager
def _our_errors() -> Iterator[None]:
    """Raise the errors of this module instead of the SDK's."""
    try:
        yield
    except (ResourceModifiedError, ResourceNotFoundError) as error:
        raise ModifiedError(_first_line(error)) from error
    except AzureError as error:
        raise NoAccessError(_first_line(error)) from error


def _first_line(error: AzureError) -> str:
    # The lines after it have the request's id and time.
    return str(error.message).partition("\n")[0]
