"""What is to be known of jobs, batches, deployments and the app's health, for whoever asks: read models, for JSON.

Nothing here changes anything. What a finished job has to say stands in its report; of a job in hand the same fields are
made of the ledger's rows.
"""

import functools
import heapq
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import msgspec

from batch_fn import clock
from batch_fn.admission import Deployment
from batch_fn.app import App
from batch_fn.bundling import riding
from batch_fn.finishing import is_of
from batch_fn.jobs import (
    REPORTED_FINDINGS,
    Job,
    JobState,
    Member,
    Outcome,
    Part,
    PartState,
    ServiceBatch,
    Usage,
    dropped_at,
    result_path,
    service_findings,
)
from batch_fn.ledger import HISTORY_PAGE, Finished, Glance, Held, NoSuchJobError, Spent, Work, place
from batch_fn.prices import DIGITS
from batch_fn.quota import limit_of
from batch_fn.reports import report, stamp

READS_AT_ONCE = 8
SCANNED_ROWS = 5_000
"""Jobs that one page looks at, at most: a filter that hits nothing must not read the whole history."""
LISTED_PAGES = 20
"""Pages of a hundred that one answer asks the service for, at most."""

LISTED = ("job_id", "status", "counts", "progress", "finding_count", "usage", "cost")
LISTED_TIMES = ("dropped", "accepted", "submitted", "finished")
"""What a list of jobs has of each one's detail."""

HEALTH_SECONDS = 10
TICK_LATE_SECONDS = 600
"""The tick runs each minute; the alert for one that does not run waits as long."""

MOST_DIGITS = 9

CANCELLING = "cancelling"
OUTCOMES = frozenset(map(str, Outcome))
STATUSES = frozenset({*map(str, JobState), *OUTCOMES, CANCELLING})
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
    found: list[Job | Finished | Glance] = []
    more = last = None
    past: Iterator[Finished | Glance] = iter(())
    if not (wanted or prefix):  # no more rows are asked for than are shown
        past = app.ledger.history(Finished, after=after, since=since, until=until, page=min(limit + 1, HISTORY_PAGE))
    elif not wanted or wanted & OUTCOMES:
        past = app.ledger.history(Glance, after=after, since=since, until=until, page=HISTORY_PAGE)
    for looked_at, job in enumerate(_in_order(app, past, since, until, after)):
        if len(found) == limit or looked_at == SCANNED_ROWS:
            more = last
            break
        last = job.job_id
        if (not wanted or status_of(job) in wanted) and job.name.startswith(prefix):
            found.append(job)
    bundle_of = functools.cache(app.ledger.work)  # many on one page may ride in the same
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return JobsPage([*filter(None, pool.map(lambda job: _row(app, job, bundle_of), found))], more)


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
    return _of_work(app, work, app.ledger.work)


def _of_work(app: App, work: Work, bundle_of: Callable[[str], Work | None]) -> Detail:
    job = work.job.row
    former = app.containers.report(job.path) if job.retried_at else None
    if former is not None and is_of(job, former):
        return _of_report(former)  # where it stands, the job is done
    parts = [_as_carried(held.row, bundle_of) for held in work.parts]
    return in_hand(job, parts, former=former, prices=app.settings.prices)


def _as_carried(part: Part, bundle_of: Callable[[str], Work | None]) -> Part:
    """Return a part that rides in a bundle as if the bundle's batch were its own.

    The service counts for all that ride together: how far this one is, is known only when every line was answered.
    """
    bundle = bundle_of(part.bundle) if part.state is PartState.BUNDLED else None
    if bundle is None or Member(part.job_id, part.key) not in bundle.job.row.members:
        return part
    (carrier,) = bundle.parts
    answered = part.requests if carrier.row.completed == carrier.row.requests else 0
    return msgspec.structs.replace(riding(part, carrier.row), state=carrier.row.state, completed=answered)


def in_hand(
    job: Job,
    parts: Iterable[Part],
    *,
    former: dict[str, Any] | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
) -> Detail:
    """Return what is to be known of a job in hand; `former` is its report from before it was retried. Pure."""
    parts = sorted(parts, key=lambda part: (part.number, part.attempt))
    findings = service_findings(parts)
    # While its failed lines are picked, a job that is retried has no parts yet.
    answered = former["counts"]["succeeded"] if former and not parts else 0
    document = report(
        job,
        status=status_of(job),
        succeeded=answered + sum(_kept(part) + part.succeeded for part in parts),
        failed=sum(part.failed for part in parts),
        findings=findings[:REPORTED_FINDINGS],
        finding_count=len(findings),
        outputs={"output": None, "errors": None, "archive": None},
        parts=parts,
        former=former,
        prices=prices,
    )
    return _detail(document, progress(job, parts, answered), [_part(job, part) for part in parts if part.number])


def _of_finished(app: App, finished: Finished) -> Detail:
    document = app.containers.report(result_path(finished.name, finished.job_id))
    if document is None:
        raise ReportGoneError(finished)
    return _of_report(document)


