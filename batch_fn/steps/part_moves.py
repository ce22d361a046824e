"""Every transition of a single part: one function each, with its log record and its queue message.

A transition within a transaction (a split, a settlement) is written by the step that makes the transaction.
"""

from datetime import datetime, timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import ServiceBatch, ServiceError
from batch_fn.core.jobs import Part, PartState
from batch_fn.core.troubles import MIN_TRIES
from batch_fn.core.waits import Wait
from batch_fn.runtime import clock, log
from batch_fn.storage.rows import Stored

KEPT_REFUSED = 50
"""Refused batches that a part remembers; the search for a lost create skips them."""

NO_CREATE: dict[str, datetime | None] = {
    "create_intent_at": None,
    "create_intent_found_at": None,
    "create_absent_at": None,
}
"""The fields of a part of which no batch can exist."""


def claim(app: App, stored: Stored[Part], **changes: object) -> Stored[Part]:
    """Claim a part for this instance, for CLAIM_SECONDS. Raises: ConflictError."""
    until = clock.after(app.settings.claim_seconds)
    changes = {"claims": stored.row.claims + 1, "not_before": None, "bundles": False, **changes}
    return app.tables.update(stored, stored.row.with_state(PartState.CLAIMED, until, **changes))


def mark_create(app: App, stored: Stored[Part], **placed: str) -> Stored[Part]:
    """Record where a claimed part's input is, and that a create is about to be sent. Raises: ConflictError."""
    marks = NO_CREATE | {"create_intent_at": clock.now(), "endpoint": app.settings.openai_endpoint}
    return app.tables.update(stored, stored.row.with_state(PartState.CLAIMED, stored.row.due, **marks, **placed))


def open_batch(app: App, stored: Stored[Part], batch: ServiceBatch) -> None:
    """Record the batch that a claimed part has become. Raises: ConflictError."""
    part = stored.row.with_state(
        PartState.OPEN,
        clock.now(),
        batch_id=batch.id,
        batch_status=batch.status,
        not_found_since=None,
        end_seen_at=None,
        trouble_since=None,
        created_at=batch.created_at or stored.row.create_intent_at or clock.now(),
    )
    app.tables.update(stored, part)
    log.info(
        "batch_created",
        job_id=part.job_id,
        part=part.key,
        batch=batch.id,
        deployment=part.deployment,
        requests=part.requests,
        estimated_tokens=part.estimated_tokens,
    )


def record_progress(app: App, stored: Stored[Part], batch: ServiceBatch) -> None:
    """Record what is new of an open batch. Raises: ConflictError."""
    part = stored.row
    seen = {"batch_status": batch.status, "completed": batch.completed, "failed_so_far": batch.failed}
    accepted = batch.status != "validating"
    well = {
        "not_found_since": None,
        "trouble_since": None,
        "end_seen_at": None,
        "refused_since": None if accepted else part.refused_since,
        "wait": None if part.trouble_since or part.not_found_since else part.wait,
    }
    fresh = part.with_state(PartState.OPEN, part.due, **well, **seen)
    if fresh != part:
        app.tables.update(stored, fresh)
        log.info("batch_progress", job_id=part.job_id, part=part.key, batch=batch.id, **seen)


def record_end_seen(app: App, stored: Stored[Part], batch: ServiceBatch, now: datetime) -> None:
    """Record when a batch was first seen to have ended without naming its results. Raises: ConflictError."""
    part = stored.row
    if part.end_seen_at is None:
        fresh = part.with_state(PartState.OPEN, part.due, end_seen_at=now, not_found_since=None, trouble_since=None)
        app.tables.update(stored, fresh)
    log.warning("results_unnamed", job_id=part.job_id, part=part.key, batch=batch.id)


def record_not_found(app: App, stored: Stored[Part], now: datetime) -> None:
    """Record when the service first showed that it does not have an open batch. Raises: ConflictError."""
    part = stored.row
    until = now + timedelta(seconds=app.settings.settle_seconds)
    why = Wait(reason="batch_not_found", message=f"The service does not show batch {part.batch_id}.", until=until)
    app.tables.update(stored, part.with_state(PartState.OPEN, part.due, not_found_since=now, wait=why))
    log.warning("batch_not_found", job_id=part.job_id, part=part.key, batch=part.batch_id, until=until)


def record_trouble(
    app: App, stored: Stored[Part], why: Wait, due: datetime, *, trouble_since: datetime, trouble_tries: int
) -> None:
    """Record that the service could not be asked for an open batch. Raises: ConflictError."""
    part = stored.row
    known = part.trouble_since is not None and part.wait is not None and part.wait.message == why.message
    # The same trouble in each tick is not worth a write, once it was met often enough to be believed.
    if not known or due != part.due or trouble_tries <= MIN_TRIES:
        changes = {"trouble_since": trouble_since, "trouble_tries": trouble_tries, "wait": why}
        app.tables.update(stored, part.with_state(PartState.OPEN, due, **changes))


def wait(app: App, stored: Stored[Part], until: datetime, why: Wait, **changes: object) -> None:
    """Make a part wait until a time, and show why. Raises: ConflictError."""
    why = msgspec.structs.replace(why, until=until)
    waits = {"not_before": until, "wait": why, "admitted_at": None}
    part = stored.row.with_state(PartState.WAITING, until, **waits, **changes)
    app.tables.update(stored, part)
    facts = {name: fact for name, fact in msgspec.structs.asdict(why).items() if fact not in {None, ""}}
    log.warning("part_waits", job_id=part.job_id, part=part.key, **facts)


