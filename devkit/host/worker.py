"""The worker: the process in which the app runs. `python -m devkit.host.worker FD APP_DIR`, started by the host.

Microsoft's library azure-functions-runtime does the work, as in Azure: it imports function_app.py, indexes its
functions, and runs each invocation on its thread pool (`def`) or on this loop (`async def`). Here is only what
carries its messages: requests come as lines from a socket whose number the host gives, responses go back on it. What
the app prints or logs goes to stdout and stderr, which are the host's log.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import azure_functions_runtime as library

from devkit.host import messages
from devkit.host.messages import Json

HANDLERS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "worker_init_request": library.worker_init_request,
    "functions_metadata_request": library.functions_metadata_request,
    "function_load_request": library.function_load_request,
    "invocation_request": library.invocation_request,
}


class Channel:
    """The socket to the host. Requests are read on a thread, since a blocking `async def` may hold up the loop."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def read_requests(self) -> None:
        """Start a task for each request. The host closes the socket, or dies: so does this process, at once."""
        with self._socket.makefile("rb") as lines:
            for line in lines:
                self._loop.call_soon_threadsafe(self._start, messages.read_line(line))
        os._exit(0)

    def _start(self, request: Json) -> None:
        task = self._loop.create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Json) -> None:
        response = await HANDLERS[request["kind"]](library_request(request))
        self._socket.sendall(messages.write_line({"id": request["id"], "response": response}))


def library_request(request: Json) -> SimpleNamespace:
    """Return the request as the library reads it: its body under its kind, our message classes among the properties."""
    body = SimpleNamespace(**request["body"])
    if request["kind"] == "invocation_request":
        body.input_data = [
            messages.ParameterBinding(name=name, data=messages.typed_data(value)) for name, value in body.input_data
        ]
        body.trigger_metadata = {name: messages.typed_data(value) for name, value in body.trigger_metadata.items()}
        body.trace_context = SimpleNamespace(trace_parent="", trace_state="", attributes={})
        body.retry_context = SimpleNamespace(retry_count=0, max_retry_count=0, exception=None)
    return SimpleNamespace(
        request=SimpleNamespace(**{request["kind"]: body}), properties={"host": "127.0.0.1", "protos": messages}
    )


def add_invocation_id(record: logging.LogRecord) -> bool:
    """Mark a log record with the invocation whose thread wrote it, as the real worker does; other threads have none."""
    record.invocation = (library.invocation_id_cv.get() or "-")[:8]
    return True


def log_to_the_host() -> None:
    """Send the root logger's INFO and above to the host's log, as the real worker does."""
    handler = logging.StreamHandler()
    handler.addFilter(add_invocation_id)
    handler.setFormatter(logging.Formatter("%(asctime)s app  [%(invocation)s] %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("azure.functions").setLevel(logging.WARNING)  # the library's own chatter


async def main(descriptor: int, app_dir: str) -> None:
    """Serve requests until the host closes the socket."""
    sys.path.insert(0, app_dir)
    log_to_the_host()
    library.start_threadpool_executor()
    threading.Thread(target=Channel(descriptor).read_requests, daemon=True).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the host, which drains and then ends this process
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
