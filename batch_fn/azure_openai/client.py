"""The files and batches of Azure OpenAI: every call, with its retries, and what its answer proves.

What the service says comes back as a `ServiceBatch` in the documented words, whatever casing, time format, empty id
or null it used. What it refuses is raised as one of the errors of core/batches.py, told apart by what may be done next.
No call sleeps for longer than MAX_PAUSE_SECONDS: a longer Retry-After is raised, for the caller to come back later.
"""

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from batch_fn.azure_openai import listing
from batch_fn.azure_openai.credentials import token_provider
from batch_fn.azure_openai.listing import read_batches, until_complete
from batch_fn.azure_openai.wire import UnreadableBatchError, read_batch, read_enqueued, translate_sdk_errors
from batch_fn.core.batches import (
    CreateOutcomeUnknownError,
    Enqueued,
    EnvironmentServiceError,
    NotFoundError,
    PermanentServiceError,
    ServiceBatch,
    TransientServiceError,
)
from batch_fn.core.jobs import Part
from batch_fn.runtime import log

if TYPE_CHECKING:
    from openai import OpenAI

    from batch_fn.settings import Settings

TRIES = 3
DOWNLOAD_TRIES = 4
MAX_PAUSE_SECONDS = 5.0

CALL_TIMEOUT_SECONDS = 30.0
"""Of each read and write on the connection; a file's content takes many of them."""

UPLOAD_TIMEOUT_SECONDS = 300.0
"""The service answers an upload when it has stored all of it."""

CREATE_TIMEOUT_SECONDS = 60.0


