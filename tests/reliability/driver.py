"""A process that runs the app's real steps, one after the other, and dies at the call it is told to die at.

It plays the Functions host, single-threaded so that every run makes the same calls: it delivers the drop and the
messages of the real queues to the functions that function_app.py names, ticks, and brings what a user asks. It plays
time: the app's clock stands still, and is put forward where nothing moves. And it plays the service's workers,
while the emulator's own are held. What it does as these is not counted; what the app asks of storage and service is.

A driver is a fork of a process that has imported everything but holds nothing of the app: a life costs no start, and
death, by `os._exit`, takes all state with it.
"""

import functools
import inspect
import json
import logging
import os
import re
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import azure.functions as func
import httpx2
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.queue import QueueClient, TextBase64DecodePolicy

from batch_fn.runtime import clock
from batch_fn.steps import polling
from batch_fn.storage.rows import JOB_ROW
from tests.reliability.checks import Place, work_left, work_rows
from tests.reliability.drops import Dropped

KILLED = 137
"""The exit code of a process that was ended by SIGKILL, as out of memory ends one."""

ROUNDS = 40
"""Quiet must come within so many rounds of deliveries and ticks."""

LEAP_SECONDS = 10
"""How far the clock is put forward when nothing moves."""

ENDS = {"validating": "completed", "cancelling": "cancelled"}
"""How the service's workers end a batch."""

HIDDEN_SECONDS = 120
MAX_DELIVERIES = 5


@dataclass(frozen=True)
class Death:
    """The process ends at that call, counted from 1: before it is sent, or before anybody sees its answer."""

    call: int
    when: Literal["before", "after"]

    def __str__(self) -> str:
        return f"{self.call}:{self.when}"


@dataclass(frozen=True)
class Ask:
    """What a user asks for the job by the HTTP API, again and again until there is an answer.

    Where there is one, what the app calls before it is asked is not counted.
    """

    what: Literal["cancel", "retry"]
    states: frozenset[str] = frozenset()
    """It is asked as soon as the states of the job's parts are these; at once, if there are none."""


@dataclass(frozen=True)
class Answer:
    """What the user was told."""

    status: int
    batches: frozenset[str]
    """The ids of all batches that were at the service then."""


@dataclass
class Life:
    """What was told of one life of a driver."""

    calls: list[str] = field(default_factory=list)
    """Each call of the app to storage or service, in order."""
    errors: list[str] = field(default_factory=list)
    """Steps that raised."""
    answer: Answer | None = None
    """To what the user asked."""
    held: tuple[str, str, str] | None = None
    """Queue, id and pop receipt of the message that was being worked on."""
    quiet: bool = False
    """Nothing was left to do."""
    exit_code: int = 0


def live(
    place: Place,
    environment: dict[str, str],
    dropped: Dropped,
    *,
    event: bool,
    ask: Ask | None = None,
    death: Death | None = None,
) -> Life:
    """Let a driver live until all is quiet, or until its death; `event`: it is told of the drop."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.environ.update(environment)
        logging.disable()
        try:
            _Driver(place, Calls(death, _Telling(writing)), _Telling(writing), dropped, ask).run(event=event)
        except BaseException:  # noqa: BLE001 - the parent is to hear of it, whatever it was
            _Telling(writing)("errors", traceback.format_exc())
        os._exit(0)
    os.close(writing)
    life = Life()
    with os.fdopen(reading) as lines:
        for line in lines:
            match json.loads(line):
                case ["calls", call]:
                    life.calls.append(call)
                case ["errors", error]:
                    life.errors.append(error)
                case ["answer", status, batches]:
                    life.answer = Answer(status, frozenset(batches))
                case ["held", held]:
                    life.held = tuple(held) if held else None
                case ["quiet", quiet]:
                    life.quiet = quiet
    life.exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return life


class _Telling:
    """Tells the parent, at once: the next moment may be the last."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def __call__(self, what: str, *values: object) -> None:
        os.write(self._pipe, json.dumps([what, *values]).encode() + b"\n")


