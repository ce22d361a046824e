"""A finished job's failed lines go again, as a new attempt; its report and blobs stand until the new ones are durable.

The job comes back into the ledger's work, from the history. Its archive copy, its output and its errors are then read
side by side, all in the drop's order: a failed line goes into a part, an answered one is kept as it is, so that the job
can be finished like any other.
"""

import contextlib
import itertools
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec

from batch_fn.app import App
from batch_fn.core.errors import JobInHandError, NoSuchJobError, NothingToRetryError
from batch_fn.core.jobs import Job, JobState, Outcome, Part, PartState, Source
from batch_fn.core.planning import Limits, Planner
from batch_fn.core.report import is_of
from batch_fn.core.results import Final, pack
from batch_fn.runtime import clock, log
from batch_fn.steps.accepting import accept
from batch_fn.steps.answers import MAX_RESULT_BYTES
from batch_fn.steps.ownership import clear_if_gone, is_over
from batch_fn.storage.blob_streams import LEAST_CHUNK_BYTES, Writer
from batch_fn.storage.part_lines import SourceLine, picked
from batch_fn.storage.rows import Finished, Held
from batch_fn.validation.check import check
from batch_fn.validation.findings import Finding
from batch_fn.validation.lines import lines
from batch_fn.validation.requests import Request, Rules, custom_id_of


class FormerBlobsError(Exception):
    """The blobs of a finished job are not what its report says, so its failed lines cannot be told."""


def retry(app: App, job_id: str) -> Job:
    """Enter a new attempt for the failed lines of a finished job; one that is under way already is returned as it is.

    Raises:
        NoSuchJobError: if there is no job of that id.
        JobInHandError: if it is not finished.
        NothingToRetryError: if no line of it failed, it was rejected, or its archive or errors blob is gone.
    """
    work = app.ledger.work(job_id)
    finished = app.ledger.finished(job_id)
    if work is not None:
        if finished is not None and finished.attempts > work.job.row.attempts_before:
            raise JobInHandError(job_id)  # all is done but for clearing away
        return _under_way(work.job.row)
    if finished is None:
        raise NoSuchJobError(job_id)
    job = _retried(app, finished)
    held = app.ledger.begin(job)
    if held.row != job:
        return _under_way(held.row)
    log.note("job_retried", job_id=job_id, failed=finished.failed, attempts_before=finished.attempts)
    app.queues.drop(job_id, job.name)
    return job


def take_up(app: App, held: Held[Job]) -> None:
    """Pick the failed lines of a job that is retried, keep what was answered, and send the lines on their way.

    Raises:
        FormerBlobsError: if archive, output and errors do not fit together.
    """
    # Each reader writes in a place of its own: one that was overtaken may read blobs that are new already.
    folder = f"{held.row.work_folder}/{secrets.token_hex(5)}"
    taken = False
    if is_over(app, held.row):  # another retry began and ended while this one was being entered
        _forget(app, held)
        return
    try:
        former = app.containers.report(held.row.path)
        if former is None or is_of(held.row, former):
            return  # overtaken
        parts, kept = _pick(app, held.row, former, folder)
        taken = accept(app, held, parts, kept)
    finally:
        if not taken:
            clear_if_gone(app, held.row.job_id, held.row.attempts_before)


def give_up_retry(app: App, held: Held[Job]) -> None:
    """End a retry that cannot be done; the report that the job had before it stands."""
    log.warn("retry_given_up", job_id=held.row.job_id)
    _forget(app, held)
    clear_if_gone(app, held.row.job_id, held.row.attempts_before)


def _forget(app: App, held: Held[Job]) -> None:
    work = app.ledger.work(held.row.job_id)
    if work is not None and work.job.etag == held.etag:
        app.ledger.forget(work)


def _under_way(job: Job) -> Job:
    if job.retried_at is None or job.bundle:
        raise JobInHandError(job.job_id)
    return job


def _retried(app: App, finished: Finished) -> Job:
    """Return the job as it comes back into hand. Raises: NothingToRetryError."""
    job_id = finished.job_id
    if finished.status is Outcome.REJECTED:
        raise NothingToRetryError(f"Job {job_id} was rejected. Mend what its findings name, and drop the file again.")
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
    former, settings = app.containers.report(job.path), app.settings
    places = (settings.archive_container, settings.errors_container)
    if former is None or None in [app.containers.version(place, f"{job.path}.jsonl") for place in places]:
        raise NothingToRetryError(
            f"The report of job {job_id}, its errors or its copy in {settings.archive_container} is gone. "
            "Drop a file with its failed lines."
        )
    before = former["times"]["retried"]
    if before is not None:  # the time tells the one report from the other
        job = msgspec.structs.replace(job, retried_at=max(now, datetime.fromisoformat(before) + timedelta(seconds=1)))
    return job


