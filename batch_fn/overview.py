"""What is to be known of jobs, for whoever asks: read models of what ledger, reports and service hold, ready for JSON.

Nothing here changes anything. What a finished job has to say stands in its report; of a job in hand the same fields are
made of the ledger's rows.
"""

import heapq
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import msgspec

from batch_fn.app import App
from batch_fn.jobs import (
    REPORTED_FINDINGS,
    Job,
    JobState,
    Outcome,
    Part,
    PartState,
    Usage,
    dropped_at,
    result_path,
    service_findings,
)
from batch_fn.ledger import HISTORY_PAGE, Finished, Held, NoSuchJobError, Work, place
from batch_fn.reports import report, stamp

READS_AT_ONCE = 8
SCANNED_ROWS = 5_000
"""Jobs that one page looks at, at most: a filter that hits nothing must not read the whole history."""

CANCELLING = "cancelling"
STATUSES = frozenset({*map(str, JobState), *map(str, Outcome), CANCELLING})
JOB_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{10}")

type Detail = dict[str, Any]


class ReportGoneError(Exception):
    """Somebody deleted the report of a finished job."""

    def __init__(self, finished: Finished) -> None:
        super().__init__(f"The report {finished.report} of job {finished.job_id} is gone: somebody deleted it.")


class JobsPage(msgspec.Struct, frozen=True):
    """Some jobs, the last dropped first. It may hold fewer than asked for; where `after` is null there are no more."""

    jobs: list[Detail]
    after: str | None


def is_job_id(text: str) -> bool:
    """Return whether that may be the id of a job."""
    if not JOB_ID.fullmatch(text):
        return False
    try:
        dropped_at(text)
    except ValueError:
        return False
    return True


def list_jobs(
    app: App,
    *,
    status: Iterable[str] = (),
    prefix: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 50,
    after: str | None = None,
) -> JobsPage:
    """Return a page of jobs, in hand or finished: those of one of the statuses, whose drop's name begins so.

    `since` and `until` are about when it was dropped, both included. `after` is what the page before gave.
    """
    wanted = frozenset(status)
    found: list[Job | Finished] = []
    more = last = None
    # Where nothing is filtered, the history is asked for no more rows than are shown.
    page = HISTORY_PAGE if wanted or prefix else min(limit + 1, HISTORY_PAGE)
    for looked_at, job in enumerate(_in_order(app, since, until, after, page)):
        if len(found) == limit or looked_at == SCANNED_ROWS:
            more = last
            break
        last = job.job_id
        if (not wanted or status_of(job) in wanted) and job.name.startswith(prefix):
            found.append(job)
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return JobsPage([*pool.map(lambda job: _row(app, job), found)], more)


def show_job(app: App, job_id: str) -> Detail:
    """Return all that is to be known of one job.

    Raises:
        NoSuchJobError: if there is none of that id.
        ReportGoneError: if it is finished and its report was deleted.
    """
    if not is_job_id(job_id):
        raise NoSuchJobError(job_id)
    # Work first: a job that leaves it is in the history by then, with the outcome of its last run.
    work, finished = app.ledger.work(job_id), app.ledger.finished(job_id)
    over = work is None or (finished is not None and finished.attempts > work.job.row.attempts_before)
    if finished is not None and over:
        return _of_finished(app, finished)
    if work is None or work.job.row.bundle:
        raise NoSuchJobError(job_id)
    former = app.containers.report(work.job.row.path) if work.job.row.retried_at else None
    return in_hand(work, former)


def in_hand(work: Work, former: dict[str, Any] | None = None) -> Detail:
    """Return what is to be known of a job in hand; `former` is its report from before it was retried. Pure."""
    job = work.job.row
    parts = sorted((held.row for held in work.parts), key=lambda part: (part.number, part.attempt))
    findings = service_findings(parts)
    document: Detail = msgspec.to_builtins(
        report(
            job,
            status=status_of(job),
            succeeded=sum(_kept(part) + part.succeeded for part in parts),
            failed=sum(part.failed for part in parts),
            findings=findings[:REPORTED_FINDINGS],
            finding_count=len(findings),
            outputs={"output": None, "errors": None, "archive": None},
            parts=parts,
            former=former,
        )
    )
    live = {part.batch_id: part for part in parts if part.state is PartState.OPEN}
    for batch in document["batches"]:
        if batch["id"] in live:
            batch |= {"completed": live[batch["id"]].completed, "failed_so_far": live[batch["id"]].failed_so_far}
    return document | {
        "progress": progress(job, parts),
        "parts": [_part(part) for part in parts if part.number],
        "transitions": transitions(document),
    }


