"""What a finished job or bundle needs no more is deleted: its files at the service, its blobs in the work container."""

from datetime import datetime, timedelta

from batch_fn.app import App
from batch_fn.core.batches import ServiceCallError, TransientServiceError
from batch_fn.core.jobs import Part
from batch_fn.core.troubles import MAX_RETRY_AFTER
from batch_fn.runtime import clock, log
from batch_fn.steps.ownership import FinishingLease
from batch_fn.storage.rows import Stored


def clean_up(app: App, lease: FinishingLease, parts: list[Stored[Part]]) -> bool:
    """Delete what the results hold already; it may be repeated. Return False if the service does not let us yet.

    What the service does not delete for ENVIRONMENT_WAIT_SECONDS is left there, where it expires.
    """
    job = lease.job
    try:
        for stored in parts if app.settings.delete_service_files else ():
            app.openai.delete_files_of(stored.row)
            lease.renew()
    except ServiceCallError as trouble:
        now = clock.now()
        if now < (job.finished_at or now) + timedelta(seconds=app.settings.environment_wait_seconds):
            until = _next_try(app, now, trouble)
            lease.hold(until)
            log.warning("files_not_deleted_yet", job_id=job.job_id, until=until, trouble=trouble)
            return False
        log.warning("files_left", job_id=job.job_id, trouble=trouble)
    # Recorded in a row or not: an instance that wrote a blob may have died before it recorded that.
    if not any(stored.row.results_left and stored.row.input_blob for stored in parts):
        app.blobs.clear_work(job.work_folder, lease.renew)
    return True


def _next_try(app: App, now: datetime, trouble: ServiceCallError) -> datetime:
    asked = trouble.retry_after if isinstance(trouble, TransientServiceError) else None
    return now + min(timedelta(seconds=max(asked or 0, app.settings.resend_seconds)), MAX_RETRY_AFTER)
