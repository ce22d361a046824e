"""Captures rows, messages, blobs and reports as this version writes them: `python -m tests.upgrade.capture`.

It runs the app's own functions on the devkit's Azurite and Azure OpenAI emulator, one job for each stage, and stops
each job at its stage. A stage in the middle of a step is reached by ending the step at one of its calls, as the end of
its process would. The files of tests/payloads/upgrade are written anew: run it after a change of what is stored, and
say so in CHANGELOG.md.
"""

import inspect
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import azure.functions as func
import httpx2
from azure.core.pipeline.transport import RequestsTransport
from azure.data.tables import TableServiceClient
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueClient, QueueMessage, TextBase64DecodePolicy

from batch_fn.core.names import job_id, result_path
from batch_fn.settings import Settings
from devkit.azure_openai.process import AzureOpenAI
from devkit.azurite import Azurite
from devkit.stack import provision
from devkit.user import User
from tests.upgrade.stage import FOLDER, Stage, take_snapshot, write_stage

SETTINGS = {
    "BUNDLE_SECONDS": "1",
    "BUNDLE_BYTES": "300",
    "CLAIM_SECONDS": "20",
    "RESEND_SECONDS": "20",
    "QUOTA_BACKOFF_SECONDS": "1",
    "DOCTOR_SECONDS": "0",
    "PRICES": "first-batch=0.1/0.4, second-batch=0.2/0.8",
}
"""A short line may share a batch, a long one may not. What a stage waits for is due soon after it is restored."""

MESSAGE_SECONDS = 30
TOKEN_LIMIT = 1_000_000


class KilledError(BaseException):
    """The process is killed here: no handler of the app may run."""


