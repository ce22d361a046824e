"""Queues: the loop that takes messages and handles them; the queue trigger is that loop over a queue of the app.

Kept: a message is hidden while its function runs (10 minutes, renewed at half), deleted after success, visible again
after a failure, and moved to `<queue>-poison` by the last allowed failure: copied, then deleted. A message that cannot
be decoded is moved at once, unrun. A queue that ends in `-poison` has no such queue of its own: a message that fails
there, or cannot be decoded, is tried again every ten minutes, without a limit. A host that dies leaves its messages
hidden until that time is over. Polling backs off, at random, from 100 ms to maxPollingInterval. A missing queue is not
created.
"""

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient

from devkit.host.bindings import Function
from devkit.host.context import HostContext
from devkit.host.messages import Json
from devkit.host.storage import decode_bytes, send

log = logging.getLogger("host")

SHORTEST_POLL_SECONDS = 0.1


class UndecodableError(Exception):
    """A message is not base64: no function can be given it."""


@dataclass(frozen=True)
class Delivery:
    """How messages of a queue are delivered. Times are in seconds."""

    batch_size: int
    new_batch_threshold: int  # the next batch is taken when no more than this many are running
    max_dequeue_count: int
    retry_visibility: int  # how long a failed message stays hidden
    receive_visibility: int
    max_poll: float
    poison_retry: int | None = None  # of a poison queue: how long a failed message stays hidden, and no limit of runs


class QueueListener:
    """Takes messages of a queue, handles each in a task of its own; `poison_queue` is where a failed one goes."""

    def __init__(
        self,
        queue: QueueClient,
        poison_queue: Callable[[QueueMessage], QueueClient],
        delivery: Delivery,
        handle: Callable[[QueueMessage], Awaitable[bool]],
    ) -> None:
        self._queue = queue
        self._poison_queue = poison_queue
        self._delivery = delivery
        self._handle = handle  # True: done with the message
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._polling: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The queue's address, which tells it from those of other accounts."""
        return self._queue.url

    def start(self) -> None:
        """Begin to take messages."""
        self._polling = asyncio.create_task(self._poll())

    def notify(self) -> None:
        """End a wait between two polls: this host has just put a message in. The real host tells its listeners, too."""
        self._wake.set()

    async def drain(self, seconds: float) -> None:
        """Take no more messages, and wait this long for the running ones; what still runs then is left hidden."""
        self._stopping = True
        self._wake.set()
        if self._polling:
            await self._polling
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=seconds)
            for task in late:
                task.cancel()

    async def _poll(self) -> None:
        wait = SHORTEST_POLL_SECONDS
        while not self._stopping:
            if len(self._running) > self._delivery.new_batch_threshold:
                woken = asyncio.create_task(self._wake.wait())
                await asyncio.wait([woken, *self._running], return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                self._wake.clear()
            elif messages := await self._receive():
                wait = SHORTEST_POLL_SECONDS
                for message in messages:
                    task = asyncio.create_task(self._see_through(message))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait)
                self._wake.clear()
                wait = min(self._delivery.max_poll, wait * random.uniform(1.6, 2.4))  # noqa: S311 - no secret

    async def _receive(self) -> list[QueueMessage]:
        """Return the next batch; none if the queue is empty, missing or out of reach."""
        pages = self._queue.receive_messages(
            messages_per_page=self._delivery.batch_size, visibility_timeout=self._delivery.receive_visibility
        ).by_page()
        try:
            async for page in pages:
                return [message async for message in page]
        except ResourceNotFoundError:
            pass
        except AzureError as error:
            log.warning("Could not read the queue %s: %s", self._queue.queue_name, error)
        return []

    async def _see_through(self, message: QueueMessage) -> None:
        """Handle one message, then delete it, show it again, or move it to the poison queue."""
        endless = self._delivery.poison_retry
        limit = self._delivery.max_dequeue_count
        try:
            if endless is None and (message.dequeue_count or 0) > limit:
                return await self._give_up(message)
            try:
                done, decoded = await self._attempt(message), True
            except UndecodableError as error:
                log.error("A message of %s cannot be decoded: %s", self._queue.queue_name, error)  # noqa: TRY400
                done, decoded = False, False
            if done:
                await self._queue.delete_message(message)
            elif endless is not None:
                await self._hide(message, endless)
            elif not decoded or (message.dequeue_count or 0) >= limit:
                await self._give_up(message)
            else:
                await self._hide(message, self._delivery.retry_visibility)
        except AzureError as error:  # the message comes again: delivery is at least once
            log.warning("Could not settle a message of %s: %s", self._queue.queue_name, error)

    async def _hide(self, message: QueueMessage, seconds: int) -> None:
        await self._queue.update_message(message.id, message.pop_receipt, visibility_timeout=seconds)

    async def _attempt(self, message: QueueMessage) -> bool:
        """Handle the message, hidden meanwhile; return whether it is done with. Raises: UndecodableError."""
        renewing = asyncio.create_task(self._keep_hidden(message))
        try:
            return await self._handle(message)
        except AzureError as error:
            log.warning("Could not handle a message of %s: %s", self._queue.queue_name, error)
            return False
        finally:
            renewing.cancel()

    async def _keep_hidden(self, message: QueueMessage) -> None:
        """Renew the message's visibility at half its time, for as long as its function runs."""
        while True:
            await asyncio.sleep(self._delivery.receive_visibility / 2)
            try:
                renewed = await self._queue.update_message(
                    message.id, message.pop_receipt, visibility_timeout=self._delivery.receive_visibility
                )
            except AzureError as error:
                log.warning("Could not renew a message of %s: %s", self._queue.queue_name, error)
            else:
                message.pop_receipt = renewed.pop_receipt

    async def _give_up(self, message: QueueMessage) -> None:
        """Copy the message to the poison queue, then delete it; between the two it exists twice."""
        poison = self._poison_queue(message)
        log.error("Message moved to %s after %s attempts", poison.queue_name, message.dequeue_count)
        await send(poison, message.content)
        await self._queue.delete_message(message)


