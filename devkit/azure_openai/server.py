"""Routes, API versions, access: the HTTP side of the emulator."""

import re
import tempfile
import time
import uuid
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.typedefs import Handler

from devkit.azure_openai.batch import NewBatch
from devkit.azure_openai.control import control_routes
from devkit.azure_openai.errors import ApiError, invalid
from devkit.azure_openai.files import Expiry
from devkit.azure_openai.listing import limit_of, matching, ordered, page, shape
from devkit.azure_openai.management import management_routes
from devkit.azure_openai.options import Options
from devkit.azure_openai.service import SERVICE, Service

_REGION = "Emulated"
_CHUNK = 256 * 1024
_FIRST_WITH_BATCHES = "2024-07-01"  # source: how-to, section API support
_FIRST_WITH_EXPIRY = "2025-03-01"  # source: reference, section Files
_NO_ACCESS = (
    "Access denied due to invalid subscription key or wrong API endpoint. "
    "Use a key of an active resource, and that resource's own endpoint."
)


class ApiVersion(NamedTuple):
    """The version that a request asks for: a date, or v1, which is later than any date."""

    date: str
    preview: bool

    @property
    def has_expiry(self) -> bool:
        """Whether `expires_after` is more than ignored."""
        return self.date >= _FIRST_WITH_EXPIRY


def api_version(request: web.Request) -> ApiVersion:
    """The version that the request asks for; raises HTTP 404 or 400 if that is none with batches."""
    if request.path.startswith("/openai/v1/"):
        return ApiVersion("v1", preview=False)
    text = request.query.get("api-version", "")
    if text and not re.fullmatch(r"\d{4}-\d\d-\d\d(-preview)?", text):
        raise ApiError(400, "BadRequest", f"'{text}' is not an API version.")
    if text < _FIRST_WITH_BATCHES:
        raise ApiError(404, "404", "Resource not found")
    return ApiVersion(text[:10], text.endswith("-preview"))


def check_access(request: web.Request) -> None:
    """Raise HTTP 401 unless the request has the key, or a bearer token, which is not looked into."""
    key, bearer = request.headers.get("api-key"), request.headers.get("Authorization", "")
    token = bearer.removeprefix("Bearer ").strip() if bearer.startswith("Bearer ") else ""
    if token == "expired":  # noqa: S105 - a word that tests send, not a secret
        raise ApiError(401, "401", "The access token has expired.")
    if key != request.app[SERVICE].api_key and (key is not None or not token):
        raise ApiError(401, "401", _NO_ACCESS)


def _is_api(request: web.Request) -> bool:
    """Whether it is the API that is asked, and not the control surface."""
    return request.path.startswith("/openai/")


