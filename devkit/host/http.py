"""HTTP: the app's routes, the admin routes, and the blob extension's webhook, all on one port.

Kept: routes with parameters and `:int` and the like; 404 for another method; levels anonymous, function and admin; a
key in the header x-functions-key or in the query's code, 401 with an empty body without one; 500 for a function that
fails, 204 for one that answers nothing; bodies of at most 100 MB. As in Azure and unlike `func start`, keys are
always asked for.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import hdrs, web

from devkit.host.bindings import Function
from devkit.host.configuration import ConfigurationError, HostJson
from devkit.host.events import EventGridWebhook
from devkit.host.invocations import Invoke, Result
from devkit.host.keys import Keys
from devkit.host.messages import Json

LARGEST_BODY = 104_857_600  # bytes: the real host's default

CONSTRAINTS = {
    "": "[^/]+",
    "alpha": "[A-Za-z]+",
    "bool": "[Tt]rue|[Ff]alse",
    "guid": "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "int": r"-?\d+",
    "long": r"-?\d+",
}


@dataclass(frozen=True)
class Route:
    """One HTTP function and the paths that it answers."""

    function: Function
    path: re.Pattern[str]
    methods: frozenset[str]  # empty: every method
    level: str  # anonymous, function or admin
    rank: tuple[bool, ...]  # literal segments go before parameters

    def match(self, request: web.Request) -> dict[str, str] | None:
        """Return the route's parameters for a request, None if it is for another route."""
        match = self.path.fullmatch(request.path)
        if not match or (self.methods and request.method not in self.methods):
            return None
        return {name: value for name, value in match.groupdict().items() if value is not None}


def read_route(function: Function, prefix: str) -> Route:
    """Return the route of an HTTP function: its own, or its name, behind the prefix of host.json."""
    route = str(function.trigger.get("route") or function.name).strip("/")
    segments = [segment for segment in f"{prefix}/{route}".split("/") if segment]
    expression = "".join(_segment_expression(segment, function.name) for segment in segments)
    return Route(
        function=function,
        path=re.compile(expression + "/?", re.IGNORECASE),
        methods=frozenset(method.upper() for method in function.trigger.get("methods") or []),
        level=str(function.trigger.get("authLevel") or "function").lower(),
        rank=tuple("{" in segment for segment in segments),
    )


def _segment_expression(segment: str, function_name: str) -> str:
    """Return the regular expression for a segment: a literal, `{name}`, `{name?}`, `{name:int}` or `{*rest}`."""
    parameter = re.fullmatch(r"\{(\*?)(\w+)(?::(\w+))?(\??)\}", segment)
    if not parameter:
        return "/" + re.escape(segment)
    rest, name, constraint, optional = parameter.groups()
    if (constraint or "") not in CONSTRAINTS:
        raise ConfigurationError(
            f"the route of function {function_name} has {segment}: this host knows no such constraint"
        )
    expression = f"/(?P<{name}>{'.*' if rest else CONSTRAINTS[constraint or '']})"
    return f"(?:{expression})?" if optional or rest else expression


