"""A drop comes in: it is read and checked, and becomes the parts of an accepted job, or a rejected one."""

import itertools
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core import names
from batch_fn.core.jobs import Job, JobState
from batch_fn.core.planning import Limits, Planner
from batch_fn.runtime import clock, log
from batch_fn.runtime.memory import large_step_lock
from batch_fn.settings import Settings
from batch_fn.steps.accepting import accept
from batch_fn.steps.finishing import finish_rejected
from batch_fn.steps.job_waits import environment_awaited
from batch_fn.steps.ownership import delete_orphaned_work, reload_if_unchanged
from batch_fn.steps.picking import pick
from batch_fn.steps.unpacking import unpack
from batch_fn.storage.drops import Drop, DropGoneError
from batch_fn.storage.probe import is_marker, is_over, is_reserved
from batch_fn.storage.rows import ActiveJob, ConflictError, Stored
from batch_fn.validation.check import validate_blocks
from batch_fn.validation.findings import DROP_GONE, INVALID_GZIP, NOT_PROCESSED, Code, Finding, Findings
from batch_fn.validation.gunzip import GzipError, is_gzip
from batch_fn.validation.requests import Rules


def ingest(app: App, name: str) -> None:
    """Ingest the current version of an inbox blob, or continue where an earlier reader stopped."""
    drop = app.blobs.drop(name)
    if drop is None:
        log.info("drop_absent", name=name)
        return
    if is_marker(name):
        app.checkups.record_marker(name)
    if is_complete(app, drop):
        ingest_drop(app, drop)
    else:
        log.info("drop_empty", name=name)  # the tick ingests it, if it stays so


def is_complete(app: App, drop: Drop) -> bool:
    """Return whether the blob counts as a drop: one of zero bytes does when it has not changed for a while.

    An append blob, or an upload to Data Lake storage, has zero bytes until its writer sends the first.
    """
    return drop.bytes > 0 or drop.last_modified <= clock.now() - timedelta(seconds=app.settings.empty_drop_seconds)


def ingest_drop(app: App, drop: Drop) -> None:
    """Check that version of an inbox blob, and accept or reject it."""
    rules = rules_of(app.settings, drop.metadata.get("deployment"))
    with (
        environment_awaited(app, job_id_of(drop), give_up_drop),
        large_step_lock(drop.bytes),
        tempfile.TemporaryFile() as spool,
    ):
        stored = register(app, drop)
        if stored is None or stored.row.accepted_at is not None:
            return
        findings = Findings(spool)
        rejected = stored.row.state is JobState.FINISHING
        if rejected and app.blobs.report(stored.row.path) is not None:
            finish_rejected(app, stored, findings)  # which goes on after the report
            return
        read = _read(app, drop, stored, rules, findings)
        if read is None:
            return  # another instance has the job
        stored, planner = read
        if rejected and not findings.count:
            findings.add(_rejected_before())
        if findings.count:
            finish_rejected(app, stored, findings)
        else:
            _accept(app, stored, planner, rules.deployment)


def reject(app: App, stored: Stored[Job], finding: Finding, *, without_copy: bool = False) -> None:
    """End a job of which nothing was sent with a finding of our own.

    `without_copy`: even if the drop cannot be copied to the archive; it then stays in the inbox.
    """
    with tempfile.TemporaryFile() as spool:
        findings = Findings(spool)
        findings.add(finding)
        finish_rejected(app, stored, findings, without_copy=without_copy)


def give_up_drop(app: App, stored: Stored[Job], why: str) -> None:
    """End a job whose drop could not be read and checked in all the time and all the tries that it gets."""
    message = (
        f"The file could not be read and checked; nothing of it was sent. {why} "
        f"Look for job {stored.row.job_id} in the app's log, then drop the file again."
    )
    reject(app, stored, Finding(1, NOT_PROCESSED, message), without_copy=True)


def job_id_of(drop: Drop) -> str:
    """Return the id of the drop's job."""
    return names.job_id(drop.container, drop.name, drop.etag, drop.last_modified)


def register(app: App, drop: Drop) -> Stored[Job] | None:
    """Enter the job into the tables. Return its row, None if the job is finished already or the blob is the doctor's.

    The history is read before and after the row is entered. Before: a repeated event, or a drop that cannot be deleted,
    costs one read. After: a job that finishes between the two would be begun again.
    """
    if is_reserved(drop.name):
        if is_over(drop.name, drop.last_modified):
            app.blobs.remove(drop.container, drop.name, drop.etag)
        return None
    job_id = job_id_of(drop)
    if _is_finished(app, drop, job_id):
        return None
    job = Job(
        job_id=job_id,
        due=_later(app),
        container=drop.container,
        name=drop.name,
        etag=drop.etag,
        bytes=drop.bytes,
        dropped_at=drop.last_modified,
    )
    stored = app.tables.insert_if_absent(job)
    if _is_finished(app, drop, job_id):
        if stored.row.state is JobState.DROPPED:  # inserted here; the instance that finishes a job still needs its row
            app.tables.delete_active(ActiveJob(stored))
        return None
    log.info("drop_seen", job_id=job_id, bytes=drop.bytes, state=stored.row.state)
    return stored