class Calls:
    """Counts what the app asks of storage and service, in one sequence, and ends the process where it is to die."""

    def __init__(self, death: Death | None, tell: Callable[..., None]) -> None:
        self._death = death
        self._tell = tell
        self._count = 0
        self._counting = False

    @contextmanager
    def counted(self) -> Iterator[None]:
        """What is sent in here is the app's."""
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def wrap_transports(self) -> None:
        """Stand between the SDKs and the network."""
        send_to_storage, send_to_service = RequestsTransport.send, httpx2.HTTPTransport.handle_request

        def to_storage(transport: Any, request: Any, **options: Any) -> Any:
            return self._through(_storage_call(request), lambda: send_to_storage(transport, request, **options))

        def to_service(transport: Any, request: Any) -> Any:
            return self._through(_service_call(request), lambda: send_to_service(transport, request))

        setattr(RequestsTransport, "send", to_storage)  # noqa: B010 - a type checker does not let a method be assigned
        setattr(httpx2.HTTPTransport, "handle_request", to_service)  # noqa: B010

    def _through(self, call: str, send: Callable[[], Any]) -> Any:
        if not self._counting:
            return send()
        self._count += 1
        number = self._count  # an upload asks storage for its content while it is sent
        self._tell("calls", call)
        if self._death == Death(number, "before"):
            os._exit(KILLED)
        answer = send()
        if self._death == Death(number, "after"):
            os._exit(KILLED)
        return answer


def _storage_call(request: Any) -> str:
    """Name a call by its method and what it is about: `tables POST work`, `blobs PUT archive (comp=copy)`."""
    url = urlsplit(request.url)
    _, _, about = url.path.removeprefix("/").partition("/")
    first = re.sub(r"^r\d+x\d+-?", "", re.split(r"[/(]", about)[0])
    comp = parse_qs(url.query).get("comp", [""])[0]
    if not comp and "x-ms-copy-source" in request.headers:
        comp = "copy"
    kind = "tables" if "DataServiceVersion" in request.headers else "queues" if "/messages" in about else "blobs"
    return f"{kind} {request.method} {first}{f' ({comp})' if comp else ''}"


def _service_call(request: Any) -> str:
    path = re.sub(r"(file-|batch_)[0-9a-f-]+", r"{\1id}", request.url.path)
    return f"service {request.method} {path}"


class _Clock:
    """The app's clock, which goes only when it is put forward: a busy machine lets no claim end."""

    def __init__(self) -> None:
        self._now = clock.now()
        clock.now = self._tell

    def leap(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)

    def _tell(self) -> datetime:
        self._now += timedelta(milliseconds=1)  # no two moments are the same
        return self._now


