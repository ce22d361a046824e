"""A job is finished: output, errors and report are written, a message is sent, and what is not needed is deleted.

The order is the promise: once the report is written, the job's results are complete, and nothing is deleted before its
copy is durable. Every step may be repeated.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from batch_fn.app import App
from batch_fn.core.jobs import Job, JobState, Outcome, Part
from batch_fn.core.report import outcome, report, report_is_current, service_findings
from batch_fn.core.results import FinalResult, merge, unpack
from batch_fn.runtime import log
from batch_fn.steps.cleaning import clean_up
from batch_fn.steps.ownership import FinishingLease, finishing_lease, is_finished
from batch_fn.steps.restoring import restore_copy
from batch_fn.storage.blob_streams import MIN_CHUNK_BYTES, BlobChangedError
from batch_fn.storage.drops import DropGoneError
from batch_fn.storage.rows import ActiveJob, ConflictError, FinishedJob, Stored
from batch_fn.validation.findings import INPUT_GONE, REPORTED_FINDINGS

if TYPE_CHECKING:
    from batch_fn.validation.findings import Findings


KEPT_CHUNK_BYTES = 512 * 1024
"""How much of kept results is read at a time, while output and errors are written."""


class CountMismatchError(Exception):
    """The results of a job are not exactly its requests, so it is not finished."""


def finish_rejected(app: App, stored: Stored[Job], findings: "Findings", *, without_copy: bool = False) -> None:
    """Write errors and report of a rejected drop, and finish its job.

    `without_copy`: even if the archive cannot get its bytes; the drop then stays in the inbox.
    """
    with finishing_lease(app, stored) as lease:
        if lease is None:
            return
        active = app.tables.active_job(lease.job.job_id)
        parts = active.parts if active else []
        if stored.row.state is JobState.FINISHING and _go_on_cleaning(app, lease, parts):
            return
        written = app.blobs.report(lease.job.path)
        document = written or _write_findings(app, lease.job, findings, without_copy=without_copy)
        _publish(app, lease, parts, document, again=written is not None)


def finish(app: App, active: ActiveJob, last: tuple[Part, Iterator[FinalResult]] | None = None) -> bool:
    """Bring the results of all parts together and finish the job. Return False if another instance does.

    `last` is a part whose results are not in the work container, with its results.

    Raises:
        CountMismatchError: if the results are not exactly the job's requests.
    """
    try:
        with finishing_lease(app, active.job) as lease:
            if lease is None:
                return False
            _finish(app, lease, active, last)
    except (BlobChangedError, ConflictError):
        log.warning("job_overtaken", job_id=active.job.row.job_id)  # if it was not, the tick sends its message again
        return False
    return True


def _finish(
    app: App, lease: FinishingLease, active: ActiveJob, last: tuple[Part, Iterator[FinalResult]] | None
) -> None:
    job = lease.job
    # A job that was not being finished, and never retried, has no report to look for.
    begun = active.job.row.state is JobState.FINISHING or job.retried_at is not None
    if begun and _go_on_cleaning(app, lease, active.parts):
        return
    # Only the versions that are there now are replaced: a retry may write newer ones before this instance goes on.
    over = _versions(app, job) if begun else _Versions()
    found = app.blobs.report(job.path) if begun else None
    if found is not None and report_is_current(job, found):
        document = found
    else:
        parts = _settled(active, last[0] if last else None)
        document = _write_results(app, lease, parts, last, previous_report=found, over=over)
    _publish(app, lease, active.parts, document, again=document is found)


class _Versions(NamedTuple):
    """The versions of a job's blobs; None for one that is not there."""

    output: str | None = None
    errors: str | None = None
    unmatched: str | None = None
    report: str | None = None


def _versions(app: App, job: Job) -> _Versions:
    settings, version = app.settings, app.blobs.version
    return _Versions(
        output=version(settings.output_container, f"{job.path}.jsonl"),
        errors=version(settings.errors_container, f"{job.path}.jsonl"),
        unmatched=version(settings.errors_container, _unmatched_name(job)),
        report=version(settings.reports_container, f"{job.path}.json"),
    )


def _unmatched_name(job: Job) -> str:
    """Return the name of the blob of result lines that belong to no request of the file."""
    return f"{job.path}.unmatched.jsonl"


def _write_findings(app: App, job: Job, findings: "Findings", *, without_copy: bool) -> dict[str, Any]:
    """Write errors and report of a rejected drop. Return the report."""
    errors = app.blobs.write(app.settings.errors_container, f"{job.path}.jsonl", findings.lines())
    try:
        app.blobs.archive(job.container, job.name, job.etag, job.path, gzip=job.gzip)
        archive: str | None = app.blobs.archive_path(job.path, gzip=job.gzip)
    except DropGoneError:
        archive = None
    except Exception as error:
        if not without_copy:
            raise
        log.warning("drop_not_copied", job_id=job.job_id, error=error)
        archive = None  # the drop stays in the inbox
    document = report(
        job,
        status=Outcome.REJECTED,
        succeeded=0,
        failed=0,
        findings=findings.first,
        finding_count=findings.count,
        outputs={"output": None, "errors": errors, "unmatched": None, "archive": archive},
    )
    app.blobs.write_report(job.path, document)
    return document


