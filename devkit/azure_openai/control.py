"""The control surface of tests, under /control and with no key: what no client of the service can do."""

from typing import Any

import msgspec
from aiohttp import web

from devkit.azure_openai.faults import Fault
from devkit.azure_openai.listing import shape
from devkit.azure_openai.options import Options, Status
from devkit.azure_openai.service import SERVICE


class End(msgspec.Struct, forbid_unknown_fields=True):
    """How a batch shall end at once; `code` is for `failed`."""

    status: Status
    code: str = "internal_error"


_PLAIN = Options()


async def change_options(request: web.Request) -> web.Response:
    """PATCH /control/options `{name: value}`: all options, as they are now."""
    service = request.app[SERVICE]
    service.change_options(msgspec.json.decode(await request.read(), type=dict[str, Any]))
    return web.json_response(msgspec.to_builtins(service.options))


async def get_state(request: web.Request) -> web.Response:
    """GET /control/state: options, clock, quota, and every batch (newest first, without quirks) and file."""
    service = request.app[SERVICE]
    batches = [
        shape(batch, _PLAIN) | {"deployment": batch.deployment, "tokens": batch.tokens}
        for batch in service.batches.all()
    ]
    state = {
        "options": msgspec.to_builtins(service.options),
        "held": service.clock.held,
        "service_seconds": service.clock.now(),
        "enqueued_tokens": dict(service.quota.enqueued),
        "batches": batches,
        "files": [service.files.shape(file) for file in service.files.all()],
    }
    return web.json_response(state)


async def hold(request: web.Request) -> web.Response:
    """POST /control/hold: no batch moves on."""
    request.app[SERVICE].clock.change(held=True)
    return web.json_response({"held": True})


async def release(request: web.Request) -> web.Response:
    """POST /control/release: batches move on."""
    request.app[SERVICE].clock.change(held=False)
    return web.json_response({"held": False})


async def add_faults(request: web.Request) -> web.Response:
    """POST /control/faults `[{...}]`."""
    faults = msgspec.json.decode(await request.read(), type=list[Fault])
    request.app[SERVICE].faults.add(faults)
    return web.json_response({"added": len(faults)})


async def clear_faults(request: web.Request) -> web.Response:
    """DELETE /control/faults."""
    request.app[SERVICE].faults.clear()
    return web.json_response({})


async def get_executions(request: web.Request) -> web.Response:
    """GET /control/executions: how often each line was executed."""
    return web.json_response(request.app[SERVICE].batches.execution.executions.all())


async def get_requests(request: web.Request) -> web.Response:
    """GET /control/requests: how many requests came for each method and route."""
    return web.json_response(dict(request.app[SERVICE].requests))


async def end_batch(request: web.Request) -> web.Response:
    """POST /control/batches/{id}/end `{"status", "code"}`: the batch, which ended so with what was executed."""
    asked = msgspec.json.decode(await request.read(), type=End)
    batch = await request.app[SERVICE].batches.end(request.match_info["id"], asked.status, asked.code)
    return web.json_response(shape(batch, _PLAIN))


async def reset(request: web.Request) -> web.Response:
    """POST /control/reset: as at the start."""
    await request.app[SERVICE].reset()
    return web.json_response({})


def control_routes() -> list[web.RouteDef]:
    """The routes of the control surface."""
    return [
        web.patch("/control/options", change_options),
        web.get("/control/state", get_state),
        web.post("/control/hold", hold),
        web.post("/control/release", release),
        web.post("/control/faults", add_faults),
        web.delete("/control/faults", clear_faults),
        web.get("/control/executions", get_executions),
        web.get("/control/requests", get_requests),
        web.post("/control/batches/{id}/end", end_batch),
        web.post("/control/reset", reset),
    ]