@web.middleware
async def _count_and_fault(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request, and let a fault have it if one is set."""
    if not _is_api(request):
        return await handler(request)
    service, resource = request.app[SERVICE], request.match_info.route.resource
    service.requests[f"{request.method} {resource.canonical if resource else request.path}"] += 1
    return await service.faults.handle(request, handler)


@web.middleware
async def _make_error_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with Azure's bodies what was raised."""
    try:
        return await handler(request)
    except ApiError as error:
        api_error = error
    except msgspec.DecodeError as error:
        api_error = ApiError(400, "invalid_request", str(error))
    except web.HTTPClientError as error:
        message = "Resource not found" if error.status == 404 else error.reason
        api_error = ApiError(error.status, str(error.status), message)
    return web.json_response(api_error.body(), status=api_error.status)


@web.middleware
async def _check(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let pass who has access and asks for a version with batches."""
    if _is_api(request):
        check_access(request)
        api_version(request)
    return await handler(request)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    request_id = str(uuid.uuid4())
    if ahead := request.app[SERVICE].options.clock_skew:
        response.headers["Date"] = formatdate(time.time() + ahead, usegmt=True)
    response.headers.update({"apim-request-id": request_id, "x-request-id": request_id, "x-ms-region": _REGION})


# --- files -----------------------------------------------------------------------------------------------------------


async def upload_file(request: web.Request) -> web.Response:
    """POST /files: the content goes to disk as it comes."""
    files = request.app[SERVICE].files
    path = files.new_path()
    try:
        filename, expiry = await _read_upload(request, path)
        file = files.add(path, filename, "batch", expiry)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return web.json_response(files.shape(file))


async def _read_upload(request: web.Request, path: Path) -> tuple[str, Expiry | None]:
    """The file's name and its expiry, when its content is at `path`; raises HTTP 400 or 413."""
    service = request.app[SERVICE]
    limit = service.options.max_file_bytes
    fields, filename, size = await _read_parts(request, path, limit)
    if filename is None:
        raise invalid("Required.", "file")
    if fields.get("purpose") != "batch":
        raise invalid("This emulator takes files of purpose 'batch' only.", "purpose")
    if size > limit:
        raise ApiError(413, "contentTooLarge", f"The file has {size} bytes, the maximum is {limit}.")
    expiry = _expiry(fields) if api_version(request).has_expiry and service.options.honours_expiry else None
    service.files.check_quota(expiry)
    return filename, expiry


async def _read_parts(request: web.Request, path: Path, limit: int) -> tuple[dict[str, str], str | None, int]:
    """The text fields, the name of the file, and its size; content beyond the limit is read, but not kept."""
    fields: dict[str, str] = {}
    filename, size = None, 0
    if not request.content_type.startswith("multipart/"):
        raise ApiError(400, "invalid_request", "The body must be multipart/form-data.")
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            raise ApiError(400, "invalid_request", "Parts within parts are not expected.")
        if part.name != "file":
            fields[part.name or ""] = await part.text()
            continue
        filename = part.filename or "file"
        with path.open("wb") as file:
            while chunk := await part.read_chunk(_CHUNK):
                size += len(chunk)
                if size <= limit:
                    file.write(chunk)
    return fields, filename, size


def _expiry(fields: dict[str, str]) -> Expiry | None:
    """`expires_after`, as a form spells it."""
    seconds, anchor = fields.get("expires_after[seconds]"), fields.get("expires_after[anchor]")
    if seconds is None and anchor is None:
        return None
    if seconds is None or not seconds.isdecimal():
        raise invalid("Must be a number of seconds.", "expires_after.seconds")
    expiry = Expiry(int(seconds), anchor or "")
    expiry.check("expires_after")
    return expiry


async def list_files(request: web.Request) -> web.Response:
    """GET /files."""
    service, query = request.app[SERVICE], request.query
    files = service.files.all(query.get("purpose"))
    if query.get("order") == "asc":
        files.reverse()
    if query.get("api-version") == "2024-10-21":  # it knows no pages. Source: its REST specification, Files_List
        return web.json_response({"object": "list", "data": [service.files.shape(file) for file in files]})
    rows = page(files, query.get("after"), limit_of(query.get("limit", "10000"), 10_000), service.files.shape)
    return web.json_response({"object": "list"} | rows)


async def get_file(request: web.Request) -> web.Response:
    """GET /files/{id}."""
    files = request.app[SERVICE].files
    return web.json_response(files.shape(files.get(request.match_info["id"])))


async def get_content(request: web.Request) -> web.FileResponse:
    """GET /files/{id}/content: sent from disk."""
    file = request.app[SERVICE].files.get(request.match_info["id"])
    return web.FileResponse(file.path, _CHUNK, headers={"Content-Type": "application/octet-stream"})


async def delete_file(request: web.Request) -> web.Response:
    """DELETE /files/{id}."""
    file_id = request.match_info["id"]
    request.app[SERVICE].files.delete(file_id)
    return web.json_response({"id": file_id, "object": "file", "deleted": True})


# --- batches ---------------------------------------------------------------------------------------------------------


async def create_batch(request: web.Request) -> web.Response:
    """POST /batches."""
    service = request.app[SERVICE]
    asked = msgspec.json.decode(await request.read(), type=NewBatch)
    if not api_version(request).has_expiry:
        asked.output_expires_after = None
    batch, headers = await service.batches.create(asked)
    return web.json_response(shape(batch, service.options), headers=headers)


async def list_batches(request: web.Request) -> web.Response:
    """GET /batches; `$filter` and `$orderby` are looked at in dated preview versions only."""
    service, query, version = request.app[SERVICE], request.query, api_version(request)
    batches = service.batches.listed()
    if version.preview and "$filter" in query:
        batches = matching(batches, query["$filter"])
    if version.preview and "$orderby" in query:
        batches = ordered(batches, query["$orderby"])
    limit = limit_of(query.get("limit", "20"), 100)
    rows = page(batches, query.get("after"), limit, lambda batch: shape(batch, service.options))
    # The how-to prints no "object" for the dated list.
    return web.json_response(rows | {"object": "list"} if version.date == "v1" else rows)


async def get_batch(request: web.Request) -> web.Response:
    """GET /batches/{id}."""
    service = request.app[SERVICE]
    return web.json_response(shape(service.batches.get(request.match_info["id"]), service.options))


async def cancel_batch(request: web.Request) -> web.Response:
    """POST /batches/{id}/cancel."""
    service = request.app[SERVICE]
    batch = await service.batches.cancel(request.match_info["id"])
    return web.json_response(shape(batch, service.options))


def _routes(prefix: str) -> list[web.RouteDef]:
    return [
        web.post(f"{prefix}/files", upload_file),
        web.get(f"{prefix}/files", list_files),
        web.get(f"{prefix}/files/{{id}}", get_file),
        web.get(f"{prefix}/files/{{id}}/content", get_content),
        web.delete(f"{prefix}/files/{{id}}", delete_file),
        web.post(f"{prefix}/batches", create_batch),
        web.get(f"{prefix}/batches", list_batches),
        web.get(f"{prefix}/batches/{{id}}", get_batch),
        web.post(f"{prefix}/batches/{{id}}/cancel", cancel_batch),
    ]


def build_app(options: Options, api_key: str) -> web.Application:
    """The emulator as an application; its folder goes when the application is cleaned up."""
    folder = tempfile.TemporaryDirectory(prefix="azure-openai-")
    app = web.Application(middlewares=[_count_and_fault, _make_error_bodies, _check])
    app[SERVICE] = Service(options, api_key, Path(folder.name))
    app.add_routes(_routes("/openai/v1"))
    app.add_routes(_routes("/openai"))
    app.add_routes(control_routes())
    app.add_routes(management_routes())
    app.on_response_prepare.append(_add_headers)

    async def clean_up(app: web.Application) -> None:
        await app[SERVICE].reset()
        folder.cleanup()

    app.on_cleanup.append(clean_up)
    return app
