"""What the service tells of one open batch, and what that proves: it goes on, it has ended, or it is not there."""

import functools
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from batch_fn.app import App
from batch_fn.core.batches import (
    BATCH_STATUSES,
    CLOCK_SKEW,
    VANISHED,
    NotFoundError,
    ServiceBatch,
    ServiceCallError,
)
from batch_fn.core.jobs import Part
from batch_fn.runtime import log
from batch_fn.steps import part_moves, quota, trouble
from batch_fn.storage.rows import Stored


def poll(app: App, stored: Stored[Part], missing: list[Stored[Part]], now: datetime, until: float) -> None:
    """Ask for one open batch, if there is time left: the next tick asks for the others.

    One that the service answers 404 for is added to `missing`; that alone proves nothing.

    Raises:
        ConflictError: if the part has changed since it was read.
    """
    if time.monotonic() >= until:
        return
    try:
        batch = app.openai.retrieve(stored.row.batch_id)
    except NotFoundError:
        missing.append(stored)
    except ServiceCallError as error:
        trouble.meet_open(app, stored, error, now)
    else:
        observe(app, stored, batch, now)


def observe(app: App, stored: Stored[Part], batch: ServiceBatch, now: datetime) -> None:
    """Record what is new of an open batch. Raises: ConflictError."""
    part = stored.row
    if part.wait is not None and batch.status != "validating" and not batch.refused_for_quota:
        quota.clear_backoff(app, part)
    if batch.refused_for_quota:
        part_moves.wait_after_refusal(app, stored, batch, quota.record_refusal(app, part))
    elif batch.refused_for_access:
        trouble.refused_access(app, stored, batch, now)
    elif batch.terminal and batch.lacks_results and not _settled(app, part.end_seen_at, now):
        part_moves.record_end_seen(app, stored, batch, now)
    elif batch.terminal:
        _end(app, stored, batch, now)
    else:
        if batch.status not in BATCH_STATUSES:
            log.warning("status_unknown", job_id=part.job_id, part=part.key, batch=batch.id, status=batch.status)
        part_moves.record_progress(app, stored, batch)


def check_missing(app: App, missing: list[Stored[Part]], now: datetime) -> Iterator[Callable[[], None]]:
    """Yield a check of each open batch that the service answered 404 for: whether a complete list lacks it too."""
    here = [stored for stored in missing if stored.row.was_sent_to(app.settings.openai_endpoint)]
    for stored in missing:
        if stored not in here:
            error = trouble.elsewhere(app, stored.row)
            yield functools.partial(trouble.meet_open, app, stored, error, now)
    if not here:
        return
    since = min(stored.row.created_at or now for stored in here) - CLOCK_SKEW
    try:
        listed = app.openai.find_batches({stored.row.batch_id for stored in here}, since)
    except ServiceCallError as error:
        for stored in here:
            yield functools.partial(trouble.meet_open, app, stored, error, now)
        return
    for stored in here:
        batch = listed.get(stored.row.batch_id)
        if batch is not None:
            yield functools.partial(observe, app, stored, batch, now)
        else:
            yield functools.partial(_absent, app, stored, now)


def _absent(app: App, stored: Stored[Part], now: datetime) -> None:
    """The service answered 404 for a batch, and a complete list lacks it. Believe that when it is so a second time."""
    part = stored.row
    if part.not_found_since is None:
        part_moves.record_not_found(app, stored, now)
    elif _settled(app, part.not_found_since, now):
        log.warning("batch_vanished", job_id=part.job_id, part=part.key, batch=part.batch_id)
        _end(app, stored, ServiceBatch(id=part.batch_id, status=VANISHED, created_at=part.created_at), now)


def _settled(app: App, since: datetime | None, now: datetime) -> bool:
    return since is not None and now - since >= timedelta(seconds=app.settings.settle_seconds)


def _end(app: App, stored: Stored[Part], batch: ServiceBatch, now: datetime) -> None:
    quota.release_tokens(app, part_moves.end_with_batch(app, stored, batch, now))