class _Driver:
    """The host, the time and the service's workers around one app."""

    def __init__(
        self, place: Place, calls: Calls, tell: Callable[..., None], dropped: Dropped, ask: Ask | None
    ) -> None:
        self._place, self._calls, self._tell, self._dropped, self._ask = place, calls, tell, dropped, ask
        self._counts = ask is None
        self._clock = _Clock()
        self._queue = functools.cache(
            functools.partial(
                QueueClient.from_connection_string,
                place.connection_string,
                message_decode_policy=TextBase64DecodePolicy(),
            )
        )
        polling.MAX_CONCURRENCY = 1  # the looks of a tick one after the other
        calls.wrap_transports()
        import function_app  # made with the settings of this life

        self._functions: dict[str, list[Any]] = defaultdict(list)
        for each in function_app.app.get_functions():
            self._functions[str(getattr(each.get_trigger(), "type", None))].append(each)

    def run(self, *, event: bool) -> None:
        """Deliver and tick until nothing is left to do; then once more, much later, to see that nothing begins anew."""
        self._let_user_ask()
        if event:
            self._deliver_drop(self._dropped.drop.name)
        for _ in range(ROUNDS):
            delivered = self._deliver_messages()
            self._tick()
            worked = self._let_service_work()
            if worked:
                self._tick()
            delivered += self._deliver_messages()
            if not self._ask and not any(work_left(self._place)):
                break
            if not delivered and not worked:
                self._clock.leap(LEAP_SECONDS)
        else:
            return
        self._clock.leap(10 * LEAP_SECONDS)
        self._tick()
        self._deliver_messages()
        self._tell("quiet", True)

    def _deliver_drop(self, name: str) -> None:
        blob = self._place.user.blobs.get_blob_client(self._place.settings.input_container, name)
        if blob.exists():  # the host does not call the function for a blob that is gone
            [function] = self._functions["blobTrigger"]
            self._run(function, blob)

    def _tick(self) -> None:
        [function] = self._functions["timerTrigger"]
        self._run(function, None)

    def _deliver_messages(self) -> int:
        """Deliver every message, those included that come of it. Return how many there were."""
        delivered = 0
        # No message ever gets to a poison queue here: a step that raises is a finding in itself.
        functions = [each for each in self._functions["queueTrigger"] if not _queue_of(each).endswith("-poison")]
        while some := sum(self._deliver_next(function) for function in functions):
            delivered += some
        return delivered

    def _deliver_next(self, function: Any) -> bool:
        """Deliver the queue's next message, and delete it if all went well. Return whether there was one."""
        queue = self._queue(_queue_of(function))
        message = queue.receive_message(visibility_timeout=HIDDEN_SECONDS)
        if message is None:
            return False
        self._tell("held", [queue.queue_name, message.id, message.pop_receipt])
        if self._run(function, func.QueueMessage(id=message.id, body=message.content)):
            queue.delete_message(message)
        elif (message.dequeue_count or 0) < MAX_DELIVERIES:
            queue.update_message(message.id, message.pop_receipt, visibility_timeout=0)
        self._tell("held", None)
        return True

    def _let_user_ask(self) -> None:
        """If it is time, let the user ask; what is no job yet is asked for again."""
        ask = self._ask
        if ask is None or (ask.states and ask.states != self._states_of_parts()):
            return
        self._ask, self._counts = None, True
        job_id = self._dropped.job_id
        [function] = [each for each in self._functions["httpTrigger"] if each.get_function_name() == ask.what]
        request = func.HttpRequest("POST", f"/api/jobs/{job_id}/{ask.what}", route_params={"id": job_id}, body=b"")
        answer = self._call(function, request)
        if answer is None or answer.status_code == HTTPStatus.NOT_FOUND:
            self._ask = ask
            return
        self._tell("answer", answer.status_code, [batch["id"] for batch in self._place.service.batches()])

    def _states_of_parts(self) -> set[str]:
        rows = work_rows(self._place, self._dropped.job_id)
        return {str(row["state"]) for row in rows if row["RowKey"] != JOB_ROW}

    def _run(self, function: Any, value: Any) -> bool:
        """Run a function, and then let the user ask. Return whether it came to its end without an error."""
        ended = self._call(function, value) is not None
        self._let_user_ask()
        return ended

    def _call(self, function: Any, value: Any) -> Any:
        """Run a function as the host does. Return its answer, true if it gives none; None if it raised an error."""
        run, given = function.get_user_function(), {function.get_trigger().name: value}
        if "context" in inspect.signature(run).parameters:
            given["context"] = SimpleNamespace(invocation_id="", thread_local_storage=threading.local())
        try:
            with self._calls.counted() if self._counts else nullcontext():
                return run(**given) or True
        except Exception:  # noqa: BLE001 - whatever it was, the message comes again
            self._tell("errors", f"{function.get_function_name()} raised {traceback.format_exc()}")
            return None

    def _let_service_work(self) -> int:
        """Let the service work off every batch that it has, or stop it. Return how many there were."""
        open_batches = [batch for batch in self._place.service.batches() if batch["status"] in ENDS]
        for batch in open_batches:
            self._place.service.end_batch(batch["id"], ENDS[batch["status"]])
        return len(open_batches)


def _queue_of(function: Any) -> str:
    return str(function.get_trigger().queue_name)
