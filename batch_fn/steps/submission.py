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
    FileGoneError,
    FileQuotaError,
    RefusedError,
    ServiceBatch,
    ServiceError,
    ServiceTroubleError,
    TokenLimitError,
    UnansweredError,
)
from batch_fn.core.jobs import Job, Part, PartState, Wait
from batch_fn.core.names import FILE_NAME
from batch_fn.core.planning import Limits, split
from batch_fn.runtime import clock, log
from batch_fn.runtime.memory import turn
from batch_fn.steps import quota
from batch_fn.steps.bundling import gather
from batch_fn.steps.cancelling import end_unsent, unwanted
from batch_fn.steps.ownership import clear_if_gone
from batch_fn.storage.part_lines import input_blob_of, read_range, upload_content
from batch_fn.storage.rows import TRANSACTION_LIMIT, Change, ConflictError, Held, Work

TOO_LARGE = "bundle_too_large"
"""Our own code: the members of a bundle need more tokens than the deployment takes, so they go one by one."""

CLOCK_SKEW = timedelta(minutes=10)
"""How far the service's clock may be off ours when we look for a batch by its time."""


def submit(app: App, job_id: str, key: str) -> None:
    """Send that attempt of a part to the service, if it is its turn and nobody else is at it."""
    work = app.ledger.work(job_id)
    if work is None and (finished := app.ledger.finished(job_id)) is not None:
        app.ledger.sweep(finished)
    held = work.part(key) if work and work.job.row.accepted_at else None
    if work is None or held is None or not _may_be_claimed(held.row, clock.now()):
        return
    with turn(held.row.bytes) as at_once:
        if at_once:
            _submit(app, work, held)
        else:  # what was read may be out of date
            submit(app, job_id, key)


def _submit(app: App, work: Work, held: Held[Part]) -> None:
    job_id, key = held.row.job_id, held.row.key
    cancelled = unwanted(app, work.job.row)
    if cancelled and held.row.creating_at is None:
        with contextlib.suppress(ConflictError):
            end_unsent(app, held)
        return
    if held.row.bundles and held.row.state is PartState.WAITING:
        together = gather(app, held.row)
        if together is None:
            return
        if together != (job_id, key):
            submit(app, *together)
            return
    try:
        decision = _admit(app, held.row)
        if decision is None or decision.may_go:
            _send(app, _claim(app, held), cancelled=cancelled)
        elif decision.reason is Reason.TOO_LARGE and work.job.row.members:
            give_up(app, _claim(app, held), ServiceError(TOO_LARGE, "Together they are over the deployment's limit."))
        elif decision.reason is Reason.TOO_LARGE:
            _split(app, work, held, decision)
        else:
            _wait(app, held, decision.until or clock.now(), decision.wait)
    except ConflictError:
        log.note("part_taken_over", job_id=job_id, part=key)  # the claim had ended, and another instance has it


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
    return None if admitted or part.creating_at is not None else quota.admit(app, part)


def _claim(app: App, held: Held[Part]) -> Held[Part]:
    until = clock.after(app.settings.claim_seconds)
    claims = held.row.claims + 1
    return app.ledger.update(
        held, held.row.moved(PartState.CLAIMED, until, claims=claims, not_before=None, bundles=False)
    )


def _send(app: App, held: Held[Part], *, cancelled: bool) -> None:
    """Do what is left to do of a claimed part's way to the service; one of a cancelled job gets no batch any more."""
    claimed = held
    try:
        if held.row.creating_at is not None:
            settled = held.row.creating_at + timedelta(seconds=app.settings.settle_seconds)
            if clock.now() < settled:
                _wait(app, held, settled, Wait(reason="lost_create"))
                return
            batch = app.service.find_batch(held.row, since=held.row.creating_at - CLOCK_SKEW)
            if batch is not None:
                log.warn("batch_adopted", job_id=held.row.job_id, part=held.row.key, batch=batch.id)
                _open(app, held, batch)
                return
        if cancelled:
            end_unsent(app, held)
            return
        held = _in_place(app, held) if app.settings.submit_mode == "blob" else _uploaded(app, held)
        batch, enqueued = app.service.create(held.row)
        _open(app, held, batch)
        quota.told(app, held.row, enqueued)
    except TokenLimitError as error:
        until = quota.refused(app, held.row)
        _wait(app, held, until, Wait(reason="token_limit", message=str(error)), creating_at=None, admitted_at=None)
    except FileQuotaError as error:
        wait_seconds = 0 if _delete_finished_files(app) else app.settings.quota_backoff_seconds
        _wait(app, held, clock.after(wait_seconds), Wait(reason="file_quota", message=str(error)))
    except FileGoneError:
        _wait(app, held, clock.now(), Wait(reason="file_gone"), creating_at=None, file_id="")
    except UnansweredError as error:
        _wait(app, held, clock.after(app.settings.settle_seconds), Wait(reason="lost_create", message=str(error)))
    except ServiceTroubleError as trouble:
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        seconds = trouble.retry_after or app.settings.trouble_seconds * jitter
        # A create that was answered with a no made nothing; a mark from an earlier claim stays until it is settled.
        mark = claimed.row.creating_at if held is claimed else None
        _wait(app, held, clock.after(seconds), Wait(reason="service", message=str(trouble)), creating_at=mark)
    except RefusedError as error:
        give_up(app, held, error.error)
    except ConflictError:
        raise
    except Exception as error:
        _wait(app, held, clock.after(app.settings.trouble_seconds), Wait(reason="error", message=type(error).__name__))
        raise


