"""Tries what the app does to containers, queues and tables, each once, and removes what it made."""

import contextlib
import re
import secrets
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from batch_fn.runtime import clock

if TYPE_CHECKING:
    from azure.data.tables import TableServiceClient
    from azure.storage.blob import BlobClient, BlobServiceClient
    from azure.storage.queue import QueueServiceClient

FOLDER = ".batch-fn-doctor"
"""Where the doctor's blobs are; in the inbox they become no job."""

RESERVED = re.compile(rf"{re.escape(FOLDER)}/(?P<kind>marker|try)-[0-9a-f]{{16}}")
"""A marker is there for its event; a try is written and read, and removed by who wrote it."""

STALE = timedelta(minutes=10)
"""When a try that is still there was left behind."""

PROBE_PARTITION = "!doctor"
"""The partition of the doctor's rows: it sorts before every row of the app, and no query of the app includes it."""

HIDDEN_SECONDS = 600
COPY_SECONDS = 10


class StorageRefusedError(Exception):
    """Storage refused an operation: `doing` says which one, `code` is storage's own."""

    def __init__(self, doing: str, code: str, message: str) -> None:
        super().__init__(f"{doing} failed: {code}")
        self.doing, self.code, self.message = doing, code, message
        self.unreachable = False
        """Nothing answered, after several tries: to ask for more of the same takes minutes, and tells nothing."""


def is_reserved(name: str) -> bool:
    """Return whether an inbox blob is the doctor's, and no drop."""
    return RESERVED.fullmatch(name) is not None


def is_marker(name: str) -> bool:
    """Return whether an inbox blob is there only for its event."""
    found = RESERVED.fullmatch(name)
    return found is not None and found["kind"] == "marker"


def is_over(name: str, written_at: datetime) -> bool:
    """Return whether one of the doctor's blobs has done its duty: its event came, or who wrote it has died."""
    return is_marker(name) or clock.now() - written_at > STALE