def _pick(app: App, job: Job, former: dict[str, Any], folder: str) -> tuple[list[Part], Part | None]:
    """Return parts for the failed lines, and a settled one that keeps the answers there are."""
    settings = app.settings
    container = settings.work_container
    limits = Limits(settings.part_bytes, settings.max_part_requests)
    planner = Planner(limits, container=container, name="", size=0, picked=True)
    failed = _results(app, former["outputs"]["errors"])
    answered = _results(app, former["outputs"]["output"])
    kept_name = f"{folder}/former.results"
    sources: dict[int, Source] = {}
    failure = next(failed, None)
    with contextlib.ExitStack() as ends, app.containers.writer(container, kept_name) as keeps:
        writers: dict[tuple[str, str], tuple[int, Writer]] = {}
        open_ends: dict[tuple[str, str], contextlib.ExitStack] = {}
        for request, raw in _archived(app, job):
            if failure is None or custom_id_of(failure) != request.custom_id:
                answer = next(answered, None)
                if answer is None or custom_id_of(answer) != request.custom_id:
                    raise FormerBlobsError(f"Line {request.line} of job {job.job_id} is in neither output nor errors.")
                keeps.write(pack(Final(request.line, True, answer)))
                continue
            failure = next(failed, None)
            index, group = planner.add(request), (request.deployment, request.url)
            if index not in sources:
                if group in open_ends:  # its part is full
                    open_ends[group].close()
                name = f"{folder}/part-{index + 1:05d}.picked"
                sources[index] = Source(container=container, name=name, picked=True, fill=request.filled)
                end = open_ends[group] = ends.enter_context(contextlib.ExitStack())
                writers[group] = index, end.enter_context(app.containers.writer(container, name, LEAST_CHUNK_BYTES))
            elif request.filled and not sources[index].fill:
                sources[index] = msgspec.structs.replace(sources[index], fill=True)
            writers[group][1].write(picked(SourceLine(request.line, raw)))
    if failure is not None or next(answered, None) is not None:
        raise FormerBlobsError(
            f"Output or errors of job {job.job_id} has a line that is not in its copy in the archive."
        )
    attempt = job.attempts_before + 1
    parts = planner.parts(
        job.job_id,
        now=clock.now(),
        due=clock.after(settings.resend_seconds),
        attempt=attempt,
        attempts_before=job.attempts_before,
        picks=sources,
    )
    kept = Part(
        job_id=job.job_id,
        number=0,
        attempt=attempt,
        attempts_before=job.attempts_before,
        state=PartState.SETTLED,
        deployment="",
        url="",
        source=Source(container=container, name=kept_name, length=0),
        requests=keeps.lines,
        estimated_tokens=0,
        waiting_since=clock.now(),
        results=kept_name,
    )
    return parts, kept if keeps.lines else None


def _archived(app: App, job: Job) -> Iterator[tuple[Request, bytes]]:
    """Yield each request of the drop's copy, with its line."""
    copy = app.containers.archived(job.path)
    rules = Rules(
        allowed_urls=app.settings.allowed_urls,
        max_line_bytes=app.settings.max_line_bytes,
        max_requests=max(job.requests, 1),
        deployment=copy.metadata.get("deployment") or None,
        mixed=True,
    )
    for_check, for_lines = itertools.tee(app.containers.read(copy.container, copy.name))
    for line, request in zip(lines(for_lines, rules.max_line_bytes), check(for_check, rules), strict=True):
        if isinstance(request, Finding):
            raise FormerBlobsError(
                f"Line {line.number} of job {job.job_id} is not accepted any more: {request.message}"
            )
        yield request, line.raw


def _results(app: App, place: str | None) -> Iterator[bytes]:
    """Yield the lines of a former blob, given as container/name."""
    if place is not None:
        container, _, name = place.partition("/")
        for line in lines(app.containers.read(container, name), MAX_RESULT_BYTES):
            yield line.raw
