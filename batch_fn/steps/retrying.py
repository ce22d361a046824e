"""A finished job's failed lines are sent in a new attempt; its report and blobs stay until the new ones are durable.

The job's row moves from the history back to the work table. Its archive copy, output and errors are then read side by
side, all in the drop's order: a failed line goes into a part, an answered one is kept as it is, so that the job can be
finished like any other. Whatever settings have changed since, a line that was accepted once is accepted.
"""

import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec

from batch_fn.app import App
from batch_fn.core.errors import JobActiveError, NoSuchJobError, NothingToRetryError
from batch_fn.core.jobs import InputRange, Job, JobState, Outcome, Part, PartState
from batch_fn.core.planning import Limits, Planner
from batch_fn.core.report import report_is_current
from batch_fn.core.results import FinalResult, pack
from batch_fn.runtime import clock, log
from batch_fn.steps.accepting import accept
from batch_fn.steps.ownership import delete_orphaned_work, is_finished
from batch_fn.steps.picking import PickedParts
from batch_fn.storage.blob_streams import MIN_CHUNK_BYTES
from batch_fn.storage.rows import FinishedJob, Stored
from batch_fn.validation.lines import lines
from batch_fn.validation.requests import Request, accepted_requests, custom_id_of


class InconsistentResultsError(Exception):
    """The blobs of a finished job are not what its report says, so its failed lines are not known."""


def retry(app: App, job_id: str) -> Job:
    """Begin a new attempt for the failed lines of a finished job; one that has begun already is returned as it is.

    Raises:
        NoSuchJobError: if there is no job of that id.
        JobActiveError: if it is not finished.
        NothingToRetryError: if no line of it failed, it was rejected, or its archive or errors blob is gone.
    """
    active = app.tables.active_job(job_id)
    finished = app.tables.finished(job_id)
    if active is not None:
        if finished is not None and finished.attempts > active.job.row.attempts_before:
            raise JobActiveError(job_id)  # it is finished, and not yet cleaned up
        return _under_way(active.job.row)
    if finished is None:
        raise NoSuchJobError(job_id)
    job = _retried(app, finished)
    stored = app.tables.insert_if_absent(job)
    if stored.row != job:
        return _under_way(stored.row)
    log.info("job_retried", job_id=job_id, failed=finished.failed, attempts_before=finished.attempts)
    app.queues.drop(job_id, job.name)
    return job


def start_retry(app: App, stored: Stored[Job]) -> None:
    """Pick the failed lines of a job that is retried, keep what was answered, and have the lines submitted.

    Raises:
        InconsistentResultsError: if archive, output and errors do not match, or the report was deleted.
    """
    # Each reader writes to a folder of its own: one that was overtaken may read blobs that are new already.
    folder = f"{stored.row.work_folder}/{secrets.token_hex(5)}"
    taken = False
    if is_finished(app, stored.row):  # another retry began and ended before this one's row was there
        _forget(app, stored)
        return
    try:
        previous_report = app.blobs.report(stored.row.path)
        if previous_report is None:
            raise InconsistentResultsError(f"The report of job {stored.row.job_id} was deleted.")
        if report_is_current(stored.row, previous_report):
            return  # overtaken
        parts, kept = _pick(app, stored.row, previous_report, folder)
        taken = accept(app, stored, parts, kept)
    finally:
        if not taken:
            delete_orphaned_work(app, stored.row.job_id, stored.row.attempts_before)


def give_up_retry(app: App, stored: Stored[Job], why: str) -> None:
    """End a retry that cannot be done; the report from before it stays."""
    log.warning("retry_given_up", job_id=stored.row.job_id, why=why)
    _forget(app, stored)
    delete_orphaned_work(app, stored.row.job_id, stored.row.attempts_before)


def _forget(app: App, stored: Stored[Job]) -> None:
    active = app.tables.active_job(stored.row.job_id)
    if active is not None and active.job.etag == stored.etag:
        app.tables.delete_active(active)


def _under_way(job: Job) -> Job:
    if job.retried_at is None or job.bundle:
        raise JobActiveError(job.job_id)
    return job


