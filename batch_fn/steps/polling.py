"""The tick: asks the service about open batches, and puts back on its way whatever a lost message left behind."""

import contextlib
import functools
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core import names
from batch_fn.core.admission import Reason
from batch_fn.core.batches import BATCH_STATUSES, ServiceBatch, ServiceTroubleError
from batch_fn.core.jobs import Job, JobState, Part, PartState, Wait
from batch_fn.runtime import clock, log
from batch_fn.steps import quota
from batch_fn.steps.bundling import abandon, look_after
from batch_fn.steps.cancelling import stop_parts
from batch_fn.steps.intake import begin, identity
from batch_fn.storage.rows import ConflictError, Held

LOOKS_AT_ONCE = 8
LISTED_FROM = 10
"""With more open batches than this, they are asked for by the page."""

KEPT_REFUSED = 50
"""Refused batches kept in mind: they are looked past when a lost create is looked for."""


def tick(app: App, in_thread: Callable[[], None] | None = None) -> None:
    """Look at everything in hand that is due, and at the inbox for drops that nobody was told of.

    `in_thread` is called in each thread of the pool before its first look.
    """
    now = clock.now()
    begin = time.monotonic()
    until = begin + app.settings.tick_seconds
    opened: list[Held[Part]] = []
    waiting: dict[str, list[Held[Part]]] = {}
    looks = [functools.partial(_find_lost_drops, app, now)]
    oldest = now
    for held in app.ledger.due(now):
        oldest = min(oldest, names.dropped_at(held.row.job_id))
        if isinstance(held.row, Job):
            looks.append(functools.partial(_look_at_job, app, Held(held.row, held.etag), now))
        elif held.row.state is PartState.OPEN:
            opened.append(Held(held.row, held.etag))
        elif held.row.state is PartState.WAITING:
            waiting.setdefault(held.row.deployment, []).append(Held(held.row, held.etag))
        else:
            looks.append(functools.partial(_look_at_part, app, Held(held.row, held.etag), now))
    looks += [functools.partial(_line_up, app, name, parts, now) for name, parts in waiting.items()]
    # Where there is not time enough for all of them, each gets its turn in the end.
    random.shuffle(opened)
    with ThreadPoolExecutor(LOOKS_AT_ONCE, initializer=in_thread) as pool:
        answers = [pool.submit(_attempt, look) for look in looks]
        answers += [pool.submit(_attempt, look) for look in _ask(app, opened, now, until)]
    errors = [error for answer in answers if (error := answer.result()) is not None]
    wanting = [held.row for parts in waiting.values() for held in parts]
    log.note(
        "tick_done",
        seconds=round(time.monotonic() - begin, 3),
        open_batches=len(opened),
        waiting_parts=len(wanting),
        waiting_tokens=sum(part.estimated_tokens for part in wanting),
        oldest_wait_seconds=max((int((now - part.waiting_since).total_seconds()) for part in wanting), default=0),
        oldest_job_seconds=int((now - oldest).total_seconds()),
        errors=len(errors),
    )
    app.ledger.note_tick(clock.now())
    if errors:
        raise ExceptionGroup("The tick could not do all that was due; the next one tries again.", errors)


def _ask(app: App, opened: list[Held[Part]], now: datetime, until: float) -> Iterator[Callable[[], None]]:
    """Yield what to do about each open batch: asked for by the page, or one by one where that is fewer calls."""
    asked_for = {held.row.batch_id: held for held in opened}
    list_until = until - app.settings.tick_seconds / 2  # what lies beyond the pages read is to have its turn as well
    oldest = min((held.row.created_at or now for held in opened), default=now)
    try:
        # A page tells of up to a hundred, so listing pays until it has cost as many calls as there are batches left.
        for calls, page in enumerate(app.service.pages() if len(opened) > LISTED_FROM else (), start=1):
            for batch in page:
                held = asked_for.pop(batch.id, None)
                if held is not None:
                    yield functools.partial(_seen, app, held, batch, now)
            if calls >= len(asked_for) or (page and page[-1].created_at < oldest) or time.monotonic() > list_until:
                break
    except Exception as trouble:  # noqa: BLE001 - they can still be asked for one by one
        log.warn("list_failed", trouble=trouble)
    for held in asked_for.values():
        yield functools.partial(_poll, app, held, now, until)


