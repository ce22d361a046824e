"""The files and batches of Azure OpenAI. Its quirks are made plain here and nowhere else.

What the service says comes back as a `ServiceBatch` in the documented words, whatever casing, time format, empty id
or null it used. What it refuses is raised as one of the errors below, told apart by what may be done next.
"""

import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from batch_fn.azure_openai.credentials import token_provider
from batch_fn.azure_openai.wire import read_batch, read_enqueued, translate_sdk_errors
from batch_fn.core.batches import (
    CreateOutcomeUnknownError,
    Enqueued,
    NotFoundError,
    PermanentServiceError,
    ServiceBatch,
    TransientServiceError,
)
from batch_fn.core.jobs import Part

if TYPE_CHECKING:
    from openai import OpenAI

    from batch_fn.settings import Settings

PAGE = 100  # the most that one list call gives

DOWNLOAD_TRIES = 4
CREATE_TIMEOUT_SECONDS = 60.0


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
            with translate_sdk_errors():
                file = self._once.files.create(file=(name, content, "application/jsonl"), purpose="batch", **extra)
        except NotFoundError as error:  # a 404 where no file was asked for
            raise TransientServiceError(f"HTTP 404: {error}") from error
        return file.id

    def find_files(self, name: str) -> list[str]:
        """Return the ids of the files of that name."""
        return [file_id for file_id, file_name in self.files() if file_name == name]

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield id and name of each file for batch."""
        with translate_sdk_errors():
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
            with translate_sdk_errors():
                self._client.files.retrieve(file_id)
        except NotFoundError:
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
                    translate_sdk_errors(),
                    self._client.files.with_streaming_response.content(file_id) as answer,
                    to.open("wb") as f,
                ):
                    for piece in answer.iter_bytes():
                        f.write(piece)
            except TransientServiceError as trouble:
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
        with contextlib.suppress(NotFoundError), translate_sdk_errors():
            self._client.files.delete(file_id)

    def create(self, part: Part) -> tuple[ServiceBatch, Enqueued]:
        """Create the batch of a part whose input is in its place. Return it, and what the service told of the quota.

        Raises:
            TokenLimitError, FileGoneError, RefusedError, ServiceTroubleError: there is no batch.
            UnansweredError: there may be one.
        """
        try:
            with translate_sdk_errors():
                answer = self._once.batches.with_raw_response.create(
                    input_file_id=part.file_id,
                    endpoint=cast(Any, part.url),
                    completion_window="24h",  # source: how-to: any other value fails
                    extra_body=_input(part),
                    timeout=CREATE_TIMEOUT_SECONDS,
                )
        except TransientServiceError as trouble:
            if trouble.outcome_unknown:
                raise CreateOutcomeUnknownError(str(trouble)) from trouble
            raise
        return read_batch(answer.http_response.json()), read_enqueued(answer.headers)

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
            with translate_sdk_errors():
                page = self._client.batches.with_raw_response.list(limit=PAGE, **behind).http_response.json()
            entries = page.get("data") or []
            yield [read_batch(entry) for entry in entries]
            if not page.get("has_more") or not entries:
                return
            behind = {"after": entries[-1]["id"]}

    def retrieve(self, batch_id: str) -> ServiceBatch | None:
        """Return the batch, None if the service does not know it. Raises: ServiceTroubleError."""
        try:
            with translate_sdk_errors():
                return read_batch(self._client.batches.with_raw_response.retrieve(batch_id).http_response.json())
        except NotFoundError:
            return None

    def cancel(self, batch_id: str) -> None:
        """Ask the service to stop a batch; one that has ended already is fine. Raises: ServiceTroubleError."""
        with contextlib.suppress(NotFoundError, PermanentServiceError), translate_sdk_errors():
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


def _pause(trouble: TransientServiceError, tries: int) -> None:
    time.sleep(trouble.retry_after or random.uniform(0.5, 1.0) * 2**tries)  # noqa: S311 - jitter is no secret