def _retried(app: App, finished: FinishedJob) -> Job:
    """Return the row of the job that is retried. Raises: NothingToRetryError."""
    job_id = finished.job_id
    if finished.status is Outcome.REJECTED:
        raise NothingToRetryError(f"Job {job_id} was rejected. Fix the listed findings, and drop the file again.")
    if not finished.failed:
        raise NothingToRetryError(f"No line of job {job_id} failed, so there is none to send again.")
    now = clock.now().replace(microsecond=0)
    job = Job(
        job_id=job_id,
        state=JobState.RETRYING,
        due=clock.after(app.settings.resend_seconds),
        container=finished.container,
        name=finished.name,
        etag=finished.etag,
        bytes=finished.bytes,
        dropped_at=finished.dropped_at,
        requests=finished.requests,
        retried_at=now,
        attempts_before=finished.attempts,
    )
    previous_report, settings = app.blobs.report(job.path), app.settings
    containers = (settings.archive_container, settings.errors_container)
    if previous_report is None or None in [app.blobs.version(each, f"{job.path}.jsonl") for each in containers]:
        raise NothingToRetryError(
            f"The report of job {job_id}, its errors or its copy in {settings.archive_container} was deleted. "
            "Drop a file with its failed lines."
        )
    compressed = str(previous_report["outputs"]["archive"]).endswith(".gz")
    before = previous_report["times"]["retried"]
    job = msgspec.structs.replace(job, gzip=compressed)
    if before is not None:  # the two reports differ in this time
        job = msgspec.structs.replace(job, retried_at=max(now, datetime.fromisoformat(before) + timedelta(seconds=1)))
    return job


def _pick(app: App, job: Job, previous_report: dict[str, Any], folder: str) -> tuple[list[Part], Part | None]:
    """Return parts for the failed lines, and a settled part that keeps the answers and the unmatched results."""
    settings = app.settings
    container = settings.work_container
    limits = Limits(settings.part_bytes, settings.max_part_requests)
    planner = Planner(limits, container=container, name="", size=0, picked=True)
    failed = _results(app, previous_report["outputs"]["errors"])
    answered = _results(app, previous_report["outputs"]["output"])
    kept_name = f"{folder}/former.results"
    failure = next(failed, None)
    with PickedParts(app, folder, MIN_CHUNK_BYTES) as picks, app.blobs.writer(container, kept_name) as keeps:
        for request, raw in _archived(app, job):
            if failure is None or custom_id_of(failure) != request.custom_id:
                answer = next(answered, None)
                if answer is None or custom_id_of(answer) != request.custom_id:
                    raise InconsistentResultsError(
                        f"Line {request.line} of job {job.job_id} is in neither output nor errors."
                    )
                keeps.write(pack(FinalResult(request.line, True, answer)))
                continue
            failure = next(failed, None)
            picks.write(planner.add(request), request, raw)
    if failure is not None or next(answered, None) is not None:
        raise InconsistentResultsError(
            f"Output or errors of job {job.job_id} has a line that is not in its copy in the archive."
        )
    attempt = job.attempts_before + 1
    parts = planner.parts(
        job.job_id,
        now=clock.now(),
        due=clock.after(settings.resend_seconds),
        attempt=attempt,
        attempts_before=job.attempts_before,
        picks=picks.sources,
    )
    kept = Part(
        job_id=job.job_id,
        number=0,
        attempt=attempt,
        attempts_before=job.attempts_before,
        state=PartState.SETTLED,
        deployment="",
        url="",
        source=InputRange(container=container, name=kept_name, length=0),
        requests=keeps.lines,
        estimated_tokens=0,
        waiting_since=clock.now(),
        results=kept_name if keeps.lines else "",
        unmatched=_keep_unmatched(app, previous_report["outputs"].get("unmatched"), f"{folder}/former.unmatched"),
    )
    return parts, kept if keeps.lines or kept.unmatched else None


def _keep_unmatched(app: App, place: str | None, name: str) -> str:
    """Copy the former result lines of no known request into the work container. Return the copy's name, if any."""
    container, _, former = (place or "").partition("/")
    if not place or app.blobs.version(container, former) is None:
        return ""
    return name if app.blobs.write(app.settings.work_container, name, app.blobs.read(container, former)) else ""


def _archived(app: App, job: Job) -> Iterator[tuple[Request, bytes]]:
    """Yield each request of the drop's copy, with its line."""
    copy = app.blobs.archived(job.path)
    chunks = app.blobs.read(copy.container, copy.name)
    try:
        yield from accepted_requests(chunks, copy.metadata.get("deployment") or None)
    except msgspec.DecodeError as error:
        raise InconsistentResultsError(f"The copy of job {job.job_id} in the archive was changed: {error}") from error


def _results(app: App, place: str | None) -> Iterator[bytes]:
    """Yield the lines of a blob of results, given as container/name."""
    if place is not None:
        container, _, name = place.partition("/")
        for line in lines(app.blobs.read(container, name)):
            yield line.raw
