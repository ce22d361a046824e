"""A drop: one version of a blob in the inbox, and what storage says about it."""

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from batch_fn.storage.blob_streams import if_unchanged, says_blob_is_missing

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient


FIRST_COPY_POLL_SECONDS = 0.02
COPY_POLL_SECONDS = 0.5
COPY_SECONDS = 300
"""How long one step waits for a copy within storage; a later one waits on."""


class DropGoneError(Exception):
    """That version of the drop was overwritten or deleted: storage itself said so."""


class Drop(NamedTuple):
    """One version of a blob in the inbox."""

    container: str
    name: str
    etag: str
    bytes: int
    last_modified: datetime
    metadata: dict[str, str]


def version_at(client: "BlobClient") -> Drop | None:
    """Return the current version of a blob, None if storage says that there is no such blob."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        found = drop_of(client.get_blob_properties())
    except ResourceNotFoundError as error:
        if not says_blob_is_missing(error):
            raise  # a missing container, a wrong address: that is no word about this blob
        return None
    return None if is_folder(found) else found


def is_there(blob: "BlobClient") -> bool:
    """Return whether there is such a blob; a missing container has none."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        blob.get_blob_properties()
    except ResourceNotFoundError:
        return False
    return True


def check_source(source: "BlobClient", etag: str) -> None:
    """Look at a drop that could not be read or copied. Raises: DropGoneError if that version is not there any more."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        version = source.get_blob_properties().etag.strip('"')
    except ResourceNotFoundError as error:
        if not says_blob_is_missing(error):
            raise
        raise DropGoneError(source.blob_name) from error
    if version != etag:
        raise DropGoneError(source.blob_name)


def is_folder(drop: Drop) -> bool:
    """Return whether the blob marks a folder: in a hierarchical namespace, or by a client that imitates one."""
    return drop.metadata.get("hdi_isfolder") == "true"


def drop_of(properties: Any) -> Drop:
    """Return the drop that a blob's properties describe."""
    return Drop(
        container=properties.container,
        name=properties.name,
        etag=properties.etag.strip('"'),
        bytes=properties.size,
        last_modified=properties.last_modified,
        # Their names are case-insensitive. Source: Azure Storage, "Setting and retrieving properties and metadata".
        metadata={name.lower(): value for name, value in (properties.metadata or {}).items()},
    )


def wait_for_copy(blob: "BlobClient", status: str | None) -> None:
    """Wait until the copy is complete; within one account it mostly is at once."""
    seconds = FIRST_COPY_POLL_SECONDS
    until = time.monotonic() + COPY_SECONDS
    etag = None
    while status == "pending":
        if time.monotonic() > until:
            raise TimeoutError("The copy to the archive is not complete yet.")
        time.sleep(seconds)
        seconds = min(2 * seconds, COPY_POLL_SECONDS)
        found = blob.get_blob_properties()
        status, etag = found.copy.status, found.etag.strip('"')
    if status in {"failed", "aborted"}:
        blob.delete_blob(**(if_unchanged(etag) if etag else {}))  # the next try begins anew
        raise OSError(f"The copy to the archive ended as {status}.")