class Capture:
    """The app's functions, called one by one, and everything around them."""

    def __init__(self, azurite: Azurite, service: AzureOpenAI) -> None:
        self.service = service
        self.settings = Settings.read()
        self.user = User(azurite.connection_string, self.settings)
        self._storage = azurite.connection_string
        self._kills: Callable[[str, str], bool] = lambda method, url: False  # noqa: ARG005
        self._wrap_transports()
        import function_app  # made with the settings of this process

        self._functions = {each.get_function_name(): each for each in function_app.app.get_functions()}

    def drop(self, name: str, *lines: bytes, deployment: str | None = None) -> str:
        """Drop a file and have it read. Return the path of its results."""
        path = self.user.drop(name, b"".join(line + b"\n" for line in lines), deployment=deployment)
        self._call("drop", self.user.blobs.get_blob_client(self.settings.input_container, name))
        return path

    def path_of(self, name: str) -> str:
        """Return the path of the results of a file in the inbox."""
        there = self.user.blobs.get_blob_client(self.settings.input_container, name).get_blob_properties()
        return result_path(name, job_id(there.container, name, there.etag, there.last_modified))

    def deliver(self, name: str) -> None:
        """Deliver the next message of a function's queue, as soon as it can be seen."""
        queue = self._queue(name)
        message = self._next(queue)
        self._call(name, func.QueueMessage(id=message.id, body=message.content))
        queue.delete_message(message)

    def tick(self) -> None:
        """Let the timer tick."""
        self._call("tick", None)

    def ask(self, what: str, path: str) -> None:
        """Cancel or retry a job by the HTTP API."""
        job_id = path.rpartition("/")[2]
        request = func.HttpRequest("POST", f"/api/jobs/{job_id}/{what}", route_params={"id": job_id}, body=b"")
        answer = self._call(what, request)
        assert answer.status_code == 202, answer.get_body()

    def end_batches(self) -> None:
        """Let the service end every batch, and the app see it."""
        for batch in self.service.batches():
            if batch["status"] == "validating":
                self.service.end_batch(batch["id"], "completed")
        self.tick()

    def run_to_end(self) -> None:
        """Carry a job whose first part is open to its end, over a second attempt."""
        self.end_batches()
        self.deliver("collect")
        self.deliver("submit")
        self.end_batches()
        self.deliver("collect")

    @contextmanager
    def killed_at(self, method: str, path: str) -> Iterator[None]:
        """End the step inside at its first call of that method whose URL holds `path`, before it is sent."""
        self._kills = lambda called, url: called == method and path in url
        try:
            yield
        except KilledError:
            return
        finally:
            self._kills = lambda method, url: False  # noqa: ARG005
        raise AssertionError(f"no call was {method} {path}")

    def snapshot(self) -> Stage:
        """Return everything that is stored now."""
        return take_snapshot(self._storage, self.settings, self.service)

    def clear(self) -> None:
        """Delete everything that is stored."""
        self.service.reset()
        self.service.options(token_limit=TOKEN_LIMIT)
        self.service.hold()
        tables = TableServiceClient.from_connection_string(self._storage)
        for table in map(tables.get_table_client, self.settings.tables):
            for entity in [*table.list_entities()]:
                table.delete_entity(entity)
        for name in self.settings.queues:
            QueueClient.from_connection_string(self._storage, name).clear_messages()
        blobs = BlobServiceClient.from_connection_string(self._storage)
        for container in map(blobs.get_container_client, self.settings.containers):
            for blob in [*container.list_blob_names()]:
                container.delete_blob(blob)

    def _queue(self, name: str) -> QueueClient:
        queue_name = str(self._trigger(name).queue_name)
        policy = TextBase64DecodePolicy()
        return QueueClient.from_connection_string(self._storage, queue_name, message_decode_policy=policy)

    def _next(self, queue: QueueClient) -> QueueMessage:
        end = time.monotonic() + MESSAGE_SECONDS
        while (message := queue.receive_message(visibility_timeout=MESSAGE_SECONDS)) is None:
            assert time.monotonic() < end, f"no message came to {queue.queue_name}"
            time.sleep(0.05)
        return message

    def _trigger(self, name: str) -> Any:
        return self._functions[name].get_trigger()

    def _call(self, name: str, value: Any) -> Any:
        run, given = self._functions[name].get_user_function(), {self._trigger(name).name: value}
        if "context" in inspect.signature(run).parameters:
            given["context"] = SimpleNamespace(invocation_id="", thread_local_storage=threading.local())
        return run(**given)

    def _wrap_transports(self) -> None:
        """Stand between the SDKs and the network."""
        send_to_storage, send_to_service = RequestsTransport.send, httpx2.HTTPTransport.handle_request

        def to_storage(transport: Any, request: Any, **options: Any) -> Any:
            if self._kills(request.method, request.url):
                raise KilledError
            return send_to_storage(transport, request, **options)

        def to_service(transport: Any, request: Any) -> Any:
            if self._kills(request.method, str(request.url)):
                raise KilledError
            return send_to_service(transport, request)

        setattr(RequestsTransport, "send", to_storage)  # noqa: B010 - a type checker does not let a method be assigned
        setattr(httpx2.HTTPTransport, "handle_request", to_service)  # noqa: B010


def line(custom_id: str, text: str = "Hello", **model: str) -> bytes:
    """Return a request."""
    body = model | {"messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/chat/completions", "body": body}).encode()


def drop(capture: Capture, stage: str) -> str:
    """Drop a file of four lines: two are answered, one is answered on the second attempt, one fails until a retry.

    Each is too long for a bundle, so that no message is delayed.
    """
    texts = (f"{text} {'and so on ' * 20}" for text in ("Hello", "Good day", "[[status 500 x1]]", "[[status 400 x1]]"))
    lines = [line(f"{stage}-{number}", text, model="first-batch") for number, text in enumerate(texts, start=1)]
    return capture.drop(f"upgrade/{stage}.jsonl", *lines)


def dropped(capture: Capture, stage: str) -> list[str]:
    """The job's row is there; the file is not copied yet."""
    with capture.killed_at("PUT", f"/{capture.settings.archive_container}/"):
        drop(capture, stage)
    [name] = capture.user.inbox()
    return [capture.path_of(name)]


