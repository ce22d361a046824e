"""The files and batches of Azure OpenAI. Its quirks are made plain here and nowhere else.

What the service says comes back as a `ServiceBatch` in the documented words, whatever casing, time format, empty id
or null it used. What it refuses is raised as one of the errors below, told apart by what may be done next.
"""

import contextlib
import itertools
import random
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import unquote

from batch_fn.jobs import TOKEN_LIMIT, Part, ServiceBatch, ServiceError

if TYPE_CHECKING:
    from openai import OpenAI

    from batch_fn.settings import Settings

PAGE = 100  # the most that one list call gives
MESSAGE_CHARACTERS = 500
KEPT_ERRORS = 20
DOWNLOAD_TRIES = 4
CREATE_TIMEOUT_SECONDS = 60.0


class ServiceTroubleError(Exception):
    """The service did not do what was asked, and may do it later: 429, 5xx, no connection, no access yet."""

    def __init__(self, sentence: str, *, retry_after: float | None = None, undecided: bool = False) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after
        """Seconds, where the service named them."""
        self.undecided = undecided
        """It may have been done all the same."""


class UnansweredError(Exception):
    """A create got no answer, or none that tells whether a batch was made: look for it before creating again."""


class RefusedError(Exception):
    """The service will never take this: the request itself is wrong."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.error = error


class TokenLimitError(Exception):
    """The deployment's enqueued tokens have no room for this batch now."""


class FileQuotaError(Exception):
    """The resource holds as many files as it may; delete some, or wait for some to expire."""


class FileGoneError(Exception):
    """The service does not know a file any more."""


class Enqueued(NamedTuple):
    """What a create tells of a deployment's quota; None for what it does not tell.

    Source: REST specification 2025-04-01-preview, response headers of create.
    """

    tokens: int | None
    limit: int | None


