"""The blob trigger: one internal queue for all blob functions, fed by Event Grid (events.py) or by listing containers.

Kept: the queue `azure-webjobs-blobtrigger-{hostId}` and its messages; poisonBlobThreshold attempts, then
`webjobs-blobtrigger-poison` in the blob's own account; a message for an unknown function or a missing blob is done
with; one whose ETag is not the blob's is not run if it came from a listing. The listing is the one for development
storage: complete, every 2 s, newer than the newest seen, which is kept in memory; receipts decide the rest. So, as in
`func start`, a blob written in the same second as the newest one seen may be missed until the next start. Left out:
$logs, checkpoints, and the receipts' lease (one host only).
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobProperties
from azure.storage.blob.aio import BlobClient
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient

from devkit.host.bindings import Function, read_blob_path
from devkit.host.context import HostContext
from devkit.host.messages import Json
from devkit.host.queues import Delivery, QueueListener, UndecodableError
from devkit.host.storage import HOST_CONNECTION, HOST_CONTAINER, decode_bytes, decode_text, encode_text, send

log = logging.getLogger("host")

POISON_QUEUE = "webjobs-blobtrigger-poison"
ANY_VERSION = ""  # instead of an ETag, for a function run by hand

type Put = Callable[[BlobMessage], Awaitable[None]]  # puts a message on the internal queue


@dataclass(frozen=True)
class BlobMessage:
    """A message of the internal queue: this version of this blob, for this function. The ETag has its quotes."""

    FunctionId: str
    ContainerName: str
    BlobName: str
    ETag: str
    BlobType: str = "BlockBlob"
    Type: str = "BlobTrigger"


class BlobTrigger:
    """The internal queue: `put` a version of a blob for a function, and that function runs."""

    def __init__(self, functions: list[Function], host: HostContext) -> None:
        self._functions = {function.full_name: function for function in functions}
        for function in functions:
            host.storage.blobs(function.connection)  # a missing setting is told now, not by the first blob
        self._storage = host.storage
        self._invoke = host.invoke
        self._queue = host.storage.queue(f"azure-webjobs-blobtrigger-{host.host_id}")
        batch_size = min(32, host.host_json.blob_concurrency // 2 + 1)
        delivery = Delivery(
            batch_size=batch_size,
            new_batch_threshold=host.host_json.blob_concurrency - batch_size,
            max_dequeue_count=host.host_json.poison_blob_threshold,
            retry_visibility=0,
            receive_visibility=host.options.receive_visibility_seconds,
            max_poll=min(host.host_json.queue_max_poll, host.options.max_poll_seconds),
        )
        self.listener = QueueListener(self._queue, self._poison_queue, delivery, self._handle)

    async def put(self, message: BlobMessage) -> None:
        """Write a message to the queue, and wake the listener."""
        await send(self._queue, encode_text(json.dumps(asdict(message))))
        self.listener.notify()

    def _poison_queue(self, message: QueueMessage) -> QueueClient:
        """Return the poison queue of the account that the blob is in; the host's own, if that cannot be told."""
        wanted = read_message(message)
        function = self._functions.get(wanted.FunctionId) if wanted else None
        return self._storage.queue(POISON_QUEUE, function.connection if function else HOST_CONNECTION)

    async def _handle(self, message: QueueMessage) -> bool:
        """Run the function of a message; True when the message is done with. Raises: UndecodableError."""
        try:
            decode_bytes(message.content)
        except ValueError as error:
            raise UndecodableError(str(error)) from None
        wanted = read_message(message)
        if wanted is None:
            log.error("A message of %s cannot be read", self._queue.queue_name)
            return False
        function = self._functions.get(wanted.FunctionId)
        if function is None:
            return True  # the function was renamed, removed or disabled: its backlog is lost
        blob = self._storage.blobs(function.connection).get_blob_client(wanted.ContainerName, wanted.BlobName)
        try:
            properties = await blob.get_blob_properties()
        except ResourceNotFoundError:
            return True
        if not from_event_grid(function) and wanted.ETag not in (properties.etag, ANY_VERSION):
            return True  # the newer version has a message of its own
        value = await blob_value(function, blob)
        source = "EventGrid" if from_event_grid(function) else "ContainerScan"
        reason = f"New blob detected({source}): {blob_path(blob)}"
        result = await self._invoke(function, value, blob_metadata(function, blob, properties), reason)
        return result.succeeded


