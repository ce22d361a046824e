"""One job in full, for JSON. Nothing here changes anything."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from batch_fn.app import App
from batch_fn.core.errors import NoSuchJobError, ReportGoneError
from batch_fn.core.jobs import Job, JobState, Member, Outcome, Part, PartState
from batch_fn.core.members import with_bundle_batch
from batch_fn.core.names import is_job_id, result_path
from batch_fn.core.report import report, report_is_current, service_findings, to_iso
from batch_fn.storage.rows import ActiveJob, FinishedJob, FinishedSummary
from batch_fn.validation.findings import REPORTED_FINDINGS

CANCELLING = "cancelling"
OUTCOMES = frozenset(map(str, Outcome))
STATUSES = frozenset({*map(str, JobState), *OUTCOMES, CANCELLING})


type JobDetail = dict[str, Any]


def show_job(app: App, job_id: str) -> JobDetail:
    """Return all that is to be known of one job.

    Raises:
        NoSuchJobError: if there is none of that id.
        ReportGoneError: if it is finished and its report was deleted.
    """
    if not is_job_id(job_id):
        raise NoSuchJobError(job_id)
    # Work first: a job that leaves it is in the history by then, with the outcome of its last run.
    active, finished = app.tables.active_job(job_id), app.tables.finished(job_id)
    over = active is None or (finished is not None and finished.attempts > active.job.row.attempts_before)
    if finished is not None and over:
        return _from_finished(app, finished)
    if active is None or active.job.row.bundle:
        raise NoSuchJobError(job_id)
    return from_active(app, active, app.tables.active_job)


def from_active(app: App, active: ActiveJob, bundle_of: Callable[[str], ActiveJob | None]) -> JobDetail:
    """Return the detail of a job that is not finished; `bundle_of` reads a bundle by its id."""
    job = active.job.row
    previous_report = app.blobs.report(job.path) if job.retried_at else None
    if previous_report is not None and report_is_current(job, previous_report):
        return _from_report(previous_report)  # where it stands, the job is done
    parts = [_as_carried(stored.row, bundle_of) for stored in active.parts]
    return in_hand(job, parts, previous_report=previous_report, prices=app.settings.prices)


def _as_carried(part: Part, bundle_of: Callable[[str], ActiveJob | None]) -> Part:
    """Return a part that rides in a bundle as if the bundle's batch were its own.

    The service counts for all that ride together: how far this one is, is known only when every line was answered.
    """
    bundle = bundle_of(part.bundle) if part.state is PartState.BUNDLED else None
    if bundle is None or Member(part.job_id, part.key) not in bundle.job.row.members:
        return part
    (bundle_part,) = bundle.parts
    answered = part.requests if bundle_part.row.completed == bundle_part.row.requests else 0
    return msgspec.structs.replace(
        with_bundle_batch(part, bundle_part.row), state=bundle_part.row.state, completed=answered
    )


def in_hand(
    job: Job,
    parts: Iterable[Part],
    *,
    previous_report: dict[str, Any] | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
) -> JobDetail:
    """Return what is to be known of a job in hand; `previous_report` is its report from before it was retried. Pure."""
    parts = sorted(parts, key=lambda part: (part.number, part.attempt))
    findings = service_findings(parts)
    # While its failed lines are picked, a job that is retried has no parts yet.
    answered = previous_report["counts"]["succeeded"] if previous_report and not parts else 0
    document = report(
        job,
        status=status_of(job),
        succeeded=answered + sum(_kept(part) + part.succeeded for part in parts),
        failed=sum(part.failed for part in parts),
        findings=findings[:REPORTED_FINDINGS],
        finding_count=len(findings),
        outputs={"output": None, "errors": None, "unmatched": None, "archive": None},
        parts=parts,
        previous_report=previous_report,
        prices=prices,
    )
    shown = [_part(job, part) for part in parts if part.number]
    return _detail(document, progress(job, parts, answered), shown, _job_wait(job))


def _from_finished(app: App, finished: FinishedJob) -> JobDetail:
    document = app.blobs.report(result_path(finished.name, finished.job_id))
    if document is None:
        raise ReportGoneError(finished.job_id, finished.report)
    return _from_report(document)


def _from_report(document: JobDetail) -> JobDetail:
    counts = document["counts"]
    done = Progress(counts["requests"], counts["succeeded"], counts["failed"])
    return _detail(document, done, [])


def _job_wait(job: Job) -> JobDetail | None:
    """Return why a job is not accepted yet, if a step failed on it."""
    if job.wait is None:
        return None
    wait = job.wait
    return {
        "reason": wait.reason,
        "message": wait.message,
        "since": to_iso(job.waiting_since),
        "until": to_iso(wait.until),
    }


def _detail(
    report: JobDetail, progress: "Progress", parts: list[JobDetail], wait: JobDetail | None = None
) -> JobDetail:
    added = {"progress": progress, "parts": parts, "wait": wait, "transitions": transitions(report)}
    detail: JobDetail = msgspec.to_builtins(report | added)
    return detail


def status_of(job: Job | FinishedJob | FinishedSummary) -> str:
    """Return the one word for where a job stands."""
    if not isinstance(job, Job):
        return str(job.status)
    if job.cancelled:
        return CANCELLING
    return str(JobState.RETRYING if job.retried_at else job.state)


class Progress(msgspec.Struct, frozen=True):
    """How many requests have a result; no line is counted twice."""

    requests: int
    completed: int = 0
    failed: int = 0
    """For good."""
    failed_so_far: int = 0
    """In a batch whose results were not collected yet: each fails for good, or is tried again."""


def progress(job: Job, parts: Iterable[Part], answered: int = 0) -> Progress:
    """Return how far a job is; `answered` lines are in none of the parts."""
    each = [_progress(job, part) for part in parts]
    return Progress(
        job.requests,
        answered + sum(part.completed for part in each),
        sum(part.failed for part in each),
        sum(part.failed_so_far for part in each),
    )


def _progress(job: Job, part: Part) -> Progress:
    """Return how far an attempt of a part is: settled, it says so itself; until then its batch is believed."""
    if part.state is PartState.SETTLED:
        return Progress(part.requests, _kept(part) + part.succeeded, part.failed)
    completed = min(part.completed, part.requests) if part.batch_id else 0  # a refused batch may have counted too
    left = part.requests - completed
    if job.state is JobState.FINISHING and not part.bundle:  # the last to be settled: nothing of it is tried again
        return Progress(part.requests, completed, left)
    return Progress(part.requests, completed, 0, min(part.failed_so_far, left) if part.batch_id else 0)


def transitions(document: JobDetail) -> list[JobDetail]:
    """Return what happened to a job, in the order of time, as its report tells it. Pure."""
    times = document["times"]
    happened = [
        _transition(times["dropped"], "dropped"),
        _transition(times["accepted"], "accepted"),
        _transition(times["retried"], "retried"),
        _transition(times["cancelled"], "cancel_asked"),
    ]
    for batch in document["batches"]:
        of = {"part": batch.get("part"), "attempt": batch["attempt"], "batch": batch["id"]}
        requests = f"{batch['requests']} request{'' if batch['requests'] == 1 else 's'}"
        happened.append(_transition(batch["created_at"], "submitted", requests, **of))
        happened.append(_transition(batch["finished_at"], "ended", batch["status"], **of))
    happened.append(_transition(times["finished"], "finished", document["status"]))
    return sorted((each for each in happened if each["at"]), key=lambda each: str(each["at"]))


def _transition(
    at: str | None,
    what: str,
    detail: str | None = None,
    *,
    part: int | None = None,
    attempt: int | None = None,
    batch: str | None = None,
) -> JobDetail:
    return {"at": at, "what": what, "part": part, "attempt": attempt, "batch": batch, "detail": detail}


def _part(job: Job, part: Part) -> JobDetail:
    return {
        "part": part.number,
        "attempt": part.attempt,
        "state": part.state,
        "deployment": part.deployment,
        "bundle": part.bundle or None,
        "batch": part.batch_id or None,
        "batch_status": part.batch_status or None,
        "requests": part.requests,
        "progress": _progress(job, part),
        "waits_for": part.wait.reason if part.wait and _waits(part) else None,
    }


def _waits(part: Part) -> bool:
    """Return whether a part waits to be sent, to be told of its batch, or to be settled."""
    if part.state is PartState.ENDED:
        return part.collect_trouble is not None
    return part.state is PartState.WAITING or bool(part.trouble_since or part.not_found_since)


def _kept(part: Part) -> int:
    """Return how many answers from before a retry this part keeps: the one of number 0 holds nothing else."""
    return part.requests if part.number == 0 else 0