def accepted(capture: Capture, stage: str) -> list[str]:
    """Lines of two deployments alternate, so they are picked; the model of the first is to be filled in."""
    models: tuple[dict[str, str], ...] = (
        {},
        {"model": "second-batch"},
        {"model": "first-batch"},
        {"model": "second-batch"},
    )
    lines = [line(f"{stage}-{number}", **model) for number, model in enumerate(models, start=1)]
    return [capture.drop(f"upgrade/{stage}.jsonl", *lines, deployment="first-batch")]


def refused(capture: Capture, stage: str) -> list[str]:
    """The service had no room for the part's tokens."""
    path = drop(capture, stage)
    capture.service.options(token_limit=1)
    capture.deliver("submit")
    return [path]


def sending(capture: Capture, stage: str) -> list[str]:
    """The file is uploaded, and the create is about to be sent."""
    path = drop(capture, stage)
    with capture.killed_at("POST", "/batches"):
        capture.deliver("submit")
    return [path]


def opened(capture: Capture, stage: str) -> list[str]:
    """The service has the batch, and the tick has asked for it."""
    path = drop(capture, stage)
    capture.deliver("submit")
    capture.tick()
    return [path]


def ended(capture: Capture, stage: str) -> list[str]:
    """The batch has ended; its results are not collected."""
    path = drop(capture, stage)
    capture.deliver("submit")
    capture.end_batches()
    return [path]


def second_attempt(capture: Capture, stage: str) -> list[str]:
    """Three lines have their result, one waits for its second attempt."""
    path = drop(capture, stage)
    capture.deliver("submit")
    capture.end_batches()
    capture.deliver("collect")
    return [path]


def finishing(capture: Capture, stage: str) -> list[str]:
    """Output and errors are written, the report is not."""
    path = drop(capture, stage)
    capture.deliver("submit")
    with capture.killed_at("PUT", f"/{capture.settings.reports_container}/"):
        capture.run_to_end()
    return [path]


def finished(capture: Capture, stage: str) -> list[str]:
    """The job is done."""
    path = drop(capture, stage)
    capture.deliver("submit")
    capture.run_to_end()
    return [path]


def retrying(capture: Capture, stage: str) -> list[str]:
    """A retry was asked for."""
    [path] = finished(capture, stage)
    capture.ask("retry", path)
    return [path]


def retried(capture: Capture, stage: str) -> list[str]:
    """The failed line waits for its new attempt, the answers from before are kept."""
    [path] = retrying(capture, stage)
    capture.deliver("drop_found")
    return [path]


def cancelling(capture: Capture, stage: str) -> list[str]:
    """A cancel was asked for while the service had the batch."""
    path = drop(capture, stage)
    capture.deliver("submit")
    capture.ask("cancel", path)
    return [path]


def bundled(capture: Capture, stage: str) -> list[str]:
    """Two jobs share a batch."""
    names = (f"{stage}-left", f"{stage}-right")
    paths = [capture.drop(f"upgrade/{name}.jsonl", line(name, model="first-batch")) for name in names]
    for _ in paths:  # the first message makes the bundle, and the second finds nothing left to send
        capture.deliver("submit")
    return paths


def rejected(capture: Capture, stage: str) -> list[str]:
    """The file had a finding."""
    return [capture.drop(f"upgrade/{stage}.jsonl", line(f"{stage}-1", model="first-batch"), b"no JSON")]


STAGES = (
    dropped,
    accepted,
    refused,
    sending,
    opened,
    ended,
    second_attempt,
    finishing,
    finished,
    retrying,
    retried,
    cancelling,
    bundled,
    rejected,
)


def main(folder: Path) -> None:
    """Capture every stage."""
    folder.mkdir(parents=True, exist_ok=True)
    with Azurite() as azurite, AzureOpenAI() as service:
        storage = azurite.connection_string
        os.environ |= SETTINGS | {"AzureWebJobsStorage": storage, "BatchStorage": storage}
        os.environ |= {"AZURE_OPENAI_ENDPOINT": service.url, "AZURE_OPENAI_API_KEY": service.api_key}
        provision(storage, Settings.read())
        capture = Capture(azurite, service)
        for stage in STAGES:
            capture.clear()
            paths = stage(capture, stage.__name__)
            write_stage({"paths": paths, **capture.snapshot()}, stage.__name__, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
