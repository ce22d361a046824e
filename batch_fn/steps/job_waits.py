"""A step failed on a job that has no parts yet: the job waits for its environment, or its own error is recorded."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core.jobs import Job, JobState
from batch_fn.core.waits import ENVIRONMENT, OWN_ERROR, Wait
from batch_fn.runtime import clock, log
from batch_fn.storage.environment import describe, is_environmental
from batch_fn.storage.rows import ConflictError, Stored

MAX_POISONED = 3
"""How often a job or a part may be poisoned by an error of the app, five runs each time, before it is given up."""

type GiveUp = Callable[[App, Stored[Job], str], None]


@contextlib.contextmanager
def environment_awaited(app: App, job_id: str, give_up: GiveUp) -> Iterator[None]:
    """Let the job wait if the step fails for its environment, and end the step; the tick sends for the job again.

    After ENVIRONMENT_WAIT_SECONDS the job is given up. An error of the app itself is recorded, and raised.
    """
    try:
        yield
    except Exception as error:
        stored = _unaccepted(app, job_id)
        if stored is None:
            raise
        if not is_environmental(error):
            _record_own_error(app, stored, error)
            raise
        _wait(app, stored, error, give_up)


def count_poisoning(app: App, stored: Stored[Job], give_up: GiveUp) -> None:
    """Count that the host gave up on a job's message, and give the job up after MAX_POISONED of them.

    A job that waits for its environment is not to blame, but is given up, too, after ENVIRONMENT_WAIT_SECONDS: a
    process that is stopped records nothing, so it is not known if it still waits. Several messages of one job, or
    several runs of one message within RESEND_SECONDS, count once.
    """
    job, now = stored.row, clock.now()
    over = job.waiting_since is not None and _is_over(app, job.waiting_since)
    counts = over or (job.waiting_since is None and not is_recent(app, job.poisoned_at))
    poisoned = job.poisoned + counts
    if job.state is JobState.RETRYING:
        log.warning("retry_poisoned", job_id=job.job_id, times=poisoned)
    else:
        log.warning("drop_poisoned", job_id=job.job_id, times=poisoned)
    if not counts:
        return
    # While it is finished, `due` is the end of a lease, which must not be extended.
    later = job.due if job.state is JobState.FINISHING else clock.after(app.settings.resend_seconds)
    counted = msgspec.structs.replace(job, poisoned=poisoned, poisoned_at=now, due=later)
    stored = app.tables.update(stored, counted)
    if over or poisoned >= MAX_POISONED:
        give_up(app, stored, job.wait.message if job.wait else "The app stopped each time while it worked on it.")


def is_recent(app: App, poisoned_at: datetime | None) -> bool:
    """Return whether a poisoning was counted within the last RESEND_SECONDS."""
    return poisoned_at is not None and clock.now() < poisoned_at + timedelta(seconds=app.settings.resend_seconds)


def _is_over(app: App, since: datetime) -> bool:
    """Return whether a job that waits since then has waited for ENVIRONMENT_WAIT_SECONDS."""
    return clock.now() - since >= timedelta(seconds=app.settings.environment_wait_seconds)


def _unaccepted(app: App, job_id: str) -> Stored[Job] | None:
    """Return the row of a job that has no parts yet, if no other instance is finishing it."""
    active = app.tables.active_job(job_id)
    if active is None or active.job.row.accepted_at is not None:
        return None
    job = active.job.row
    waits = job.wait is not None and job.wait.until == job.due
    held = job.state is JobState.FINISHING and job.due is not None and job.due > clock.now()
    return None if held and not waits else active.job


def _wait(app: App, stored: Stored[Job], error: Exception, give_up: GiveUp) -> None:
    now = clock.now()
    since = stored.row.waiting_since or now
    if _is_over(app, since):
        try:
            give_up(app, stored, describe(error))
        except Exception as again:
            # Not even a report can be written: wait for that.
            found = _unaccepted(app, stored.row.job_id) if is_environmental(again) else None
            if found is None:
                raise
            stored = found
        else:
            return
    waited = (now - since).total_seconds()
    seconds = max(app.settings.trouble_seconds, min(waited, app.settings.resend_seconds))  # twice as long each time
    until = now + timedelta(seconds=seconds)
    wait = Wait(reason=ENVIRONMENT, message=describe(error), until=until)
    with contextlib.suppress(ConflictError):  # it moved on
        app.tables.update(stored, msgspec.structs.replace(stored.row, wait=wait, waiting_since=since, due=until))
    log.warning("job_waits", job_id=stored.row.job_id, reason=ENVIRONMENT, message=wait.message, until=until)


def _record_own_error(app: App, stored: Stored[Job], error: Exception) -> None:
    wait = Wait(reason=OWN_ERROR, message=describe(error))
    if stored.row.wait == wait and stored.row.waiting_since is None:
        return
    with contextlib.suppress(ConflictError):
        app.tables.update(stored, msgspec.structs.replace(stored.row, wait=wait, waiting_since=None))
