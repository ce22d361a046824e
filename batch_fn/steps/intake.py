"""A drop comes in: it is read and checked, and goes on as the parts of an accepted job, or ends as a rejected one."""

import tempfile
from datetime import datetime
from typing import TYPE_CHECKING

from batch_fn.app import App
from batch_fn.core import names
from batch_fn.core.jobs import Job, JobState
from batch_fn.core.planning import Limits, Planner
from batch_fn.runtime import clock, log
from batch_fn.runtime.memory import turn
from batch_fn.settings import Settings
from batch_fn.steps.accepting import accept
from batch_fn.steps.finishing import finish_rejected
from batch_fn.steps.ownership import clear_if_gone
from batch_fn.steps.picking import pick
from batch_fn.storage.blobs import Drop, DropGoneError
from batch_fn.storage.rows import Held, Work
from batch_fn.validation.check import survey
from batch_fn.validation.findings import DROP_GONE, Code, Finding, Findings
from batch_fn.validation.requests import Rules

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient


def take_in(app: App, client: "BlobClient") -> None:
    """Take in the version of the blob that is there now, if it is not a job already, or go on where one stopped."""
    drop = app.containers.drop(client)
    if drop is None:
        log.note("drop_absent", name=client.blob_name)
        return
    _take_in(app, drop)


def reject(app: App, held: Held[Job], finding: Finding) -> None:
    """End a job of which nothing was sent with a finding of our own."""
    with tempfile.TemporaryFile() as spool:
        findings = Findings(spool)
        findings.add(finding)
        finish_rejected(app, held, findings)


def _take_in(app: App, drop: Drop) -> None:
    rules = rules_of(app.settings, drop.metadata.get("deployment"))
    with turn(drop.bytes), tempfile.TemporaryFile() as spool:
        held = begin(app, drop)
        if held is None or held.row.accepted_at is not None:
            return
        findings = Findings(spool)
        planner = _read(app, drop, held.row, rules, findings)
        if findings.count:
            finish_rejected(app, held, findings)
        else:
            _accept(app, held, planner, rules)


def identity(drop: Drop) -> str:
    """Return the id of the drop's job."""
    return names.job_id(drop.container, drop.name, drop.etag, drop.last_modified)


def begin(app: App, drop: Drop) -> Held[Job] | None:
    """Enter the job into the ledger. Return its row, None if the job is finished already.

    The row is entered first and the history read after it: the other way round, a job that finishes between the two
    would be begun again.
    """
    job_id = identity(drop)
    job = Job(
        job_id=job_id,
        due=_later(app),
        container=drop.container,
        name=drop.name,
        etag=drop.etag,
        bytes=drop.bytes,
        dropped_at=drop.last_modified,
    )
    held = app.ledger.begin(job)
    if app.ledger.finished(job_id) is not None:
        log.note("drop_repeated", job_id=job_id)
        if held.row.state is JobState.DROPPED:  # begun just now; a finishing one is still needed by whoever finishes it
            app.containers.take_out(drop.container, drop.name, drop.etag)
            app.ledger.forget(Work(held))
        return None
    log.note("drop_seen", job_id=job_id, bytes=drop.bytes, state=held.row.state)
    return held


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
        for each in survey(app.containers.read_drop(drop), rules):
            if isinstance(each, Finding):
                findings.add(each)
            elif not findings.count:
                planner.add(each)
        if not findings.count:
            # From here on every step reads the copy: what happens to the inbox blob no longer matters to this job.
            app.containers.keep(drop.container, drop.name, drop.etag, job.path)
    except DropGoneError:
        findings.replace_by(_gone())
    return planner


def _accept(app: App, held: Held[Job], planner: Planner, rules: Rules) -> None:
    """Write the parts and the job's new state in one, then ask for the parts to be submitted."""
    picks = pick(app, held.row, planner, _planner(app, held.row), rules) if planner.interleaved else {}
    parts = planner.parts(held.row.job_id, now=clock.now(), due=_later(app), picks=picks)
    if not accept(app, held, parts) and picks:  # the same event, handled elsewhere, was quicker
        clear_if_gone(app, held.row.job_id, held.row.attempts_before)


def _later(app: App) -> datetime:
    return clock.after(app.settings.resend_seconds)


def too_large(size: int, limit: int) -> Finding:
    """Return the finding for a drop of more bytes than MAX_DROP_BYTES; it is not read at all."""
    message = f"The file has {size:,} bytes, and {limit:,} is the limit. Split it, or raise the setting MAX_DROP_BYTES."
    return Finding(1, Code.INVALID_REQUEST, message)


def _gone() -> Finding:
    message = (
        "The file was overwritten or deleted before all of it was read; nothing of this version was sent. "
        "A newer version has a job of its own; drop the file again if it was deleted by mistake."
    )
    return Finding(1, DROP_GONE, message)
