"""The app's hands, in memory: the methods and the promises of the real ones, on a `World` that outlives them.

Every public method is a call that goes through the world's `Turn`, which may let the process die there.
`test_fakes.py` holds the names and signatures to those of the real classes.
"""

import functools
import inspect
import json
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError, ServiceResponseError
from azure.storage.blob import StorageErrorCode

from batch_fn.app import App
from batch_fn.core.admission import holds_tokens
from batch_fn.core.batches import (
    CreateOutcomeUnknownError,
    Enqueued,
    FileQuotaError,
    NotFoundError,
    PermanentServiceError,
    ServiceBatch,
    ServiceError,
    TokenLimitError,
    TransientServiceError,
)
from batch_fn.core.deployments import Deployment
from batch_fn.core.jobs import Job, Part
from batch_fn.storage.blob_streams import ANY_VERSION, CHUNK_BYTES, BlobChangedError
from batch_fn.storage.blobs import ArchiveGoneError
from batch_fn.storage.drops import Drop, DropGoneError
from batch_fn.storage.queues import Message
from batch_fn.storage.rows import (
    JOB_ROW,
    ActiveJob,
    Change,
    ConflictError,
    FinishedJob,
    FinishedSummary,
    FinishedUsage,
    Row,
    Stored,
    history_key,
)
from batch_fn.storage.tables import HISTORY_PAGE
from tests.model.world import (
    SETTINGS,
    UNKNOWN_DEPLOYMENT,
    Batch,
    Line,
    QueuedMessage,
    Weather,
    World,
    blob_at,
    url_of,
)

TRANSACTION_LIMIT = 4
"""Rows in one transaction: few, so that small jobs reach what large ones do."""

PAGE = 2
"""Batches on one page of a list: few, likewise."""


def reads[F: Callable[..., Any]](method: F) -> F:
    """Make a method a call that changes nothing; the world's turn decides on its fate."""
    name = method.__name__

    @functools.wraps(method)
    def made(self: Any, *given: Any, **named: Any) -> Any:
        return self.world.turn.meet(self, name, lambda: method(self, *given, **named), writes=False)

    @functools.wraps(method)
    def listed(self: Any, *given: Any, **named: Any) -> Iterator[Any]:
        self.world.turn.meet(self, name, lambda: None, writes=False)
        yield from method(self, *given, **named)

    return cast(F, listed if inspect.isgeneratorfunction(method) else made)


def writes[F: Callable[..., Any]](method: F) -> F:
    """Make a method a call that changes the world; the world's turn decides on its fate."""
    name = method.__name__

    @functools.wraps(method)
    def made(self: Any, *given: Any, **named: Any) -> Any:
        return self.world.turn.meet(self, name, lambda: method(self, *given, **named), writes=True)

    return cast(F, made)


class _Hand:
    once: frozenset[str] = frozenset()

    def __init__(self, world: World) -> None:
        self.world = world


class _StorageHand(_Hand):
    """The part that all kinds of storage have in common: how they fail."""

    def busy(self) -> Exception:
        return HttpResponseError("503 Server Busy")

    def lost(self, name: str) -> Exception:
        return ServiceResponseError(f"no answer to {name}")


