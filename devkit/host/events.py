"""Event Grid: the host's webhook, which is real, and the sender, which plays Azure, since Azurite sends no events.

Kept, webhook: the system key, the validation handshake, 202 for events, one message on the internal queue for each;
no receipt, no ETag check, no filter by the path's pattern, no check that the function exists. Kept, sender: a
subscription starts with what comes after it, survives the host, delivers at least once and in no order; a delivery that
fails is made again. It notices a blob by its name and ETag, so of two versions written between two looks only the
second has an event. It can be told to repeat, delay or lose events.
"""

import asyncio
import json
import logging
import random
import uuid
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import aiohttp
from aiohttp import web
from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.blob import BlobProperties
from azure.storage.blob.aio import ContainerClient

from devkit.host.blobs import BlobMessage, Put
from devkit.host.context import HostContext
from devkit.host.messages import Json
from devkit.host.storage import HOST_CONTAINER, read_json, write_json

log = logging.getLogger("host")

TOPIC = "/subscriptions/local/resourceGroups/local/providers/Microsoft.Storage/storageAccounts/local"
DELIVERY_SECONDS = 30  # source: Event Grid, "Delivery and retry": it waits 30 seconds for an answer
LONGEST_PAUSE_SECONDS = 30


class ValidationError(Exception):
    """A webhook did not pass the handshake."""


class EventGridWebhook:
    """Answers `POST /runtime/webhooks/blobs?functionName=Host.Functions.<name>`, once its key is checked.

    A name that is not registered is answered all the same, and its events are lost.
    """

    def __init__(self, put: Put) -> None:
        self._put = put

    async def answer(self, request: web.Request) -> web.Response:
        """Return 202 after a message for each event, 200 for the handshake, else 400."""
        function_name = request.query.get("functionName", "")
        match request.headers.get("aeg-event-type", ""):
            case "SubscriptionValidation":
                [event] = await request.json()
                return web.json_response({"validationResponse": event["data"]["validationCode"]})
            case "Notification":
                for event in await request.json():
                    await self._put(event_message(function_name, event))
                return web.Response(status=202)
            case "Unsubscribe":
                return web.Response(status=202)
            case _:
                return web.Response(status=400)


def event_message(function_name: str, event: Json) -> BlobMessage:
    """Return the internal queue's message for an event; its blob is where the URL says, its ETag gets quotes."""
    data = event["data"]
    container, _, name = blob_address(data["url"]).partition("/")
    etag = f'"{data["eTag"].strip(chr(34))}"'
    return BlobMessage(function_name, container, name, etag, data.get("blobType", "BlockBlob"))


def blob_address(url: str) -> str:
    """Return `container/name` of a blob's URL; the emulator's have the account's name before that."""
    parts = urlsplit(url)
    path = unquote(parts.path).removeprefix("/")
    return path if ".blob." in parts.netloc else path.partition("/")[2]


def blob_created(url: str, etag: str, size: int = 0) -> Json:
    """Return the event that Azure sends for a new version of a blob; an ETag in quotes loses them."""
    container, _, name = blob_address(url).partition("/")
    return {
        "topic": TOPIC,
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "eventType": "Microsoft.Storage.BlobCreated",
        "id": str(uuid.uuid4()),
        "data": {
            "api": "PutBlob",
            "requestId": str(uuid.uuid4()),
            "eTag": etag.strip('"'),
            "contentType": "application/octet-stream",
            "contentLength": size,
            "blobType": "BlockBlob",
            "url": url,
        },
        "dataVersion": "",
        "metadataVersion": "1",
        "eventTime": datetime.now(UTC).isoformat(),
    }


