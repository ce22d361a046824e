"""A job is cancelled: what was not sent is not sent any more, what the service works on is stopped, answers are kept.

The job's row says so first; from then on no line of it gets another attempt, and the tick goes over its parts until
each has come to its end. A pass may be made again, by anybody, at any time.
"""

from datetime import timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import ServiceError, ServiceTroubleError
from batch_fn.core.errors import JobFinishedError, NoSuchJobError
from batch_fn.core.jobs import CANCELLED, Job, JobState, Outcome, Part, PartState
from batch_fn.runtime import clock, log
from batch_fn.storage.rows import ConflictError, Finished, Held, Work

NOT_SENT = ServiceError(CANCELLED, "The job was cancelled before it was sent.")


def cancel(app: App, job_id: str) -> Job | Finished:
    """Cancel a job: what is not sent stays unsent, what was answered is kept. Doing it again changes nothing.

    Returns:
        The job as it is now, or the finished job if it had ended as cancelled before.

    Raises:
        NoSuchJobError: if there is no job of that id.
        JobFinishedError: if it has all its results.
    """
    while True:
        work = app.ledger.work(job_id)
        finished = app.ledger.finished(job_id)
        over = work is None or (finished is not None and finished.attempts > work.job.row.attempts_before)
        if over and finished is not None:
            if finished.status is Outcome.CANCELLED:
                return finished
            raise JobFinishedError(job_id)
        if work is None or work.job.row.bundle:
            raise NoSuchJobError(job_id)
        job = work.job.row
        if not job.cancelled:
            if job.state is JobState.FINISHING:
                raise JobFinishedError(job_id)
            now = clock.now()
            # One that is still being read is stopped by its reader, as soon as there are parts to stop.
            due = now if job.state is JobState.ACCEPTED else job.due
            try:
                held = app.ledger.update(
                    work.job, msgspec.structs.replace(job, cancelled=True, cancel_asked_at=now, due=due)
                )
            except ConflictError:
                continue
            log.note("job_cancelled", job_id=job_id, state=job.state)
            work = Work(held, work.parts)
        stop_parts(app, work)
        return work.job.row


def stop_parts(app: App, work: Work) -> None:
    """Make one pass over the parts of a cancelled job; the tick makes the next, while one is left that is not over."""
    job = work.job.row
    if not job.cancelled or job.state is not JobState.ACCEPTED:
        return
    under_way = False
    for held in work.parts:
        try:
            under_way |= _stop(app, held)
        except ConflictError:
            under_way = True  # it moved meanwhile
        except ServiceTroubleError as trouble:
            under_way = True
            log.warn("cancel_failed", job_id=job.job_id, part=held.row.key, trouble=trouble)
    due = clock.now() + timedelta(seconds=app.settings.trouble_seconds if under_way else app.settings.resend_seconds)
    try:
        app.ledger.update(work.job, msgspec.structs.replace(job, due=due))
    except ConflictError:
        return  # a part was settled meanwhile; the row is due all the same


def unwanted(app: App, job: Job) -> bool:
    """Return whether the job was cancelled; a bundle is when the job of every member was."""
    works = (app.ledger.work(member.job_id) for member in job.members)
    return all(work is None or work.job.row.cancelled for work in works) if job.members else job.cancelled


def end_unsent(app: App, held: Held[Part]) -> None:
    """End a part for which no batch can have been made; its lines are errors then."""
    now = clock.now()
    due = clock.after(app.settings.resend_seconds)
    # A claim that died may have left a file: with one claim more, cleaning up looks for it.
    claims = held.row.claims + bool(held.row.claims and not held.row.file_id)
    ended = held.row.moved(PartState.ENDED, due, claims=claims, errors=(NOT_SENT,), creating_at=None, ended_at=now)
    app.ledger.update(held, ended)
    log.note("part_not_sent", job_id=held.row.job_id, part=held.row.key)
    app.queues.collect(held.row.job_id)


def _stop(app: App, held: Held[Part]) -> bool:
    """Stop one part as far as that can be done now. Return whether it has to be looked at again."""
    part = held.row
    match part.state:
        case PartState.WAITING if part.creating_at is None:
            end_unsent(app, held)
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
        app.service.cancel(part.batch_id)
        log.note("batch_cancelled", job_id=part.job_id, part=part.key, batch=part.batch_id)


def _stop_bundle(app: App, bundle_id: str) -> None:
    """Let the members of a bundle go alone that is not sent yet; one that is sent runs on if somebody needs it."""
    bundle = app.ledger.work(bundle_id)
    for carrier in bundle.parts if bundle else []:
        if carrier.row.state is PartState.WAITING and carrier.row.creating_at is None:
            end_unsent(app, carrier)  # nothing of it was sent, so collecting it breaks it up
        elif carrier.row.state is PartState.OPEN and bundle is not None and unwanted(app, bundle.job.row):
            _stop_batch(app, carrier.row)
