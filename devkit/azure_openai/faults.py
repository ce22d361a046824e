"""Faults of the network and of the service, injected into requests that fit."""

import asyncio
import random
import re
from typing import Any, Literal

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from devkit.azure_openai.options import Options


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What shall happen, and to which requests.

    `status` answers with it and does nothing else; `drop_before` cuts the connection before anything is done,
    `drop_after` when all is done but nothing answered; `delay` waits, and then goes on as usual.
    """

    kind: Literal["status", "drop_before", "drop_after", "delay"]
    method: str = ""
    """Any method if empty."""
    path: str = ""
    """A regular expression, searched in the path without query."""
    status: int = 500
    headers: dict[str, str] = {}
    body: Any = None
    """JSON of the answer; Azure's error shape with the status if null."""
    seconds: float = 0.0
    """Real seconds of a delay."""
    times: int | None = None
    """How many requests it happens to; null: no end."""
    after: int = 0
    """How many requests that fit are let pass first."""
    probability: float = 1.0

    def answer(self) -> web.Response:
        """The response of a `status` fault."""
        message = f"Injected fault with status {self.status}."
        body = {"error": {"code": str(self.status), "message": message}} if self.body is None else self.body
        return web.json_response(body, status=self.status, headers=self.headers)


class Faults:
    """The faults that are set, first come first served."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._random = random.Random(options.seed)  # noqa: S311 - nothing here is a secret
        self._faults: list[Fault] = []

    def add(self, faults: list[Fault]) -> None:
        """Set more faults."""
        self._faults += faults

    def clear(self) -> None:
        """Set no faults any more; chance starts anew."""
        self._faults.clear()
        self._random.seed(self._options.seed)

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The answer to the request, unless a fault is in its way."""
        fault = self._for(request)
        if fault is None:
            return await handler(request)
        if fault.kind == "status":
            return fault.answer()
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
            return await handler(request)
        if fault.kind == "drop_after":
            await handler(request)
        if request.transport:
            request.transport.abort()
        return web.Response()  # to nobody

    def _for(self, request: web.Request) -> Fault | None:
        for fault in self._faults:
            if fault.method.upper() not in ("", request.method) or not re.search(fault.path, request.path):
                continue
            if fault.after > 0:
                fault.after -= 1
            elif fault.times != 0 and self._random.random() < fault.probability:
                fault.times = None if fault.times is None else fault.times - 1
                return fault
        return None