def _of_report(document: Detail) -> Detail:
    counts = document["counts"]
    done = Progress(counts["requests"], counts["succeeded"], counts["failed"])
    return _detail(document, done, [])


def _detail(report: Detail, progress: "Progress", parts: list[Detail]) -> Detail:
    added = {"progress": progress, "parts": parts, "transitions": transitions(report)}
    detail: Detail = msgspec.to_builtins(report | added)
    return detail


def status_of(job: Job | Finished | Glance) -> str:
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
) -> Detail:
    return {"at": at, "what": what, "part": part, "attempt": attempt, "batch": batch, "detail": detail}


def _in_order(
    app: App,
    past: Iterator[Finished | Glance],
    since: datetime | None,
    until: datetime | None,
    after: str | None,
) -> Iterator[Job | Finished | Glance]:
    """Yield each job once, the last dropped first; those in hand among those that are finished."""
    hand = {
        job.job_id: job
        for job in app.ledger.jobs_in_hand()
        if not job.bundle
        and (since is None or job.dropped_at >= since)
        and (until is None or job.dropped_at <= until)
        and (after is None or place(job.job_id) > place(after))
    }
    here: list[Job | Finished | Glance] = sorted(hand.values(), key=lambda job: place(job.job_id))
    gone = (job for job in past if job.job_id not in hand)
    yield from heapq.merge(here, gone, key=lambda job: place(job.job_id))


def _row(app: App, job: Job | Finished | Glance, bundle_of: Callable[[str], Work | None]) -> Detail | None:
    """Return a job as a list shows it; None if it is gone, which only somebody else can have done."""
    if isinstance(job, Glance):
        finished = app.ledger.finished(job.job_id)
        return _row(app, finished, bundle_of) if finished else None
    if isinstance(job, Finished):
        detail = _of_history(job)
    else:
        work = app.ledger.work(job.job_id) or Work(Held(job, ""))  # without: it was finished a moment ago
        detail = _of_work(app, work, bundle_of)
    return {name: detail[name] for name in LISTED} | {
        "input": {"container": job.container, "name": job.name, "bytes": job.bytes, "requests": job.requests},
        "times": {name: detail["times"][name] for name in LISTED_TIMES},
        "report": job.report if isinstance(job, Finished) else None,
    }


def _of_history(job: Finished) -> Detail:
    """Return what the history tells of a finished job, as its report would."""
    detail: Detail = msgspec.to_builtins(
        {
            "job_id": job.job_id,
            "status": job.status,
            "counts": {"requests": job.requests, "succeeded": job.succeeded, "failed": job.failed},
            "progress": Progress(job.requests, job.succeeded, job.failed),
            "finding_count": job.finding_count,
            "usage": Usage(job.prompt_tokens, job.completion_tokens, job.total_tokens),
            "cost": job.cost,
            "times": {name: stamp(getattr(job, f"{name}_at")) for name in LISTED_TIMES},
        }
    )
    return detail


def _part(job: Job, part: Part) -> Detail:
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
        "waits_for": part.wait.reason if part.wait and part.state is PartState.WAITING else None,
    }


def _kept(part: Part) -> int:
    """Return how many answers from before a retry this part keeps: the one of number 0 holds nothing else."""
    return part.requests if part.number == 0 else 0


def list_deployments(app: App) -> list[Detail]:
    """Return each deployment's quota as far as it is known, and what waits for it or is with it; by name."""
    now = clock.now()
    known = {each.name: each for each in app.ledger.deployments()}
    for name in app.settings.token_limits:
        known.setdefault(name, Deployment(name=name))
    waiting, sent = dict[str, list[Part]](), dict[str, list[Part]]()
    for part in app.ledger.parts_in_hand():
        known.setdefault(part.deployment, Deployment(name=part.deployment))
        (waiting if part.state is PartState.WAITING else sent).setdefault(part.deployment, []).append(part)
    return [
        _deployment(app, known[name], waiting.get(name, []), sent.get(name, []), now=now)
        for name in sorted(known)
        if name
    ]


def _deployment(app: App, known: Deployment, waiting: list[Part], sent: list[Part], *, now: datetime) -> Detail:
    enqueued = known.enqueued if known.fresh(now) else sum(known.needs(part) for part in sent)
    return {
        "name": known.name,
        "limit": limit_of(app, known),
        "enqueued": enqueued,
        "waiting_parts": len(waiting),
        "waiting_tokens": sum(known.needs(part) for part in waiting),
        "open_batches": sum(part.state is PartState.OPEN for part in sent),
        "refusals": known.refusals,
        "not_before": stamp(known.not_before),
        "oldest_waiting": stamp(min((part.waiting_since for part in waiting), default=None)),
    }


class BatchesPage(msgspec.Struct, frozen=True):
    """Some batches, newest first. It may hold fewer than asked for; where `after` is null there are no more."""

    batches: list[Detail]
    after: str | None


