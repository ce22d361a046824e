"""A message of the tick: continue with a drop or a retry that stopped."""

from batch_fn.app import App
from batch_fn.core.jobs import JobState
from batch_fn.runtime.memory import large_step_lock
from batch_fn.steps.intake import drop_gone, ingest_drop, job_id_of, reject
from batch_fn.steps.retrying import start_retry
from batch_fn.storage.queues import Message


def resume(app: App, message: Message) -> None:
    """Take in a drop that the tick found, or report that it is gone if its very version is not there any more."""
    active = app.tables.active_job(message.job_id)
    if active is not None and active.job.row.state is JobState.RETRYING:
        with large_step_lock(active.job.row.bytes):
            start_retry(app, active.job)
        return
    drop = app.blobs.drop(message.name)
    if drop is not None and job_id_of(drop) == message.job_id:
        ingest_drop(app, drop)
        return
    if active is None or active.job.row.accepted_at is not None:
        return
    reject(app, active.job, drop_gone())