def _attempt(look: Callable[[], None]) -> Exception | None:
    """Return what went wrong, if anything: the other rows are to have their turn all the same."""
    try:
        look()
    except ConflictError:
        return None  # it moved on by itself
    except ServiceTroubleError as trouble:
        log.warn("poll_failed", trouble=trouble)
        return None  # the next tick asks again
    except Exception as error:  # noqa: BLE001 - raised by the tick when all have had their turn
        return error
    return None


def _line_up(app: App, deployment: str, waiting: list[Held[Part]], now: datetime) -> None:
    """Send off those that wait for a deployment and may go; the others show why they wait."""
    later = now + timedelta(seconds=app.settings.resend_seconds)
    held_by_key = {(held.row.job_id, held.row.key): held for held in waiting}
    # One whose create may have been done must find that out before anything else: its tokens may be enqueued already.
    asking = [held.row for held in waiting if held.row.creating_at is None]
    decisions = {(each.part.job_id, each.part.key): each for each in quota.admit_waiting(app, deployment, asking)}
    for key, held in held_by_key.items():
        part, decision = held.row, decisions.get(key)
        if decision is None or decision.may_go or decision.reason is Reason.TOO_LARGE:
            admitted_at = now if decision is not None and decision.may_go else None
            move, send = part.moved(PartState.WAITING, later, admitted_at=admitted_at), True
        else:
            move, send = part.moved(PartState.WAITING, decision.until or part.due, wait=decision.wait), False
        with contextlib.suppress(ConflictError):
            if send or _waits_otherwise(part, move):
                app.ledger.update(held, move)
            if send:
                app.queues.submit(part.job_id, part.key)


def _waits_otherwise(before: Part, after: Part) -> bool:
    """Return whether a waiting part has something new to show; that a number moved a little is not worth a write."""
    reasons = [part.wait.reason if part.wait else None for part in (before, after)]
    return before.due != after.due or reasons[0] != reasons[1]


def _look_at_part(app: App, held: Held[Part], now: datetime) -> None:
    part = held.row
    later = now + timedelta(seconds=app.settings.resend_seconds)
    if part.state is PartState.CLAIMED:  # the claim has ended, so whoever held it has died
        app.queues.submit(part.job_id, part.key)
    elif part.state is PartState.BUNDLED:
        look_after(app, held)
    elif part.state is PartState.ENDED:
        app.ledger.update(held, part.moved(PartState.ENDED, later))
        app.queues.collect(part.job_id)


def _look_at_job(app: App, held: Held[Job], now: datetime) -> None:
    """A job is due when the step that had it in hand did not come to its end."""
    job = held.row
    if job.bundle and not job.members:
        abandon(app, held)
        return
    if job.cancelled and job.state is JobState.ACCEPTED and job.parts_left:
        work = app.ledger.work(job.job_id)
        if work is not None:
            stop_parts(app, work)
        return
    if job.state is not JobState.FINISHING:  # there `due` is the end of a hold: to put it off would be to hold on
        later = now + timedelta(seconds=app.settings.resend_seconds)
        app.ledger.update(held, msgspec.structs.replace(job, due=later))
    if job.accepted_at is None:
        app.queues.drop(job.job_id, job.name)
    else:
        app.queues.collect(job.job_id)


def _poll(app: App, held: Held[Part], now: datetime, until: float) -> None:
    """Ask for one open batch, if there is time left; the next tick asks for the others."""
    if time.monotonic() < until:
        _seen(app, held, app.service.retrieve(held.row.batch_id), now)


