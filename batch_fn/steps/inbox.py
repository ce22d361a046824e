"""Drops that the app was not told of: the tick finds them in the inbox."""

from datetime import datetime, timedelta

from batch_fn.app import App
from batch_fn.runtime import log
from batch_fn.steps.intake import is_complete, job_id_of, register
from batch_fn.storage.drops import Drop


def find_lost_drops(app: App, now: datetime) -> None:
    """Send for drops that are in the inbox for a while and have no job: their event was lost.

    Each is entered as a job first, so that the next ticks do not send for it again before it is due. A drop that stays
    in the inbox after its job is finished (a lease, a snapshot or a policy keeps it) is looked at once in a process.
    """
    settled = now - timedelta(seconds=app.settings.resend_seconds)
    old = {
        job_id_of(drop): drop for drop in app.blobs.inbox() if drop.last_modified < settled and is_complete(app, drop)
    }
    app.tick_memory.undeletable.intersection_update(old)
    unknown = old.keys() - app.tick_memory.undeletable
    active = {job.job_id for job in app.tables.active_jobs()} if unknown else set()
    errors = []
    for job_id in unknown - active:
        try:
            _send_for(app, old[job_id], job_id)
        except Exception as error:  # noqa: BLE001 - raised when every drop has been tried
            errors.append(error)
    if errors:
        raise ExceptionGroup("Not every drop could be sent for.", errors)


def _send_for(app: App, drop: Drop, job_id: str) -> None:
    if register(app, drop) is None:
        app.tick_memory.undeletable.add(job_id)
        return
    log.warning("drop_found", job_id=job_id)
    app.queues.drop(job_id, drop.name)