class FakeTables(_StorageHand):
    """Table storage, as batch_fn.tables.Ledger."""

    @writes
    def insert_if_absent(self, job: Job) -> Stored[Job]:
        rows = self.world.rows.setdefault(job.job_id, {})
        if JOB_ROW not in rows:
            if not job.bundle:
                self.world.begun.setdefault(job.job_id, job)
            self._put(job)
        row, etag = rows[JOB_ROW]
        assert isinstance(row, Job)
        return Stored(row, etag)

    @reads
    def finished(self, job_id: str) -> FinishedJob | None:
        return self.world.history.get(job_id)

    @reads
    def active_job(self, job_id: str) -> ActiveJob | None:
        rows = self.world.rows.get(job_id, {})
        job = self.world.job_in_hand(job_id)
        run = job.attempts_before if job else 0
        parts = [
            Stored(row, etag)
            for _, (row, etag) in sorted(rows.items())
            if isinstance(row, Part) and row.attempts_before == run
        ]
        return ActiveJob(Stored(job, rows[JOB_ROW][1]), parts) if job else None

    @reads
    def due(self, now: datetime) -> Iterator[Stored[Job] | Stored[Part]]:
        stored = [each for rows in self.world.rows.values() for each in rows.values()]
        for row, etag in stored:
            if row.due is not None and row.due <= now:
                yield cast(Stored[Job] | Stored[Part], Stored(row, etag))

    @reads
    def active_jobs(self) -> Iterator[Job]:
        for job_id in list(self.world.rows):
            job = self.world.job_in_hand(job_id)
            if job is not None:
                yield job

    @reads
    def history[T: FinishedJob | FinishedSummary | FinishedUsage](
        self,
        kind: type[T],
        *,
        after: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page: int = HISTORY_PAGE,  # noqa: ARG002 - there are no calls to save
    ) -> Iterator[T]:
        for finished in sorted(self.world.history.values(), key=lambda each: history_key(each.job_id)):
            dropped = finished.dropped_at
            if (
                (after is None or history_key(finished.job_id) > history_key(after))
                and (since is None or dropped >= since)
                and (until is None or dropped <= until)
            ):
                yield msgspec.convert(finished, kind, from_attributes=True)

    @reads
    def parts_of(self, deployment: str) -> Iterator[Part]:
        yield from (part for part in self.world.parts() if part.deployment == deployment and holds_tokens(part))

    @reads
    def active_parts(self) -> Iterator[Part]:
        yield from (part for part in self.world.parts() if part.state in {"waiting", "open", "claimed"})

    @reads
    def bundleable(self, part: Part) -> Iterator[Stored[Part]]:
        for stored in self._stored_parts():
            row = stored.row
            if row.bundles and row.state == "waiting" and (row.deployment, row.url) == (part.deployment, part.url):
                yield stored

    @reads
    def bundle_members(self, bundle_id: str) -> Iterator[Stored[Part]]:
        for stored in self._stored_parts():
            if stored.row.state == "bundled" and stored.row.bundle == bundle_id:
                yield stored

    @reads
    def deployment(self, name: str) -> Deployment:
        return self._deployment(name)[0]

    @reads
    def deployments(self) -> Iterator[Deployment]:
        yield from (deployment for deployment, _ in self.world.deployments.values())

    @writes
    def record_tick(self, at: datetime) -> None:
        self.world.ticked_at = at

    @reads
    def last_tick(self) -> datetime | None:
        return self.world.ticked_at

    @writes
    def update_deployment(self, name: str, change: Callable[[Deployment], Deployment]) -> Deployment:
        while True:
            known, etag = self._deployment(name)
            new = change(known)  # which may make calls of its own, and be stored up in one
            if new == known:
                return new
            if self._deployment(name)[1] == etag:
                self.world.deployments[name] = new, str(self.world.count())
                return new

    @writes
    def update[T: Row](self, stored: Stored[T], row: T) -> Stored[T]:
        self._check(Change(stored.row, stored.etag))
        return Stored(row, self._put(row))

    @writes
    def change(self, changes: Iterable[Change]) -> None:
        inserts: list[Change] = []
        updates: list[Change] = []
        for each in changes:
            (inserts if each.etag is None else updates).append(each)
        early = max(0, len(inserts) - (TRANSACTION_LIMIT - len(updates)))
        for start in range(0, early, TRANSACTION_LIMIT):
            ahead = inserts[start : min(start + TRANSACTION_LIMIT, early)]
            if all(self._is_free(each.row) for each in ahead):
                for each in ahead:
                    self._put(each.row)
        together = inserts[early:] + updates
        for each in together:
            self._check(each)
        for each in together:
            self._put(each.row)

    @writes
    def finish(self, finished: FinishedJob) -> None:
        if not self.world.job_reported(finished.job_id):
            self.world.breaks(f"{finished.job_id} entered the history before its report was there")
        known = self.world.history.get(finished.job_id)
        if known is not None and known.attempts > finished.attempts:
            raise ConflictError
        self.world.history[finished.job_id] = finished

    @writes
    def delete_active(self, active: ActiveJob) -> None:
        job_id = active.job.row.job_id
        if active.job.row.bundle:
            self._check_bundle(active.job.row)
        elif job_id not in self.world.history:
            self.world.breaks(f"{job_id} was forgotten before it was in the history")
        rows = self.world.rows.get(job_id, {})
        keys = [stored.row.key for stored in active.parts] + [JOB_ROW]
        for start in range(0, len(keys), TRANSACTION_LIMIT):
            some = keys[start : start + TRANSACTION_LIMIT]
            if not all(key in rows for key in some):
                return
            if JOB_ROW in some and rows[JOB_ROW][1] != active.job.etag:
                return
            for key in some:
                del rows[key]
        if not rows:
            self.world.rows.pop(job_id, None)

    @writes
    def delete_orphaned_parts(self, finished: FinishedJob) -> None:
        job_id = finished.job_id
        if job_id not in self.world.history:
            self.world.breaks(f"{job_id} was swept away before it was in the history")
        rows = self.world.rows.get(job_id, {})
        for key, (row, _) in list(rows.items()):
            if isinstance(row, Part) and row.attempt <= finished.attempts:
                del rows[key]
        if not rows:
            self.world.rows.pop(job_id, None)

    def _stored_parts(self) -> list[Stored[Part]]:
        stored = [each for rows in self.world.rows.values() for each in rows.values()]
        return [Stored(row, etag) for row, etag in stored if isinstance(row, Part)]

    def _check_bundle(self, bundle: Job) -> None:
        """A bundle is about to be forgotten: nobody may ride in it any more."""
        for member in bundle.members:
            row, _ = self.world.rows.get(member.job_id, {}).get(member.part, (None, ""))
            if isinstance(row, Part) and row.state == "bundled" and row.bundle == bundle.job_id:
                self.world.breaks(f"{bundle.job_id} was forgotten while {row.key} of {row.job_id} rode in it")

    def _deployment(self, name: str) -> tuple[Deployment, str | None]:
        return self.world.deployments.get(name, (Deployment(name=name), None))

    def _is_free(self, row: Row) -> bool:
        return _key(row) not in self.world.rows.get(row.job_id, {})

    def _check(self, change: Change) -> None:
        _, etag = self.world.rows.get(change.row.job_id, {}).get(_key(change.row), (None, None))
        if etag != change.etag:
            raise ConflictError

    def _put(self, row: Row) -> str:
        etag = str(self.world.count())
        self.world.rows.setdefault(row.job_id, {})[_key(row)] = row, etag
        return etag


