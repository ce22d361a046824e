"""A message of the tick: continue with a drop or a retry that stopped."""

from batch_fn.app import App
from batch_fn.core.jobs import JobState
from batch_fn.runtime.memory import LARGE_BYTES, large_step_lock
from batch_fn.steps.intake import drop_gone, give_up_drop, ingest_drop, job_id_of, reject
from batch_fn.steps.job_waits import environment_awaited
from batch_fn.steps.ownership import is_finished
from batch_fn.steps.retrying import give_up_retry, start_retry
from batch_fn.storage.queues import Message


def resume(app: App, message: Message) -> None:
    """Ingest a drop that the tick found, or report it as gone if that version is not there any more."""
    active = app.tables.active_job(message.job_id)
    if active is not None and active.job.row.state is JobState.RETRYING:
        job = active.job.row
        size = max(job.bytes, LARGE_BYTES) if job.gzip else job.bytes  # the lines are larger than the drop was
        with environment_awaited(app, job.job_id, give_up_retry), large_step_lock(size):
            start_retry(app, active.job)
        return
    with environment_awaited(app, message.job_id, give_up_drop):
        if active is not None and active.job.row.state is JobState.FINISHING and is_finished(app, active.job.row):
            reject(app, active.job, drop_gone())  # only its rows are left, whether the drop is there or not
            return
        drop = app.blobs.drop(message.name)
        if drop is not None and job_id_of(drop) == message.job_id:
            ingest_drop(app, drop)
        elif active is not None and active.job.row.accepted_at is None:
            reject(app, active.job, drop_gone())