class OpenAIBatches:
    """The batch side of one Azure OpenAI resource."""

    def __init__(self, client: "OpenAI", *, file_expiry_seconds: int) -> None:
        self._client = client
        # An upload reads its source once, and a create must never be repeated blindly: neither is retried unseen.
        self._once = client.with_options(max_retries=0)
        self._file_expiry_seconds = file_expiry_seconds

    @classmethod
    def connect(cls, settings: "Settings") -> "OpenAIBatches":
        """Return the resource that the settings name, with its key or Microsoft Entra ID."""
        from openai import AzureOpenAI, OpenAI

        token = None if settings.openai_api_key else _token_provider()
        endpoint = settings.openai_endpoint.rstrip("/")
        client: OpenAI
        if settings.openai_api_version == "v1":
            client = OpenAI(base_url=f"{endpoint}/openai/v1/", api_key=settings.openai_api_key or token)
        else:
            client = AzureOpenAI(
                azure_endpoint=endpoint,
                api_version=settings.openai_api_version,
                api_key=settings.openai_api_key,
                azure_ad_token_provider=token,
            )
        return cls(client, file_expiry_seconds=settings.file_expiry_seconds)

    def upload(self, name: str, content: IO[bytes]) -> str:
        """Upload a file for batch; return its id.

        Raises:
            FileQuotaError, RefusedError, ServiceTroubleError
        """
        extra: dict[str, Any] = {}
        if self._file_expiry_seconds:  # source: how-to, "File expiration"; older API versions ignore it
            extra["expires_after"] = {"seconds": self._file_expiry_seconds, "anchor": "created_at"}
        try:
            with _plainly():
                file = self._once.files.create(file=(name, content, "application/jsonl"), purpose="batch", **extra)
        except FileGoneError as error:  # a 404 where no file was asked for
            raise ServiceTroubleError(
                f"no such endpoint; check AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_VERSION: {error}"
            ) from error
        return file.id

    def find_files(self, name: str) -> list[str]:
        """Return the ids of the files of that name."""
        return [file_id for file_id, file_name in self.files() if file_name == name]

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield id and name of each file for batch."""
        with _plainly():
            page = self._client.files.list(purpose="batch")
            while True:
                for file in page.data:
                    yield file.id, file.filename
                # The client itself would ask for more where nothing is said, as in 2024-10-21, and get the same again.
                if not page.has_more:
                    return
                page = page.get_next_page()

    def has_file(self, file_id: str) -> bool:
        """Return whether the service still has the file."""
        try:
            with _plainly():
                self._client.files.retrieve(file_id)
        except FileGoneError:
            return False
        return True

    def download(self, file_id: str, to: Path) -> None:
        """Write a file's content to `to`, starting again when the connection breaks.

        Raises:
            FileGoneError, ServiceTroubleError
        """
        for tries_left in reversed(range(DOWNLOAD_TRIES)):
            try:
                with (
                    _plainly(),
                    self._client.files.with_streaming_response.content(file_id) as answer,
                    to.open("wb") as f,
                ):
                    for piece in answer.iter_bytes():
                        f.write(piece)
            except ServiceTroubleError as trouble:
                if not tries_left:
                    raise
                _pause(trouble, DOWNLOAD_TRIES - tries_left)
            else:
                return

    def delete_files_of(self, part: Part) -> None:
        """Delete every file that an attempt of a part may have left. Raises: ServiceTroubleError."""
        known = {part.file_id, part.output_file_id, part.error_file_id, *part.leftovers}
        if part.claims > 1:  # an upload whose answer was lost
            known.update(self.find_files(part.file_name))
        for file_id in known - {""}:
            self.delete_file(file_id)

    def delete_file(self, file_id: str) -> None:
        """Delete a file; one that is gone already is fine. Raises: ServiceTroubleError."""
        with contextlib.suppress(FileGoneError), _plainly():
            self._client.files.delete(file_id)

    def create(self, part: Part) -> tuple[ServiceBatch, Enqueued]:
        """Create the batch of a part whose input is in its place. Return it, and what the service told of the quota.

        Raises:
            TokenLimitError, FileGoneError, RefusedError, ServiceTroubleError: there is no batch.
            UnansweredError: there may be one.
        """
        try:
            with _plainly():
                answer = self._once.batches.with_raw_response.create(
                    input_file_id=part.file_id,
                    endpoint=cast(Any, part.url),
                    completion_window="24h",  # source: how-to: any other value fails
                    extra_body=_input(part),
                    timeout=CREATE_TIMEOUT_SECONDS,
                )
        except ServiceTroubleError as trouble:
            if trouble.undecided:
                raise UnansweredError(str(trouble)) from trouble
            raise
        return read_batch(answer.http_response.json()), _enqueued(answer.headers)

    def find_batch(self, part: Part, since: datetime) -> ServiceBatch | None:
        """Return the batch that was made for this attempt at or after `since`, None if the service lists none."""
        for batch in itertools.chain.from_iterable(self.pages()):
            if batch.created_at < since:
                return None
            if _made_for(batch, part) and batch.id not in part.refused:
                return batch
        return None

    def pages(self, after: str = "") -> Iterator[list[ServiceBatch]]:
        """Yield the resource's batches, newest first, in pages of 100: one call for each page that is asked for.

        `after` is the id of the batch to begin behind.
        """
        behind: Any = {"after": after} if after else {}
        while True:
            with _plainly():
                page = self._client.batches.with_raw_response.list(limit=PAGE, **behind).http_response.json()
            entries = page.get("data") or []
            yield [read_batch(entry) for entry in entries]
            if not page.get("has_more") or not entries:
                return
            behind = {"after": entries[-1]["id"]}

    def retrieve(self, batch_id: str) -> ServiceBatch | None:
        """Return the batch, None if the service does not know it. Raises: ServiceTroubleError."""
        try:
            with _plainly():
                return read_batch(self._client.batches.with_raw_response.retrieve(batch_id).http_response.json())
        except FileGoneError:
            return None

    def cancel(self, batch_id: str) -> None:
        """Ask the service to stop a batch; one that has ended already is fine. Raises: ServiceTroubleError."""
        with contextlib.suppress(FileGoneError, RefusedError), _plainly():
            self._client.batches.cancel(batch_id)


def _input(part: Part) -> dict[str, Any]:
    """Return what of a create's body depends on where the input is."""
    if not part.input_blob:
        return {"metadata": part.metadata}
    # Source: reference, "From blob storage": metadata is not supported there.
    return {"input_file_id": None, "input_blob": part.input_blob, "output_folder": {"url": part.output_folder}}


def _made_for(batch: ServiceBatch, part: Part) -> bool:
    if part.input_blob:
        return unquote(batch.input_blob) == unquote(part.input_blob)  # however each of the two quotes a name
    return batch.metadata == part.metadata or bool(part.file_id and batch.input_file_id == part.file_id)


