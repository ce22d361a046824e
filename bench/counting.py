"""Counts the calls that this process makes to storage and to the service, by kind."""

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import httpx2
from azure.core.pipeline.transport import RequestsTransport

from devkit.azurite import Azurite

SERVICE = "service"
_ID = re.compile(r"(?<=/)(?:file-|batch_)[^/]+")


class Calls(Counter[str]):
    """How often each kind of call was made: `<service or part of storage> <method> <what>`."""

    @property
    def at_the_service(self) -> int:
        """Calls of Azure OpenAI."""
        return sum(count for kind, count in self.items() if kind.startswith(f"{SERVICE} "))

    @property
    def at_storage(self) -> int:
        """Calls of blobs, queues and tables."""
        return self.total() - self.at_the_service


@contextlib.contextmanager
def counted(azurite: Azurite) -> Iterator[Calls]:
    """Count all calls that are made while this is open, in any thread; retries count, as they are paid."""
    calls, lock = Calls(), threading.Lock()
    storage_send, service_send = RequestsTransport.send, httpx2.HTTPTransport.handle_request
    parts = dict(re.findall(r"(Blob|Queue|Table)Endpoint=http://([^/]+)/", azurite.connection_string))
    names = {place: name.lower() for name, place in parts.items()}

    def send(transport: Any, request: Any, **options: Any) -> Any:
        with lock:
            calls[_storage_kind(request.method, request.url, names)] += 1
        return storage_send(transport, request, **options)

    def handle_request(transport: Any, request: Any) -> Any:
        with lock:
            calls[f"{SERVICE} {request.method} {_ID.sub('{id}', request.url.path)}"] += 1
        return service_send(transport, request)

    with (
        patch.object(RequestsTransport, "send", send),
        patch.object(httpx2.HTTPTransport, "handle_request", handle_request),
    ):
        yield calls


def _storage_kind(method: str, url: str, names: dict[str, str]) -> str:
    """Return part of storage, method, and the container, queue or table; for a blob, how, where the URL says so."""
    split = urlsplit(url)
    place = split.path.split("/")[2].partition("(")[0]
    how = re.search(r"comp=(\w+)", split.query)
    return f"{names.get(split.netloc, 'other')} {method} {place}{f' ({how[1]})' if how else ''}"
