"""A drop that is gzip: the archive keeps the dropped bytes, and beside them the lines, unpacked once."""

from batch_fn.app import App
from batch_fn.core.jobs import Job
from batch_fn.runtime import log
from batch_fn.runtime.memory import large_step_lock
from batch_fn.storage.blob_streams import BlobChangedError
from batch_fn.storage.drops import Drop
from batch_fn.validation.gunzip import gunzip


def unpack(app: App, drop: Drop, job: Job) -> int:
    """Copy a gzip drop to the archive, and unpack it there. Return the size of its lines in bytes.

    Raises:
        DropGoneError: if the drop was overwritten or deleted.
        GzipError: if it cannot be unpacked; the archive then has the dropped bytes alone.
    """
    container, lines = app.settings.archive_container, f"{job.path}.jsonl"
    app.blobs.archive(drop.container, drop.name, drop.etag, job.path, gzip=True)
    if app.blobs.version(container, lines) is None:
        with large_step_lock(app.settings.max_drop_bytes):  # the packed size says little of the work
            _write_lines(app, drop, job)
    if app.blobs.version(container, lines) is None:
        return 0
    return app.blobs.archived(job.path).bytes


def _write_lines(app: App, drop: Drop, job: Job) -> None:
    container = app.settings.archive_container
    packed = app.blobs.read(container, f"{job.path}.jsonl.gz")
    # The drop's metadata goes along: a retry reads the deployment there.
    writer = app.blobs.writer(container, f"{job.path}.jsonl", over=None, metadata=drop.metadata)
    try:
        with writer:
            for piece in gunzip(packed, app.settings.max_drop_bytes):
                writer.write(piece)
    except BlobChangedError:
        log.info("drop_unpacked_elsewhere", job_id=job.job_id)  # the same bytes, written by another instance
        return
    log.info("drop_unpacked", job_id=job.job_id)
