"""What is there when every process has died: blobs, tables, queues and the service, and the books kept on them.

The world is also where the rules that never break are watched that can be judged by one change alone: each change says
what it does, and what breaks a rule is noted in `broken`.
"""

import json
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from batch_fn.core.admission import Deployment
from batch_fn.core.batches import ServiceBatch, ServiceError
from batch_fn.core.jobs import Job, Part
from batch_fn.core.report import to_iso
from batch_fn.settings import Settings
from batch_fn.storage.rows import JOB_ROW, FinishedJob, Row
from tests.model.faults import Turn

LIST_DELAY = timedelta(seconds=150)
"""How long a new batch is missing in lists, and may be unknown by its id."""

STALL = timedelta(seconds=120)
"""How long a process may be held up before one call; LIST_DELAY and STALL together stay under SETTLE_SECONDS."""

SERVICE_CLOCK = timedelta(minutes=-2)
"""How far the service's clock is off ours."""

UNKNOWN_DEPLOYMENT = "nowhere"

STORAGE = "https://storage.example"

SETTINGS = Settings(
    max_part_requests=3,
    bundle_seconds=20,
    max_attempts=2,
    claim_seconds=60,  # shorter than STALL: a claim may end while its holder still lives
    settle_seconds=300,
    resend_seconds=100,  # likewise
    quota_backoff_seconds=50,
    empty_drop_seconds=200,
)

ON_BLOBS = replace(SETTINGS, submit_mode="blob")


class Weather(StrEnum):
    """What the service may be like for a while."""

    NO_TOKENS = "a create is refused for want of token quota"
    NO_TOKENS_LATER = "a batch is created, and fails later for want of token quota"
    FILES_FULL = "no more files are taken"
    SLOW_START = "a new batch is unknown for a while, even when asked for by its id"
    ODD_STATUS = "an open batch has a status that nobody has documented"


class Answer(StrEnum):
    """What came of one request."""

    ANSWERED = "answered"
    #: For good, as with a 400.
    FAILED = "failed"
    #: With an error that may pass, as with a 429.
    TRIPPED = "tripped"


class End(StrEnum):
    """How a batch ends; the lines that were not run until then are..."""

    COMPLETED = "completed"  # ...answered
    LEFT_OUT = "completed, with lines missing"  # ...in neither file
    EXPIRED = "expired"  # ...in the error file, as batch_expired
    CANCELLED = "cancelled"  # ...in neither file
    FAILED = "failed, nobody knows why"  # ...in neither file
    INVALID = "failed, and would again"  # ...not run, and it says so
    GONE = "gone"  # the service does not know it any more, and charges nothing


@dataclass
class Blob:
    """One version of a blob."""

    content: bytes
    etag: str
    last_modified: datetime
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class File:
    """A file at the service."""

    id: str
    name: str
    content: bytes


class Line(NamedTuple):
    """One request line of one drop, wherever it rides and under whatever custom_id."""

    drop: str
    custom_id: str

    @classmethod
    def of(cls, body: Any) -> "Line":
        """Return which line it is that has that body: it says so itself."""
        _, custom_id, drop = re.fullmatch(r"(Say) (\w+) of (\d+)\.", body["messages"][0]["content"]).groups()  # type: ignore[union-attr]
        return cls(drop, custom_id)


class QueuedMessage(NamedTuple):
    """A message in a queue."""

    queue: str
    body: bytes
    visible_at: datetime