def _is_finished(app: App, drop: Drop, job_id: str) -> bool:
    """Return whether the history has the job; the drop then leaves the inbox, if it did not before."""
    finished = app.tables.finished(job_id)
    if finished is None:
        return False
    log.info("drop_repeated", job_id=job_id)
    path = names.result_path(drop.name, job_id)
    app.blobs.delete_from_inbox(drop.container, drop.name, drop.etag, path, drop.bytes)
    return True


def rules_of(settings: Settings, deployment: str | None) -> Rules:
    """Return the rules for a drop; `deployment` is what its metadata says."""
    return Rules(
        allowed_urls=settings.allowed_urls,
        max_line_bytes=settings.max_line_bytes,
        max_requests=settings.max_drop_requests,
        max_findings=settings.max_findings,
        max_deployments=settings.max_deployments,
        deployment=deployment or None,
        mixed=settings.mixed_files == "split",
    )


def _planner(app: App, job: Job, size: int) -> Planner:
    settings = app.settings
    limits = Limits(settings.part_bytes, settings.max_part_requests)
    return Planner(limits, container=settings.archive_container, name=f"{job.path}.jsonl", size=size)


def _read(
    app: App, drop: Drop, stored: Stored[Job], rules: Rules, findings: Findings
) -> tuple[Stored[Job], Planner] | None:
    """Read and check the drop, and copy it to the archive if it is good. Return its lines, laid into parts.

    None if another instance has the job. From the copy on, what happens to the inbox blob does not matter to the job.
    """
    job = stored.row
    planner = _planner(app, job, drop.bytes)
    try:
        chunks = app.blobs.read_drop(drop)
        head = next(chunks, b"")
        if is_gzip(head) and not job.gzip:
            # The row says so first: it tells every later step where the dropped bytes are.
            noted = _note_gzip(app, stored)
            if noted is None:
                return None
            stored = noted
        if drop.bytes > app.settings.max_drop_bytes:
            findings.add(too_large(drop.bytes, app.settings.max_drop_bytes))
        elif is_gzip(head):
            chunks.close()  # the archive's copy is read from here on
            size = unpack(app, drop, job)
            planner = _planner(app, job, size)
            lines = app.blobs.read(app.settings.archive_container, f"{job.path}.jsonl") if size else iter(())
            _check(lines, rules, planner, findings)
        else:
            _check(itertools.chain([head], chunks), rules, planner, findings)
            if not findings.count:
                app.blobs.archive(drop.container, drop.name, drop.etag, job.path)
    except GzipError as error:
        findings.add(Finding(1, INVALID_GZIP, str(error)))
    except DropGoneError:
        findings.replace_by(drop_gone())
    return stored, planner


def _note_gzip(app: App, stored: Stored[Job]) -> Stored[Job] | None:
    while True:
        try:
            return app.tables.update(stored, msgspec.structs.replace(stored.row, gzip=True))
        except ConflictError:
            again = reload_if_unchanged(app, stored)
            if again is None:
                return None
            stored = again


def _check(chunks: Iterator[bytes], rules: Rules, planner: Planner, findings: Findings) -> None:
    for each in validate_blocks(chunks, rules):
        if isinstance(each, Finding):
            findings.add(each)
        elif not findings.count:
            planner.add(each)


def _accept(app: App, stored: Stored[Job], planner: Planner, fill_in: str | None) -> None:
    """Write the parts and the job's new state in one transaction, then ask for the parts to be submitted."""
    again = _planner(app, stored.row, stored.row.bytes)
    picks = pick(app, stored.row, planner, again, fill_in) if planner.interleaved else {}
    parts = planner.parts(stored.row.job_id, now=clock.now(), due=_later(app), picks=picks)
    if not accept(app, stored, parts) and picks:  # another instance was quicker with the same event
        delete_orphaned_work(app, stored.row.job_id, stored.row.attempts_before)


def _later(app: App) -> datetime:
    return clock.after(app.settings.resend_seconds)


def too_large(size: int, limit: int) -> Finding:
    """Return the finding for a drop of more bytes than MAX_DROP_BYTES; it is not checked at all."""
    message = f"The file has {size:,} bytes, and {limit:,} is the limit. Split it, or raise the setting MAX_DROP_BYTES."
    return Finding(1, Code.INVALID_REQUEST, message)


def _rejected_before() -> Finding:
    """Return the finding for a drop whose rejection was begun, and that would pass now.

    The rejection is not taken back: its report may be about to be written.
    """
    message = (
        "The app stopped while it rejected the file, and finds no problem in it now: settings may have changed. "
        "Nothing of it was sent. Drop the file again."
    )
    return Finding(1, NOT_PROCESSED, message)


def drop_gone() -> Finding:
    """Return the finding for a drop whose version is not there any more."""
    message = (
        "The file was overwritten or deleted before all of it was read; nothing of this version was sent. "
        "A newer version has a job of its own; drop the file again if it was deleted by mistake."
    )
    return Finding(1, DROP_GONE, message)
