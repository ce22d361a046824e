"""Tries what the app asks of Azure OpenAI, each once, with plain HTTP, so that every status and header is seen."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from batch_fn.azure_openai.credentials import owner_of, token_provider
from batch_fn.runtime import clock

if TYPE_CHECKING:
    import httpx2

    from batch_fn.settings import Settings

MOST_FILES = 10_000
"""Source: how-to, "Batch limits": so many with expiry, 500 without."""

SECONDS = 15.0
FILE_NAME = "batch-fn-doctor.jsonl"
MANAGEMENT_VERSION = "2024-10-01"
CONTENT = b'{"custom_id": "doctor", "method": "POST", "url": "/chat/completions", "body": {"model": "doctor"}}\n'


class ServiceRefusedError(Exception):
    """The service refused a call, or could not be reached: `doing` says which call, `code` is the service's own."""

    def __init__(self, doing: str, code: str, message: str) -> None:
        super().__init__(f"{doing} failed: {code}")
        self.doing, self.code, self.message = doing, code, message


class Uploaded(NamedTuple):
    """What an upload showed."""

    expires_at: datetime | None
    """None: the service did not set the expiry that was asked for."""


class DeploymentFacts(NamedTuple):
    """A deployment as Azure Resource Manager describes it."""

    name: str
    sku: str
    model: str
    version: str
    retires: datetime | None


class ServiceProbe:
    """Each method returns what it saw, and raises ServiceRefusedError if the service refused or did not answer."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._endpoint = settings.openai_endpoint.rstrip("/")
        self.host = urlsplit(self._endpoint).hostname or ""

    def resolve(self) -> str:
        """Look the endpoint's name up; return what was seen."""
        try:
            found = {str(each[4][0]) for each in socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)}
        except OSError as error:
            raise ServiceRefusedError("resolving the name", "NameNotResolved", f"{self.host}: {error}") from error
        return f"{self.host} is {', '.join(sorted(found))}."

    def handshake(self) -> str:
        """Open a TLS connection, if the endpoint is HTTPS; return what was seen."""
        parts = urlsplit(self._endpoint)
        if parts.scheme != "https":
            return "The endpoint is not HTTPS, as on a devkit."
        try:
            with (
                socket.create_connection((self.host, parts.port or 443), SECONDS) as plain,
                ssl.create_default_context().wrap_socket(plain, server_hostname=self.host) as secured,
            ):
                version = secured.version()
        except OSError as error:
            raise ServiceRefusedError("opening a TLS connection", type(error).__name__, str(error)) from error
        return f"The certificate of {self.host} is good; the connection is {version}."

    def status_of(self, version: str) -> int:
        """Return the HTTP status that a list of files gets on the routes of an API version: `v1` or a date."""
        return int(
            self._send("GET", "files", "listing files", version, params={"purpose": "batch", "limit": 1}).status_code
        )

    def list_batches(self) -> timedelta:
        """Ask for one batch of the list. Return how far the service's clock is ahead of ours, to about a second."""
        answer = self._ask("GET", "batches", "listing batches", params={"limit": 1})
        date = answer.headers.get("date")
        return parsedate_to_datetime(date) - clock.now() if date else timedelta(0)

    def count_files(self) -> int:
        """Return how many files for batch the first page lists: as many as a resource can hold."""
        answer = self._ask("GET", "files", "listing files", params={"purpose": "batch", "limit": MOST_FILES})
        return len(answer.json().get("data") or [])

    def upload(self) -> Uploaded:
        """Upload a file with an expiry, see whether it has one, and delete it."""
        fields = {"purpose": "batch"}
        if self._settings.file_expiry_seconds:
            fields["expires_after[seconds]"] = str(self._settings.file_expiry_seconds)
            fields["expires_after[anchor]"] = "created_at"
        file = {"file": (FILE_NAME, CONTENT, "application/jsonl")}
        made = self._ask("POST", "files", "uploading a file", data=fields, files=file).json()
        self._ask("DELETE", f"files/{made['id']}", "deleting a file")
        expires = made.get("expires_at")
        return Uploaded(datetime.fromtimestamp(expires, UTC) if isinstance(expires, int) and expires > 0 else None)

    def identity(self) -> str:
        """Return as whom the service is asked."""
        if self._settings.openai_api_key:
            return "the key in AZURE_OPENAI_API_KEY"
        with _reached("signing in"):
            return owner_of(self._token())

    def deployments(self) -> list[DeploymentFacts]:
        """Return the resource's deployments, from Azure Resource Manager. Needs AZURE_OPENAI_RESOURCE_ID."""
        manager = self._settings.resource_manager.rstrip("/")
        root = f"{manager}/{self._settings.openai_resource_id.strip('/')}"
        with _reached("signing in to Azure Resource Manager"):
            token = token_provider(f"{manager}/.default")()
        deployments = _listed(f"{root}/deployments", token, "listing deployments")
        models = _listed(f"{root}/models", token, "listing models")
        retirements = {(model.get("name"), model.get("version")): model for model in models}
        return [_deployment(each, retirements) for each in deployments]

    @cached_property
    def _token(self) -> Callable[[], str]:
        return token_provider()

    def _send(
        self, method: str, path: str, doing: str, version: str, *, params: dict[str, Any] | None = None, **more: Any
    ) -> "httpx2.Response":
        """Send a request on the routes of an API version; return whatever was answered."""
        import httpx2

        key = self._settings.openai_api_key
        root, query = f"{self._endpoint}/openai", dict(params or {})
        if version == "v1":
            root = f"{root}/v1"
        else:
            query["api-version"] = version
        with _reached("signing in"):
            headers = {"api-key": key} if key else {"Authorization": f"Bearer {self._token()}"}
        with _reached(doing), httpx2.Client(timeout=SECONDS, headers=headers) as client:
            return client.request(method, f"{root}/{path}", params=query, **more)

    def _ask(self, method: str, path: str, doing: str, **more: Any) -> "httpx2.Response":
        """Send a request as the app does; return an answer that is none of an error."""
        return _checked(self._send(method, path, doing, self._settings.openai_api_version, **more), doing)