def _uploaded(app: App, held: Held[Part]) -> Held[Part]:
    """Return the part with its file at the service, marked in the ledger as about to be created."""
    part = held.row
    file_id = part.file_id
    # An earlier claim may have left its file, or a refused batch its own.
    if part.claims > 1 and not (file_id and app.service.has_file(file_id)):
        file_id = next(iter(app.service.find_files(part.file_name)), "")
    if not file_id:
        with upload_content(app.containers, part, app.settings.max_line_bytes) as content:
            file_id = app.service.upload(part.file_name, content)
        log.note("part_uploaded", job_id=part.job_id, part=part.key, file=file_id)
    marked = part.moved(PartState.CLAIMED, part.due, file_id=file_id, creating_at=clock.now())
    try:
        return app.ledger.update(held, marked)
    except ConflictError:
        if _sent_without(app, part, file_id):  # its files may have been deleted before this one was there
            app.service.delete_file(file_id)
        raise


def _sent_without(app: App, part: Part, file_id: str) -> bool:
    """Return whether the part has gone its way, by another's hand and without that file of it."""
    work = app.ledger.work(part.job_id)
    held = work.part(part.key) if work else None
    if held is None:
        return True
    return held.row.state not in {PartState.WAITING, PartState.CLAIMED} and held.row.file_id != file_id


def _in_place(app: App, held: Held[Part]) -> Held[Part]:
    """Return the part with its input in a blob that the service can read, marked as about to be created."""
    part, containers = held.row, app.containers
    input_blob = input_blob_of(containers, part, app.settings)
    output_folder = containers.url(app.settings.work_container, part.work_path)
    placed = {"input_blob": input_blob, "output_folder": output_folder, "creating_at": clock.now()}
    try:
        return app.ledger.update(held, part.moved(PartState.CLAIMED, part.due, **placed))
    except ConflictError:
        clear_if_gone(app, part.job_id, part.attempts_before)
        raise


def _open(app: App, held: Held[Part], batch: ServiceBatch) -> None:
    part = held.row.moved(
        PartState.OPEN,
        clock.now(),
        batch_id=batch.id,
        batch_status=batch.status,
        vanished_at=None,  # of this one nobody has said yet that it is unknown
        created_at=batch.created_at,
    )
    app.ledger.update(held, part)
    log.note(
        "batch_created",
        job_id=part.job_id,
        part=part.key,
        batch=batch.id,
        deployment=part.deployment,
        requests=part.requests,
        estimated_tokens=part.estimated_tokens,
    )


def _wait(app: App, held: Held[Part], until: datetime, wait: Wait, **changes: object) -> None:
    wait = msgspec.structs.replace(wait, until=until)
    app.ledger.update(held, held.row.moved(PartState.WAITING, until, not_before=until, wait=wait, **changes))
    facts = {name: fact for name, fact in msgspec.structs.asdict(wait).items() if fact not in {None, ""}}
    log.warn("part_waits", job_id=held.row.job_id, part=held.row.key, **facts)


def give_up(app: App, held: Held[Part], error: ServiceError) -> None:
    """End a claimed part, for which there is no batch, with no line run."""
    now = clock.now()
    due = clock.after(app.settings.resend_seconds)
    part = held.row.moved(PartState.ENDED, due, errors=(error,), creating_at=None, ended_at=now)
    app.ledger.update(held, part)
    log.warn("part_refused", job_id=part.job_id, part=part.key, code=error.code)
    app.queues.collect(part.job_id)


def _split(app: App, work: Work, held: Held[Part], decision: Decision) -> None:
    """Put several smaller parts into the place of one that is larger than its deployment's whole limit."""
    part, job, settings = held.row, work.job, app.settings
    assert decision.limit is not None  # noqa: S101 - too large for no limit there is none
    tokens = max(1, part.estimated_tokens * decision.limit // decision.needed)
    pieces = split(
        part,
        read_range(app.containers, part.source),
        Limits(settings.part_bytes, settings.max_part_requests, tokens),
        max_line_bytes=settings.max_line_bytes,
        first_number=max(each.row.number for each in work.parts) + 1,
        # In one transaction: one inserted ahead of it would be sent, as the job is accepted already.
        most=TRANSACTION_LIMIT - len((part, job)),
        due=clock.after(settings.resend_seconds),
    )
    parts_left = job.row.parts_left + len(pieces) - 1
    # A claim that died may have left a file: with one claim more, cleaning up looks for it.
    whole = part.moved(PartState.SETTLED, None, wait=decision.wait, claims=part.claims + 1)
    rest: Job = msgspec.structs.replace(job.row, parts_left=parts_left)
    app.ledger.change([*map(Change, pieces), Change(whole, held.etag), Change(rest, job.etag)])
    log.note("part_split", job_id=part.job_id, part=part.key, into=len(pieces), limit=decision.limit)
    for piece in pieces:
        app.queues.submit(piece.job_id, piece.key)


def _delete_finished_files(app: App) -> bool:
    """Delete what finished jobs of ours have left at the service. Return whether that made room."""
    made_room = False
    for file_id, name in list(app.service.files()):
        ours = re.fullmatch(FILE_NAME, name)
        finished = app.ledger.finished(ours["job_id"]) if ours else None
        if ours and finished is not None and int(ours["attempt"]) <= finished.attempts:
            app.service.delete_file(file_id)
            made_room = True
    return made_room