def _of_finished(app: App, finished: Finished) -> Detail:
    document = app.containers.report(result_path(finished.name, finished.job_id))
    if document is None:
        raise ReportGoneError(finished)
    counts = document["counts"]
    done = {"requests": counts["requests"], "completed": counts["succeeded"], "failed": counts["failed"]}
    return document | {"progress": done, "parts": [], "transitions": transitions(document)}


def status_of(job: Job | Finished) -> str:
    """Return the one word for where a job stands."""
    if isinstance(job, Finished):
        return str(job.status)
    if job.cancelled:
        return CANCELLING
    return str(JobState.RETRYING if job.retried_at else job.state)


def progress(job: Job, parts: Iterable[Part]) -> dict[str, int]:
    """Return how many of a job's requests have a result: what is settled stays, of the rest the service counts."""
    completed = failed = 0
    for part in parts:
        settled = part.state is PartState.SETTLED
        completed += _kept(part) + (part.succeeded if settled else part.completed)
        failed += part.failed if settled else part.failed_so_far
    return {"requests": job.requests, "completed": completed, "failed": failed}


def transitions(document: Detail) -> list[Detail]:
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
        happened.append(_transition(batch["created_at"], "submitted", f"{batch['requests']} requests", **of))
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
) -> Detail:
    return {"at": at, "what": what, "part": part, "attempt": attempt, "batch": batch, "detail": detail}


def _in_order(
    app: App, since: datetime | None, until: datetime | None, after: str | None, page: int
) -> Iterator[Job | Finished]:
    """Yield each job once, the last dropped first; those in hand among those that are finished."""
    hand = {
        job.job_id: job
        for job in app.ledger.jobs_in_hand()
        if not job.bundle
        and (since is None or job.dropped_at >= since)
        and (until is None or job.dropped_at <= until)
        and (after is None or place(job.job_id) > place(after))
    }
    finished = app.ledger.history(after=after, since=since, until=until, page=page)
    past = (job for job in finished if job.job_id not in hand)
    here = sorted(hand.values(), key=lambda job: place(job.job_id))
    yield from heapq.merge(here, past, key=lambda job: place(job.job_id))


def _row(app: App, job: Job | Finished) -> Detail:
    if isinstance(job, Finished):
        tokens = Usage(job.prompt_tokens, job.completion_tokens, job.total_tokens)
        times = (job.dropped_at, job.accepted_at, job.submitted_at, job.finished_at)
        return _described(
            job,
            succeeded=job.succeeded,
            failed=job.failed,
            progressed={"requests": job.requests, "completed": job.succeeded, "failed": job.failed},
            findings=job.finding_count,
            usage=msgspec.to_builtins(tokens),
            times=[stamp(time) for time in times],
            report=job.report,
        )
    work = app.ledger.work(job.job_id)
    detail = in_hand(work or Work(Held(job, "")))  # without: it was finished a moment ago
    return _described(
        job,
        succeeded=detail["counts"]["succeeded"],
        failed=detail["counts"]["failed"],
        progressed=detail["progress"],
        findings=detail["finding_count"],
        usage=detail["usage"],
        times=[detail["times"][name] for name in ("dropped", "accepted", "submitted", "finished")],
        report=None,
    )


def _described(
    job: Job | Finished,
    *,
    succeeded: int,
    failed: int,
    progressed: dict[str, int],
    findings: int,
    usage: dict[str, int],
    times: list[str | None],
    report: str | None,
) -> Detail:
    return {
        "job_id": job.job_id,
        "status": status_of(job),
        "input": {"container": job.container, "name": job.name, "bytes": job.bytes, "requests": job.requests},
        "counts": {"requests": job.requests, "succeeded": succeeded, "failed": failed},
        "progress": progressed,
        "finding_count": findings,
        "usage": usage,
        "cost": None,
        "times": dict(zip(("dropped", "accepted", "submitted", "finished"), times, strict=True)),
        "report": report,
    }


def _part(part: Part) -> Detail:
    return {
        "part": part.number,
        "attempt": part.attempt,
        "state": part.state,
        "deployment": part.deployment,
        "batch": part.batch_id or None,
        "batch_status": part.batch_status or None,
        "requests": part.requests,
        "waits_for": part.wait.reason if part.wait and part.state is PartState.WAITING else None,
    }


def _kept(part: Part) -> int:
    """Return how many answers from before a retry this part keeps: the one of number 0 holds nothing else."""
    return part.requests if part.number == 0 else 0