@dataclass
class Batch:
    """A batch at the service, and what became of each of its requests."""

    id: str
    metadata: dict[str, str]
    input_file_id: str
    input_blob: str
    output_folder: str
    lines: dict[str, Line]
    """Its requests, by the custom_id that they were sent under."""
    bundle: str
    """Id of the bundle that it was created for; empty if it was created for a job."""
    created_at: datetime
    known_at: datetime
    listed_at: datetime
    tokens: int
    doomed: bool = False
    """It will fail for want of token quota."""
    status: str = "validating"
    answers: dict[str, Answer] = field(default_factory=dict)
    output_file_id: str = ""
    error_file_id: str = ""
    errors: tuple[ServiceError, ...] = ()
    gone: bool = False
    given_up: bool = False
    """A test says that nobody needs it any more, although it runs."""

    @property
    def custom_ids(self) -> list[str]:
        """What its requests were sent under."""
        return list(self.lines)

    @property
    def answered(self) -> dict[Line, str]:
        """The lines that it answered, with the custom_id of each."""
        return {self.lines[each]: each for each, answer in self.answers.items() if answer is Answer.ANSWERED}

    @property
    def open(self) -> bool:
        """Whether the service may still run lines of it."""
        return not self.gone and self.status in {"validating", "in_progress", "cancelling"}

    def answer(self, custom_id: str) -> bytes:
        """Return the request's line in the output or error file."""
        response: Any = None
        error: Any = None
        match self.answers.get(custom_id):
            case Answer.ANSWERED:
                usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
                response = {"status_code": 200, "body": {"batch": self.id, "usage": usage}}
            case Answer.FAILED:
                response = {"status_code": 400, "body": {"error": {"code": "content_filter"}}}
            case Answer.TRIPPED:
                response = {"status_code": 429, "body": {"error": {"code": "rate_limit"}}}
            case None:
                error = {"code": "batch_expired", "message": "The batch ended before this request was run."}
        return json.dumps({"custom_id": custom_id, "response": response, "error": error}).encode() + b"\n"


