"""A waiting part goes to the service: admitted, claimed by one instance, uploaded, and made a batch, once.

A create is never sent blindly a second time. Before it is sent, the part's row says so (`create_intent_at`); an
instance that finds this mark without a batch looks for the lost create first (see lost_create.py).
"""

import contextlib
from datetime import datetime

import msgspec

from batch_fn.app import App
from batch_fn.core.admission import Decision, Reason
from batch_fn.core.batches import REQUEST_TOO_LARGE, ServiceCallError, ServiceError
from batch_fn.core.jobs import Job, Part, PartState
from batch_fn.core.planning import Limits, split
from batch_fn.core.waits import ENVIRONMENT, OWN_ERROR, Wait
from batch_fn.runtime import clock, log
from batch_fn.runtime.memory import large_step_lock
from batch_fn.steps import lost_create, part_moves, quota, refusals, trouble
from batch_fn.steps.bundling import build_bundle
from batch_fn.steps.cancelling import NOT_SENT, unwanted
from batch_fn.steps.ownership import delete_orphaned_work
from batch_fn.steps.restoring import restore_lines
from batch_fn.storage.environment import describe, is_environmental
from batch_fn.storage.part_lines import InputGoneError, input_blob_of, read_range, upload_content
from batch_fn.storage.rows import TRANSACTION_LIMIT, ActiveJob, Change, ConflictError, Stored
from batch_fn.validation.findings import INPUT_GONE

TOO_LARGE = "bundle_too_large"
"""Our own code: the members of a bundle need more tokens than the deployment takes, so they go one by one."""


def submit(app: App, job_id: str, key: str) -> None:
    """Send that attempt of a part to the service, if it may go now and no other instance holds it."""
    active = app.tables.active_job(job_id)
    if active is None and (finished := app.tables.finished(job_id)) is not None:
        app.tables.delete_orphaned_parts(finished)
    stored = active.part(key) if active and active.job.row.accepted_at else None
    if active is None or stored is None or not _may_be_claimed(stored.row, clock.now()):
        return
    with large_step_lock(stored.row.bytes) as at_once:
        if at_once:
            try:
                _submit(app, active, stored)
            except Exception as error:
                if not is_environmental(error):
                    raise
                with contextlib.suppress(ConflictError):  # the part has moved on: the tick goes on with it
                    _wait_for_environment(app, stored, error)
        else:  # while waiting for the lock, the rows may have changed
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
        if stored.row.create_intent_at is not None:  # its tokens may be enqueued already, so they are counted all along
            _send(app, active.job.row, part_moves.claim(app, stored), cancelled=cancelled)
            return
        decision, asked = quota.admit(app, stored)
        if decision.may_go:
            _send(app, active.job.row, asked, cancelled=cancelled)
        elif decision.reason is Reason.TOO_LARGE and active.job.row.members:
            part_moves.end_unsent(app, asked, ServiceError(TOO_LARGE, "Together they are over the deployment's limit."))
        elif decision.reason is Reason.TOO_LARGE:
            _split(app, active, asked, decision)
        elif decision.reason is Reason.NEVER_FITS:
            part_moves.end_unsent(app, asked, _request_too_large(decision))
        else:  # one that is claimed all the same has lost against another, and left nothing at the service
            part_moves.wait(app, asked, decision.until or clock.now(), decision.wait, claims=stored.row.claims)
    except InputGoneError as gone:
        _input_gone(app, active.job.row, stored, gone)
    except ConflictError:
        log.info("part_taken_over", job_id=job_id, part=key)  # the claim had expired, and another instance has the part


def _may_be_claimed(part: Part, now: datetime) -> bool:
    if part.state is PartState.WAITING:
        return part.not_before is None or part.not_before <= now
    return part.state is PartState.CLAIMED and part.due is not None and part.due <= now


def _send(app: App, job: Job, stored: Stored[Part], *, cancelled: bool) -> None:
    """Take a claimed part as far as it gets; a part of a cancelled job gets no new batch."""
    claimed = stored
    try:
        if not lost_create.is_ruled_out(app, stored):
            return
        if cancelled:
            part_moves.end_unsent(app, stored, NOT_SENT)
            return
        stored = _in_place(app, stored) if app.settings.submit_mode == "blob" else _uploaded(app, stored)
        batch, enqueued = app.openai.create(stored.row)
        part_moves.open_batch(app, stored, batch)
        quota.record_headers(app, stored.row, enqueued)
    except ServiceCallError as error:
        refusals.meet(app, stored, error, created=stored is not claimed, bundle=bool(job.members))
    except InputGoneError as gone:
        _input_gone(app, job, stored, gone)
    except ConflictError:
        raise
    except Exception as error:
        if not is_environmental(error):
            trouble.wait_out(app, stored, Wait(reason=OWN_ERROR, message=type(error).__name__))
            raise
        _wait_for_environment(app, stored, error)