def message_metadata(message: QueueMessage, body: str) -> Json:
    """Return the trigger metadata of a queue message.

    A trap of the real host is kept: if the body is a JSON object, its top-level members override metadata of the same
    name, in any case, so that a body of {"id": "x"} arrives as a message whose id is x.
    """
    metadata = {
        "QueueTrigger": {"string": body},
        "Id": {"string": message.id},
        "DequeueCount": {"json": json.dumps(message.dequeue_count)},
        "PopReceipt": {"string": message.pop_receipt},
        "InsertionTime": moment_value(message.inserted_on),
        "ExpirationTime": moment_value(message.expires_on),
        "NextVisibleTime": moment_value(message.next_visible_on),
    }
    names = {name.lower(): name for name in metadata}
    for member, value in top_level_members(body).items():
        name = names.get(member.lower(), member)
        metadata[name] = {"string": value} if isinstance(value, str) else {"json": json.dumps(value)}
    return metadata


def moment_value(moment: datetime | None) -> Json:
    """Return a time as trigger metadata."""
    return {"json": json.dumps(moment.isoformat() if moment else None)}


def top_level_members(body: str) -> dict[str, Any]:
    """Return the members of a text that is one JSON object, none for any other text."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def queue_trigger(function: Function, host: HostContext) -> QueueListener:
    """Return the listener that runs a queue-triggered function."""
    name = function.trigger["queueName"]
    poison = host.storage.queue(f"{name}-poison", function.connection)
    delivery = Delivery(
        batch_size=host.host_json.queue_batch_size,
        new_batch_threshold=host.host_json.queue_new_batch_threshold,
        max_dequeue_count=host.host_json.queue_max_dequeue_count,
        retry_visibility=host.host_json.queue_visibility,
        receive_visibility=host.options.receive_visibility_seconds,
        max_poll=min(host.host_json.queue_max_poll, host.options.max_poll_seconds),
        poison_retry=host.options.poison_retry_seconds if name.endswith("-poison") else None,
    )

    async def handle(message: QueueMessage) -> bool:
        try:
            body = decode_bytes(message.content) if host.host_json.queue_base64 else message.content.encode()
        except ValueError as error:
            raise UndecodableError(str(error)) from None
        text = body.decode(errors="replace")  # base64 of what is not UTF-8 is run all the same
        reason = f"New queue message detected on '{name}'."
        result = await host.invoke(function, queue_value(function, body), message_metadata(message, text), reason)
        return result.succeeded

    return QueueListener(host.storage.queue(name, function.connection), lambda _: poison, delivery, handle)


def queue_value(function: Function, body: bytes) -> Json:
    """Return a message's body as the trigger's value: bytes if the function asks for BINARY, else text."""
    binary = str(function.trigger.get("dataType", "")).upper() == "BINARY"
    return {"bytes": body} if binary else {"string": body.decode(errors="replace")}
