"""What every step works with: the settings, the ledger, the containers, the queues and the service, made once."""

import functools
import logging
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from batch_fn.runtime import memory, telemetry
from batch_fn.settings import Settings

if TYPE_CHECKING:
    from batch_fn.azure_openai.client import OpenAIBatches
    from batch_fn.storage.blobs import Blobs
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
    """The app's hands, each made when it is first used: a trigger that needs no OpenAI client does not pay for one."""

    settings: Settings
    signed_in: bool = False
    """A person runs it, signed in with `az login` for instance; else it is the managed identity of an app."""

    @cached_property
    def blobs(self) -> "Blobs":
        """Blob storage."""
        from azure.storage.blob import BlobServiceClient

        from batch_fn.storage.blob_streams import CHUNK_BYTES
        from batch_fn.storage.blobs import Blobs

        sizes: Any = {"max_single_get_size": CHUNK_BYTES, "max_chunk_get_size": CHUNK_BYTES}
        settings = self.settings
        if settings.storage:
            service = BlobServiceClient.from_connection_string(settings.storage, **sizes)
        else:
            service = BlobServiceClient(settings.storage_blob_uri, self._credential, **sizes)
        return Blobs(service, settings)

    @cached_property
    def queues(self) -> "Queues":
        """Storage queues."""
        from azure.storage.queue import QueueServiceClient

        from batch_fn.storage.queues import Queues

        settings = self.settings
        if settings.storage:
            return Queues(QueueServiceClient.from_connection_string(settings.storage), settings)
        return Queues(QueueServiceClient(settings.storage_queue_uri, self._credential), settings)

    @cached_property
    def tables(self) -> "Tables":
        """Table storage."""
        from azure.data.tables import TableServiceClient

        from batch_fn.storage.tables import Tables

        settings = self.settings
        if settings.storage:
            service = TableServiceClient.from_connection_string(settings.storage)
        else:
            service = TableServiceClient(settings.storage_table_uri, credential=self._credential)
        return Tables(
            service,
            jobs_table=settings.jobs_table,
            work_table=settings.work_table,
            deployments_table=settings.deployments_table,
        )

    @cached_property
    def tick_memory(self) -> "TickMemory":
        """What the ticks of this process remember of one another."""
        return TickMemory()

    @cached_property
    def openai(self) -> "OpenAIBatches":
        """Azure OpenAI."""
        from batch_fn.azure_openai.client import OpenAIBatches

        return OpenAIBatches.connect(self.settings)

    @cached_property
    def _credential(self) -> Any:
        from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

        if self.signed_in:
            return DefaultAzureCredential()
        client_id = self.settings.storage_client_id
        return ManagedIdentityCredential(client_id=client_id) if client_id else ManagedIdentityCredential()


@functools.cache
def get_app() -> App:
    """Return the app of this process, made on the first call. Raises: SettingError."""
    # The Azure SDK logs two INFO records for each call it makes; the OpenAI client's HTTP library logs one.
    for name in ("azure.core.pipeline.policies.http_logging_policy", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    memory.limit_malloc_arenas()
    settings = Settings.read()
    telemetry.start(settings.telemetry)
    return App(settings)