class OpenAIBatches:
    """The batch side of one Azure OpenAI resource."""

    def __init__(self, client: "OpenAI", *, file_expiry_seconds: int, create_timeout_seconds: float) -> None:
        # The SDK's own retries sleep for up to two minutes, and would repeat a create unseen.
        self._client = client.with_options(max_retries=0, timeout=CALL_TIMEOUT_SECONDS)
        self._file_expiry_seconds = file_expiry_seconds
        self._create_timeout_seconds = create_timeout_seconds

    @classmethod
    def connect(cls, settings: "Settings") -> "OpenAIBatches":
        """Return the resource that the settings name, with its key or Microsoft Entra ID."""
        from openai import AzureOpenAI, OpenAI

        token = None if settings.openai_api_key else token_provider()
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
        # A create that is still under way must have come to its end before a list can prove that it made no batch.
        timeout = max(1.0, min(CREATE_TIMEOUT_SECONDS, settings.settle_seconds / 2))
        return cls(client, file_expiry_seconds=settings.file_expiry_seconds, create_timeout_seconds=timeout)

    def upload(self, name: str, content: IO[bytes]) -> str:
        """Upload a file for batch, and return its id. It is sent once: its source can be read only once.

        Raises:
            FileQuotaError, PermanentServiceError, TransientServiceError
        """
        extra: dict[str, Any] = {}
        if self._file_expiry_seconds:  # source: how-to, "File expiration"; older API versions ignore it
            extra["expires_after"] = {"seconds": self._file_expiry_seconds, "anchor": "created_at"}
        with translate_sdk_errors():
            answer = self._client.files.with_raw_response.create(
                file=(name, content, "application/jsonl"), purpose="batch", timeout=UPLOAD_TIMEOUT_SECONDS, **extra
            )
        file_id = _members(answer).get("id")
        if not isinstance(file_id, str) or not file_id:
            raise TransientServiceError("the service answered an upload without a file id", outcome_unknown=True)
        return file_id

    def find_files(self, name: str) -> list[str]:
        """Return the ids of the files of that name."""
        return [file_id for file_id, file_name in self.files() if file_name == name]

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield id and name of each file for batch. Raises: TransientServiceError."""
        for file in self._files(purpose="batch"):
            if isinstance(file.get("filename"), str):
                yield file["id"], file["filename"]

    def has_file(self, file_id: str) -> bool:
        """Return whether the service shows the file; where it does not, it may have it all the same.

        Raises:
            TransientServiceError
        """
        try:
            self._file(file_id)
        except NotFoundError:
            return False
        return True

    def lacks_file(self, file_id: str) -> bool:
        """Return whether the service has shown that it does not have the file.

        It has when it answers 404 for the file itself, and a complete list of all files, whatever their purpose, lacks
        it.

        Raises:
            TransientServiceError: if one of the two cannot be told.
        """
        return not self.has_file(file_id) and all(file["id"] != file_id for file in self._files())

    def file_is_pending(self, file_id: str) -> bool:
        """Return whether the service is not done yet with taking in a file. Raises: TransientServiceError."""
        try:
            status = self._file(file_id).get("status")
        except NotFoundError:
            return False
        return isinstance(status, str) and status.lower() not in {"", "processed", "error"}

    def download(self, file_id: str, to: Path) -> None:
        """Write a file's content to `to`, starting again when the connection breaks.

        Raises:
            NotFoundError, TransientServiceError
        """

        def fetch() -> None:
            with self._client.files.with_streaming_response.content(file_id) as answer, to.open("wb") as f:
                for piece in answer.iter_bytes():
                    f.write(piece)

        _repeat(fetch, by_id=True, tries=DOWNLOAD_TRIES)

    def delete_files_of(self, part: Part) -> None:
        """Delete every file that an attempt of a part needs no more. Raises: TransientServiceError."""
        results = () if part.results_left else (part.output_file_id, part.error_file_id)
        known = {part.file_id, *results, *part.leftovers}
        if part.claims > 1:  # an upload whose answer was lost
            known.update(self.find_files(part.file_name))
        for file_id in known - {""}:
            self.delete_file(file_id)

    def delete_file(self, file_id: str) -> None:
        """Delete a file; one that is gone already is fine, and one that may not be deleted is left to its expiry.

        Raises:
            TransientServiceError
        """
        try:
            _repeat(lambda: self._client.files.with_raw_response.delete(file_id), by_id=True)
        except NotFoundError:
            return
        except PermanentServiceError as error:
            log.warning("file_not_deleted", file=file_id, trouble=error)

    def create(self, part: Part) -> tuple[ServiceBatch, Enqueued]:
        """Create the batch of a part whose input is in place. Return it, and what the service told of the quota.

        The create is sent once.

        Raises:
            TokenLimitError, PermanentServiceError, TransientServiceError: there is no batch.
            CreateOutcomeUnknownError: there may be one.
        """
        try:
            with translate_sdk_errors():
                answer = self._client.batches.with_raw_response.create(
                    input_file_id=part.file_id,
                    endpoint=cast(Any, part.url),
                    completion_window="24h",  # source: how-to: any other value fails
                    extra_body=_input(part),
                    timeout=self._create_timeout_seconds,
                )
            return read_batch(_members(answer)), read_enqueued(answer.headers)
        except UnreadableBatchError as error:
            raise CreateOutcomeUnknownError(str(error)) from error
        except TransientServiceError as trouble:
            if trouble.outcome_unknown:
                raise CreateOutcomeUnknownError(str(trouble)) from trouble
            raise

    def find_batch(self, part: Part, since: datetime) -> ServiceBatch | None:
        """Return the batch that was made for this attempt, at or after `since`; None if a complete list lacks it.

        Raises:
            ServiceCallError: if the service does not give a complete list, or a batch in it that may be the one.
        """
        for listed in self._since(since):
            batch = listed
            if listed.anonymous and (listed.created_at is None or listed.created_at >= since):
                with contextlib.suppress(NotFoundError):
                    batch = self.retrieve(listed.id)  # a list may tell less
            if _made_for(batch, part) and not batch.refused and batch.id not in part.refused:
                return batch
        return None

    def find_batches(self, ids: Collection[str], since: datetime | None) -> dict[str, ServiceBatch]:
        """Return, by id, those of the batches that a complete list has. All were created at or after `since`.

        Raises:
            ServiceCallError: if the service does not give a complete list.
        """
        return {batch.id: batch for batch in self._since(since) if batch.id in ids}

    def pages(self, after: str = "") -> Iterator[list[ServiceBatch]]:
        """Yield the resource's batches, newest first, in pages of 100: one call for each page that is asked for.

        `after` is the id of the batch to begin behind.
        """
        for batches, _ in self._pages(after):
            yield batches

    def retrieve(self, batch_id: str) -> ServiceBatch:
        """Return a batch.

        Raises:
            NotFoundError: if the service answers 404. Alone, that does not prove that it does not have the batch.
            TransientServiceError
        """
        answer = self._ask(lambda: self._client.batches.with_raw_response.retrieve(batch_id), by_id=True)
        try:
            batch = read_batch(answer)
        except UnreadableBatchError as error:
            raise TransientServiceError(str(error)) from error
        if batch.id != batch_id:
            raise TransientServiceError("the service was asked for one batch, and describes another")
        return batch

    def cancel(self, batch_id: str) -> None:
        """Ask the service to stop a batch; one that has ended already is fine. Raises: TransientServiceError."""
        with contextlib.suppress(NotFoundError, PermanentServiceError):
            _repeat(lambda: self._client.batches.with_raw_response.cancel(batch_id), by_id=True)

    def _file(self, file_id: str) -> dict[str, Any]:
        return self._ask(lambda: self._client.files.with_raw_response.retrieve(file_id), by_id=True)

    def _files(self, **query: Any) -> Iterator[dict[str, Any]]:
        """Yield each entry of a complete list of files that names its id."""

        def ask(given: dict[str, Any]) -> object:
            return self._ask(lambda: self._client.files.with_raw_response.list(**query, **given))

        for page in listing.pages(ask):
            for file in page.entries:
                if isinstance(file, dict) and isinstance(file.get("id"), str):
                    yield file

    def _pages(self, after: str = "") -> Iterator[tuple[list[ServiceBatch], bool]]:
        def ask(given: dict[str, Any]) -> object:
            return self._ask(lambda: self._client.batches.with_raw_response.list(**given))

        for page in listing.pages(ask, after=after, limit=listing.PAGE):
            yield read_batches(page.entries), page.last

    def _since(self, since: datetime | None) -> Iterator[ServiceBatch]:
        return until_complete(self._pages(), since)

    def _ask(self, call: Callable[[], Any], *, by_id: bool = False) -> dict[str, Any]:
        """Make a call that may be repeated, and return the members of its answer."""
        return _repeat(lambda: _members(call()), by_id=by_id)


def _input(part: Part) -> dict[str, Any]:
    """Return what of a create's body depends on where the input is."""
    if not part.input_blob:
        return {"metadata": part.metadata}
    # Source: reference, "From blob storage": metadata is not supported there.
    return {"input_file_id": None, "input_blob": part.input_blob, "output_folder": {"url": part.output_folder}}


