"""The host's side of the worker: starts it, asks it, kills it, and starts it again when it is gone.

Kept: one process runs all invocations, so its end, by a time limit, a crash or out of memory, fails every one of
them. Not kept: the real host gives up after three crashes in half an hour; this one goes on, since its tests kill
workers for a living.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from devkit.host import messages
from devkit.host.configuration import ConfigurationError
from devkit.host.messages import Json

log = logging.getLogger("host")

PROJECT = Path(__file__).parents[2]
LONGEST_LINE = 512 * 1024 * 1024  # bytes: a blob bound as bytes is one message
INIT_SECONDS = 120  # as the real host allows a Python app
STOP_SECONDS = 5
RESTART_SECONDS = 10  # before a worker that keeps failing is started again


class WorkerGone(Exception):  # noqa: N818 - it is an event as much as an error
    """The worker process ended before it answered."""


@dataclass(frozen=True)
class Running:
    """A worker that was started: its process, what writes to it, and the task that reads from it."""

    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter
    reading: asyncio.Task[None]


class WorkerProcess:
    """One worker, alive again whenever it ends, until `stop`."""

    def __init__(self, app_dir: Path, log_file: str) -> None:
        self.functions: list[Json] = []  # as the worker indexed them
        self._app_dir = app_dir
        self._log_file = log_file
        self._current: Running | None = None
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._request_ids = itertools.count(1)
        self._ready = asyncio.Event()
        self._restarting: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def _running(self) -> Running:
        if self._current is None:
            raise WorkerGone("the worker process was never started")
        return self._current

    @property
    def pid(self) -> int:
        """The process id of the worker that runs now."""
        return self._running.process.pid

    async def launch(self) -> None:
        """Start the process, which begins to import what it needs; `index` comes next."""
        ours, theirs = socket.socketpair()
        paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        with theirs, contextlib.ExitStack() as files:
            output = files.enter_context(Path(self._log_file).open("ab")) if self._log_file else sys.stderr
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "devkit.host.worker", str(theirs.fileno()), str(self._app_dir)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                cwd=self._app_dir,
                env=environment,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        self._current = Running(process, writer, asyncio.create_task(self._read(reader, process)))

    async def index(self) -> None:
        """Return when the app is indexed and loaded; ConfigurationError, with the app's traceback, if that fails."""
        try:
            async with asyncio.timeout(INIT_SECONDS):
                initialised = await self._ask(
                    "worker_init_request", {"capabilities": {}, "function_app_directory": str(self._app_dir)}
                )
        except TimeoutError:
            raise ConfigurationError(f"{self._app_dir} did not import within {INIT_SECONDS} s") from None
        if error := failure(initialised):
            raise ConfigurationError(f"the functions of {self._app_dir} could not be indexed: {error}")
        metadata = await self._ask("functions_metadata_request", {})
        if metadata["function_metadata_results"] is None:
            raise ConfigurationError(f"{self._app_dir} has no function_app.py with functions")
        self.functions = metadata["function_metadata_results"]
        for function in self.functions:
            await self._ask("function_load_request", {"function_id": function["function_id"]})
        self._ready.set()

    async def ready(self) -> None:
        """Return when there is a worker to ask: at once, unless one is starting."""
        await self._ready.wait()

    async def invoke(self, body: Json) -> Json:
        """Return the InvocationResponse; WorkerGone if the process ends first."""
        return await self._ask("invocation_request", body)

    def kill(self) -> None:
        """End the process at once; its invocations fail, and another is started."""
        if self._current:
            with contextlib.suppress(ProcessLookupError):
                self._current.process.kill()

    async def stop(self) -> None:
        """End the process, and start no other."""
        self._stopping = True
        if self._restarting:
            self._restarting.cancel()
        if self._current is None:
            return
        self._current.writer.close()  # the worker leaves when its socket closes
        try:
            await asyncio.wait_for(self._current.process.wait(), STOP_SECONDS)
        except TimeoutError:
            self.kill()
        await self._current.reading

    async def _ask(self, kind: str, body: Json) -> Json:
        """Send one request, return its response."""
        request_id = next(self._request_ids)
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        try:
            self._running.writer.write(messages.write_line({"id": request_id, "kind": kind, "body": body}))
            return await answer
        finally:
            del self._waiting[request_id]

    async def _read(self, reader: asyncio.StreamReader, process: asyncio.subprocess.Process) -> None:
        """Hand out responses until the socket closes; then fail what still waits, and start the next worker."""
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                message = messages.read_line(line)
                answer = self._waiting.get(message["id"])
                if answer and not answer.done():
                    answer.set_result(message["response"])
        was_ready = self._ready.is_set()
        self._ready.clear()
        code = await process.wait()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(WorkerGone(f"the worker process exited with code {code}"))
        if was_ready and not self._stopping:
            log.error("The worker process exited with code %s; starting another", code)
            self._restarting = asyncio.create_task(self._restart())

    async def _restart(self) -> None:
        while True:
            try:
                await self.launch()
                return await self.index()
            except (ConfigurationError, WorkerGone) as error:
                log.error("The worker did not start again: %s", error)  # noqa: TRY400 - it carries the app's traceback
                self.kill()
                await asyncio.sleep(RESTART_SECONDS)


def failure(response: Json) -> str:
    """Return the error that a response carries, with its traceback; empty for success."""
    result = response["result"]
    if result["status"] == messages.StatusResult.Success:
        return ""
    error = result.get("exception") or {}
    return f"{error.get('message', 'failed')}\n{error.get('stack_trace', '')}".strip()