class StorageProbe:
    """Each method returns if storage did all of it. Raises: StorageRefusedError, at the first thing that it refused."""

    def __init__(self, blobs: "BlobServiceClient", queues: "QueueServiceClient", tables: "TableServiceClient") -> None:
        self._blobs, self._queues, self._tables = blobs, queues, tables

    def container(self, name: str) -> None:
        """Write a blob, write over it on a condition, read it, and delete it."""
        from azure.core import MatchConditions

        blob = self._blobs.get_blob_client(name, _name("try"))
        with doing("writing a blob"):
            etag = blob.upload_blob(b"doctor", overwrite=True)["etag"]
        try:
            with doing("writing a blob on a condition"):
                blob.upload_blob(b"again", overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
            with _conflict("writing a blob on a condition"):
                blob.upload_blob(b"never", overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
            with doing("reading a blob"):
                blob.download_blob().readall()
        finally:
            with doing("deleting a blob"):
                blob.delete_blob()

    def copy(self, source: str, target: str) -> None:
        """Copy a blob from one container to another within the account, as a drop is copied to the archive."""
        name = _name("try")
        here, there = self._blobs.get_blob_client(source, name), self._blobs.get_blob_client(target, name)
        with doing("writing a blob"):
            here.upload_blob(b"doctor", overwrite=True)
        try:
            with doing("copying a blob"):
                status = str(there.start_copy_from_url(here.url)["copy_status"])
                end = time.monotonic() + COPY_SECONDS
                while status == "pending" and time.monotonic() < end:
                    time.sleep(0.2)
                    status = str(there.get_blob_properties().copy.status)
            if status != "success":
                raise StorageRefusedError("copying a blob", status, "")
        finally:
            for blob in (here, there):
                _remove(blob)

    def queue(self, name: str) -> None:
        """Send a message that no function sees, and delete it."""
        queue = self._queues.get_queue_client(name)
        with doing("sending a message"):
            message = queue.send_message("", visibility_timeout=HIDDEN_SECONDS, time_to_live=HIDDEN_SECONDS + 1)
        with doing("deleting a message"):
            queue.delete_message(message)

    def table(self, name: str) -> None:
        """Insert a row, change it on a condition, read it, and delete it."""
        from azure.core import MatchConditions
        from azure.data.tables import UpdateMode

        table = self._tables.get_table_client(name)
        row: dict[str, Any] = {"PartitionKey": PROBE_PARTITION, "RowKey": secrets.token_hex(8)}
        with doing("inserting a row"):
            etag = str(table.create_entity(row)["etag"])
        try:
            condition: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
            with doing("changing a row on a condition"):
                table.update_entity(row | {"n": 1}, UpdateMode.REPLACE, **condition)
            with _conflict("changing a row on a condition"):
                table.update_entity(row | {"n": 2}, UpdateMode.REPLACE, **condition)
            with doing("reading a row"):
                table.get_entity(row["PartitionKey"], row["RowKey"])
        finally:
            with doing("deleting a row"):
                table.delete_entity(row["PartitionKey"], row["RowKey"])

    def is_there(self, kind: str, name: str) -> bool:
        """Return whether a container, queue or table exists, by one read."""
        try:
            with doing(f"reading a {kind}"):
                if kind == "container":
                    self._blobs.get_container_client(name).get_container_properties()
                elif kind == "queue":
                    self._queues.get_queue_client(name).get_queue_properties()
                else:
                    next(iter(self._tables.get_table_client(name).list_entities(results_per_page=1)), None)
        except StorageRefusedError as error:
            if error.code in {"ContainerNotFound", "QueueNotFound", "TableNotFound", "404"}:
                return False
            raise
        return True

    def marker(self) -> str:
        """Return the name of a new marker, whose event tells whether drops are seen at once."""
        return _name("marker")

    def put_marker(self, inbox: str, name: str) -> None:
        """Write a marker into the inbox."""
        with doing("writing a blob"):
            self._blobs.get_blob_client(inbox, name).upload_blob(b"doctor", overwrite=True)

    def remove_marker(self, inbox: str, name: str) -> None:
        """Delete a marker that is still there."""
        _remove(self._blobs.get_blob_client(inbox, name))

    def clock_skew(self, inbox: str) -> timedelta:
        """Return how far storage's clock is ahead of ours, to about a second."""
        seen: list[str] = []
        with doing("reading a container's properties"):
            self._blobs.get_container_client(inbox).get_container_properties(
                raw_response_hook=lambda answer: seen.append(answer.http_response.headers["Date"])
            )
        return parsedate_to_datetime(seen[0]) - clock.now()


def _name(kind: str) -> str:
    return f"{FOLDER}/{kind}-{secrets.token_hex(8)}"


def _remove(blob: "BlobClient") -> None:
    from azure.core.exceptions import AzureError

    with contextlib.suppress(AzureError):  # it may be gone already, and a refusal is reported by another check
        blob.delete_blob()


@contextlib.contextmanager
def _conflict(what: str) -> Iterator[None]:
    """See that storage refuses what is done here, since its condition does not hold. Raises: StorageRefusedError."""
    try:
        with doing(what):
            yield
    except StorageRefusedError as error:
        if error.code in {"ConditionNotMet", "UpdateConditionNotSatisfied"}:
            return
        raise
    raise StorageRefusedError(what, "ConditionIgnored", "Storage did it, although its condition does not hold.")


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Name what was being done when storage refuses it. Raises: StorageRefusedError."""
    from azure.core.exceptions import AzureError, HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        code = getattr(error, "error_code", None) or error.status_code or type(error).__name__
        raise StorageRefusedError(what, str(getattr(code, "value", code)), error.reason or "") from error
    except AzureError as error:  # no connection, no credential
        refusal = StorageRefusedError(what, type(error).__name__, str(error).partition("\n")[0])
        refusal.unreachable = True
        raise refusal from error
