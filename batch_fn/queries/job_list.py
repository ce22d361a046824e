"""Pages of the list of jobs, for the API, the page and the command line. Read-only.

The fields of a finished job come from its row in the history; those of an active job are computed from its rows.
"""

import functools
import heapq
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import msgspec

from batch_fn.app import App
from batch_fn.core.jobs import Job, Usage
from batch_fn.core.report import to_iso
from batch_fn.queries.job_detail import OUTCOMES, JobDetail, Progress, from_active, status_of
from batch_fn.storage.rows import ActiveJob, FinishedJob, FinishedSummary, Stored, history_key
from batch_fn.storage.tables import HISTORY_PAGE

READS_AT_ONCE = 8
SCANNED_ROWS = 5_000
"""Maximum number of jobs read for one page: a filter that matches nothing must not read the whole history."""

LISTED = ("job_id", "status", "counts", "progress", "finding_count", "usage", "cost")
LISTED_TIMES = ("dropped", "accepted", "submitted", "finished")
"""The fields of a job's detail that the list has."""


class JobsPage(msgspec.Struct, frozen=True):
    """A page of jobs, the last dropped first. It may have fewer than `limit`; it is the last one if `after` is null."""

    jobs: list[JobDetail]
    after: str | None


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
    """Return a page of jobs, active or finished, with one of the statuses and a name that starts with `prefix`.

    `since` and `until` bound the time of the drop, both inclusive. `after` comes from the previous page.
    """
    wanted = frozenset(status)
    found: list[Job | FinishedJob | FinishedSummary] = []
    more = last = None
    past: Iterator[FinishedJob | FinishedSummary] = iter(())
    if not (wanted or prefix):  # read no more rows than are shown
        past = app.tables.history(FinishedJob, after=after, since=since, until=until, page=min(limit + 1, HISTORY_PAGE))
    elif not wanted or wanted & OUTCOMES:
        past = app.tables.history(FinishedSummary, after=after, since=since, until=until, page=HISTORY_PAGE)
    for looked_at, job in enumerate(_in_order(app, past, since, until, after)):
        if len(found) == limit or looked_at == SCANNED_ROWS:
            more = last
            break
        last = job.job_id
        if (not wanted or status_of(job) in wanted) and job.name.startswith(prefix):
            found.append(job)
    bundle_of = functools.cache(app.tables.active_job)  # many jobs of a page may share a bundle
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return JobsPage([*filter(None, pool.map(lambda job: _row(app, job, bundle_of), found))], more)


def _in_order(
    app: App,
    past: Iterator[FinishedJob | FinishedSummary],
    since: datetime | None,
    until: datetime | None,
    after: str | None,
) -> Iterator[Job | FinishedJob | FinishedSummary]:
    """Yield each job once, the last dropped first, active and finished jobs merged."""
    hand = {
        job.job_id: job
        for job in app.tables.active_jobs()
        if not job.bundle
        and (since is None or job.dropped_at >= since)
        and (until is None or job.dropped_at <= until)
        and (after is None or history_key(job.job_id) > history_key(after))
    }
    here: list[Job | FinishedJob | FinishedSummary] = sorted(hand.values(), key=lambda job: history_key(job.job_id))
    gone = (job for job in past if job.job_id not in hand)
    yield from heapq.merge(here, gone, key=lambda job: history_key(job.job_id))


def _row(
    app: App, job: Job | FinishedJob | FinishedSummary, bundle_of: Callable[[str], ActiveJob | None]
) -> JobDetail | None:
    """Return a job as the list shows it; None if its row was deleted by another client."""
    if isinstance(job, FinishedSummary):
        finished = app.tables.finished(job.job_id)
        return _row(app, finished, bundle_of) if finished else None
    if isinstance(job, FinishedJob):
        detail = _from_history(job)
    else:
        active = app.tables.active_job(job.job_id) or ActiveJob(
            Stored(job, "")
        )  # without parts: it finished a moment ago
        detail = from_active(app, active, bundle_of)
    return {name: detail[name] for name in LISTED} | {
        "input": {"container": job.container, "name": job.name, "bytes": job.bytes, "requests": job.requests},
        "times": {name: detail["times"][name] for name in LISTED_TIMES},
        "report": job.report if isinstance(job, FinishedJob) else None,
    }


def _from_history(job: FinishedJob) -> JobDetail:
    """Return the fields of a finished job from the history, as in its report."""
    detail: JobDetail = msgspec.to_builtins(
        {
            "job_id": job.job_id,
            "status": job.status,
            "counts": {"requests": job.requests, "succeeded": job.succeeded, "failed": job.failed},
            "progress": Progress(job.requests, job.succeeded, job.failed),
            "finding_count": job.finding_count,
            "usage": Usage(job.prompt_tokens, job.completion_tokens, job.total_tokens),
            "cost": job.cost,
            "times": {name: to_iso(getattr(job, f"{name}_at")) for name in LISTED_TIMES},
        }
    )
    return detail