class World:
    """Everything that outlives a process."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.now = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)
        self.turn = Turn()
        self.broken: list[str] = []
        self._count = 0

        self.blobs: dict[tuple[str, str], Blob] = {}
        self.held: set[str] = set()
        """Names in the inbox that a lease, a snapshot or a policy keeps from being deleted."""
        self.versions: dict[tuple[str, str], bytes] = {}
        """Content of each version that was ever in the inbox, by name and ETag."""
        self.dropped: dict[str, tuple[str, str]] = {}
        """Name and ETag of each version, by the number of the drop."""

        self.rows: dict[str, dict[str, tuple[Row, str]]] = {}
        """The work table: rows with their ETag, by job and row key."""
        self.history: dict[str, FinishedJob] = {}
        self.deployments: dict[str, tuple[Deployment, str]] = {}
        self.ticked_at: datetime | None = None
        self.begun: dict[str, Job] = {}
        """Every job that ever was in the tables, but for bundles."""

        self.messages: list[QueuedMessage] = []
        self.retried: set[str] = set()
        """The jobs that were retried."""
        self.poisoned: set[str] = set()
        """The jobs of which a message was given up."""
        self.completed: list[str] = []
        """The jobs that listeners were told of."""

        self.weather: set[Weather] = set()
        self.token_limit: int | None = None
        """What the deployments take; None: as much as is sent, and nothing is told of it."""
        self.files: dict[str, File] = {}
        self.batches: dict[str, Batch] = {}
        """Every batch that was ever created, oldest first."""

    def count(self) -> int:
        """Return a number that was not there before: for ETags and ids."""
        self._count += 1
        return self._count

    def breaks(self, sentence: str) -> None:
        """Note that a rule was broken. Nothing is raised: the app must not get a chance to catch it."""
        self.broken.append(sentence)

    # Blobs

    def put(self, container: str, name: str, content: bytes, metadata: dict[str, str] | None = None) -> None:
        """The app writes a blob."""
        if container == SETTINGS.input_container:
            self.breaks(f"the app wrote to the inbox: {name}")
        before = self.blobs.get((container, name))
        done = container != SETTINGS.work_container and self.job_reported(_job_of(name))
        if done and (before is None or before.content != content):
            self.breaks(f"{container}/{name} was changed after its report was written")
        self.blobs[container, name] = Blob(content, str(self.count()), self.now, metadata or {})

    def loses(self, name: str) -> None:
        """The app deletes the errors that a retry has made good: the new report must be there."""
        if not self.job_reported(_job_of(name)):
            self.breaks(f"{name} was deleted before its new report was there")

    def drop(self, name: str, content: bytes, metadata: dict[str, str]) -> None:
        """A user drops a file into the inbox, over what was there; a # in it stands for the number of the drop."""
        number = str(self.count())
        blob = Blob(content.replace(b"#", number.encode()), number, self.now, metadata)
        self.blobs[SETTINGS.input_container, name] = blob
        self.versions[name, blob.etag] = blob.content
        self.dropped[number] = (name, blob.etag)

    def reported(self, path: str) -> bool:
        """Return whether the report of the job with that path is there."""
        return (SETTINGS.reports_container, f"{path}.json") in self.blobs

    def job_reported(self, job_id: str) -> bool:
        """Return whether the report of that job is there: of the job as it is now, if it is retried."""
        blob = (
            self.blobs.get((SETTINGS.reports_container, f"{self.begun[job_id].path}.json"))
            if job_id in self.begun
            else None
        )
        job = self.job_in_hand(job_id)
        if blob is None or job is None or job.retried_at is None:
            return blob is not None
        return bool(json.loads(blob.content)["times"]["retried"] == to_iso(job.retried_at))

    def job_of(self, line: Line) -> str:
        """Return the id of the job that a line belongs to."""
        version = self.dropped[line.drop]
        return next(job.job_id for job in self.begun.values() if (job.name, job.etag) == version)

    def inbox(self) -> dict[str, Blob]:
        """Return what lies in the inbox, by name."""
        return {name: blob for (container, name), blob in self.blobs.items() if container == SETTINGS.input_container}

    def inbox_loses(self, name: str, blob: Blob) -> None:
        """The app is about to delete a version from the inbox: its report and its copy must be there."""
        for job in self.begun.values():
            if (job.name, job.etag) != (name, blob.etag):
                continue
            copies = [self.blobs.get((SETTINGS.archive_container, f"{job.path}.jsonl{end}")) for end in ("", ".gz")]
            copied = any(copy is not None and copy.content == blob.content for copy in copies)
            if self.reported(job.path) and copied:
                return
        self.breaks(f"{name} was deleted from the inbox before its report and its copy were there")

    # Rows

    def parts(self) -> list[Part]:
        """Return every attempt in hand."""
        return [row for rows in self.rows.values() for row, _ in rows.values() if isinstance(row, Part)]

    def job_in_hand(self, job_id: str) -> Job | None:
        """Return the job's row in hand."""
        row, _ = self.rows.get(job_id, {}).get(JOB_ROW, (None, ""))
        assert row is None or isinstance(row, Job)
        return row

    # The service

    def open_batches(self) -> list[Batch]:
        """Return the batches that the service works on, oldest first."""
        return [batch for batch in self.batches.values() if batch.open]

    def tokens_enqueued(self) -> int:
        """Return the tokens of all open batches."""
        return sum(batch.tokens for batch in self.open_batches())

    def add_file(self, name: str, content: bytes) -> str:
        """Keep a file at the service."""
        file = File(f"file-{self.count()}", name, content)
        self.files[file.id] = file
        return file.id

    def add_batch(self, part: Part, lines: dict[str, Line], tokens: int) -> Batch:
        """The service takes on a batch: no line of it may be in another that is open, or that answered it."""
        for line in lines.values():
            if self.job_reported(self.job_of(line)):
                self.breaks(f"{line} has its report, and is sent to the service again")
            job = self.job_in_hand(self.job_of(line))
            if job is not None and job.retried_at is not None:
                errors = self.blobs[SETTINGS.errors_container, f"{job.path}.jsonl"].content
                if line.custom_id not in [json.loads(each)["custom_id"] for each in errors.splitlines()]:
                    self.breaks(f"{line} had not failed, and is retried")
        if all(self._cancelled_before(self.job_of(line), self.now - STALL) for line in lines.values()):
            self.breaks(f"{part.key} of {part.job_id} was sent after it was cancelled")
        for other in self.batches.values():
            if other.gone:
                continue
            for line in set(lines.values()) & set(other.lines.values()):
                if other.open:
                    self.breaks(f"{line} is in a second batch while {other.id} is open")
                elif line in other.answered:
                    self.breaks(f"{line} is in a second batch, and {other.id} answered it")
        tried = max(self._tries(line) for line in lines.values())
        jobs = {part.job_id, *map(self.job_of, lines.values())}
        if part.attempt - part.attempts_before > 1 + tried and not jobs & self.retried and not jobs & self.poisoned:
            self.breaks(f"{part.key} of {part.job_id} lost an attempt over a refusal for quota")
        known_at = self.now + LIST_DELAY if Weather.SLOW_START in self.weather else self.now
        batch = Batch(
            id=f"batch-{self.count()}",
            metadata={} if part.input_blob else dict(part.metadata),
            input_file_id="" if part.input_blob else part.file_id,
            input_blob=part.input_blob,
            output_folder=part.output_folder,
            lines=lines,
            bundle="" if part.job_id in self.begun else part.job_id,
            created_at=self.now + SERVICE_CLOCK,
            known_at=known_at,
            listed_at=self.now + LIST_DELAY,
            tokens=tokens,
            doomed=Weather.NO_TOKENS_LATER in self.weather,
        )
        self.batches[batch.id] = batch
        return batch

    def _cancelled_before(self, job_id: str, time: datetime) -> bool:
        job = self.job_in_hand(job_id)
        return job is not None and job.cancel_asked_at is not None and job.cancel_asked_at < time

    def cancel(self, batch: Batch) -> None:
        """The app asks for a batch to be stopped: nobody may need it any more."""
        if not batch.open:
            return
        for line in () if batch.given_up else batch.lines.values():
            job = self.job_in_hand(self.job_of(line))
            if job is not None and not job.cancelled:
                self.breaks(f"{batch.id} was cancelled, and {job.job_id} was not")
        batch.status = "cancelling"

    def _tries(self, line: Line) -> int:
        """Return how many batches the line was in that were not refused for quota."""
        return sum(line in each.lines.values() for each in self.batches.values() if each.gone or not each.doomed)

    def run_line(self, batch: Batch, answer: Answer) -> None:
        """The service runs the batch's next request."""
        rest = [custom_id for custom_id in batch.custom_ids if custom_id not in batch.answers]
        if not rest or batch.doomed:
            return
        if batch.status != "cancelling":
            batch.status = "in_progress"
        batch.answers[rest[0]] = answer
        if answer is not Answer.ANSWERED:
            return
        line = batch.lines[rest[0]]
        for other in self.batches.values():
            if line in other.answered and other is not batch and not other.gone:
                self.breaks(f"{line} was answered, and paid for, twice")

    def end(self, batch: Batch, how: End) -> None:
        """The service is done with a batch."""
        if how is End.GONE:
            batch.gone = True
            return
        if batch.doomed or (how is End.INVALID and not batch.answers):
            code = "token_limit_exceeded" if batch.doomed else "url_mismatch"
            batch.status, batch.errors = "failed", (ServiceError(code, "said the service"),)
            return
        if how is End.COMPLETED and batch.status == "cancelling":
            how = End.CANCELLED
        if how is End.COMPLETED:
            while len(batch.answers) < len(batch.custom_ids):
                self.run_line(batch, Answer.ANSWERED)
        if how in {End.FAILED, End.INVALID}:
            batch.errors = (ServiceError("internal_error", "nobody knows why"),)
        batch.status = {
            End.COMPLETED: "completed",
            End.LEFT_OUT: "completed",
            End.EXPIRED: "expired",
            End.CANCELLED: "cancelled",
        }.get(how, "failed")
        output = [each for each in batch.custom_ids if batch.answers.get(each) is Answer.ANSWERED]
        errors = [each for each in batch.custom_ids if batch.answers.get(each) in {Answer.FAILED, Answer.TRIPPED}]
        if how is End.EXPIRED:
            errors += [each for each in batch.custom_ids if each not in batch.answers]
        if output:  # results come in any order
            batch.output_file_id = self._result(batch, "results", output)
        if errors:
            batch.error_file_id = self._result(batch, "errors", errors)

    def _result(self, batch: Batch, kind: str, custom_ids: list[str]) -> str:
        """The service writes a file of results, or a blob. Return the id of the file."""
        content = b"".join(map(batch.answer, reversed(custom_ids)))
        if not batch.input_blob:
            return self.add_file(f"{batch.id}-{kind}", content)
        self.blobs[blob_at(result_url(batch, kind))] = Blob(content, str(self.count()), self.now)
        return ""

    def unread_files(self) -> list[str]:
        """Return the ids of the files that no batch was made of, nor made."""
        used = {
            file_id
            for batch in self.batches.values()
            for file_id in (batch.input_file_id, batch.output_file_id, batch.error_file_id)
        }
        return [file_id for file_id in self.files if file_id not in used]

    def service_loses(self, file: File) -> None:
        """The app is about to delete a file at the service: no open batch may need it, and no job may lack it."""
        for batch in self.batches.values():
            if file.id == batch.input_file_id and batch.open and not batch.given_up:
                self.breaks(f"{file.name} was deleted while {batch.id} reads it")
            if file.id in {batch.output_file_id, batch.error_file_id}:
                self._loses_results(file.name, batch)

    def work_loses(self, name: str) -> None:
        """The app is about to delete a blob of its own: likewise."""
        for batch in self.batches.values():
            if (SETTINGS.work_container, name) == blob_at(batch.input_blob) and batch.open and not batch.given_up:
                self.breaks(f"{name} was deleted while {batch.id} reads it")
            if batch.output_folder and f"{STORAGE}/{SETTINGS.work_container}/{name}".startswith(batch.output_folder):
                self._loses_results(name, batch)

    def _loses_results(self, name: str, batch: Batch) -> None:
        """Each job that has a line in the batch must have its report, or what it needs of a bundle in its own blobs."""
        for line, custom_id in batch.answered.items():
            job_id = self.job_of(line)
            if self.job_reported(job_id) or batch.gone or (batch.bundle and self._has_kept(job_id, batch, line)):
                continue
            self.breaks(f"{name} was deleted before its answer to {custom_id} was anywhere else")

    def _has_kept(self, job_id: str, batch: Batch, line: Line) -> bool:
        """Return whether a settled part of the job keeps the answer to its line."""
        for part in self.parts():
            if part.job_id == job_id and part.results:
                kept = self.blobs[SETTINGS.work_container, part.results].content
                results = [json.loads(each.split(b"\t")[2]) for each in kept.splitlines()]
                if any(
                    result["custom_id"] == line.custom_id and result["response"]["body"]["batch"] == batch.id
                    for result in results
                    if result["response"] and "batch" in result["response"]["body"]
                ):
                    return True
        return False

    def described(self, batch: Batch) -> ServiceBatch:
        """Return the batch as the service describes it."""
        odd = batch.open and Weather.ODD_STATUS in self.weather
        return ServiceBatch(
            id=batch.id,
            status="paused" if odd else batch.status,
            input_file_id=batch.input_file_id,
            output_file_id=batch.output_file_id,
            error_file_id=batch.error_file_id,
            input_blob=batch.input_blob,
            # The service names its blobs even where it writes none.
            output_blob=result_url(batch, "results") if batch.input_blob and not batch.open else "",
            error_blob=result_url(batch, "errors") if batch.input_blob and not batch.open else "",
            total=len(batch.custom_ids),
            completed=sum(answer is Answer.ANSWERED for answer in batch.answers.values()),
            failed=sum(answer is not Answer.ANSWERED for answer in batch.answers.values()),
            errors=batch.errors,
            metadata=batch.metadata,
            created_at=batch.created_at,
            finished_at=None if batch.open else self.now + SERVICE_CLOCK,
        )


def _job_of(name: str) -> str:
    """Return the id of the job whose blob has that name."""
    return name.rpartition("/")[2].rpartition(".")[0]


def url_of(container: str, name: str) -> str:
    """Return the URL of a blob."""
    return f"{STORAGE}/{container}/{name}"


def blob_at(url: str) -> tuple[str, str]:
    """Return container and name of the blob at a URL."""
    container, _, name = url.removeprefix(f"{STORAGE}/").partition("/")
    return container, name


def result_url(batch: Batch, kind: str) -> str:
    """Return where the service writes a batch's results, or its errors, if it writes them."""
    return f"{batch.output_folder}/{batch.id}/{kind}.jsonl"