def read_batch(body: dict[str, Any]) -> ServiceBatch:
    """Return a batch as the service's JSON describes it, in the documented words.

    Seen: `Completed` and `InProgress` for the documented lower case, "canceled", ISO times with seven fractional
    digits for unix integers, "" for a missing file id, null counts, and errors' lines as strings.
    """
    counts = body.get("request_counts") or {}
    ended = next(
        (body[name] for name in ("completed_at", "failed_at", "expired_at", "cancelled_at") if body.get(name)), None
    )
    return ServiceBatch(
        id=body["id"],
        status=_status(body.get("status") or ""),
        input_file_id=body.get("input_file_id") or "",
        output_file_id=body.get("output_file_id") or "",
        error_file_id=body.get("error_file_id") or "",
        input_blob=body.get("input_blob") or "",
        output_blob=body.get("output_blob") or "",
        error_blob=body.get("error_blob") or "",
        endpoint=body.get("endpoint") or "",
        total=counts.get("total") or 0,
        completed=counts.get("completed") or 0,
        failed=counts.get("failed") or 0,
        errors=_errors(body.get("errors")),
        metadata=body.get("metadata") or {},
        created_at=_time(body["created_at"]),
        finished_at=_time(ended) if ended else None,
    )


def _status(given: str) -> str:
    status = given.lower()
    return {"canceled": "cancelled", "canceling": "cancelling", "inprogress": "in_progress"}.get(status, status)


def _time(given: float | str) -> datetime:
    if isinstance(given, int | float):
        return datetime.fromtimestamp(given, UTC)
    time = datetime.fromisoformat(given)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _errors(given: Any) -> tuple[ServiceError, ...]:
    entries = (given.get("data") if isinstance(given, dict) else given) or []
    return tuple(_error(entry) for entry in entries[:KEPT_ERRORS])


def _error(entry: dict[str, Any]) -> ServiceError:
    line = str(entry.get("line") or "")
    return ServiceError(
        code=str(entry.get("code") or "unknown"),
        message=str(entry.get("message") or "")[:MESSAGE_CHARACTERS],
        line=int(line) if line.isdigit() else None,
    )


def _enqueued(headers: Mapping[str, str]) -> Enqueued:
    def number(name: str) -> int | None:
        given = headers.get(name) or ""
        return int(given) if given.isdigit() else None

    return Enqueued(number("deployment-enqueued-tokens"), number("deployment-maximum-enqueued-tokens"))


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Turn the SDK's errors into ours, told apart by what may be done next."""
    import httpx2
    from openai import APIConnectionError, APIStatusError, OpenAIError

    try:
        yield
    except APIConnectionError as error:
        reached = not isinstance(error.__cause__, httpx2.ConnectError)
        raise ServiceTroubleError(f"no answer from the service: {error}", undecided=reached) from error
    except httpx2.TransportError as error:  # while a body was streamed
        raise ServiceTroubleError(f"the connection to the service broke: {error}", undecided=True) from error
    except APIStatusError as error:
        raise _status_error(error.status_code, error.response.headers.get("retry-after"), error.body) from error
    except OpenAIError as error:  # no credential, for instance
        raise ServiceTroubleError(str(error)) from error


def _status_error(status: int, retry_after: str | None, body: object) -> Exception:
    said = body if isinstance(body, dict) else {}
    error = _error({"code": said.get("code") or status, "message": said.get("message")})
    if error.code == TOKEN_LIMIT:
        return TokenLimitError(error.message)
    if error.code == "quotaExceeded":
        return FileQuotaError(error.message)
    if status == 404:
        return FileGoneError(error.message)
    undecided = status == 408 or status >= 500
    if undecided or status in {401, 403, 409, 429}:
        return ServiceTroubleError(
            f"HTTP {status}: {error.message}", retry_after=_seconds(retry_after), undecided=undecided
        )
    return RefusedError(error)


def _seconds(retry_after: str | None) -> float | None:
    try:
        return float(retry_after) if retry_after else None
    except ValueError:
        return None  # an HTTP date: our own wait serves


def _pause(trouble: ServiceTroubleError, tries: int) -> None:
    time.sleep(trouble.retry_after or random.uniform(0.5, 1.0) * 2**tries)  # noqa: S311 - jitter is no secret


def _token_provider() -> Any:
    from azure.identity import DefaultAzureCredential, get_bearer_token_provider

    return get_bearer_token_provider(DefaultAzureCredential(), "https://cognitiveservices.azure.com/.default")