def _key(row: Row) -> str:
    return row.key if isinstance(row, Part) else JOB_ROW


class FakeBlobClient(NamedTuple):
    """What the trigger hands to the app: the name of a blob, of whatever version."""

    container_name: str
    blob_name: str


class FakeBlobs(_StorageHand):
    """Blob storage, as Blobs."""

    @reads
    def drop(self, name: str) -> Drop | None:
        blob = self.world.inbox().get(name)
        if blob is None:
            return None
        container = SETTINGS.input_container
        return Drop(container, name, blob.etag, len(blob.content), blob.last_modified, blob.metadata)

    @reads
    def inbox(self) -> Iterator[Drop]:
        for name, blob in self.world.inbox().items():
            container = SETTINGS.input_container
            yield Drop(container, name, blob.etag, len(blob.content), blob.last_modified, blob.metadata)

    def drop_client(self, name: str) -> FakeBlobClient:
        return FakeBlobClient(SETTINGS.input_container, name)

    def read_drop(self, drop: Drop) -> Generator[bytes]:
        half = drop.bytes // 2
        for piece in (slice(None, half), slice(half, None)):
            yield self._read_piece(drop, piece)

    @reads
    def _read_piece(self, drop: Drop, piece: slice) -> bytes:
        blob = self.world.inbox().get(drop.name)
        if blob is None or blob.etag != drop.etag:
            raise DropGoneError(drop.name)
        return blob.content[piece]

    @writes
    def archive(self, container: str, name: str, etag: str, path: str, *, gzip: bool = False) -> None:
        kept = f"{path}.jsonl.gz" if gzip else f"{path}.jsonl"
        if (SETTINGS.archive_container, kept) in self.world.blobs:
            return
        blob = self.world.blobs.get((container, name))
        if blob is None or blob.etag != etag:
            raise DropGoneError(name)
        self.world.put(SETTINGS.archive_container, kept, blob.content, blob.metadata)

    @reads
    def archived(self, path: str) -> Drop:
        blob = self.world.blobs.get((SETTINGS.archive_container, f"{path}.jsonl"))
        if blob is None:
            raise ArchiveGoneError(path)
        container, name = SETTINGS.archive_container, f"{path}.jsonl"
        return Drop(container, name, blob.etag, len(blob.content), blob.last_modified, blob.metadata)

    @reads
    def version(self, container: str, name: str) -> str | None:
        blob = self.world.blobs.get((container, name))
        return blob.etag if blob else None

    @writes
    def remove(self, container: str, name: str, version: str = ANY_VERSION) -> None:
        found = self.world.blobs.get((container, name))
        if found is None or version not in {ANY_VERSION, found.etag}:
            return
        self.world.loses(name)
        self.world.blobs.pop((container, name), None)

    def archive_path(self, path: str, *, gzip: bool = False) -> str:
        return f"{SETTINGS.archive_container}/{path}.jsonl{'.gz' if gzip else ''}"

    @writes
    def delete_from_inbox(self, container: str, name: str, etag: str, path: str, size: int) -> None:
        copies = [self.world.blobs.get((SETTINGS.archive_container, f"{path}.jsonl{end}")) for end in ("", ".gz")]
        if not any(copy is not None and len(copy.content) == size for copy in copies):
            return
        blob = self.world.blobs.get((container, name))
        if blob is not None and blob.etag == etag and name not in self.world.held:
            self.world.inbox_loses(name, blob)
            del self.world.blobs[container, name]

    @reads
    def read(
        self,
        container: str,
        name: str,
        offset: int = 0,
        length: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,  # noqa: ARG002
    ) -> Iterator[bytes]:
        blob = self.world.blobs.get((container, name))
        if blob is None:
            gone = ResourceNotFoundError(f"{container}/{name}")
            vars(gone)["error_code"] = StorageErrorCode.BLOB_NOT_FOUND
            raise gone
        yield blob.content[offset:][:length]

    def writer(
        self,
        container: str,
        name: str,
        block_bytes: int = CHUNK_BYTES,  # noqa: ARG002
        over: str | None = ANY_VERSION,
        metadata: Mapping[str, str] | None = None,
    ) -> "FakeWriter":
        return FakeWriter(self, container, name, over, metadata)

    def write(self, container: str, name: str, content: Iterable[bytes], over: str | None = ANY_VERSION) -> str | None:
        with self.writer(container, name, over=over) as writer:
            for piece in content:
                writer.write(piece)
        return writer.path

    def write_report(self, path: str, report: Any, over: str | None = ANY_VERSION) -> str:
        self._put(SETTINGS.reports_container, f"{path}.json", msgspec.json.encode(report), over)
        return f"{SETTINGS.reports_container}/{path}.json"

    @reads
    def report(self, path: str) -> dict[str, Any] | None:
        blob = self.world.blobs.get((SETTINGS.reports_container, f"{path}.json"))
        return cast(dict[str, Any], json.loads(blob.content)) if blob else None

    def url(self, container: str, name: str) -> str:
        return url_of(container, name)

    @reads
    def read_url(self, url: str) -> Iterator[bytes] | None:
        blob = self.world.blobs.get(blob_at(url))
        return iter([blob.content]) if blob else None

    @reads
    def lists_url(self, url: str) -> bool:
        return blob_at(url) in self.world.blobs

    def clear_work(self, folder: str, after_each: Callable[[], None] | None = None) -> None:
        job_id = "-".join(folder.split("-")[:2])
        job = self.world.job_in_hand(job_id)
        current = job is None or job.work_folder == folder
        if job_id in self.world.begun and current and not self.world.job_reported(job_id):
            self.world.breaks(f"the blobs of {job_id} were deleted before its report was there")
        for name in self._list_work(f"{folder}/"):
            self._delete_work(name)
            if after_each is not None:
                after_each()

    @reads
    def _list_work(self, prefix: str) -> list[str]:
        return [name for at, name in self.world.blobs if at == SETTINGS.work_container and name.startswith(prefix)]

    @writes
    def _delete_work(self, name: str) -> None:
        if (SETTINGS.work_container, name) in self.world.blobs:
            self.world.work_loses(name)
            del self.world.blobs[SETTINGS.work_container, name]

    @writes
    def _put(
        self, container: str, name: str, content: bytes, over: str | None, metadata: Mapping[str, str] | None = None
    ) -> str:
        found = self.world.blobs.get((container, name))
        if over not in {ANY_VERSION, found.etag if found else None}:
            raise BlobChangedError(name)
        self.world.put(container, name, content, dict(metadata or {}))
        return self.world.blobs[container, name].etag