class EventGrid:
    """Azure's part: a subscription for the blobs of a container, delivered to the webhook at `endpoint`.

    `outside`: the endpoint is not the host's own. It has to pass the handshake first, and is given time to recover.
    """

    def __init__(
        self, name: str, container: ContainerClient, host: HostContext, endpoint: str, *, outside: bool = False
    ) -> None:
        self._container = container
        # What was delivered, by name and ETag: Azure remembers events while the host is down, and so must this.
        self._memory = host.storage.blobs().get_blob_client(HOST_CONTAINER, f"devkit-events/{host.host_id}/{name}")
        self._valid = not outside
        self._delivered: dict[str, str] = {}
        self._options = host.options
        self._endpoint = endpoint

    async def subscribe(self) -> None:
        """Begin with the blobs that come from now on; or, if there was a subscription, where it stopped."""
        remembered = await read_json(self._memory)
        if remembered is None:
            self._delivered = etags(await self._list())
            await write_json(self._memory, self._delivered)
        else:
            self._delivered = remembered

    async def run(self) -> None:
        """Look and deliver until cancelled."""
        outside, failures = not self._valid, 0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DELIVERY_SECONDS)) as session:
            while True:
                try:
                    if not self._valid:
                        await self._shake_hands(session)
                    await self._deliver_news(session)
                    failures = 0
                except (AzureError, aiohttp.ClientError, TimeoutError, ValidationError) as error:
                    failures += 1
                    log.warning("Event Grid will try again: %s", error)
                slower = 2 ** min(failures, 10) if outside else 1
                seconds = self._options.event_seconds
                await asyncio.sleep(min(seconds * slower, max(seconds, LONGEST_PAUSE_SECONDS)))

    async def _shake_hands(self, session: aiohttp.ClientSession) -> None:
        """Have the endpoint prove that it wants events. Raises: ValidationError."""
        code = str(uuid.uuid4())
        event = {
            "id": str(uuid.uuid4()),
            "topic": TOPIC,
            "subject": "",
            "data": {"validationCode": code},
            "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
            "eventTime": datetime.now(UTC).isoformat(),
            "metadataVersion": "1",
            "dataVersion": "2",
        }
        headers = {"aeg-event-type": "SubscriptionValidation", "content-type": "application/json"}
        async with session.post(self._endpoint, data=json.dumps([event]), headers=headers) as response:
            text = await response.text()
            response.raise_for_status()
        try:
            self._valid = json.loads(text)["validationResponse"] == code
        except (ValueError, KeyError, TypeError):
            self._valid = False
        if not self._valid:
            raise ValidationError("the webhook did not answer the validation with its code")

    async def _list(self) -> list[BlobProperties]:
        try:
            return [blob async for blob in self._container.list_blobs()]
        except ResourceNotFoundError:
            return []  # the container is yet to come

    async def _deliver_news(self, session: aiohttp.ClientSession) -> None:
        blobs = await self._list()
        news = [blob for blob in blobs if self._delivered.get(blob.name) != quoted(blob)]
        if news:
            await asyncio.sleep(self._options.event_delay_seconds)
            copies = 0 if self._options.lose_events else self._options.event_copies
            events = [self._event(blob) for blob in news] * copies
            random.shuffle(events)
            for event in events:
                await self._deliver(session, event)
        current = etags(blobs)
        if current != self._delivered:
            self._delivered = current
            await write_json(self._memory, current)

    def _event(self, blob: BlobProperties) -> Json:
        url = self._container.get_blob_client(blob.name).url.partition("?")[0]
        return blob_created(url, quoted(blob), blob.size)

    async def _deliver(self, session: aiohttp.ClientSession, event: Json) -> None:
        headers = {"aeg-event-type": "Notification", "content-type": "application/json"}
        async with session.post(self._endpoint, data=json.dumps([event]), headers=headers) as response:
            response.raise_for_status()


def quoted(blob: BlobProperties) -> str:
    """Return the ETag of a listed blob in quotes: a listing has it without, a HEAD with."""
    return f'"{blob.etag.strip(chr(34))}"'


def etags(blobs: list[BlobProperties]) -> dict[str, str]:
    """Return each blob's ETag by its name."""
    return {blob.name: quoted(blob) for blob in blobs}
