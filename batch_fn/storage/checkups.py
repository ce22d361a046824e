"""What the doctor keeps in storage: an examination that was asked for, what was found last, and events it waits for."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from batch_fn.core.checkup import Check, Examination, fitting
from batch_fn.runtime import clock
from batch_fn.storage.probe import doing
from batch_fn.storage.queues import Message, encode
from batch_fn.storage.rows import safe_key

if TYPE_CHECKING:
    from azure.data.tables import TableServiceClient
    from azure.storage.queue import QueueServiceClient

    from batch_fn.settings import Settings

ASKED, LAST = "asked", "last"
"""The row of the requested examination, and the row with the last result."""

COLUMN_CHARACTERS = 30_000
"""A string column holds 32,768 characters."""


class Checkups:
    """Rows of the deployments table beside its own: one for each of two examinations, one for each event waited for."""

    def __init__(self, tables: "TableServiceClient", queues: "QueueServiceClient", settings: "Settings") -> None:
        from azure.storage.queue import TextBase64EncodePolicy

        self._table = tables.get_table_client(settings.deployments_table)
        policy = TextBase64EncodePolicy()  # the host expects base64
        self._queue = queues.get_queue_client(settings.doctor_queue, message_encode_policy=policy)

    def ask(self, examination: Examination) -> None:
        """Write the examination down, and send for it."""
        self.write(ASKED, examination)
        self._queue.send_message(encode(Message(examination.id)))

    def write(self, row: str, examination: Examination) -> None:
        """Put an examination in the place of the one before."""
        from azure.data.tables import UpdateMode

        short = msgspec.structs.replace(examination, checks=fitting(examination.checks, COLUMN_CHARACTERS))
        entity = {"PartitionKey": "doctor", "RowKey": row, "examination": msgspec.json.encode(short).decode()}
        self._table.upsert_entity(entity, UpdateMode.REPLACE)

    def read(self, row: str) -> Examination | None:
        """Return an examination, None if there was none."""
        entity = self._get("doctor", row)
        return msgspec.json.decode(entity["examination"], type=Examination) if entity else None

    def remember(self, checks: list[Check], at: datetime) -> None:
        """Keep what was found last, for the page and for health."""
        self.write(LAST, Examination(id=LAST, asked_at=at, ended_at=clock.now(), checks=checks))

    def expect_marker(self, name: str) -> None:
        """Wait for the event of a blob in the inbox. Raises: StorageRefusedError."""
        with doing("inserting a row"):
            self._table.create_entity({"PartitionKey": "marker", "RowKey": safe_key(name)})

    def record_marker(self, name: str) -> None:
        """Record that the event of a marker came; nothing, if no examination waits for it any more."""
        from azure.core.exceptions import ResourceNotFoundError
        from azure.data.tables import UpdateMode

        entity: dict[str, Any] = {"PartitionKey": "marker", "RowKey": safe_key(name), "at": clock.now()}
        try:
            self._table.update_entity(entity, UpdateMode.REPLACE)
        except ResourceNotFoundError:
            return

    def marker_seen(self, name: str) -> bool:
        """Return whether the event of a marker came."""
        entity = self._get("marker", safe_key(name))
        return entity is not None and "at" in entity

    def forget_marker(self, name: str) -> None:
        """Wait for the event of a marker no longer. Raises: StorageRefusedError."""
        with doing("deleting a row"):
            self._table.delete_entity("marker", safe_key(name))

    def _get(self, partition: str, row: str) -> dict[str, Any] | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return dict(self._table.get_entity(partition, row))
        except ResourceNotFoundError:
            return None
