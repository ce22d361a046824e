"""The tick: asks the service about open batches, and moves on what a lost message left behind."""

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
from batch_fn.core.batches import ServiceCallError
from batch_fn.core.jobs import Job, JobState, Part, PartState
from batch_fn.runtime import clock, log
from batch_fn.steps import part_moves, quota
from batch_fn.steps.bundling import dissolve_unsent, recheck_member
from batch_fn.steps.cancelling import stop_parts
from batch_fn.steps.duplicates import cancel_if_duplicate
from batch_fn.steps.inbox import find_lost_drops
from batch_fn.steps.observing import check_missing, observe, poll
from batch_fn.steps.poison import warn_of_poison
from batch_fn.storage.rows import ConflictError, Stored

MAX_CONCURRENCY = 8


def tick(app: App, in_thread: Callable[[], None] | None = None) -> None:
    """Check every row that is due, and the inbox for drops whose event was lost.

    `in_thread` is called in each thread of the pool before its first check.
    """
    now = clock.now()
    started = time.monotonic()
    until = started + app.settings.tick_seconds
    opened: list[Stored[Part]] = []
    waiting: dict[str, list[Stored[Part]]] = {}
    checks = [functools.partial(find_lost_drops, app, now), functools.partial(warn_of_poison, app, now)]
    oldest = now
    for stored in app.tables.due(now):
        oldest = min(oldest, names.dropped_at(stored.row.job_id))
        if isinstance(stored.row, Job):
            checks.append(functools.partial(_check_job, app, Stored(stored.row, stored.etag), now))
        elif stored.row.state is PartState.OPEN:
            opened.append(Stored(stored.row, stored.etag))
        elif stored.row.state is PartState.WAITING:
            waiting.setdefault(stored.row.deployment, []).append(Stored(stored.row, stored.etag))
        else:
            checks.append(functools.partial(_check_part, app, Stored(stored.row, stored.etag), now))
    checks += [functools.partial(_dispatch_waiting, app, name, parts, now) for name, parts in waiting.items()]
    # Where there is not time for all, the order of each tick is another, so that each has its turn in the end.
    random.shuffle(opened)
    missing: list[Stored[Part]] = []
    with ThreadPoolExecutor(MAX_CONCURRENCY, initializer=in_thread) as pool:
        answers = [pool.submit(_attempt, check) for check in checks]
        answers += [pool.submit(_attempt, check) for check in _ask(app, opened, missing, now, until)]
    errors = [answer.result() for answer in answers]
    errors += [_attempt(check) for check in check_missing(app, missing, now)]
    failures = [error for error in errors if error is not None]
    waiting_parts = [stored.row for parts in waiting.values() for stored in parts]
    log.info(
        "tick_done",
        seconds=round(time.monotonic() - started, 3),
        open_batches=len(opened),
        waiting_parts=len(waiting_parts),
        waiting_tokens=sum(part.estimated_tokens for part in waiting_parts),
        oldest_wait_seconds=max((int((now - part.waiting_since).total_seconds()) for part in waiting_parts), default=0),
        oldest_job_seconds=int((now - oldest).total_seconds()),
        errors=len(failures),
    )
    app.tables.record_tick(clock.now())
    if failures:
        raise ExceptionGroup("The tick could not do all that was due; the next one tries again.", failures)


def _ask(
    app: App, opened: list[Stored[Part]], missing: list[Stored[Part]], now: datetime, until: float
) -> Iterator[Callable[[], None]]:
    """Yield a check of each open batch: those on the pages that are read, then each of the others by its id.

    The first page is always read: a batch that should not be there is found on it. `missing` takes those that the
    service answers 404 for.
    """
    asked_for = {stored.row.batch_id: stored for stored in opened}
    list_until = until - app.settings.tick_seconds / 2  # the rest of the time is for those that are asked for by id
    oldest = min((stored.row.created_at or now for stored in opened), default=now)
    try:
        # A page tells of up to a hundred, so listing pays until it has cost as many calls as there are batches left.
        for calls, page in enumerate(app.openai.pages(), start=1):
            for batch in page:
                stored = asked_for.pop(batch.id, None)
                if stored is not None and batch.terminal and batch.lacks_results:
                    yield functools.partial(poll, app, stored, missing, now, until)  # a list may tell less
                elif stored is not None:
                    yield functools.partial(observe, app, stored, batch, now)
                elif batch.running:
                    yield functools.partial(cancel_if_duplicate, app, batch)
            older = bool(page) and all(each.created_at is not None and each.created_at < oldest for each in page)
            if calls >= len(asked_for) or older or time.monotonic() > list_until:
                break
    except Exception as trouble:  # noqa: BLE001 - they can still be asked for by their ids
        log.warning("list_failed", trouble=trouble)
    for stored in asked_for.values():
        yield functools.partial(poll, app, stored, missing, now, until)


def _attempt(check: Callable[[], None]) -> Exception | None:
    """Return what went wrong, if anything: the other checks are to be made all the same."""
    try:
        check()
    except ConflictError:
        return None  # it moved on by itself
    except ServiceCallError as trouble:
        log.warning("poll_failed", trouble=trouble)
        return None  # the next tick asks again
    except Exception as error:  # noqa: BLE001 - raised by the tick after all checks
        return error
    return None


def _dispatch_waiting(app: App, deployment: str, waiting: list[Stored[Part]], now: datetime) -> None:
    """Send the messages of the waiting parts of a deployment that may go; the others show why they wait."""
    by_key = {(stored.row.job_id, stored.row.key): stored for stored in waiting}
    # A part with a create intent is not asked about: its create comes first to light, and its tokens may be enqueued.
    asking = [stored.row for stored in waiting if stored.row.create_intent_at is None]
    decisions = {(each.part.job_id, each.part.key): each for each in quota.admit_waiting(app, deployment, asking)}
    for key, stored in by_key.items():
        decision = decisions.get(key)
        with contextlib.suppress(ConflictError):
            if decision is None or decision.may_go or decision.reason is Reason.TOO_LARGE:
                admitted_at = now if decision is not None and decision.may_go else None
                part_moves.send_waiting(app, stored, admitted_at=admitted_at)
            else:
                part_moves.show_wait(app, stored, decision.wait)


def _check_part(app: App, stored: Stored[Part], now: datetime) -> None:
    """Move on a part that is neither open nor waiting, and whose step did not end in time."""
    part = stored.row
    if part.state is PartState.CLAIMED:  # the claim has expired, so its holder has died
        app.queues.submit(part.job_id, part.key)
    elif part.state is PartState.BUNDLED:
        recheck_member(app, stored)
    elif part.state is PartState.ENDED:
        part_moves.recheck_collect(app, stored, now + timedelta(seconds=app.settings.resend_seconds))
        app.queues.collect(part.job_id)


def _check_job(app: App, stored: Stored[Job], now: datetime) -> None:
    """Move on a job whose step did not end in time."""
    job = stored.row
    if job.bundle and not job.members:
        dissolve_unsent(app, stored)
        return
    if job.cancelled and job.state is JobState.ACCEPTED and job.parts_left:
        active = app.tables.active_job(job.job_id)
        if active is not None:
            stop_parts(app, active)
        return
    if job.state is not JobState.FINISHING:  # there `due` is the end of a lease, which must not be extended
        later = now + timedelta(seconds=app.settings.resend_seconds)
        app.tables.update(stored, msgspec.structs.replace(job, due=later))
    if job.accepted_at is None:
        app.queues.drop(job.job_id, job.name)
    else:
        app.queues.collect(job.job_id)
