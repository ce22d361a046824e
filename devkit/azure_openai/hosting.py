"""Where a batch has its input from and puts its results: in files of the store, or in blobs of the user's storage."""

import logging
import os
import uuid
from pathlib import Path
from typing import Protocol

from devkit.azure_openai.batch import Batch
from devkit.azure_openai.blobs import BlobStorage, ModifiedError, NoAccessError, TooLargeError
from devkit.azure_openai.errors import ApiError, invalid
from devkit.azure_openai.files import FileStore
from devkit.azure_openai.lines import Finding
from devkit.azure_openai.options import Options

log = logging.getLogger(__name__)


class Hosting(Protocol):
    """What the life of a batch asks of either place."""

    async def accept(self, batch: Batch) -> None:
        """Take note of the input of a batch that is being created; raises HTTP 400."""

    async def fetch(self, batch: Batch) -> Finding | None:
        """Have the input at `batch.input`; returns why that cannot be, or None."""

    async def changed(self, batch: Batch) -> Finding | None:
        """What has happened to the input since the batch was created, or None."""

    async def publish(self, batch: Batch) -> Finding | None:
        """Give the user what was written to `output` and `error_output`; returns why that cannot be, or None."""


class FileHosting:
    """Input is an uploaded file, results become files. Nothing here waits, and once created nothing goes wrong."""

    def __init__(self, options: Options, files: FileStore) -> None:
        self._options = options
        self._files = files

    async def accept(self, batch: Batch) -> None:
        """Link the file, which may be deleted from then on; raises HTTP 400 if it is none, or not for batches."""
        file_id = batch.request.input_file_id or ""
        try:
            file = self._files.get(file_id)
        except ApiError:
            raise invalid(f"There is no file '{file_id}'.", "input_file_id") from None
        if file.purpose != "batch":
            raise invalid(f"The purpose of the file is '{file.purpose}', must be 'batch'.", "input_file_id")
        os.link(file.path, batch.input)

    async def fetch(self, batch: Batch) -> Finding | None:
        """None: it was linked."""

    async def changed(self, batch: Batch) -> Finding | None:
        """None: a file never changes."""

    async def publish(self, batch: Batch) -> Finding | None:
        """Make files of what was written: no output file if it has no line, but an error file of zero bytes."""
        if _has_lines(batch.output):
            batch.output_file_id = self._add(batch, batch.output, "output")
        wanted = not self._options.has("missing_error_file")
        if _has_lines(batch.error_output) or (batch.error_output.exists() and wanted):
            batch.error_file_id = self._add(batch, batch.error_output, "errors")
        return None

    def _add(self, batch: Batch, written: Path, kind: str) -> str:
        path = written.rename(self._files.new_path())
        return self._files.add(path, f"{batch.id}_{kind}.jsonl", "batch_output", batch.request.output_expires_after).id


class BlobHosting:
    """Input is a blob, results become blobs; source: reference, section Create, and how-to on blob storage.

    The how-to says of `input_no_permissions` that the blob cannot be accessed, and of `input_modified` that it was
    changed after the job was submitted. Not documented, and so unverified: that a missing blob is the former and a
    deleted one the latter, the code of a blob that is too large, of a folder of another account and of results that
    cannot be written, when it is that the service looks for changes, and that a batch which failed for one has no
    results.
    """

    def __init__(self, storage: BlobStorage) -> None:
        self._storage = storage

    async def accept(self, batch: Batch) -> None:
        """Note which version of the blob it is. Never raises: without access, the batch fails once it is validated."""
        try:
            batch.input_etag = await self._storage.etag(batch.request.input_blob or "")
        except (NoAccessError, ModifiedError) as error:
            log.info("batch %s: %s", batch.id, error)

    async def fetch(self, batch: Batch) -> Finding | None:
        """Download the blob, unless that was done."""
        if batch.input.exists():
            return await self.changed(batch)
        url = batch.request.input_blob or ""
        try:
            self._storage.check(f"{batch.request.output_url}/results.jsonl")
            batch.input_etag = await self._storage.download(url, batch.input, batch.input_etag)
        except ModifiedError as error:
            return _modified(error) if batch.input_etag else _no_access(error)
        except NoAccessError as error:
            return _no_access(error)
        except TooLargeError as error:
            return Finding(code="invalid_request", message=str(error), param="input_blob")
        return None

    async def changed(self, batch: Batch) -> Finding | None:
        """Compare ETags; storage that does not answer has not changed."""
        try:
            etag = await self._storage.etag(batch.request.input_blob or "")
        except ModifiedError as error:
            return _modified(error)
        except NoAccessError as error:
            log.warning("batch %s: %s", batch.id, error)
            return None
        return None if etag == batch.input_etag else _modified(f"its ETag was {batch.input_etag}, is {etag}")

    async def publish(self, batch: Batch) -> Finding | None:
        """Upload what has lines; the batch tells both URLs even so."""
        folder = f"{batch.request.output_url}/{uuid.uuid4()}"
        output, errors = f"{folder}/results.jsonl", f"{folder}/errors.jsonl"
        try:
            for path, url in ((batch.output, output), (batch.error_output, errors)):
                if _has_lines(path):
                    await self._storage.upload(path, url)
        except (NoAccessError, ModifiedError) as error:
            return Finding(code="internal_error", message=f"The results could not be written: {error}")
        batch.output_blob, batch.error_blob = output, errors
        return None


def _has_lines(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _no_access(reason: Exception) -> Finding:
    message = f"It's not possible to access the input blob. {reason}"
    return Finding(code="input_no_permissions", message=message, param="input_blob")


def _modified(reason: Exception | str) -> Finding:
    message = f"Blob input has been modified after the batch job has been submitted: {reason}"
    return Finding(code="input_modified", message=message, param="input_blob")
