"""The copy of a drop was deleted from the archive: it is made again, as long as its bytes are anywhere."""

from batch_fn.app import App
from batch_fn.core.jobs import InputRange, Job
from batch_fn.runtime import log
from batch_fn.steps.unpacking import unpack
from batch_fn.storage.drops import Drop, DropGoneError
from batch_fn.validation.gunzip import GzipError


def restore_copy(app: App, job: Job) -> bool:
    """Copy the job's version of the drop into the archive. Return False if the inbox does not have it any more."""
    if job.bundle:
        return False
    try:
        if job.gzip:
            found = app.blobs.drop(job.name)
            metadata = found.metadata if found is not None and found.etag == job.etag else {}
            unpack(app, Drop(job.container, job.name, job.etag, job.bytes, job.dropped_at, metadata), job)
        else:
            app.blobs.archive(job.container, job.name, job.etag, job.path)
    except (DropGoneError, GzipError):
        return False
    log.warning("copy_restored", job_id=job.job_id)
    return True


def restore_lines(app: App, job: Job, source: InputRange) -> bool:
    """Restore the blob of a part's lines, if it is the drop's copy. Return whether it is there again."""
    return source.container == app.settings.archive_container and restore_copy(app, job)
