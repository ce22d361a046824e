"""Two instances at one job: which one finishes it, whether it has changed, whether it is over."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core.jobs import Job, JobState
from batch_fn.core.names import work_folder
from batch_fn.runtime import clock
from batch_fn.storage.rows import ConflictError, Stored

NOT_OF_THE_STEP = ("due", "poisoned", "poisoned_at", "wait", "waiting_since", "cancelled", "cancel_asked_at")
"""Columns of a job that others may change while a step works on it."""


def is_finished(app: App, job: Job) -> bool:
    """Return whether the job is in the history as it is now, and not only as it was before it was retried."""
    finished = app.tables.finished(job.job_id)
    return finished is not None and finished.attempts > job.attempts_before


def delete_orphaned_work(app: App, job_id: str, attempts_before: int) -> None:
    """Delete what was written here after the job had been finished, or its bundle forgotten: nobody else would."""
    active = app.tables.active_job(job_id)
    job = active.job.row if active and active.job.row.attempts_before == attempts_before else None
    if job is None or (job.bundle and job.state is JobState.FINISHING) or is_finished(app, job):
        app.blobs.clear_work(work_folder(job_id, attempts_before))


@contextlib.contextmanager
def finishing_lease(app: App, stored: Stored[Job]) -> Iterator[Stored[Job] | None]:
    """Hold the job for finishing, so that two instances do not both do it. Gives None if another one is at it."""
    while True:
        now = clock.now()
        job = stored.row
        if job.state is JobState.FINISHING and job.due is not None and job.due > now:
            yield None
            return
        due = now + timedelta(seconds=app.settings.resend_seconds)
        finishing = msgspec.structs.replace(
            job, state=JobState.FINISHING, due=due, finished_at=job.finished_at or now.replace(microsecond=0)
        )
        try:
            stored = app.tables.update(stored, finishing)
            break
        except ConflictError:
            again = reload_if_unchanged(app, stored)
            if again is None:
                yield None
                return
            stored = again
    try:
        yield stored
    except Exception:
        with contextlib.suppress(ConflictError):  # let go at once: the message comes again
            app.tables.update(stored, msgspec.structs.replace(finishing, due=now))
        raise


def reload_if_unchanged(app: App, stored: Stored[Job]) -> Stored[Job] | None:
    """Return the job's row as it is now, None if it is not where it was when it was read.

    Whoever reads a large drop must not lose its work because the tick has put the row off meanwhile, since that takes
    as long the next time; nor because somebody cancelled the job, or a message of it was poisoned.
    """
    active = app.tables.active_job(stored.row.job_id)
    if active is None or active.job.etag == stored.etag:
        return None
    changes = {name: getattr(stored.row, name) for name in NOT_OF_THE_STEP}
    return active.job if msgspec.structs.replace(active.job.row, **changes) == stored.row else None
