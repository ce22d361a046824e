"""A waiting part goes to the service: admitted, claimed by one instance, uploaded, and made a batch, once.

A create is never sent blindly a second time. Before it is sent, the ledger says so (`creating_at`); whoever finds that
mark and no batch waits until a lost create must have come to light, looks for it, and only then creates.
"""

import contextlib
import random
import re
from datetime import datetime, timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core.admission import Decision, Reason
from batch_fn.core.batches import (
    CreateOutcomeUnknownError,
    FileQuotaError,
    NotFoundError,
    PermanentServiceError,
    ServiceError,
    TokenLimitError,
    TransientServiceError,
)
from batch_fn.core.cures import code_of
from batch_fn.core.jobs import Job, Part, PartState, Wait
from batch_fn.core.names import FILE_NAME
from batch_fn.core.planning import Limits, split
from batch_fn.runtime import clock, log
from batch_fn.runtime.memory import large_step_lock
from batch_fn.steps import part_moves, quota
from batch_fn.steps.bundling import build_bundle
from batch_fn.steps.cancelling import NOT_SENT, unwanted
from batch_fn.steps.ownership import delete_orphaned_work
from batch_fn.storage.part_lines import input_blob_of, read_range, upload_content
from batch_fn.storage.rows import TRANSACTION_LIMIT, ActiveJob, Change, ConflictError, Stored

TOO_LARGE = "bundle_too_large"
"""Our own code: the members of a bundle need more tokens than the deployment takes, so they go one by one."""

CLOCK_SKEW = timedelta(minutes=10)
"""How far the service's clock may be off ours when we look for a batch by its time."""


def submit(app: App, job_id: str, key: str) -> None:
    """Send that attempt of a part to the service, if it is its turn and nobody else is at it."""
    active = app.tables.active_job(job_id)
    if active is None and (finished := app.tables.finished(job_id)) is not None:
        app.tables.delete_orphaned_parts(finished)
    stored = active.part(key) if active and active.job.row.accepted_at else None
    if active is None or stored is None or not _may_be_claimed(stored.row, clock.now()):
        return
    with large_step_lock(stored.row.bytes) as at_once:
        if at_once:
            _submit(app, active, stored)
        else:  # what was read may be out of date
            submit(app, job_id, key)


def _submit(app: App, active: ActiveJob, stored: Stored[Part]) -> None:
    job_id, key = stored.row.job_id, stored.row.key
    cancelled = unwanted(app, active.job.row)
    if cancelled and stored.row.create_intent_at is None:
        with contextlib.suppress(ConflictError):
            part_moves.end_unsent(app, stored, NOT_SENT)
        return
    if stored.row.bundles and stored.row.state is PartState.WAITING:
        together = build_bundle(app, stored.row)
        if together is None:
            return
        if together != (job_id, key):
            submit(app, *together)
            return
    try:
        decision = _admit(app, stored.row)
        if decision is None or decision.may_go:
            _send(app, part_moves.claim(app, stored), cancelled=cancelled)
        elif decision.reason is Reason.TOO_LARGE and active.job.row.members:
            part_moves.end_unsent(
                app,
                part_moves.claim(app, stored),
                ServiceError(TOO_LARGE, "Together they are over the deployment's limit."),
            )
        elif decision.reason is Reason.TOO_LARGE:
            _split(app, active, stored, decision)
        else:
            part_moves.wait(app, stored, decision.until or clock.now(), decision.wait)
    except ConflictError:
        log.info("part_taken_over", job_id=job_id, part=key)  # the claim had ended, and another instance has it


def _may_be_claimed(part: Part, now: datetime) -> bool:
    if part.state is PartState.WAITING:
        return part.not_before is None or part.not_before <= now
    return part.state is PartState.CLAIMED and part.due is not None and part.due <= now


def _admit(app: App, part: Part) -> Decision | None:
    """Return whether there is room for the part; None if that need not be asked."""
    admitted = part.admitted_at is not None and clock.now() < part.admitted_at + timedelta(
        seconds=app.settings.resend_seconds
    )
    # With a create that may have been done, its tokens may be enqueued already, and no new ones come before we know.
    return None if admitted or part.create_intent_at is not None else quota.admit(app, part)


