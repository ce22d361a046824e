"""Tries what the app asks of Azure OpenAI, each once, with plain HTTP, so that every status and header is seen."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from batch_fn.azure_openai.credentials import token_provider
from batch_fn.runtime import clock

if TYPE_CHECKING:
    import httpx2

    from batch_fn.settings import Settings

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

    def resolve(self) -> None:
        """Look the endpoint's name up."""
        try:
            socket.getaddrinfo(self.host, None)
        except OSError as error:
            raise ServiceRefusedError("resolving the name", "NameNotResolved", str(error)) from error

    def handshake(self) -> None:
        """Open a TLS connection, if the endpoint is HTTPS."""
        parts = urlsplit(self._endpoint)
        if parts.scheme != "https":
            return
        try:
            with (
                socket.create_connection((self.host, parts.port or 443), SECONDS) as plain,
                ssl.create_default_context().wrap_socket(plain, server_hostname=self.host),
            ):
                pass
        except OSError as error:
            raise ServiceRefusedError("opening a TLS connection", type(error).__name__, str(error)) from error

    def status_of(self, version: str) -> int:
        """Return the HTTP status that a list of files gets on the routes of an API version: `v1` or a date."""
        with self._client() as client, _reached("listing files"):
            return int(client.get(self._url("files", version), params={"limit": 1}).status_code)

    def clock_skew(self) -> timedelta:
        """Return how far the service's clock is ahead of ours, to about a second."""
        with self._client() as client:
            answer = self._ask(client, "GET", "batches", "listing batches", params={"limit": 1})
        date = answer.headers.get("date")
        return parsedate_to_datetime(date) - clock.now() if date else timedelta(0)

    def list_batches(self) -> None:
        """Ask for one batch of the list."""
        with self._client() as client:
            self._ask(client, "GET", "batches", "listing batches", params={"limit": 1})

    def count_files(self) -> int:
        """Return how many files for batch the first page lists, at most 1,000."""
        with self._client() as client:
            answer = self._ask(client, "GET", "files", "listing files", params={"purpose": "batch", "limit": 1000})
        return len(answer.json().get("data") or [])

    def upload(self) -> Uploaded:
        """Upload a file with an expiry, see whether it has one, and delete it."""
        fields = {"purpose": "batch"}
        if self._settings.file_expiry_seconds:
            fields["expires_after[seconds]"] = str(self._settings.file_expiry_seconds)
            fields["expires_after[anchor]"] = "created_at"
        file = {"file": (FILE_NAME, CONTENT, "application/jsonl")}
        with self._client() as client:
            made = self._ask(client, "POST", "files", "uploading a file", data=fields, files=file).json()
            self._ask(client, "DELETE", f"files/{made['id']}", "deleting a file")
        expires = made.get("expires_at")
        return Uploaded(datetime.fromtimestamp(expires, UTC) if isinstance(expires, int) and expires > 0 else None)

    def deployments(self) -> list[DeploymentFacts]:
        """Return the resource's deployments, from Azure Resource Manager. Needs AZURE_OPENAI_RESOURCE_ID."""
        root = f"{self._settings.resource_manager.rstrip('/')}{self._settings.openai_resource_id}"
        token = token_provider(f"{self._settings.resource_manager.rstrip('/')}/.default")
        import httpx2

        with _reached("asking Azure Resource Manager"), httpx2.Client(timeout=SECONDS) as client:
            headers = {"Authorization": f"Bearer {token()}"}
            query = {"api-version": MANAGEMENT_VERSION}
            found = _checked(client.get(f"{root}/deployments", params=query, headers=headers), "listing deployments")
            models = _checked(client.get(f"{root}/models", params=query, headers=headers), "listing models")
        retirements = {
            (model.get("name"), model.get("version")): _time((model.get("deprecation") or {}).get("inference"))
            for model in models.json().get("value") or []
        }
        return [_deployment(each, retirements) for each in found.json().get("value") or []]

    def _client(self) -> "httpx2.Client":
        import httpx2

        key = self._settings.openai_api_key
        headers = {"api-key": key} if key else {"Authorization": f"Bearer {self._token()}"}
        return httpx2.Client(timeout=SECONDS, headers=headers)

    def _token(self) -> str:
        with _reached("signing in"):
            return token_provider()()

    def _url(self, path: str, version: str) -> str:
        if version == "v1":
            return f"{self._endpoint}/openai/v1/{path}"
        return f"{self._endpoint}/openai/{path}?api-version={version}"

    def _ask(
        self,
        client: "httpx2.Client",
        method: str,
        path: str,
        doing: str,
        params: dict[str, Any] | None = None,
        **more: Any,
    ) -> "httpx2.Response":
        version = self._settings.openai_api_version
        query = dict(params or {}) | ({} if version == "v1" else {"api-version": version})
        url = self._url(path, version).partition("?")[0]
        with _reached(doing):
            return _checked(client.request(method, url, params=query, **more), doing)


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


def _deployment(entry: dict[str, Any], retirements: dict[tuple[Any, Any], datetime | None]) -> DeploymentFacts:
    model = (entry.get("properties") or {}).get("model") or {}
    name, version = str(model.get("name") or ""), str(model.get("version") or "")
    sku = str((entry.get("sku") or {}).get("name") or "")
    return DeploymentFacts(str(entry.get("name")), sku, name, version, retirements.get((name, version)))


def _time(given: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(given))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