def _wait_for_environment(app: App, stored: Stored[Part], error: Exception) -> None:
    """Make a part wait after an error that another part would meet, too; it uses no attempt and counts no poisoning."""
    trouble.wait_out(app, stored, Wait(reason=ENVIRONMENT, message=describe(error)))


def _input_gone(app: App, job: Job, stored: Stored[Part], gone: InputGoneError) -> None:
    """Restore the lines of a part that were deleted before it was sent; else end it after SETTLE_SECONDS."""
    with contextlib.suppress(ConflictError):
        if restore_lines(app, job, stored.row.source):
            part_moves.wait(app, stored, clock.now(), Wait(reason=INPUT_GONE, message=str(gone)))
        elif stored.row.wait is not None and stored.row.wait.reason == INPUT_GONE:
            part_moves.end_unsent(app, stored, ServiceError(INPUT_GONE, str(gone)))
        else:
            until = clock.after(app.settings.settle_seconds)
            part_moves.wait(app, stored, until, Wait(reason=INPUT_GONE, message=str(gone)))


def _uploaded(app: App, stored: Stored[Part]) -> Stored[Part]:
    """Return the part with its file at the service, its row marked as about to be created."""
    part = stored.row
    file_id = part.file_id
    # An earlier claim may have left its file, or a refused batch its own.
    if part.claims > 1 and not (file_id and app.openai.has_file(file_id)):
        file_id = next(iter(app.openai.find_files(part.file_name)), "")
    if not file_id:
        with upload_content(app.blobs, part) as content:
            file_id = app.openai.upload(part.file_name, content)
        log.info("part_uploaded", job_id=part.job_id, part=part.key, file=file_id)
    try:
        return part_moves.mark_create(app, stored, file_id=file_id, input_blob="", output_folder="")
    except ConflictError:
        if _sent_without(app, part, file_id):  # the cleanup may have run before this file was there
            app.openai.delete_file(file_id)
        raise


def _sent_without(app: App, part: Part, file_id: str) -> bool:
    """Return whether another instance has moved the part on, without that file."""
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
    """Replace a part that is larger than its deployment's whole limit by several smaller ones."""
    part, job, settings = stored.row, active.job, app.settings
    assert decision.cut_to is not None  # noqa: S101 - it is what makes the part too large
    tokens = max(1, part.estimated_tokens * decision.cut_to // decision.needed)
    pieces = split(
        part,
        read_range(app.blobs, part.source),
        Limits(settings.part_bytes, settings.max_part_requests, tokens),
        first_number=max(each.row.number for each in active.parts) + 1,
        # All in one transaction: a piece inserted ahead of it would be sent, since the job is accepted already.
        most=TRANSACTION_LIMIT - len((part, job)),
        due=clock.after(settings.resend_seconds),
    )
    if part.refusals is not None:  # other parts waited for its tries: its pieces wait anew
        pieces = [msgspec.structs.replace(piece, waiting_since=clock.now()) for piece in pieces]
    parts_left = job.row.parts_left + len(pieces) - 1
    # A claim that died may have left a file: with one more claim, the cleanup searches for it by name.
    whole = part.with_state(PartState.SETTLED, None, wait=decision.wait, claims=part.claims + 1)
    rest: Job = msgspec.structs.replace(job.row, parts_left=parts_left)
    app.tables.change([*map(Change, pieces), Change(whole, stored.etag), Change(rest, job.etag)])
    log.info("part_split", job_id=part.job_id, part=part.key, into=len(pieces), most_tokens=decision.cut_to)
    for piece in pieces:
        app.queues.submit(piece.job_id, piece.key)


def _request_too_large(decision: Decision) -> ServiceError:
    over = decision.limit is not None and decision.needed > decision.limit
    why = f"its limit is {decision.limit}" if over else "it refused the request for a day, with nothing else enqueued"
    message = f"The request needs about {decision.needed} enqueued tokens, more than its deployment accepts: {why}."
    return ServiceError(REQUEST_TOO_LARGE, message, final=True)
