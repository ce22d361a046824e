"""A job ends: output, errors and report are written, whoever waits is told, and what is not needed any more is deleted.

The order is the promise: where the report stands, the job's results are whole; and nothing is deleted before its copy
is durable. Every step may be done again.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from batch_fn.app import App
from batch_fn.core.jobs import Job, JobState, Outcome, Part, outcome
from batch_fn.core.report import report, report_is_current, service_findings
from batch_fn.core.results import FinalResult, merge, unpack
from batch_fn.runtime import log
from batch_fn.steps.ownership import finishing_lease, is_finished
from batch_fn.storage.blob_streams import MIN_CHUNK_BYTES, BlobChangedError
from batch_fn.storage.drops import DropGoneError
from batch_fn.storage.environment import is_environmental
from batch_fn.storage.rows import ActiveJob, ConflictError, FinishedJob, Stored
from batch_fn.validation.findings import REPORTED_FINDINGS

if TYPE_CHECKING:
    from batch_fn.validation.findings import Findings


KEPT_CHUNK_BYTES = 512 * 1024
"""How much of kept results is read at a time: they are cut into lines whole, while output and errors are written."""


class CountMismatchError(Exception):
    """The results of a job are not exactly its requests; it is not finished, and somebody has to look."""


def finish_rejected(app: App, stored: Stored[Job], findings: "Findings", *, without_copy: bool = False) -> None:
    """Write what is wrong with a drop, and close its job; `without_copy`: even if the archive cannot get its bytes."""
    with finishing_lease(app, stored) as job:
        if job is None:
            return
        written = app.blobs.report(job.row.path)
        document = written or _write_findings(app, job.row, findings, without_copy=without_copy)
        active = app.tables.active_job(job.row.job_id) or ActiveJob(job)
        _publish(app, active, document, again=written is not None)


def finish(app: App, active: ActiveJob, last: tuple[Part, Iterator[FinalResult]] | None = None) -> bool:
    """Bring the results of all parts together and close the job. Return False if another instance is at it.

    `last` is the part whose results are still at hand here and were not kept in the work container, with its results.

    Raises:
        DoesNotAddUpError: if the results are not exactly the job's requests.
    """
    try:
        with finishing_lease(app, active.job) as job:
            if job is None:
                return False
            _finish(app, job, active, last)
    except (BlobChangedError, ConflictError):
        log.warning("job_overtaken", job_id=active.job.row.job_id)  # if it was not, the tick sends for it again
        return False
    return True


def _finish(app: App, job: Stored[Job], active: ActiveJob, last: tuple[Part, Iterator[FinalResult]] | None) -> None:
    # Reports are written by jobs that finish: one that was not at it yet, and never retried, has none to look for.
    begun = active.job.row.state is JobState.FINISHING or job.row.retried_at is not None
    # What is written goes over what is there now: whoever stops in the midst of it must not go on over a retry's.
    over = _versions(app, job.row) if begun else _Versions()
    found = app.blobs.report(job.row.path) if begun else None
    if found is not None and report_is_current(job.row, found):
        document = found
    else:
        parts = _settled(active, last[0] if last else None)
        document = _write_results(app, job.row, parts, last, previous_report=found, over=over)
    _publish(app, ActiveJob(job, active.parts), document, again=document is found)


class _Versions(NamedTuple):
    """The versions of a job's blobs; None for one that is not there."""

    output: str | None = None
    errors: str | None = None
    report: str | None = None


def _versions(app: App, job: Job) -> _Versions:
    settings, version = app.settings, app.blobs.version
    return _Versions(
        output=version(settings.output_container, f"{job.path}.jsonl"),
        errors=version(settings.errors_container, f"{job.path}.jsonl"),
        report=version(settings.reports_container, f"{job.path}.json"),
    )


def _write_findings(app: App, job: Job, findings: "Findings", *, without_copy: bool) -> dict[str, Any]:
    """Write errors and report of a rejected drop. Return the report."""
    errors = app.blobs.write(app.settings.errors_container, f"{job.path}.jsonl", findings.lines())
    try:
        app.blobs.archive(job.container, job.name, job.etag, job.path, gzip=job.gzip)
        archive: str | None = app.blobs.archive_path(job.path, gzip=job.gzip)
    except DropGoneError:
        archive = None
    except Exception as error:
        if not (without_copy and is_environmental(error)):
            raise
        archive = None  # the drop stays in the inbox
    document = report(
        job,
        status=Outcome.REJECTED,
        succeeded=0,
        failed=0,
        findings=findings.first,
        finding_count=findings.count,
        outputs={"output": None, "errors": errors, "archive": archive},
    )
    app.blobs.write_report(job.path, document)
    return document


def _settled(active: ActiveJob, last: Part | None) -> list[Part]:
    """Return every attempt as it is when all are settled, in the order of parts and attempts."""
    parts = {stored.row.key: stored.row for stored in active.parts}
    if last is not None:
        parts[last.key] = last
    return sorted(parts.values(), key=lambda part: (part.number, part.attempt))


