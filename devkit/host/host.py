"""The host: everything put together, in the order in which it starts and stops."""

import asyncio
import hashlib
import logging
import time
from dataclasses import asdict
from pathlib import Path

from azure.core.exceptions import AzureError

from devkit.host.bindings import Function, Settings, read_blob_path, read_functions
from devkit.host.blobs import ANY_VERSION, BlobMessage, BlobTrigger, ContainerScan, from_event_grid
from devkit.host.configuration import ConfigurationError, HostJson, HostOptions
from devkit.host.context import HostContext
from devkit.host.events import EventGrid, EventGridWebhook
from devkit.host.http import HttpServer
from devkit.host.invocations import Invocations, Result
from devkit.host.keys import Keys, load_keys
from devkit.host.messages import Json
from devkit.host.queues import QueueListener, queue_trigger, queue_value
from devkit.host.storage import HOST_CONNECTION, HOST_CONTAINER, Storage, create_container
from devkit.host.timers import Timer, timer_value
from devkit.host.worker_process import WorkerProcess

log = logging.getLogger("host")


def host_id(app_dir: Path, settings: Settings) -> str:
    """Return this host's name in storage: AzureFunctionsWebHost__hostid, or one made of the app's folder."""
    digest = hashlib.sha256(str(app_dir).encode()).hexdigest()
    return settings.get("AzureFunctionsWebHost__hostid") or f"local-{digest[:20]}"


class Host:
    """One app, hosted, on a worker that is launched. `start` raises ConfigurationError if it cannot be."""

    def __init__(
        self, app_dir: Path, settings: Settings, host_json: HostJson, options: HostOptions, worker: WorkerProcess
    ) -> None:
        self._settings = settings
        self._options = options
        self._host_json = host_json
        self._worker = worker
        self._id = host_id(app_dir, settings)
        self._storage = Storage(settings)
        self._invoke = Invocations(worker, self._storage, host_json, self._wake).invoke
        self._context = HostContext(self._id, self._storage, host_json, options, self._invoke)
        self._functions: list[Function] = []
        self._listeners: list[QueueListener] = []
        self._timers: list[Timer] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._by_hand: set[asyncio.Future[Result]] = set()
        self._server: HttpServer | None = None
        self._started = time.monotonic()

    async def start(self) -> Json:
        """Index the app, listen to everything; return what a caller must know: the URL, the functions and the keys."""
        _, keys = await asyncio.gather(self._worker.index(), self._prepare_storage())
        self._functions = read_functions(self._worker.functions, self._settings)
        self._blobs = BlobTrigger(self._of_type("blobTrigger"), self._context)
        event_functions = [function for function in self._of_type("blobTrigger") if from_event_grid(function)]
        self._server = HttpServer(
            self._functions,
            self._host_json,
            keys,
            self._invoke,
            EventGridWebhook(self._blobs.put),
            self._status,
            self._run_by_hand,
            self._options.drain_seconds,
        )
        await self._server.start(self._options.port)
        self._listen()
        if self._options.events:
            await self._subscribe(event_functions, self._server.url, keys.blobs_extension)
        if self._options.webhook:
            watched = self._storage.blobs().get_container_client(self._options.webhook_container)
            await self._begin(EventGrid("webhook", watched, self._context, self._options.webhook, outside=True))
        names = [function.name for function in self._functions]
        log.info("Ready at %s, host id %s, functions: %s", self._server.url, self._id, ", ".join(names))
        return {"url": self._server.url, "functions": names, "keys": asdict(keys)}

    async def stop(self) -> None:
        """Drain: take nothing new, wait for what runs, then end the worker."""
        log.info("Draining")
        seconds = self._options.drain_seconds
        for task in self._tasks:
            task.cancel()
        draining = [listener.drain(seconds) for listener in self._listeners]
        draining += [timer.drain(seconds) for timer in self._timers]
        if self._server:
            draining.append(self._server.stop())
        await asyncio.gather(*draining)
        if self._by_hand:
            await asyncio.wait(self._by_hand, timeout=seconds)
        await self._worker.stop()
        await self._storage.close()
        log.info("Stopped")

    async def _prepare_storage(self) -> Keys:
        """Make the host's container; return the keys."""
        try:
            await create_container(self._storage.blobs(), HOST_CONTAINER)
            return await load_keys(self._storage.blobs(), self._id, self._options)
        except AzureError as error:
            raise ConfigurationError(f"the account of {HOST_CONNECTION} cannot be used: {error}") from error

    def _of_type(self, trigger: str) -> list[Function]:
        return [function for function in self._functions if function.trigger["type"] == trigger]

    def _listen(self) -> None:
        """Start the listener of each function that has one."""
        if self._of_type("blobTrigger"):
            self._listeners.append(self._blobs.listener)
        for function in self._of_type("queueTrigger"):
            self._listeners.append(queue_trigger(function, self._context))
        for function in self._of_type("timerTrigger"):
            timer = Timer(function, self._context)
            self._timers.append(timer)
            self._tasks.append(asyncio.create_task(timer.run()))
        for listener in self._listeners:
            listener.start()
        for function in self._of_type("blobTrigger"):
            if not from_event_grid(function):
                scan = ContainerScan(function, self._context, self._blobs.put)
                self._tasks.append(asyncio.create_task(scan.run()))

    async def _subscribe(self, functions: list[Function], url: str, key: str) -> None:
        """Play Event Grid for each function: what is written after this has an event."""
        for function in functions:
            endpoint = f"{url}/runtime/webhooks/blobs?functionName={function.full_name}&code={key}"
            container = read_blob_path(function.trigger["path"]).container
            blobs = self._storage.blobs(function.connection)
            await self._begin(EventGrid(function.name, blobs.get_container_client(container), self._context, endpoint))

    async def _begin(self, subscription: EventGrid) -> None:
        await subscription.subscribe()
        self._tasks.append(asyncio.create_task(subscription.run()))

    def _wake(self, queue_url: str) -> None:
        """Tell the listener of a queue that an output has just been written to it."""
        for listener in self._listeners:
            if listener.url == queue_url:
                listener.notify()

    def _status(self) -> Json:
        """Return the answer of /admin/host/status. `workerPid` is this host's own: tests kill it."""
        uptime = round((time.monotonic() - self._started) * 1000)
        return {"id": self._id, "state": "Running", "processUptime": uptime, "workerPid": self._worker.pid}

    async def _run_by_hand(self, function: Function, text: str) -> None:
        """Start a function as POST /admin/functions/{name} does: a blob's path, a queue message's body, or nothing."""
        reason = "This function was programmatically called via the host APIs."
        match function.trigger["type"]:
            case "blobTrigger":
                container, _, name = text.partition("/")
                await self._blobs.put(BlobMessage(function.full_name, container, name, ANY_VERSION))
                return
            case "queueTrigger":
                value, metadata = queue_value(function, text.encode()), {"QueueTrigger": {"string": text}}
            case "timerTrigger":
                value, metadata = timer_value(None, past_due=False), {}
            case _:
                return
        task = asyncio.ensure_future(self._invoke(function, value, metadata, reason))
        self._by_hand.add(task)
        task.add_done_callback(self._by_hand.discard)
