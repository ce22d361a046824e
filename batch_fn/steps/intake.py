"""A drop comes in: it is read and checked, and goes on as the parts of an accepted job, or ends as a rejected one."""

import tempfile
from datetime import datetime

from batch_fn.app import App
from batch_fn.core import names
from batch_fn.core.jobs import Job, JobState
from batch_fn.core.planning import Limits, Planner
from batch_fn.runtime import clock, log
from batch_fn.runtime.memory import large_step_lock
from batch_fn.settings import Settings
from batch_fn.steps.accepting import accept
from batch_fn.steps.finishing import finish_rejected
from batch_fn.steps.ownership import delete_orphaned_work
from batch_fn.steps.picking import pick
from batch_fn.storage.blobs import Drop, DropGoneError
from batch_fn.storage.probe import is_marker, is_over, is_reserved
from batch_fn.storage.rows import ActiveJob, Stored
from batch_fn.validation.check import validate_blocks
from batch_fn.validation.findings import DROP_GONE, Code, Finding, Findings
from batch_fn.validation.requests import Rules


def ingest(app: App, name: str) -> None:
    """Take in the version of an inbox blob that is there now, or continue where an earlier reader stopped."""
    drop = app.blobs.drop(name)
    if drop is None:
        log.info("drop_absent", name=name)
        return
    if is_marker(name):
        app.checkups.record_marker(name)
    ingest_drop(app, drop)


def reject(app: App, stored: Stored[Job], finding: Finding) -> None:
    """End a job of which nothing was sent with a finding of our own."""
    with tempfile.TemporaryFile() as spool:
        findings = Findings(spool)
        findings.add(finding)
        finish_rejected(app, stored, findings)


def ingest_drop(app: App, drop: Drop) -> None:
    """Check that version of an inbox blob, and accept or reject it."""
    rules = rules_of(app.settings, drop.metadata.get("deployment"))
    with large_step_lock(drop.bytes), tempfile.TemporaryFile() as spool:
        stored = register(app, drop)
        if stored is None or stored.row.accepted_at is not None:
            return
        findings = Findings(spool)
        planner = _read(app, drop, stored.row, rules, findings)
        if findings.count:
            finish_rejected(app, stored, findings)
        else:
            _accept(app, stored, planner, rules)


def job_id_of(drop: Drop) -> str:
    """Return the id of the drop's job."""
    return names.job_id(drop.container, drop.name, drop.etag, drop.last_modified)


def register(app: App, drop: Drop) -> Stored[Job] | None:
    """Enter the job into the ledger. Return its row, None if the job is finished already or the blob is the doctor's.

    The row is entered first and the history read after it: the other way round, a job that finishes between the two
    would be begun again.
    """
    if is_reserved(drop.name):
        if is_over(drop.name, drop.last_modified):
            app.blobs.delete_from_inbox(drop.container, drop.name, drop.etag)
        return None
    job_id = job_id_of(drop)
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
    if app.tables.finished(job_id) is not None:
        log.info("drop_repeated", job_id=job_id)
        if (
            stored.row.state is JobState.DROPPED
        ):  # begun just now; a finishing one is still needed by whoever finishes it
            app.blobs.delete_from_inbox(drop.container, drop.name, drop.etag)
            app.tables.delete_active(ActiveJob(stored))
        return None
    log.info("drop_seen", job_id=job_id, bytes=drop.bytes, state=stored.row.state)
    return stored


def rules_of(settings: Settings, deployment: str | None) -> Rules:
    """Return what a drop is checked against; `deployment` is what its metadata says."""
    return Rules(
        allowed_urls=settings.allowed_urls,
        max_line_bytes=settings.max_line_bytes,
        max_requests=settings.max_drop_requests,
        deployment=deployment or None,
        mixed=settings.mixed_files == "split",
    )


def _planner(app: App, job: Job) -> Planner:
    settings = app.settings
    limits = Limits(settings.part_bytes, settings.max_part_requests)
    return Planner(limits, container=settings.archive_container, name=f"{job.path}.jsonl", size=job.bytes)


def _read(app: App, drop: Drop, job: Job, rules: Rules, findings: Findings) -> Planner:
    """Read and check the drop, and keep its archive copy if it is good. Return its lines, laid into parts."""
    planner = _planner(app, job)
    if drop.bytes > app.settings.max_drop_bytes:
        findings.add(too_large(drop.bytes, app.settings.max_drop_bytes))
        return planner
    try:
        for each in validate_blocks(app.blobs.read_drop(drop), rules):
            if isinstance(each, Finding):
                findings.add(each)
            elif not findings.count:
                planner.add(each)
        if not findings.count:
            # From here on every step reads the copy: what happens to the inbox blob no longer matters to this job.
            app.blobs.archive(drop.container, drop.name, drop.etag, job.path)
    except DropGoneError:
        findings.replace_by(drop_gone())
    return planner


def _accept(app: App, stored: Stored[Job], planner: Planner, rules: Rules) -> None:
    """Write the parts and the job's new state in one, then ask for the parts to be submitted."""
    picks = pick(app, stored.row, planner, _planner(app, stored.row), rules) if planner.interleaved else {}
    parts = planner.parts(stored.row.job_id, now=clock.now(), due=_later(app), picks=picks)
    if not accept(app, stored, parts) and picks:  # the same event, handled elsewhere, was quicker
        delete_orphaned_work(app, stored.row.job_id, stored.row.attempts_before)


def _later(app: App) -> datetime:
    return clock.after(app.settings.resend_seconds)


def too_large(size: int, limit: int) -> Finding:
    """Return the finding for a drop of more bytes than MAX_DROP_BYTES; it is not read at all."""
    message = f"The file has {size:,} bytes, and {limit:,} is the limit. Split it, or raise the setting MAX_DROP_BYTES."
    return Finding(1, Code.INVALID_REQUEST, message)


def drop_gone() -> Finding:
    """Return the finding for a drop whose version is not there any more."""
    message = (
        "The file was overwritten or deleted before all of it was read; nothing of this version was sent. "
        "A newer version has a job of its own; drop the file again if it was deleted by mistake."
    )
    return Finding(1, DROP_GONE, message)