def _seen(app: App, held: Held[Part], batch: ServiceBatch | None, now: datetime) -> None:
    """Write down what is new of an open batch; None: the service does not know it."""
    part = held.row
    if batch is not None and part.wait is not None and batch.status != "validating" and not batch.refused_for_quota:
        quota.took(app, part)
    if batch is None:
        _vanished(app, held, now)
    elif batch.refused_for_quota:
        _refused(app, held, batch, quota.refused(app, part))
    elif batch.refused_for_access:
        _refused(app, held, batch, clock.after(app.settings.quota_backoff_seconds))
    elif batch.terminal and batch.unnamed and now < _settled(app, batch):
        log.warn("results_unnamed", job_id=part.job_id, part=part.key, batch=batch.id)  # the next tick asks again
    elif batch.terminal:
        _ended(app, held, batch, now)
    else:
        if batch.status not in BATCH_STATUSES:
            log.warn("status_unknown", job_id=part.job_id, part=part.key, batch=batch.id, status=batch.status)
        seen = {"batch_status": batch.status, "completed": batch.completed, "failed_so_far": batch.failed}
        fresh = part.moved(PartState.OPEN, part.due, vanished_at=None, **seen)
        if fresh != part:
            app.ledger.update(held, fresh)
            log.note("batch_progress", job_id=part.job_id, part=part.key, batch=batch.id, **seen)


def _settled(app: App, batch: ServiceBatch) -> datetime:
    """Return from when on a batch that has ended is believed to be as it says."""
    return (batch.finished_at or batch.created_at) + timedelta(seconds=app.settings.settle_seconds)


def _ended(app: App, held: Held[Part], batch: ServiceBatch, now: datetime) -> None:
    part = held.row.moved(
        PartState.ENDED,
        now + timedelta(seconds=app.settings.resend_seconds),
        batch_status=batch.status,
        completed=batch.completed,
        failed_so_far=batch.failed,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        output_blob=batch.output_blob,
        error_blob=batch.error_blob,
        errors=batch.errors,
        ended_at=batch.finished_at or now,
    )
    app.ledger.update(held, part)
    quota.ended(app, part)
    log.note("batch_ended", job_id=part.job_id, part=part.key, batch=batch.id, status=batch.status)
    app.queues.collect(part.job_id)


def _refused(app: App, held: Held[Part], batch: ServiceBatch, until: datetime) -> None:
    """The batch failed for want of quota or access; none of its lines was run, so the part waits and goes again."""
    part = held.row.moved(
        PartState.WAITING,
        until,
        not_before=until,
        wait=Wait(
            reason="token_limit" if batch.refused_for_quota else batch.errors[0].code,
            message=batch.errors[0].message,
            until=until,
        ),
        refused=(*held.row.refused, batch.id)[-KEPT_REFUSED:],
        leftovers=(*held.row.leftovers, *filter(None, (batch.output_file_id, batch.error_file_id)))[-KEPT_REFUSED:],
        admitted_at=None,
        batch_id="",
        batch_status="",
        created_at=None,
        creating_at=None,
        vanished_at=None,
    )
    app.ledger.update(held, part)
    log.warn("batch_refused", job_id=part.job_id, part=part.key, batch=batch.id, until=until)


def _vanished(app: App, held: Held[Part], now: datetime) -> None:
    """The service does not know the batch. Believe it only when it has said so for the settled time."""
    part = held.row
    since = part.vanished_at or now
    if now - since < timedelta(seconds=app.settings.settle_seconds):
        if part.vanished_at is None:
            app.ledger.update(held, part.moved(PartState.OPEN, part.due, vanished_at=now))
            log.warn("batch_vanished", job_id=part.job_id, part=part.key, batch=part.batch_id)
        return
    gone = ServiceBatch(id=part.batch_id, status="vanished", created_at=part.created_at or now)
    _ended(app, held, gone, now)


def _find_lost_drops(app: App, now: datetime) -> None:
    """Send for drops that have lain in the inbox for a while and are no job: their event was lost.

    Each is entered as a job first, so that the next ticks do not send for it again before it is due.
    """
    settled = now - timedelta(seconds=app.settings.resend_seconds)
    old = {identity(drop): drop for drop in app.containers.inbox() if drop.last_modified < settled}
    in_hand = {job.job_id for job in app.ledger.jobs_in_hand()} if old else set()
    for job_id in old.keys() - in_hand:
        drop = old[job_id]
        if begin(app, drop) is not None:
            log.warn("drop_found", job_id=job_id)
            app.queues.drop(job_id, drop.name)
