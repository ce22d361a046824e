"""A drop comes in: it is read and checked, and goes on as the parts of an accepted job, or ends as a rejected one."""

import tempfile
from collections.abc import Iterator
from datetime import datetime
from typing import IO, TYPE_CHECKING

import msgspec

from batch_fn import clock, jobs, journal
from batch_fn.accepting import accept
from batch_fn.app import App
from batch_fn.containers import Drop, DropGoneError
from batch_fn.finishing import clear_if_gone, finish_rejected
from batch_fn.jobs import REPORTED_FINDINGS, Job, JobState
from batch_fn.ledger import Held, Work
from batch_fn.picking import pick
from batch_fn.planning import Limits, Planner
from batch_fn.queues import Errand
from batch_fn.requests import Code, Finding, Rules, survey
from batch_fn.retrying import take_up
from batch_fn.settings import Settings
from batch_fn.turn import turn

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient

DROP_GONE = "drop_gone"
"""Our own code: the version of the drop was overwritten or deleted before all of it was read."""


class Findings:
    """All findings of a drop on disk, the first of them and their number in memory."""

    def __init__(self, spool: IO[bytes]) -> None:
        self.count = 0
        self.first: list[Finding] = []
        self._spool = spool

    def add(self, finding: Finding) -> None:
        """Keep one more."""
        self.count += 1
        if len(self.first) < REPORTED_FINDINGS:
            self.first.append(finding)
        self._spool.write(msgspec.json.encode(finding) + b"\n")

    def replace_by(self, finding: Finding) -> None:
        """Forget those found so far: this one says it all."""
        self._spool.seek(0)
        self._spool.truncate()
        self.count, self.first = 0, []
        self.add(finding)

    def lines(self) -> Iterator[bytes]:
        """Yield every finding as a line of the errors blob."""
        self._spool.seek(0)
        yield from self._spool


def take_in(app: App, client: "BlobClient") -> None:
    """Take in the version of the blob that is there now, if it is not a job already, or go on where one stopped."""
    drop = app.containers.drop(client)
    if drop is None:
        journal.note("drop_absent", name=client.blob_name)
        return
    _take_in(app, drop)


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
    return jobs.job_id(drop.container, drop.name, drop.etag, drop.last_modified)


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
        journal.note("drop_repeated", job_id=job_id)
        if held.row.state is JobState.DROPPED:  # begun just now; a finishing one is still needed by whoever finishes it
            app.containers.take_out(drop.container, drop.name, drop.etag)
            app.ledger.forget(Work(held))
        return None
    journal.note("drop_seen", job_id=job_id, bytes=drop.bytes, state=held.row.state)
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
