"""The storage accounts: clients by the name of the connection setting, and the calls that several files here make."""

import base64
import binascii
import json
from typing import Any

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob.aio import BlobClient, BlobServiceClient
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from devkit.host.bindings import Settings, connection_string
from devkit.host.messages import Json

HOST_CONNECTION = "AzureWebJobsStorage"  # the host's own account
HOST_CONTAINER = "azure-webjobs-hosts"  # locks, receipts and timers
RETRY: dict[str, Any] = {"retry_total": 2, "initial_backoff": 1, "increment_base": 2}  # seconds: Azurite is back soon


class Storage:
    """One client per account and service; `close` closes them all."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._blobs: dict[str, BlobServiceClient] = {}
        self._queues: dict[str, QueueServiceClient] = {}

    def blobs(self, connection: str = HOST_CONNECTION) -> BlobServiceClient:
        """Return the blob service of a connection."""
        text = connection_string(connection, self._settings)
        if text not in self._blobs:
            self._blobs[text] = BlobServiceClient.from_connection_string(text, **RETRY)
        return self._blobs[text]

    def queue(self, name: str, connection: str = HOST_CONNECTION) -> QueueClient:
        """Return a queue of a connection; its messages' text is taken and given as it is stored."""
        text = connection_string(connection, self._settings)
        if text not in self._queues:
            self._queues[text] = QueueServiceClient.from_connection_string(text, **RETRY)
        return self._queues[text].get_queue_client(name)

    async def close(self) -> None:
        """Close the connections."""
        for blobs in self._blobs.values():
            await blobs.close()
        for queues in self._queues.values():
            await queues.close()


async def create_container(service: BlobServiceClient, name: str) -> None:
    """Create a container if it is absent."""
    try:
        await service.create_container(name)
    except ResourceExistsError:
        return


async def send(queue: QueueClient, text: str) -> None:
    """Put a message into the queue, created if it is absent."""
    try:
        await queue.send_message(text)
    except ResourceNotFoundError:
        await queue.create_queue()
        await queue.send_message(text)


async def read_json(blob: BlobClient) -> Json | None:
    """Return the JSON of a blob, None if there is no blob."""
    try:
        content: Json = json.loads(await (await blob.download_blob()).readall())
    except ResourceNotFoundError:
        return None
    return content


async def write_json(blob: BlobClient, content: Json) -> None:
    """Write a blob as JSON, over what it was."""
    await blob.upload_blob(json.dumps(content), overwrite=True)


def encode_text(text: str) -> str:
    """Return a message's text as the host writes it: base64."""
    return base64.b64encode(text.encode()).decode("ascii")


def decode_text(content: str) -> str:
    """Return the text of a base64 message; ValueError if it is none."""
    return decode_bytes(content).decode()


def decode_bytes(content: str) -> bytes:
    """Return the bytes of a base64 message; ValueError if it is none."""
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
