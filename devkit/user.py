"""What a user of batch_fn does: drops a file, waits for its report, reads the results; needs nothing but storage."""

import json
import time
from typing import IO, Any

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueClient, TextBase64DecodePolicy

from batch_fn.core.names import job_id, result_path
from batch_fn.settings import Settings


class NoReportError(Exception):
    """The report did not come in time."""


class User:
    """Somebody with access to the storage account."""

    def __init__(self, connection_string: str, settings: Settings) -> None:
        self.blobs = BlobServiceClient.from_connection_string(connection_string)
        self._connection_string = connection_string
        self._settings = settings

    def drop(self, name: str, content: bytes | IO[bytes], *, deployment: str | None = None) -> str:
        """Drop a file into the inbox. Return the path of its results: `<name without ending>/<job id>`."""
        blob = self.blobs.get_blob_client(self._settings.input_container, name)
        metadata = {"deployment": deployment} if deployment else None
        blob.upload_blob(content, overwrite=True, metadata=metadata)
        there = blob.get_blob_properties()
        return result_path(name, job_id(self._settings.input_container, name, there.etag, there.last_modified))

    def report(self, path: str) -> dict[str, Any] | None:
        """Return the report of that path, None if it is not written yet."""
        content = self.read(f"{self._settings.reports_container}/{path}.json")
        return json.loads(content) if content is not None else None

    def wait(self, path: str, seconds: float = 60) -> dict[str, Any]:
        """Return the report of that path as soon as it is there. Raises: NoReportError."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            report = self.report(path)
            if report is not None:
                return report
            time.sleep(0.1)
        raise NoReportError(f"There was no report for {path} after {seconds:.0f} seconds.")

    def read(self, place: str) -> bytes | None:
        """Return the content of a blob, given as container/name; None if there is none."""
        container, _, name = place.partition("/")
        try:
            return self.blobs.get_blob_client(container, name).download_blob().readall()
        except ResourceNotFoundError:
            return None

    def lines(self, place: str | None) -> list[dict[str, Any]]:
        """Return the lines of an output or errors blob; none for the place null."""
        return [json.loads(line) for line in (self.read(place) or b"").splitlines()] if place else []

    def inbox(self) -> list[str]:
        """Return the names of what lies in the inbox."""
        return list(self.blobs.get_container_client(self._settings.input_container).list_blob_names())

    def messages(self) -> list[dict[str, Any]]:
        """Take the messages of finished jobs out of the queue, and return them."""
        queue = QueueClient.from_connection_string(
            self._connection_string, self._settings.completed_queue, message_decode_policy=TextBase64DecodePolicy()
        )
        taken = []
        for message in queue.receive_messages(messages_per_page=32):
            taken.append(json.loads(message.content))
            queue.delete_message(message)
        return taken
