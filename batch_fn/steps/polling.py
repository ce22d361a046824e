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
from batch_fn.core.batches import BATCH_STATUSES, ServiceBatch, TransientServiceError
from batch_fn.core.jobs import Job, JobState, Part, PartState
from batch_fn.runtime import clock, log
from batch_fn.steps import part_moves, quota
from batch_fn.steps.bundling import dissolve_unsent, recheck_member
from batch_fn.steps.cancelling import stop_parts
from batch_fn.steps.intake import job_id_of, register
from batch_fn.storage.rows import ConflictError, Stored

MAX_CONCURRENCY = 8
LISTED_FROM = 10
"""With more open batches than this, they are asked for by the page."""


def tick(app: App, in_thread: Callable[[], None] | None = None) -> None:
    """Look at everything in hand that is due, and at the inbox for drops that nobody was told of.

    `in_thread` is called in each thread of the pool before its first look.
    """
    now = clock.now()
    register = time.monotonic()
    until = register + app.settings.tick_seconds
    opened: list[Stored[Part]] = []
    waiting: dict[str, list[Stored[Part]]] = {}
    checks = [functools.partial(_find_lost_drops, app, now)]
    oldest = now
    for stored in app.tables.due(now):
        oldest = min(oldest, names.dropped_at(stored.row.job_id))
        if isinstance(stored.row, Job):
            checks.append(functools.partial(_look_at_job, app, Stored(stored.row, stored.etag), now))
        elif stored.row.state is PartState.OPEN:
            opened.append(Stored(stored.row, stored.etag))
        elif stored.row.state is PartState.WAITING:
            waiting.setdefault(stored.row.deployment, []).append(Stored(stored.row, stored.etag))
        else:
            checks.append(functools.partial(_look_at_part, app, Stored(stored.row, stored.etag), now))
    checks += [functools.partial(_dispatch_waiting, app, name, parts, now) for name, parts in waiting.items()]
    # Where there is not time enough for all of them, each gets its turn in the end.
    random.shuffle(opened)
    with ThreadPoolExecutor(MAX_CONCURRENCY, initializer=in_thread) as pool:
        answers = [pool.submit(_attempt, look) for look in checks]
        answers += [pool.submit(_attempt, look) for look in _ask(app, opened, now, until)]
    errors = [error for answer in answers if (error := answer.result()) is not None]
    waiting_parts = [stored.row for parts in waiting.values() for stored in parts]
    log.info(
        "tick_done",
        seconds=round(time.monotonic() - register, 3),
        open_batches=len(opened),
        waiting_parts=len(waiting_parts),
        waiting_tokens=sum(part.estimated_tokens for part in waiting_parts),
        oldest_wait_seconds=max((int((now - part.waiting_since).total_seconds()) for part in waiting_parts), default=0),
        oldest_job_seconds=int((now - oldest).total_seconds()),
        errors=len(errors),
    )
    app.tables.record_tick(clock.now())
    if errors:
        raise ExceptionGroup("The tick could not do all that was due; the next one tries again.", errors)


def _ask(app: App, opened: list[Stored[Part]], now: datetime, until: float) -> Iterator[Callable[[], None]]:
    """Yield what to do about each open batch: asked for by the page, or one by one where that is fewer calls."""
    asked_for = {stored.row.batch_id: stored for stored in opened}
    list_until = until - app.settings.tick_seconds / 2  # what lies beyond the pages read is to have its turn as well
    oldest = min((stored.row.created_at or now for stored in opened), default=now)
    try:
        # A page tells of up to a hundred, so listing pays until it has cost as many calls as there are batches left.
        for calls, page in enumerate(app.openai.pages() if len(opened) > LISTED_FROM else (), start=1):
            for batch in page:
                stored = asked_for.pop(batch.id, None)
                if stored is not None:
                    yield functools.partial(_observe, app, stored, batch, now)
            if calls >= len(asked_for) or (page and page[-1].created_at < oldest) or time.monotonic() > list_until:
                break
    except Exception as trouble:  # noqa: BLE001 - they can still be asked for one by one
        log.warning("list_failed", trouble=trouble)
    for stored in asked_for.values():
        yield functools.partial(_poll, app, stored, now, until)


def _attempt(look: Callable[[], None]) -> Exception | None:
    """Return what went wrong, if anything: the other rows are to have their turn all the same."""
    try:
        look()
    except ConflictError:
        return None  # it moved on by itself
    except TransientServiceError as trouble:
        log.warning("poll_failed", trouble=trouble)
        return None  # the next tick asks again
    except Exception as error:  # noqa: BLE001 - raised by the tick when all have had their turn
        return error
    return None