def _send(app: App, stored: Stored[Part], *, cancelled: bool) -> None:
    """Do what is left to do of a claimed part's way to the service; one of a cancelled job gets no batch any more."""
    claimed = stored
    try:
        if stored.row.create_intent_at is not None:
            settled = stored.row.create_intent_at + timedelta(seconds=app.settings.settle_seconds)
            if clock.now() < settled:
                part_moves.wait(app, stored, settled, Wait(reason="lost_create"))
                return
            batch = app.openai.find_batch(stored.row, since=stored.row.create_intent_at - CLOCK_SKEW)
            if batch is not None:
                log.warning("batch_adopted", job_id=stored.row.job_id, part=stored.row.key, batch=batch.id)
                part_moves.open_batch(app, stored, batch)
                return
        if cancelled:
            part_moves.end_unsent(app, stored, NOT_SENT)
            return
        stored = _in_place(app, stored) if app.settings.submit_mode == "blob" else _uploaded(app, stored)
        batch, enqueued = app.openai.create(stored.row)
        part_moves.open_batch(app, stored, batch)
        quota.record_headers(app, stored.row, enqueued)
    except TokenLimitError as error:
        until = quota.record_refusal(app, stored.row)
        part_moves.wait(
            app,
            stored,
            until,
            Wait(reason="token_limit", message=str(error)),
            create_intent_at=None,
            admitted_at=None,
        )
    except FileQuotaError as error:
        wait_seconds = 0 if _delete_finished_files(app) else app.settings.quota_backoff_seconds
        part_moves.wait(app, stored, clock.after(wait_seconds), Wait(reason="file_quota", message=str(error)))
    except NotFoundError:
        part_moves.wait(app, stored, clock.now(), Wait(reason="file_gone"), create_intent_at=None, file_id="")
    except CreateOutcomeUnknownError as error:
        part_moves.wait(
            app,
            stored,
            clock.after(app.settings.settle_seconds),
            Wait(reason="lost_create", message=str(error)),
        )
    except TransientServiceError as trouble:
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        seconds = trouble.retry_after or app.settings.trouble_seconds * jitter
        # A create that was answered with a no made nothing; a mark from an earlier claim stays until it is settled.
        mark = claimed.row.create_intent_at if stored is claimed else None
        part_moves.wait(
            app, stored, clock.after(seconds), Wait(reason="service", message=str(trouble)), create_intent_at=mark
        )
    except PermanentServiceError as error:
        part_moves.end_unsent(app, stored, error.error)
    except ConflictError:
        raise
    except Exception as error:
        part_moves.wait(
            app,
            stored,
            clock.after(app.settings.trouble_seconds),
            Wait(reason="error", message=code_of(error)),
        )
        raise


def _uploaded(app: App, stored: Stored[Part]) -> Stored[Part]:
    """Return the part with its file at the service, marked in the ledger as about to be created."""
    part = stored.row
    file_id = part.file_id
    # An earlier claim may have left its file, or a refused batch its own.
    if part.claims > 1 and not (file_id and app.openai.has_file(file_id)):
        file_id = next(iter(app.openai.find_files(part.file_name)), "")
    if not file_id:
        with upload_content(app.blobs, part, app.settings.max_line_bytes) as content:
            file_id = app.openai.upload(part.file_name, content)
        log.info("part_uploaded", job_id=part.job_id, part=part.key, file=file_id)
    try:
        return part_moves.mark_create(app, stored, file_id=file_id)
    except ConflictError:
        if _sent_without(app, part, file_id):  # its files may have been deleted before this one was there
            app.openai.delete_file(file_id)
        raise


def _sent_without(app: App, part: Part, file_id: str) -> bool:
    """Return whether the part has gone its way, by another's hand and without that file of it."""
    active = app.tables.active_job(part.job_id)
    stored = active.part(part.key) if active else None
    if stored is None:
        return True
    return stored.row.state not in {PartState.WAITING, PartState.CLAIMED} and stored.row.file_id != file_id


def _in_place(app: App, stored: Stored[Part]) -> Stored[Part]:
    """Return the part with its input in a blob that the service can read, marked as about to be created."""
    part, containers = stored.row, app.blobs
    input_blob = input_blob_of(containers, part, app.settings)
    output_folder = containers.url(app.settings.work_container, part.work_path)
    try:
        return part_moves.mark_create(app, stored, input_blob=input_blob, output_folder=output_folder)
    except ConflictError:
        delete_orphaned_work(app, part.job_id, part.attempts_before)
        raise


def _split(app: App, active: ActiveJob, stored: Stored[Part], decision: Decision) -> None:
    """Put several smaller parts into the place of one that is larger than its deployment's whole limit."""
    part, job, settings = stored.row, active.job, app.settings
    assert decision.limit is not None  # noqa: S101 - too large for no limit there is none
    tokens = max(1, part.estimated_tokens * decision.limit // decision.needed)
    pieces = split(
        part,
        read_range(app.blobs, part.source),
        Limits(settings.part_bytes, settings.max_part_requests, tokens),
        max_line_bytes=settings.max_line_bytes,
        first_number=max(each.row.number for each in active.parts) + 1,
        # In one transaction: one inserted ahead of it would be sent, as the job is accepted already.
        most=TRANSACTION_LIMIT - len((part, job)),
        due=clock.after(settings.resend_seconds),
    )
    parts_left = job.row.parts_left + len(pieces) - 1
    # A claim that died may have left a file: with one claim more, cleaning up looks for it.
    whole = part.with_state(PartState.SETTLED, None, wait=decision.wait, claims=part.claims + 1)
    rest: Job = msgspec.structs.replace(job.row, parts_left=parts_left)
    app.tables.change([*map(Change, pieces), Change(whole, stored.etag), Change(rest, job.etag)])
    log.info("part_split", job_id=part.job_id, part=part.key, into=len(pieces), limit=decision.limit)
    for piece in pieces:
        app.queues.submit(piece.job_id, piece.key)


def _delete_finished_files(app: App) -> bool:
    """Delete what finished jobs of ours have left at the service. Return whether that made room."""
    made_room = False
    for file_id, name in list(app.openai.files()):
        ours = re.fullmatch(FILE_NAME, name)
        finished = app.tables.finished(ours["job_id"]) if ours else None
        if ours and finished is not None and int(ours["attempt"]) <= finished.attempts:
            app.openai.delete_file(file_id)
            made_room = True
    return made_room
