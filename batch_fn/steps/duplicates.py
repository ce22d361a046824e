"""A running batch of ours that no part needs is cancelled at once: that bounds what a repeated create costs.

It can only be there if the service hid a batch for longer than SETTLE_SECONDS, or took a create that we gave up. The
batches of another app that shares the resource are left alone: the tables know nothing of their jobs.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

from batch_fn.app import App
from batch_fn.core.batches import UNREACHABLE, VANISHED, NotFoundError, ServiceBatch
from batch_fn.core.jobs import Part, PartState
from batch_fn.core.names import is_job_id, part_key
from batch_fn.runtime import log
from batch_fn.storage.rows import ActiveJob

WORK_NAME = re.compile(r"(\d{8}T\d{6}Z-[0-9a-f]{10})(?:-\d+)?/part-(\d+)-(\d+)\.jsonl")
"""The name of an input blob in the work container (see `Part.work_path`)."""

MAX_DIGITS = 9


class Mark(NamedTuple):
    """Whose batch it is, as the batch itself says."""

    job_id: str
    attempt: int
    key: str
    """The part's key; empty where only its input blob tells the part."""


def cancel_if_duplicate(app: App, batch: ServiceBatch) -> None:
    """Cancel a running batch whose lines are in another batch of ours, or have their results.

    `batch` comes from a list that was read before the rows are read here: a row that names no batch yet is left alone.
    """
    mark = _mark(app, batch)
    if mark is None or not _is_duplicate(app, mark, batch):
        return
    try:
        batch = app.openai.retrieve(batch.id)  # a list may lag
    except NotFoundError:
        return
    if batch.running:
        app.openai.cancel(batch.id)
        log.warning("duplicate_cancelled", job_id=mark.job_id, part=mark.key, batch=batch.id)


def _is_duplicate(app: App, mark: Mark, batch: ServiceBatch) -> bool:
    active = app.tables.active_job(mark.job_id)
    part = _part(active, mark, batch) if active is not None else None
    if part is None:
        finished = app.tables.finished(mark.job_id)
        return finished is not None and mark.attempt <= finished.attempts
    if part.state not in {PartState.OPEN, PartState.ENDED, PartState.SETTLED}:
        return False
    return part.batch_id != batch.id or part.batch_status in {VANISHED, UNREACHABLE}


def _part(active: ActiveJob, mark: Mark, batch: ServiceBatch) -> Part | None:
    if mark.key:
        stored = active.part(mark.key)
        return stored.row if stored is not None else None
    url = unquote(batch.input_blob)
    return next((each.row for each in active.parts if unquote(each.row.input_blob) == url), None)


def _mark(app: App, batch: ServiceBatch) -> Mark | None:
    """Return whose batch it is, by its metadata or else its input blob; None if it is not ours."""
    job_id, number, attempt = (batch.metadata.get(name, "") for name in ("job", "part", "attempt"))
    if is_job_id(job_id) and _is_number(number) and _is_number(attempt):
        return Mark(job_id, int(attempt), part_key(int(number), int(attempt)))
    if not batch.input_blob:
        return None
    settings = app.settings
    in_work = WORK_NAME.fullmatch(_name_in(app, settings.work_container, batch.input_blob))
    if in_work:
        return Mark(in_work[1], int(in_work[3]), part_key(int(in_work[2]), int(in_work[3])))
    kept = _name_in(app, settings.archive_container, batch.input_blob).rpartition("/")[2].removesuffix(".jsonl")
    return Mark(kept, 1, "") if is_job_id(kept) else None  # only a first attempt reads the drop's copy itself


def _name_in(app: App, container: str, url: str) -> str:
    """Return the name of the blob at a URL, empty if it is not in that container of ours."""
    folder = unquote(app.blobs.url(container, "x")).removesuffix("x")
    return unquote(url).removeprefix(folder) if unquote(url).startswith(folder) else ""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