def _made_for(batch: ServiceBatch, part: Part) -> bool:
    """Return whether a batch carries the mark of a part, in whichever way it was sent."""
    if part.input_blob and unquote(batch.input_blob) == unquote(part.input_blob):  # each may quote a name its own way
        return True
    marked = part.metadata.items() <= batch.metadata.items()
    return marked or bool(part.file_id and batch.input_file_id == part.file_id)


def _members(answer: Any) -> dict[str, Any]:
    """Return the members of an answer's JSON object. Raises: TransientServiceError."""
    try:
        members = answer.http_response.json()
    except (ValueError, RecursionError) as error:  # a gateway's page of HTML, for instance
        raise TransientServiceError(
            "the service answered with something other than JSON", outcome_unknown=True
        ) from error
    if not isinstance(members, dict):
        raise TransientServiceError("the service answered with something other than an object", outcome_unknown=True)
    return members


def _repeat[T](call: Callable[[], T], *, by_id: bool, tries: int = TRIES) -> T:
    """Make a call, again where the trouble may pass within seconds. Raises: what the last try raised."""
    for count in itertools.count(1):
        try:
            with translate_sdk_errors(by_id=by_id):
                return call()
        except EnvironmentServiceError:
            raise  # only a user can correct it
        except TransientServiceError as trouble:
            if count == tries or (trouble.retry_after or 0) > MAX_PAUSE_SECONDS:
                raise
            _pause(trouble, count)
    raise AssertionError  # the count has no end


def _pause(trouble: TransientServiceError, tries: int) -> None:
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    time.sleep(min(trouble.retry_after or jitter * 2 ** (tries - 1), MAX_PAUSE_SECONDS))