def _dispatch_waiting(app: App, deployment: str, waiting: list[Stored[Part]], now: datetime) -> None:
    """Send off those that wait for a deployment and may go; the others show why they wait."""
    held_by_key = {(stored.row.job_id, stored.row.key): stored for stored in waiting}
    # One whose create may have been done must find that out before anything else: its tokens may be enqueued already.
    asking = [stored.row for stored in waiting if stored.row.create_intent_at is None]
    decisions = {(each.part.job_id, each.part.key): each for each in quota.decide_waiting(app, deployment, asking)}
    for key, stored in held_by_key.items():
        decision = decisions.get(key)
        with contextlib.suppress(ConflictError):
            if decision is None or decision.may_go or decision.reason in {Reason.TOO_LARGE, Reason.NEVER_FITS}:
                admitted_at = now if decision is not None and decision.may_go else None
                part_moves.send_waiting(app, stored, admitted_at=admitted_at)
            else:
                part_moves.show_wait(app, stored, decision.wait)


def _look_at_part(app: App, stored: Stored[Part], now: datetime) -> None:
    part = stored.row
    if part.state is PartState.CLAIMED:  # the claim has ended, so whoever held it has died
        app.queues.submit(part.job_id, part.key)
    elif part.state is PartState.BUNDLED:
        recheck_member(app, stored)
    elif part.state is PartState.ENDED:
        part_moves.postpone_collect(app, stored, now + timedelta(seconds=app.settings.resend_seconds))
        app.queues.collect(part.job_id)


def _look_at_job(app: App, stored: Stored[Job], now: datetime) -> None:
    """A job is due when the step that had it in hand did not come to its end."""
    job = stored.row
    if job.bundle and not job.members:
        dissolve_unsent(app, stored)
        return
    if job.cancelled and job.state is JobState.ACCEPTED and job.parts_left:
        active = app.tables.active_job(job.job_id)
        if active is not None:
            stop_parts(app, active)
        return
    if job.state is not JobState.FINISHING:  # there `due` is the end of a hold: to put it off would be to hold on
        later = now + timedelta(seconds=app.settings.resend_seconds)
        app.tables.update(stored, msgspec.structs.replace(job, due=later))
    if job.accepted_at is None:
        app.queues.drop(job.job_id, job.name)
    else:
        app.queues.collect(job.job_id)


def _poll(app: App, stored: Stored[Part], now: datetime, until: float) -> None:
    """Ask for one open batch, if there is time left; the next tick asks for the others."""
    if time.monotonic() < until:
        _observe(app, stored, app.openai.retrieve(stored.row.batch_id), now)


def _observe(app: App, stored: Stored[Part], batch: ServiceBatch | None, now: datetime) -> None:
    """Write down what is new of an open batch; None: the service does not know it."""
    part = stored.row
    if batch is not None and part.wait is not None and batch.status != "validating" and not batch.refused_for_quota:
        quota.clear_backoff(app, part)
    if batch is None:
        _check_vanished(app, stored, now)
    elif batch.refused_for_quota:
        refused = quota.record_refusal(app, part)
        part_moves.wait_after_refusal(app, stored, batch, refused.until, refusals=refused.refusals)
    elif batch.refused_for_access:
        part_moves.wait_after_refusal(app, stored, batch, clock.after(app.settings.quota_backoff_seconds))
    elif batch.terminal and batch.lacks_output_file and now < _settled(app, batch):
        log.warning("results_unnamed", job_id=part.job_id, part=part.key, batch=batch.id)  # the next tick asks again
    elif batch.terminal:
        _end(app, stored, batch, now)
    else:
        if batch.status not in BATCH_STATUSES:
            log.warning("status_unknown", job_id=part.job_id, part=part.key, batch=batch.id, status=batch.status)
        part_moves.record_progress(app, stored, batch)


def _settled(app: App, batch: ServiceBatch) -> datetime:
    """Return from when on a batch that has ended is believed to be as it says."""
    return (batch.finished_at or batch.created_at) + timedelta(seconds=app.settings.settle_seconds)


def _check_vanished(app: App, stored: Stored[Part], now: datetime) -> None:
    """The service does not know the batch. Believe it only when it has said so for the settled time."""
    part = stored.row
    since = part.not_found_since or now
    if now - since >= timedelta(seconds=app.settings.settle_seconds):
        gone = ServiceBatch(id=part.batch_id, status="vanished", created_at=part.created_at or now)
        _end(app, stored, gone, now)
    elif part.not_found_since is None:
        part_moves.record_not_found(app, stored, now)


def _end(app: App, stored: Stored[Part], batch: ServiceBatch, now: datetime) -> None:
    part_moves.end_with_batch(app, stored, batch, now)


def _find_lost_drops(app: App, now: datetime) -> None:
    """Send for drops that have lain in the inbox for a while and are no job: their event was lost.

    Each is entered as a job first, so that the next ticks do not send for it again before it is due.
    """
    settled = now - timedelta(seconds=app.settings.resend_seconds)
    old = {job_id_of(drop): drop for drop in app.blobs.inbox() if drop.last_modified < settled}
    in_hand = {job.job_id for job in app.tables.active_jobs()} if old else set()
    for job_id in old.keys() - in_hand:
        drop = old[job_id]
        if register(app, drop) is not None:
            log.warning("drop_found", job_id=job_id)
            app.queues.drop(job_id, drop.name)