def from_event_grid(function: Function) -> bool:
    """Return whether a blob function is fed by Event Grid; the default is polling."""
    return str(function.trigger.get("source", "")).lower() == "eventgrid"


def read_message(message: QueueMessage) -> BlobMessage | None:
    """Return the blob message that a message of the internal queue carries, None if it carries another thing."""
    try:
        return BlobMessage(**json.loads(decode_text(message.content)))
    except (ValueError, TypeError):
        return None


def blob_path(blob: BlobClient) -> str:
    """Return `container/name`."""
    return f"{blob.container_name}/{blob.blob_name}"


async def blob_value(function: Function, blob: BlobClient) -> Json:
    """Return the trigger's value: a reference for an SDK type, else the whole content, as bytes or as text."""
    if function.trigger.get("properties", {}).get("SupportsDeferredBinding") is True:
        reference = {
            "Connection": function.connection,
            "ContainerName": blob.container_name,
            "BlobName": blob.blob_name,
        }
        return {
            "model_binding_data": {
                "version": "1.0",
                "source": "AzureStorageBlobs",
                "content_type": "application/json",
                "content": json.dumps(reference),
            }
        }
    content = await (await blob.download_blob()).readall()
    if str(function.trigger.get("dataType", "")).lower() in ("binary", "stream"):
        return {"bytes": content}
    return {"string": content.decode("utf-8-sig", errors="replace")}


def blob_metadata(function: Function, blob: BlobClient, properties: BlobProperties) -> Json:
    """Return the trigger metadata of a blob: what it is, and the parameters of the path's pattern, if it matches."""
    parameters = read_blob_path(function.trigger["path"]).parameters(blob.blob_name) or {}
    return {
        "BlobTrigger": {"string": blob_path(blob)},
        "Uri": {"json": json.dumps(blob.url.partition("?")[0])},
        "Properties": {"json": json.dumps({"ContentLength": properties.size, "ETag": properties.etag.strip('"')})},
        "Metadata": {"json": json.dumps(properties.metadata)},
    } | {name: {"string": value} for name, value in parameters.items()}


class ContainerScan:
    """Lists the container of one polling function, again and again, and puts what is new on the internal queue."""

    def __init__(self, function: Function, host: HostContext, put: Put) -> None:
        self._function = function
        self._path = read_blob_path(function.trigger["path"])
        self._container = host.storage.blobs(function.connection).get_container_client(self._path.container)
        self._receipts = host.storage.blobs().get_container_client(HOST_CONTAINER)
        self._receipt_prefix = f"blobreceipts/{host.host_id}/{function.full_name}"
        self._seconds = host.options.scan_seconds
        self._put = put
        self._newest_seen = datetime.min.replace(tzinfo=UTC)

    async def run(self) -> None:
        """Scan until cancelled. A missing container is skipped quietly."""
        while True:
            try:
                await self._scan()
            except ResourceNotFoundError:
                pass
            except AzureError as error:
                log.warning("Could not list %s: %s", self._path.container, error)
            await asyncio.sleep(self._seconds)

    async def _scan(self) -> None:
        newest = self._newest_seen
        async for blob in self._container.list_blobs():
            if blob.last_modified > self._newest_seen:
                newest = max(newest, blob.last_modified)
                if self._path.parameters(blob.name) is not None:
                    await self._notice(blob.name)
        self._newest_seen = newest

    async def _notice(self, name: str) -> None:
        """Put the blob on the queue once per ETag: its receipt is made first, and complete when the message is in."""
        etag = (await self._container.get_blob_client(name).get_blob_properties()).etag
        receipt = self._receipts.get_blob_client(f"{self._receipt_prefix}/{etag}/{self._path.container}/{name}")
        try:
            await receipt.upload_blob(b"", metadata={"Incomplete": "Incomplete"}, overwrite=False)
        except ResourceExistsError:
            if not (await receipt.get_blob_properties()).metadata:
                return  # complete: it was queued, which does not say that it succeeded
        await self._put(BlobMessage(self._function.full_name, self._path.container, name, etag))
        await receipt.set_blob_metadata({})
