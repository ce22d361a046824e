"""A message of the tick: continue with a drop or a retry that stopped."""

from batch_fn.app import App
from batch_fn.core.jobs import JobState
from batch_fn.runtime.memory import turn
from batch_fn.steps.intake import _gone, _take_in, identity, reject
from batch_fn.steps.retrying import take_up
from batch_fn.storage.queues import Errand


def take_in_found(app: App, errand: Errand) -> None:
    """Take in a drop that the tick found, or report that it is gone if its very version is not there any more."""
    work = app.ledger.work(errand.job_id)
    if work is not None and work.job.row.state is JobState.RETRYING:
        with turn(work.job.row.bytes):
            take_up(app, work.job)
        return
    drop = app.containers.drop(app.containers.drop_client(errand.name))
    if drop is not None and identity(drop) == errand.job_id:
        _take_in(app, drop)
        return
    if work is None or work.job.row.accepted_at is not None:
        return
    reject(app, work.job, _gone())