class HttpServer:
    """The host's port; `url` is there after `start`."""

    def __init__(
        self,
        functions: list[Function],
        host_json: HostJson,
        keys: Keys,
        invoke: Invoke,
        webhook: EventGridWebhook,
        status: Callable[[], Json],
        run_by_hand: Callable[[Function, str], Awaitable[None]],
        drain_seconds: float,
    ) -> None:
        http_functions = [function for function in functions if function.trigger["type"] == "httpTrigger"]
        routes = [read_route(function, host_json.route_prefix) for function in http_functions]
        self._routes = sorted(routes, key=lambda route: route.rank)
        self._functions = {function.name: function for function in functions}
        self._keys = keys
        self._invoke = invoke
        self._webhook = webhook
        self._status = status
        self._run_by_hand = run_by_hand
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=drain_seconds)
        self.url = ""

    async def start(self, port: int) -> None:
        """Listen on 127.0.0.1; port 0 is a free one."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Take no more requests, and wait `drain_seconds` for those that run."""
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_get("/", self._home)
        application.router.add_get("/admin/host/ping", self._home)
        application.router.add_post(
            "/runtime/webhooks/blobs", self._guard(self._keys.open_webhook, self._webhook.answer)
        )
        admin: list[tuple[str, str, Callable[[web.Request], Awaitable[web.Response]]]] = [
            (hdrs.METH_GET, "/admin/host/status", self._host_status),
            (hdrs.METH_GET, "/admin/host/systemkeys/blobs_extension", self._system_key),
            (hdrs.METH_GET, "/admin/functions", self._list_functions),
            (hdrs.METH_POST, "/admin/functions/{name}", self._run_function),
        ]
        for method, path, handler in admin:
            application.router.add_route(method, path, self._guard(self._keys.open_admin, handler))
        application.router.add_route("*", "/{path:.*}", self._call_function)
        return application

    def _guard(
        self, opens: Callable[[str], bool], handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Return the handler behind a key: 401 without the right one."""

        async def guarded(request: web.Request) -> web.Response:
            return await handler(request) if opens(given_key(request)) else web.Response(status=401)

        return guarded

    async def _home(self, _request: web.Request) -> web.Response:
        return web.Response(text="Your Azure Function App is up and running.")

    async def _host_status(self, _request: web.Request) -> web.Response:
        return web.json_response(self._status())

    async def _system_key(self, _request: web.Request) -> web.Response:
        return web.json_response({"name": "blobs_extension", "value": self._keys.blobs_extension})

    async def _list_functions(self, _request: web.Request) -> web.Response:
        listed = [
            {"name": function.name, "config": {"bindings": [function.trigger]}} for function in self._functions.values()
        ]
        return web.json_response(listed)

    async def _run_function(self, request: web.Request) -> web.Response:
        """Run a function by hand with the body's "input"; 202 as soon as it is on its way."""
        function = self._functions.get(request.match_info["name"])
        if function is None:
            return web.Response(status=404)
        body = await request.json() if request.can_read_body else {}
        await self._run_by_hand(function, str(body.get("input", "")))
        return web.Response(status=202)

    async def _call_function(self, request: web.Request) -> web.Response:
        for route in self._routes:
            parameters = route.match(request)
            if parameters is not None:
                break
        else:
            return web.Response(status=404)
        if not self._may_call(route, given_key(request)):
            return web.Response(status=401)
        value = {"http": await request_value(request, parameters)}
        reason = "This function was programmatically called via the host APIs."
        return http_response(await self._invoke(route.function, value, {}, reason))

    def _may_call(self, route: Route, key: str) -> bool:
        match route.level:
            case "anonymous":
                return True
            case "function":
                return self._keys.open_function(key)
            case _:
                return self._keys.open_admin(key)


def given_key(request: web.Request) -> str:
    """Return the key that a request carries: the header's, or else the query's; empty without one."""
    return request.headers.get("x-functions-key") or request.query.get("code", "")


async def request_value(request: web.Request, parameters: dict[str, str]) -> Json:
    """Return a request as the worker takes it; the body is bytes, of whatever type it is."""
    return {
        "method": request.method,
        "url": str(request.url),
        "headers": {name: ",".join(request.headers.getall(name)) for name in request.headers},
        "params": parameters,
        "query": {name: ",".join(request.query.getall(name)) for name in request.query},
        "body": {"bytes": await request.read()},
    }


def http_response(result: Result) -> web.Response:
    """Return what a function answered: an HttpResponse, or a text."""
    if not result.succeeded:
        return web.Response(status=HTTPStatus.INTERNAL_SERVER_ERROR)
    match result.return_value:
        case {"http": {"status_code": status, "headers": headers, "body": body, "cookies": cookies}}:
            response = web.Response(status=int(status), headers=headers, body=body["bytes"])
            for cookie in cookies or []:
                response.headers.add(hdrs.SET_COOKIE, cookie_header(cookie))
            return response
        case {"string": str(text)}:
            return web.Response(text=text)
        case _:
            return web.Response(status=HTTPStatus.NO_CONTENT)


def cookie_header(cookie: Json) -> str:
    """Return a cookie as a Set-Cookie header."""
    parts = [f"{cookie['name']}={cookie['value']}"]
    for member, name in {"domain": "Domain", "path": "Path", "max_age": "Max-Age"}.items():
        if cookie[member] and cookie[member]["value"]:
            parts.append(f"{name}={cookie[member]['value']}")
    for member, name in {"secure": "Secure", "http_only": "HttpOnly"}.items():
        if cookie[member] and cookie[member]["value"]:
            parts.append(name)
    return "; ".join(parts)