def _write_results(
    app: App,
    job: Job,
    parts: list[Part],
    last: tuple[Part, Iterator[FinalResult]] | None,
    *,
    previous_report: dict[str, Any] | None,
    over: _Versions,
) -> dict[str, Any]:
    """Write output, errors and report; `former` is the report before the job was retried. Return the report."""
    settings, containers = app.settings, app.blobs
    output = containers.writer(settings.output_container, f"{job.path}.jsonl", over=over.output)
    errors = containers.writer(settings.errors_container, f"{job.path}.jsonl", over=over.errors)
    previous = 0
    with errors, output:  # the output comes first: a retry makes more of it, and may leave no errors
        for final in merge(_streams(app, parts, last)):
            if final.line <= previous:
                raise CountMismatchError(f"Line {final.line} of job {job.job_id} has two results.")
            previous = final.line
            (output if final.succeeded else errors).write(final.raw + b"\n")
        if output.lines + errors.lines != job.requests:
            raise CountMismatchError(
                f"Job {job.job_id} has {job.requests} requests, but {output.lines} succeeded and {errors.lines} failed."
            )
    findings = service_findings(parts)
    document = report(
        job,
        status=outcome(succeeded=output.lines, failed=errors.lines, cancelled=job.cancelled),
        succeeded=output.lines,
        failed=errors.lines,
        findings=findings[:REPORTED_FINDINGS],
        finding_count=len(findings),
        outputs={
            "output": output.path,
            "errors": errors.path,
            "archive": containers.archive_path(job.path, gzip=job.gzip),
        },
        parts=parts,
        previous_report=previous_report,
        prices=settings.prices,
    )
    try:
        containers.write_report(job.path, document, over.report)
    except BlobChangedError:
        if errors.version is not None and is_finished(app, job):  # a retry has left none: these are of before
            containers.remove(settings.errors_container, f"{job.path}.jsonl", errors.version)
        raise
    return document


def _streams(
    app: App, parts: list[Part], last: tuple[Part, Iterator[FinalResult]] | None
) -> Iterator[tuple[int, Iterator[FinalResult]]]:
    """Yield the results of each attempt, with a line that none of them is before.

    The parts of a drop mostly follow one another, and are then read so; those that are read side by side share a chunk.
    """
    first_lines: dict[int, int] = {}
    for part in parts:
        first_lines.setdefault(part.number, part.source.first_line)  # lines of it are what later attempts have
    side_by_side = max(Counter(first_lines[part.number] for part in parts if part.results).values(), default=1)
    chunk_bytes = max(MIN_CHUNK_BYTES, KEPT_CHUNK_BYTES // side_by_side)
    for part in parts:
        if last is not None and part.key == last[0].key:
            yield first_lines[part.number], last[1]
        elif part.results:
            chunks = app.blobs.read(app.settings.work_container, part.results, chunk_bytes=chunk_bytes)
            yield first_lines[part.number], map(unpack, _split(chunks))


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole


def _publish(app: App, active: ActiveJob, document: dict[str, Any], *, again: bool) -> None:
    """Do what comes after the report: tell, empty the inbox, enter the history, delete what is not needed any more."""
    job = active.job.row
    place = f"{app.settings.reports_container}/{job.path}.json"
    if job.retried_at is not None and document["outputs"]["errors"] is None:
        app.blobs.remove(app.settings.errors_container, f"{job.path}.jsonl")  # of the former attempt
    if not again or not is_finished(app, job):
        app.queues.completed(job.job_id, document["status"], place)
        app.blobs.delete_from_inbox(job.container, job.name, job.etag, job.path, job.bytes)
        attempts = max((stored.row.attempt for stored in active.parts), default=1)
        app.tables.finish(_history(job, document, place, attempts))
    _clean_up(app, active)
    app.tables.delete_active(active)
    counts = document["counts"]
    log.info("job_finished", job_id=job.job_id, status=document["status"], **counts)


def _clean_up(app: App, active: ActiveJob) -> None:
    """Delete the job's files at the service and its blobs in the work container: what they held is in the results."""
    if app.settings.delete_service_files:
        for stored in active.parts:
            app.openai.delete_files_of(stored.row)
    # Known to the ledger or not: whoever wrote a blob may have died before it said so.
    app.blobs.clear_work(active.job.row.work_folder)


def _history(job: Job, document: dict[str, Any], place: str, attempts: int) -> FinishedJob:
    document = msgspec.to_builtins(document)
    return FinishedJob(
        job_id=job.job_id,
        status=Outcome(document["status"]),
        container=job.container,
        name=job.name,
        etag=job.etag,
        bytes=job.bytes,
        requests=document["counts"]["requests"],
        succeeded=document["counts"]["succeeded"],
        failed=document["counts"]["failed"],
        finding_count=document["finding_count"],
        total_tokens=document["usage"]["total_tokens"],
        prompt_tokens=document["usage"]["prompt_tokens"],
        completion_tokens=document["usage"]["completion_tokens"],
        cost=document["cost"],
        accepted_at=_time(document["times"]["accepted"]),
        submitted_at=_time(document["times"]["submitted"]),
        dropped_at=job.dropped_at,
        finished_at=job.finished_at or job.dropped_at,
        report=place,
        attempts=attempts,
    )


def _time(stamped: str | None) -> datetime | None:
    return datetime.fromisoformat(stamped) if stamped else None