def wait_after_refusal(
    app: App,
    stored: Stored[Part],
    batch: ServiceBatch,
    until: datetime,
    *,
    refused_since: datetime | None = None,
    **changes: object,
) -> None:
    """Make a part wait again whose batch failed for lack of quota or access: none of its lines was run.

    Raises:
        ConflictError: if the part has changed since it was read.
    """
    error = batch.errors[0]
    part = stored.row.with_state(
        PartState.WAITING,
        until,
        not_before=until,
        wait=Wait(reason="token_limit" if batch.refused_for_quota else error.code, message=error.message, until=until),
        refused=(*stored.row.refused, batch.id)[-KEPT_REFUSED:],
        leftovers=(*stored.row.leftovers, *filter(None, (batch.output_file_id, batch.error_file_id)))[-KEPT_REFUSED:],
        admitted_at=None,
        batch_id="",
        batch_status="",
        created_at=None,
        not_found_since=None,
        end_seen_at=None,
        trouble_since=None,
        refused_since=refused_since or stored.row.refused_since,
        **NO_CREATE,
        **changes,
    )
    app.tables.update(stored, part)
    log.warning("batch_refused", job_id=part.job_id, part=part.key, batch=batch.id, until=until)


def send_waiting(app: App, stored: Stored[Part], *, admitted_at: datetime | None) -> None:
    """Send a waiting part's message; the tick looks at it again after RESEND_SECONDS. Raises: ConflictError."""
    later = clock.after(app.settings.resend_seconds)
    app.tables.update(stored, stored.row.with_state(PartState.WAITING, later, admitted_at=admitted_at))
    app.queues.submit(stored.row.job_id, stored.row.key)


def show_wait(app: App, stored: Stored[Part], why: Wait) -> None:
    """Show why a part still waits, where the reason has changed. Raises: ConflictError."""
    part = stored.row
    fresh = part.with_state(PartState.WAITING, why.until or part.due, wait=why, admitted_at=None)
    # A slightly different number is not worth a write.
    if (
        (fresh.due, fresh.admitted_at) != (part.due, part.admitted_at)
        or part.wait is None
        or part.wait.reason != why.reason
    ):
        app.tables.update(stored, fresh)


def end_unsent(app: App, stored: Stored[Part], error: ServiceError) -> None:
    """End a part that has no batch: each of its lines fails with `error`, and is not sent again.

    A bundle that is ended so is dissolved, unless the error blames no line; its members are then sent alone.

    Raises:
        ConflictError: if the part has changed since it was read.
    """
    part = stored.row
    # A claim that died may have left a file at the service: with one more claim, the cleanup searches for it by name.
    claims = part.claims + bool(part.claims and not part.file_id)
    ended = part.with_state(
        PartState.ENDED,
        clock.after(app.settings.resend_seconds),
        claims=claims,
        errors=(msgspec.structs.replace(error, final=True),),
        not_before=None,
        ended_at=clock.now(),
        **NO_CREATE,
    )
    app.tables.update(stored, ended)
    log.warning("part_not_sent", job_id=part.job_id, part=part.key, code=error.code)
    app.queues.collect(part.job_id)


def end_with_batch(app: App, stored: Stored[Part], batch: ServiceBatch, now: datetime) -> Part:
    """End a part whose batch has ended, and send its collect message. Return its row. Raises: ConflictError."""
    part = stored.row.with_state(
        PartState.ENDED,
        now + timedelta(seconds=app.settings.resend_seconds),
        batch_status=batch.status,
        completed=batch.completed,
        failed_so_far=batch.failed,
        total=batch.total,
        not_before=None,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        output_blob=batch.output_blob,
        error_blob=batch.error_blob,
        errors=batch.errors,
        ended_at=batch.finished_at or now,
        end_seen_at=stored.row.end_seen_at or now,
    )
    app.tables.update(stored, part)
    log.info("batch_ended", job_id=part.job_id, part=part.key, batch=batch.id, status=batch.status)
    app.queues.collect(part.job_id)
    return part


def recheck_collect(app: App, stored: Stored[Part], until: datetime) -> None:
    """Have the tick send the collect message of an ended part again at that time. Raises: ConflictError."""
    app.tables.update(stored, stored.row.with_state(PartState.ENDED, until))


def postpone_collect(app: App, stored: Stored[Part], until: datetime, why: Wait, **changes: object) -> None:
    """Leave an ended part alone until then, and show why it cannot be settled. Raises: ConflictError."""
    why = msgspec.structs.replace(why, until=until)
    part = stored.row.with_state(PartState.ENDED, until, not_before=until, wait=why, **changes)
    app.tables.update(stored, part)
    log.warning(
        "collect_postponed", job_id=part.job_id, part=part.key, reason=why.reason, message=why.message, until=until
    )


def leave_results(app: App, stored: Stored[Part]) -> Part:
    """Record that results of an ended part are given up, so that they stay. Return its row. Raises: ConflictError."""
    return app.tables.update(stored, stored.row.with_state(PartState.ENDED, stored.row.due, results_left=True)).row


def bundle(app: App, stored: Stored[Part], bundle_id: str) -> Part:
    """Claim a waiting part for a bundle, or renew that claim. Return its row. Raises: ConflictError."""
    due = clock.after(app.settings.claim_seconds + app.settings.resend_seconds)
    return app.tables.update(
        stored, stored.row.with_state(PartState.BUNDLED, due, bundle=bundle_id, admitted_at=None)
    ).row


def unbundle(app: App, stored: Stored[Part], *, alone: bool) -> None:
    """Make a bundle's member wait again, and send its message; `alone`: it joins no bundle. Raises: ConflictError."""
    part = stored.row
    due = clock.after(app.settings.resend_seconds)
    bundles = part.bundles and not alone
    app.tables.update(stored, part.with_state(PartState.WAITING, due, bundle="", bundles=bundles))
    app.queues.submit(part.job_id, part.key)
