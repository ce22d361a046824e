"""Two instances at one job: which one finishes it, whether its row changed, whether it is finished."""

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core.jobs import Job, JobState
from batch_fn.core.names import work_folder
from batch_fn.runtime import clock
from batch_fn.storage.rows import ConflictError, Stored

NOT_OF_THE_STEP = ("due", "poisoned", "poisoned_at", "wait", "waiting_since", "cancelled", "cancel_asked_at")
"""Columns of a job that others may change while a step works on it."""


def is_finished(app: App, job: Job) -> bool:
    """Return whether the current run of the job is in the history, and not only a run before it was retried."""
    finished = app.tables.finished(job.job_id)
    return finished is not None and finished.attempts > job.attempts_before


def delete_orphaned_work(app: App, job_id: str, attempts_before: int) -> None:
    """Delete what was written to the work container after the job was finished or its bundle deleted."""
    active = app.tables.active_job(job_id)
    job = active.job.row if active and active.job.row.attempts_before == attempts_before else None
    if job is None or (job.bundle and job.state is JobState.FINISHING) or is_finished(app, job):
        app.blobs.clear_work(work_folder(job_id, attempts_before))


class FinishingLease:
    """A job that this instance finishes, and no other one does, until the row's `due`."""

    def __init__(self, app: App, stored: Stored[Job]) -> None:
        self._app = app
        self.stored = stored

    @property
    def job(self) -> Job:
        """The row as it is now."""
        return self.stored.row

    def renew(self) -> None:
        """Extend the lease if half of its time is over: for every loop that may take long.

        Raises:
            ConflictError: if another instance has taken the job over.
        """
        period = timedelta(seconds=self._app.settings.resend_seconds)
        now = clock.now()
        if self.job.due is not None and self.job.due - now < period / 2:
            self._set_due(now + period)

    def hold(self, until: datetime) -> None:
        """Keep the job from being finished by anybody until then. Raises: ConflictError."""
        self._set_due(until)

    def release(self) -> None:
        """Let another instance go on at once."""
        with contextlib.suppress(ConflictError):
            self._set_due(clock.now())

    def _set_due(self, due: datetime) -> None:
        self.stored = self._app.tables.update(self.stored, msgspec.structs.replace(self.job, due=due))


@contextlib.contextmanager
def finishing_lease(app: App, stored: Stored[Job]) -> Iterator[FinishingLease | None]:
    """Hold the job while it is finished, so that two instances do not both do it. Gives None if another one does."""
    lease = _take_lease(app, stored)
    try:
        yield lease
    except Exception:
        if lease is not None:
            lease.release()  # the message comes again
        raise


def _take_lease(app: App, stored: Stored[Job]) -> FinishingLease | None:
    while True:
        now = clock.now()
        job = stored.row
        if job.state is JobState.FINISHING and job.due is not None and job.due > now:
            return None
        finishing = msgspec.structs.replace(
            job,
            state=JobState.FINISHING,
            due=now + timedelta(seconds=app.settings.resend_seconds),
            finished_at=job.finished_at or now.replace(microsecond=0),
        )
        try:
            return FinishingLease(app, app.tables.update(stored, finishing))
        except ConflictError:
            again = reload_if_unchanged(app, stored)
            if again is None:
                return None
            stored = again


def reload_if_unchanged(app: App, stored: Stored[Job]) -> Stored[Job] | None:
    """Return the job's row as it is now; None if anything but due, poisoned or cancelled changed since it was read.

    Reading a large drop takes long. Its result must not be thrown away because the tick postponed the row meanwhile,
    a user cancelled the job, or a message of it was poisoned.
    """
    active = app.tables.active_job(stored.row.job_id)
    if active is None or active.job.etag == stored.etag:
        return None
    changes = {name: getattr(stored.row, name) for name in NOT_OF_THE_STEP}
    return active.job if msgspec.structs.replace(active.job.row, **changes) == stored.row else None