def _settled(active: ActiveJob, last: Part | None) -> list[Part]:
    """Return every attempt, in the order of parts and attempts; `last` in place of its row."""
    parts = {stored.row.key: stored.row for stored in active.parts}
    if last is not None:
        parts[last.key] = last
    return sorted(parts.values(), key=lambda part: (part.number, part.attempt))


def _write_results(
    app: App,
    lease: FinishingLease,
    parts: list[Part],
    last: tuple[Part, Iterator[FinalResult]] | None,
    *,
    previous_report: dict[str, Any] | None,
    over: _Versions,
) -> dict[str, Any]:
    """Write output, errors and report. Return the report."""
    settings, containers, job = app.settings, app.blobs, lease.job
    output = containers.writer(settings.output_container, f"{job.path}.jsonl", over=over.output)
    errors = containers.writer(settings.errors_container, f"{job.path}.jsonl", over=over.errors)
    unmatched = containers.writer(settings.errors_container, _unmatched_name(job), over=over.unmatched)
    previous = 0
    with unmatched, errors, output:  # the output is closed first: a retry makes more of it, and may leave no errors
        for final in merge(_streams(app, parts, last)):
            if final.line <= previous:
                raise CountMismatchError(f"Line {final.line} of job {job.job_id} has two results.")
            previous = final.line
            (output if final.succeeded else errors).write(final.raw + b"\n")
            lease.renew()
        if output.lines + errors.lines != job.requests:
            raise CountMismatchError(
                f"Job {job.job_id} has {job.requests} requests, but {output.lines} succeeded and {errors.lines} failed."
            )
        for part in parts:
            for chunk in app.blobs.read(settings.work_container, part.unmatched) if part.unmatched else ():
                unmatched.write(chunk)
    archive = containers.archive_path(job.path, gzip=job.gzip)
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
            "unmatched": unmatched.path,
            "archive": archive if _has_archive(app, job, archive, parts) else None,
        },
        parts=parts,
        previous_report=previous_report,
        prices=settings.prices,
    )
    try:
        containers.write_report(job.path, document, over.report)
    except BlobChangedError:
        if errors.version is not None and is_finished(app, job):  # a retry has left none: these are older
            containers.remove(settings.errors_container, f"{job.path}.jsonl", errors.version)
        raise
    return document


def _has_archive(app: App, job: Job, archive: str, parts: list[Part]) -> bool:
    """Return whether the drop's copy is there; it is looked for, and restored, where a part missed its lines."""
    if not any(part.input_gone or any(error.code == INPUT_GONE for error in part.errors) for part in parts):
        return True
    container, _, name = archive.partition("/")
    return app.blobs.version(container, name) is not None or restore_copy(app, job)


def _streams(
    app: App, parts: list[Part], last: tuple[Part, Iterator[FinalResult]] | None
) -> Iterator[tuple[int, Iterator[FinalResult]]]:
    """Yield the results of each attempt, with a lower bound for their line numbers.

    The parts of a drop mostly follow one another, and are read so; those that are read side by side share a chunk.
    """
    first_lines: dict[int, int] = {}
    for part in parts:
        first_lines.setdefault(part.number, part.source.first_line)  # later attempts have some of its lines
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


def _publish(
    app: App, lease: FinishingLease, parts: list[Stored[Part]], document: dict[str, Any], *, again: bool
) -> None:
    """Do what follows the report: send the message, empty the inbox, enter the history, delete what is not needed."""
    job = lease.job
    place = f"{app.settings.reports_container}/{job.path}.json"
    if job.retried_at is not None and document["outputs"]["errors"] is None:
        app.blobs.remove(app.settings.errors_container, f"{job.path}.jsonl")  # of the run before the retry
    if not again or not is_finished(app, job):
        app.queues.completed(job.job_id, document["status"], place)
        app.blobs.delete_from_inbox(job.container, job.name, job.etag, job.path, job.bytes)
        attempts = max((stored.row.attempt for stored in parts), default=1)
        app.tables.finish(_history(job, document, place, attempts))
    if clean_up(app, lease, parts):
        _forget(app, lease, parts, document["status"], document["counts"])


def _go_on_cleaning(app: App, lease: FinishingLease, parts: list[Stored[Part]]) -> bool:
    """Delete what is left of a job that is in the history. Return False if it is not there.

    Its results may be deleted already, and its report by someone else.
    """
    finished = app.tables.finished(lease.job.job_id) if is_finished(app, lease.job) else None
    if finished is None:
        return False
    if clean_up(app, lease, parts):
        counts = {"requests": finished.requests, "succeeded": finished.succeeded, "failed": finished.failed}
        _forget(app, lease, parts, finished.status, counts)
    return True


def _forget(app: App, lease: FinishingLease, parts: list[Stored[Part]], status: str, counts: dict[str, int]) -> None:
    app.tables.delete_active(ActiveJob(lease.stored, parts))
    log.info("job_finished", job_id=lease.job.job_id, status=status, **counts)


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