def list_batches(
    app: App,
    *,
    status: Iterable[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 50,
    after: str = "",
) -> BatchesPage:
    """Return a page of the service's batches, ours and others', as the service lists them.

    `since` and `until` are about when it was created, both included. `after` is what the page before gave.

    Raises:
        ServiceTroubleError: if the service does not answer.
    """
    wanted = frozenset(status)
    parts = {part.batch_id: part for part in app.ledger.parts_in_hand() if part.batch_id}
    found: list[Detail] = []
    last: str | None = None
    for calls, page in enumerate(app.service.pages(after)):
        if calls == LISTED_PAGES:
            return BatchesPage(found, last)
        for batch in page:
            if since is not None and batch.created_at < since:
                return BatchesPage(found, None)
            if len(found) == limit:
                return BatchesPage(found, last)
            last = batch.id
            if (not wanted or batch.status in wanted) and (until is None or batch.created_at <= until):
                found.append(_batch(batch, parts.get(batch.id)))
    return BatchesPage(found, None)


def _batch(batch: ServiceBatch, part: Part | None) -> Detail:
    """Return a batch as a page shows it; `part` is the one in hand that it was made for, if it is known."""
    of: dict[str, str] = part.metadata if part is not None else batch.metadata
    ours = is_job_id(of.get("job", ""))
    return {
        "id": batch.id,
        "status": batch.status,
        "job_id": of["job"] if ours else None,
        "part": _number(of.get("part")) if ours else None,
        "attempt": _number(of.get("attempt")) if ours else None,
        "ours": ours,
        "deployment": part.deployment if part is not None else None,
        "endpoint": batch.endpoint or None,
        "created_at": stamp(batch.created_at),
        "finished_at": stamp(batch.finished_at),
        "requests": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "errors": [{"code": error.code, "message": error.message} for error in batch.errors],
    }


def _number(text: str | None) -> int | None:
    """Return the number that metadata holds; who else writes there may write anything."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None


def daily_totals(app: App, days: int) -> list[Detail]:
    """Return what the finished jobs of each of the last days came to, the oldest first; a day is in UTC.

    A job belongs to the day that it was dropped. `cost` is null where the price of one of them is not known.
    """
    midnight = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight - timedelta(days=days - 1)
    totals = {f"{first + timedelta(days=day):%Y-%m-%d}": Total() for day in range(days)}
    for spent in app.ledger.history(Spent, since=first):
        day = f"{spent.dropped_at:%Y-%m-%d}"
        if day in totals:
            totals[day] = totals[day].plus(spent)
    return [{"day": day} | msgspec.to_builtins(total) for day, total in totals.items()]


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """What jobs come to."""

    jobs: int = 0
    succeeded: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cost: float | None = 0.0

    def plus(self, spent: Spent) -> "Total":
        """Return the total with one more job."""
        known = self.cost is not None and (spent.cost is not None or not spent.total_tokens)
        return Total(
            jobs=self.jobs + 1,
            succeeded=self.succeeded + spent.succeeded,
            failed=self.failed + spent.failed,
            prompt_tokens=self.prompt_tokens + spent.prompt_tokens,
            completion_tokens=self.completion_tokens + spent.completion_tokens,
            total_tokens=self.total_tokens + spent.total_tokens,
            cost=round((self.cost or 0.0) + (spent.cost or 0.0), DIGITS) if known else None,
        )


def health(app: App) -> Detail:
    """Return whether each thing that the app rests on is well, asked now."""
    checks = {"blob": _blob, "queue": _queue, "table": _table, "service": _service, "tick": _tick, "poison": _poison}
    pool = ThreadPoolExecutor(len(checks))
    asked = {name: pool.submit(check, app) for name, check in checks.items()}
    end = time.monotonic() + HEALTH_SECONDS
    found = {name: _found(answer, end) for name, answer in asked.items()}
    pool.shutdown(wait=False, cancel_futures=True)  # who does not answer is not waited for
    return {"status": "healthy" if all(each["ok"] for each in found.values()) else "unhealthy", "checks": found}


def _found(answer: Future[Detail], end: float) -> Detail:
    try:
        return answer.result(max(0, end - time.monotonic()))
    except TimeoutError:
        return {"ok": False, "detail": f"no answer within {HEALTH_SECONDS} seconds"}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not well
        return {"ok": False, "detail": type(error).__name__}  # what it says may hold an address


def _blob(app: App) -> Detail:
    next(app.containers.inbox(), None)
    return {"ok": True, "detail": None}


def _queue(app: App) -> Detail:
    app.queues.poisoned()
    return {"ok": True, "detail": None}


def _table(app: App) -> Detail:
    app.ledger.last_tick()
    return {"ok": True, "detail": None}


def _service(app: App) -> Detail:
    next(app.service.pages(), None)
    return {"ok": True, "detail": None}


def _tick(app: App) -> Detail:
    last = app.ledger.last_tick()
    if last is None:
        return {"ok": False, "age_seconds": None, "detail": "no tick has come to its end yet"}
    age = max(0, int((clock.now() - last).total_seconds()))
    late = age > TICK_LATE_SECONDS
    return {"ok": not late, "age_seconds": age, "detail": "the tick does not run" if late else None}


def _poison(app: App) -> Detail:
    counts = app.queues.poisoned()
    return {"ok": not any(counts.values()), "queues": counts}
