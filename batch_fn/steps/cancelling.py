"""Cancelling a job: unsent parts end, running batches are cancelled at the service, and answers are kept.

The job's row is marked first. From then on none of its lines gets another attempt, and each tick makes a pass over its
parts until all have ended. Any instance may repeat a pass at any time.
"""

from datetime import timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import ServiceCallError, ServiceError
from batch_fn.core.errors import JobFinishedError, NoSuchJobError
from batch_fn.core.jobs import CANCELLED, Job, JobState, Outcome, Part, PartState
from batch_fn.runtime import clock, log
from batch_fn.steps import part_moves
from batch_fn.storage.rows import ActiveJob, ConflictError, FinishedJob, Stored

NOT_SENT = ServiceError(CANCELLED, "The job was cancelled before it was sent.")


def cancel(app: App, job_id: str) -> Job | FinishedJob:
    """Cancel a job. Unsent lines stay unsent, and answers are kept. A second call changes nothing.

    Returns:
        The job as it is now, or the finished job if it has ended as cancelled.

    Raises:
        NoSuchJobError: if there is no job of that id.
        JobFinishedError: if it already has all its results.
    """
    while True:
        active = app.tables.active_job(job_id)
        finished = app.tables.finished(job_id)
        over = active is None or (finished is not None and finished.attempts > active.job.row.attempts_before)
        if over and finished is not None:
            if finished.status is Outcome.CANCELLED:
                return finished
            raise JobFinishedError(job_id)
        if active is None or active.job.row.bundle:
            raise NoSuchJobError(job_id)
        job = active.job.row
        if not job.cancelled:
            if job.state is JobState.FINISHING:
                raise JobFinishedError(job_id)
            now = clock.now()
            # A job that is still being read is stopped by its reader, as soon as it has parts.
            due = now if job.state is JobState.ACCEPTED else job.due
            try:
                stored = app.tables.update(
                    active.job, msgspec.structs.replace(job, cancelled=True, cancel_asked_at=now, due=due)
                )
            except ConflictError:
                continue
            log.info("job_cancelled", job_id=job_id, state=job.state)
            active = ActiveJob(stored, active.parts)
        stop_parts(app, active)
        return active.job.row


def stop_parts(app: App, active: ActiveJob) -> None:
    """Make one pass over the parts of a cancelled job; the tick makes the next while any part has not ended."""
    job = active.job.row
    if not job.cancelled or job.state is not JobState.ACCEPTED:
        return
    under_way = False
    for stored in active.parts:
        try:
            under_way |= _stop(app, stored)
        except ConflictError:
            under_way = True  # it changed meanwhile
        except ServiceCallError as trouble:
            under_way = True
            log.warning("cancel_failed", job_id=job.job_id, part=stored.row.key, trouble=trouble)
    due = clock.now() + timedelta(seconds=app.settings.trouble_seconds if under_way else app.settings.resend_seconds)
    try:
        app.tables.update(active.job, msgspec.structs.replace(job, due=due))
    except ConflictError:
        return  # a part was settled meanwhile, and the row is due anyway


def unwanted(app: App, job: Job) -> bool:
    """Return whether the job was cancelled; a bundle counts as cancelled when the jobs of all its members are."""
    works = (app.tables.active_job(member.job_id) for member in job.members)
    return all(active is None or active.job.row.cancelled for active in works) if job.members else job.cancelled


def _stop(app: App, stored: Stored[Part]) -> bool:
    """Stop one part as far as possible now. Return whether another pass has to check it."""
    part = stored.row
    match part.state:
        case PartState.WAITING if part.create_intent_at is None:
            part_moves.end_unsent(app, stored, NOT_SENT)
            return False
        case PartState.OPEN:
            _stop_batch(app, part)
        case PartState.BUNDLED:
            _stop_bundle(app, part.bundle)
        case PartState.ENDED | PartState.SETTLED:
            return False
    return True


def _stop_batch(app: App, part: Part) -> None:
    if part.batch_status != "cancelling":
        app.openai.cancel(part.batch_id)
        log.info("batch_cancelled", job_id=part.job_id, part=part.key, batch=part.batch_id)


def _stop_bundle(app: App, bundle_id: str) -> None:
    """End an unsent bundle, so that its members go alone; cancel a sent one only if no job needs it any more."""
    bundle = app.tables.active_job(bundle_id)
    for bundle_part in bundle.parts if bundle else []:
        if bundle_part.row.state is PartState.WAITING and bundle_part.row.create_intent_at is None:
            part_moves.end_unsent(app, bundle_part, NOT_SENT)  # without a batch, collecting it dissolves it
        elif bundle_part.row.state is PartState.OPEN and bundle is not None and unwanted(app, bundle.job.row):
            _stop_batch(app, bundle_part.row)