def _listed(url: str, token: str, doing: str) -> list[dict[str, Any]]:
    """Return all entries of a list of Azure Resource Manager, page by page."""
    import httpx2

    entries: list[dict[str, Any]] = []
    following: str | None = f"{url}?api-version={MANAGEMENT_VERSION}"
    with _reached(doing), httpx2.Client(timeout=SECONDS, headers={"Authorization": f"Bearer {token}"}) as client:
        while following:
            page = _checked(client.get(following), doing).json()
            entries += page.get("value") or []
            following = page.get("nextLink")
    return entries


def _checked(answer: "httpx2.Response", doing: str) -> "httpx2.Response":
    """Return a 2xx answer. Raises: ServiceRefusedError, in the service's own words."""
    if answer.is_success:
        return answer
    try:
        said = answer.json().get("error") or {}
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    raise ServiceRefusedError(doing, str(said.get("code") or answer.status_code), str(said.get("message") or "")[:300])


@contextlib.contextmanager
def _reached(doing: str) -> Iterator[None]:
    """Tell what was being done when there is no connection or no credential. Raises: ServiceRefusedError."""
    import httpx2
    from azure.core.exceptions import ClientAuthenticationError

    try:
        yield
    except httpx2.HTTPError as error:
        raise ServiceRefusedError(doing, type(error).__name__, str(error)) from error
    except ClientAuthenticationError as error:
        raise ServiceRefusedError("signing in", "NoCredential", error.message.partition("\n")[0]) from error


def _deployment(entry: dict[str, Any], models: dict[tuple[Any, Any], dict[str, Any]]) -> DeploymentFacts:
    deployed = (entry.get("properties") or {}).get("model") or {}
    name, version = str(deployed.get("name") or ""), str(deployed.get("version") or "")
    sku = str((entry.get("sku") or {}).get("name") or "")
    return DeploymentFacts(str(entry.get("name")), sku, name, version, _retires(models.get((name, version), {}), sku))


def _retires(model: dict[str, Any], sku: str) -> datetime | None:
    """Return when a model retires for deployments of a SKU; where that is not said, for any."""
    dates = [each.get("deprecationDate") for each in model.get("skus") or [] if each.get("name") == sku]
    return _time(next(filter(None, dates), None) or (model.get("deprecation") or {}).get("inference"))


def _time(given: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(given))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