class FakeWriter:
    """A blob that appears whole when its writer is closed without an error, as Writer."""

    def __init__(
        self,
        containers: FakeBlobs,
        container: str,
        name: str,
        over: str | None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._containers, self._container, self._name, self._over = containers, container, name, over
        self._metadata = metadata
        self._content = bytearray()
        self.lines = 0
        self.version: str | None = None

    @property
    def path(self) -> str | None:
        return f"{self._container}/{self._name}" if self.lines else None

    def write(self, line: bytes) -> None:
        self.lines += 1
        self._content += line

    def __enter__(self) -> "FakeWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.lines:
            self.version = self._containers._put(
                self._container, self._name, bytes(self._content), self._over, self._metadata
            )


class FakeQueues(_StorageHand):
    """Storage queues, as batch_fn.queues.Queues."""

    @reads
    def poisoned(self) -> dict[str, int]:
        return {}

    @reads
    def poison(self) -> dict[str, tuple[int, datetime | None]]:
        return {}

    @writes
    def drop(self, job_id: str, name: str) -> None:
        self._send("drop", Message(job_id, name=name))

    @writes
    def submit(self, job_id: str, part: str, delay: int = 0) -> None:
        self._send("submit", Message(job_id, part=part), delay)

    @writes
    def collect(self, job_id: str) -> None:
        self._send("collect", Message(job_id))

    @writes
    def completed(self, job_id: str, status: str, report: str) -> None:
        container, _, name = report.partition("/")
        blob = self.world.blobs.get((container, name))
        if blob is None or json.loads(blob.content)["status"] != status:
            self.world.breaks(f"{job_id} was said to be done, and {report} does not say so")
        self.world.completed.append(job_id)

    def _send(self, queue: str, message: Message, delay: int = 0) -> None:
        visible_at = self.world.now + timedelta(seconds=delay)
        self.world.messages.append(QueuedMessage(queue, msgspec.json.encode({"job": message}), visible_at))


class FakeService(_Hand):
    """Azure OpenAI's files and batches, as OpenAIBatches."""

    once = frozenset({"upload", "create"})

    def busy(self) -> Exception:
        return TransientServiceError("HTTP 429", retry_after=20.0)

    def lost(self, name: str) -> Exception:
        return (
            CreateOutcomeUnknownError("no answer")
            if name == "create"
            else TransientServiceError("no answer", outcome_unknown=True)
        )

    @writes
    def upload(self, name: str, content: IO[bytes]) -> str:
        if Weather.FILES_FULL in self.world.weather:
            raise FileQuotaError("The quota for files is reached.")
        return self.world.add_file(name, content.read())

    @reads
    def find_files(self, name: str) -> list[str]:
        return [file.id for file in self.world.files.values() if file.name == name]

    @reads
    def files(self) -> Iterator[tuple[str, str]]:
        for file in list(self.world.files.values()):
            yield file.id, file.name

    @reads
    def has_file(self, file_id: str) -> bool:
        return file_id in self.world.files

    @reads
    def lacks_file(self, file_id: str) -> bool:
        return file_id not in self.world.files

    @reads
    def file_is_pending(self, file_id: str) -> bool:  # noqa: ARG002 - files are processed at once
        return False

    @reads
    def download(self, file_id: str, to: Path) -> None:
        to.write_bytes(self._file(file_id))

    def delete_files_of(self, part: Part) -> None:
        results = () if part.results_left else (part.output_file_id, part.error_file_id)
        known = dict.fromkeys((part.file_id, *results, *part.leftovers))
        if part.claims > 1:
            known.update(dict.fromkeys(self.find_files(part.file_name)))
        for file_id in known:
            if file_id:
                self.delete_file(file_id)

    @writes
    def delete_file(self, file_id: str) -> None:
        file = self.world.files.pop(file_id, None)
        if file is not None:
            self.world.service_loses(file)

    @writes
    def create(self, part: Part) -> tuple[ServiceBatch, Enqueued]:
        content = self._blob(part.input_blob) if part.input_blob else self._file(part.file_id)
        requests = [json.loads(line) for line in content.splitlines()]
        if {request["body"]["model"] for request in requests} != {part.deployment}:
            self.world.breaks(f"{part.file_name} was sent to the wrong deployment")
        lines = {request["custom_id"]: Line.of(request["body"]) for request in requests}
        if not len(requests) == len(lines) == len(set(lines.values())) == part.requests:
            self.world.breaks(f"{part.file_name} has not its requests, each once")
        if part.deployment == UNKNOWN_DEPLOYMENT:
            raise PermanentServiceError(ServiceError("model_not_found", "There is no such deployment."))
        tokens = sum(len(json.dumps(request["body"])) for request in requests) // 4
        limit = self.world.token_limit
        if Weather.NO_TOKENS in self.world.weather or (limit and self.world.tokens_enqueued() + tokens > limit):
            raise TokenLimitError("The deployment has no room for this batch.")
        batch = self.world.add_batch(part, lines, tokens)
        if not limit or self.world.enqueued_header == "none":
            return self.world.described(batch), Enqueued(None, None)
        told = self.world.tokens_enqueued() if self.world.enqueued_header == "deployment" else tokens
        return self.world.described(batch), Enqueued(told, limit)

    @reads
    def find_batch(self, part: Part, since: datetime) -> ServiceBatch | None:
        for batch in self._listed(since):
            mine = batch.metadata == part.metadata
            mine |= bool(part.file_id) and batch.input_file_id == part.file_id
            mine |= bool(part.input_blob) and batch.input_blob == part.input_blob
            if mine and batch.id not in part.refused:
                return self.world.described(batch)
        return None

    @reads
    def find_batches(self, ids: Collection[str], since: datetime | None) -> dict[str, ServiceBatch]:
        return {batch.id: self.world.described(batch) for batch in self._listed(since) if batch.id in ids}

    def pages(self, after: str = "") -> Iterator[list[ServiceBatch]]:
        start, more = next((at for at, each in enumerate(self._listed(), 1) if each.id == after), 0), True
        while more:
            page, more = self._page(start)
            yield page
            start += PAGE

    @reads
    def _page(self, start: int) -> tuple[list[ServiceBatch], bool]:
        listed = list(self._listed())
        return [self.world.described(batch) for batch in listed[start : start + PAGE]], len(listed) > start + PAGE

    @reads
    def retrieve(self, batch_id: str) -> ServiceBatch:
        batch = self.world.batches[batch_id]
        if batch.gone or batch.known_at > self.world.now:
            raise NotFoundError(batch_id)
        return self.world.described(batch)

    @writes
    def cancel(self, batch_id: str) -> None:
        self.world.cancel(self.world.batches[batch_id])

    def _file(self, file_id: str) -> bytes:
        if file_id not in self.world.files:
            raise NotFoundError(file_id)
        return self.world.files[file_id].content

    def _blob(self, url: str) -> bytes:
        if blob_at(url) not in self.world.blobs:
            self.world.breaks(f"the service was sent to {url}, where there is nothing")
            raise NotFoundError(url)
        return self.world.blobs[blob_at(url)].content

    def _listed(self, since: datetime | None = None) -> Iterator[Batch]:
        """Yield what a list shows, newest first; with `since`, no older ones."""
        for batch in reversed(self.world.batches.values()):
            shown = not batch.gone and batch.listed_at <= self.world.now
            if shown and (since is None or batch.created_at >= since):
                yield batch


def new_process(world: World) -> App:
    """Return an app as a process that has just started has it: with hands of its own, and nothing else."""
    app = App(world.settings)
    app.__dict__.update(
        tables=FakeTables(world),
        blobs=FakeBlobs(world),
        queues=FakeQueues(world),
        openai=FakeService(world),
    )
    return app
