"""One invocation: the trigger's value to the worker, what the function answered back, its outputs written.

Kept: functionTimeout kills the worker process, and with it every other invocation; outputs are written after the
function returned, one after the other, and if one cannot be written the invocation has failed although the code has
run.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from azure.core.exceptions import AzureError

from devkit.host.bindings import Function
from devkit.host.configuration import HostJson
from devkit.host.messages import Json
from devkit.host.storage import HOST_CONNECTION, Storage, encode_text, send
from devkit.host.worker_process import WorkerGone, WorkerProcess, failure

log = logging.getLogger("host")


@dataclass(frozen=True)
class Result:
    """How an invocation went. `return_value` is what an HTTP function answers, None without one."""

    succeeded: bool
    return_value: Json | None = None


# function, the trigger's value, its metadata, and the reason for the log
type Invoke = Callable[[Function, Json, Json, str], Awaitable[Result]]


class Invocations:
    """Runs functions on the worker. `on_message(url)` is called for each queue that an output was written to."""

    def __init__(
        self, worker: WorkerProcess, storage: Storage, host_json: HostJson, on_message: Callable[[str], None]
    ) -> None:
        self._worker = worker
        self._storage = storage
        self._host_json = host_json
        self._on_message = on_message

    async def invoke(self, function: Function, value: Json, metadata: Json, reason: str) -> Result:
        """Run the function once; every failure is in the result and in the log, none is raised."""
        invocation_id = str(uuid.uuid4())
        started = time.monotonic()
        log.info("Executing 'Functions.%s' (Reason='%s', Id=%s)", function.name, reason, invocation_id)
        body = {
            "invocation_id": invocation_id,
            "function_id": function.worker_id,
            "input_data": [[function.trigger["name"], value]],
            "trigger_metadata": metadata,
        }
        response, error = await self._run(function, body)
        if not error:
            error = await self._write_outputs(function, response)
        took = round((time.monotonic() - started) * 1000)
        outcome = "Failed" if error else "Succeeded"
        log.log(
            logging.ERROR if error else logging.INFO,
            "Executed 'Functions.%s' (%s, Id=%s, Duration=%dms)%s",
            *(function.name, outcome, invocation_id, took, f"\n{error}" if error else ""),
        )
        return Result(succeeded=not error, return_value=response.get("return_value"))

    async def _run(self, function: Function, body: Json) -> tuple[Json, str]:
        """Return the worker's response and the error, empty for success."""
        timeout = self._host_json.function_timeout
        await self._worker.ready()
        try:
            response = await asyncio.wait_for(self._worker.invoke(body), timeout)
        except TimeoutError:
            self._worker.kill()  # Python cannot stop a thread: the process goes, and all that runs in it
            return {}, f"Timeout value of {timeout} s was exceeded by function: Functions.{function.name}"
        except WorkerGone as error:
            return {}, str(error)
        return response, failure(response)

    async def _write_outputs(self, function: Function, response: Json) -> str:
        """Write what the function put out to queues; return the error, empty for success."""
        values = {output["name"]: output["data"] for output in response["output_data"]}
        values["$return"] = response.get("return_value")
        for name, binding in function.outputs.items():
            if binding["type"] != "queue" or values.get(name) is None:
                continue
            queue = self._storage.queue(binding["queueName"], binding.get("connection") or HOST_CONNECTION)
            try:
                for text in queue_messages(values[name]):
                    await send(queue, text if not self._host_json.queue_base64 else encode_text(text))
            except AzureError as error:
                return f"the output {name} could not be written to the queue {queue.queue_name}: {error}"
            self._on_message(queue.url)
        return ""


def queue_messages(value: Json) -> list[str]:
    """Return the messages in the value of a queue output: each item of a list is one, any other value is one."""
    match value:
        case {"string": str(text)}:
            return [text]
        case {"bytes": bytes(body)}:
            return [body.decode()]
        case {"json": str(text)}:
            parsed = json.loads(text)
            items = parsed if isinstance(parsed, list) else [parsed]
            return [item if isinstance(item, str) else json.dumps(item) for item in items]
        case _:
            return []
