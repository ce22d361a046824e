"""What every step works with: settings, tables, blobs, queues and the service, each created once."""

import functools
import logging
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from batch_fn.runtime import memory, telemetry
from batch_fn.settings import Settings

if TYPE_CHECKING:
    from azure.data.tables import TableServiceClient
    from azure.storage.blob import BlobServiceClient
    from azure.storage.queue import QueueServiceClient

    from batch_fn.azure_openai.client import OpenAIBatches
    from batch_fn.azure_openai.probe import ServiceProbe
    from batch_fn.storage.blobs import Blobs
    from batch_fn.storage.checkups import Checkups
    from batch_fn.storage.probe import StorageProbe
    from batch_fn.storage.queues import Queues
    from batch_fn.storage.tables import Tables


@dataclass
class TickMemory:
    """What one tick leaves to the next in the same process, to save calls; no decision depends on it."""

    undeletable: set[str] = field(default_factory=set)
    """Ids of finished jobs whose drops stay in the inbox: they need no second look."""
    poison_since: dict[str, datetime] = field(default_factory=dict)
    """Since when each poison queue was found not empty at every look."""
    poison_looked_at: datetime | None = None
    """When the poison queues were looked at last."""


@dataclass(frozen=True)
class App:
    """Clients, created on first use, so that a trigger imports only the SDKs it needs."""

    settings: Settings
    signed_in: bool = False
    """True for the command line: use DefaultAzureCredential instead of the managed identity."""

    @cached_property
    def blobs(self) -> "Blobs":
        """Blob storage."""
        from batch_fn.storage.blobs import Blobs

        return Blobs(self._blob_service, self.settings)

    @cached_property
    def queues(self) -> "Queues":
        """Storage queues."""
        from batch_fn.storage.queues import Queues

        return Queues(self._queue_service, self.settings)

    @cached_property
    def tables(self) -> "Tables":
        """Table storage."""
        from batch_fn.storage.tables import Tables

        settings = self.settings
        return Tables(
            self._table_service,
            jobs_table=settings.jobs_table,
            work_table=settings.work_table,
            deployments_table=settings.deployments_table,
        )

    @cached_property
    def tick_memory(self) -> "TickMemory":
        """What the ticks of this process remember of one another."""
        return TickMemory()

    @cached_property
    def checkups(self) -> "Checkups":
        """What the doctor keeps in storage."""
        from batch_fn.storage.checkups import Checkups

        return Checkups(self._table_service, self._queue_service, self.settings)

    @cached_property
    def storage_probe(self) -> "StorageProbe":
        """What the doctor tries storage with."""
        from batch_fn.storage.probe import StorageProbe

        return StorageProbe(self._blob_service, self._queue_service, self._table_service)

    @cached_property
    def openai_probe(self) -> "ServiceProbe":
        """What the doctor tries Azure OpenAI with."""
        from batch_fn.azure_openai.probe import ServiceProbe

        return ServiceProbe(self.settings)

    @cached_property
    def openai(self) -> "OpenAIBatches":
        """Azure OpenAI."""
        from batch_fn.azure_openai.client import OpenAIBatches

        return OpenAIBatches.connect(self.settings)

    def storage_identity(self) -> str | None:
        """Return the identity that storage sees, None if none can sign in."""
        if self.settings.storage:
            return "the connection string in BatchStorage"
        from batch_fn.azure_openai.credentials import STORAGE_SCOPE, signed_in_as

        return signed_in_as(self._credential, STORAGE_SCOPE)

    @cached_property
    def _blob_service(self) -> "BlobServiceClient":
        from azure.storage.blob import BlobServiceClient

        from batch_fn.storage.blob_streams import CHUNK_BYTES

        sizes: Any = {"max_single_get_size": CHUNK_BYTES, "max_chunk_get_size": CHUNK_BYTES}
        if self.settings.storage:
            return BlobServiceClient.from_connection_string(self.settings.storage, **sizes)
        return BlobServiceClient(self.settings.storage_blob_uri, self._credential, **sizes)

    @cached_property
    def _queue_service(self) -> "QueueServiceClient":
        from azure.storage.queue import QueueServiceClient

        if self.settings.storage:
            return QueueServiceClient.from_connection_string(self.settings.storage)
        return QueueServiceClient(self.settings.storage_queue_uri, self._credential)

    @cached_property
    def _table_service(self) -> "TableServiceClient":
        from azure.data.tables import TableServiceClient

        if self.settings.storage:
            return TableServiceClient.from_connection_string(self.settings.storage)
        return TableServiceClient(self.settings.storage_table_uri, credential=self._credential)

    @cached_property
    def _credential(self) -> Any:
        from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

        if self.signed_in:
            return DefaultAzureCredential()
        client_id = self.settings.storage_client_id
        return ManagedIdentityCredential(client_id=client_id) if client_id else ManagedIdentityCredential()


@functools.cache
def get_app() -> App:
    """Return the app of this process, created on the first call. Raises: SettingError."""
    # The Azure SDK logs two INFO records for each call it makes; the OpenAI client's HTTP library logs one.
    for name in ("azure.core.pipeline.policies.http_logging_policy", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    memory.limit_malloc_arenas()
    settings = Settings.read()
    telemetry.start(settings.telemetry)
    return App(settings)
