"""A message failed five times: it becomes a log, another try by the tick, and in the end a report; never silence."""

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import ServiceError
from batch_fn.core.jobs import Job, JobState, PartState
from batch_fn.runtime import clock, log
from batch_fn.steps import part_moves
from batch_fn.steps.intake import job_id_of, register, reject
from batch_fn.steps.retrying import give_up_retry
from batch_fn.storage.queues import Message, parse_message
from batch_fn.storage.rows import Stored
from batch_fn.validation.findings import NOT_PROCESSED, Finding

MAX_POISONED = 3
"""How often a drop or a part may be poisoned, five tries each time, before it is reported as it is."""


class BlobTriggerMessage(msgspec.Struct, frozen=True, rename="pascal"):
    """What the host puts on its poison queue for a blob. Source: the host's BlobTriggerMessage."""

    function_id: str
    container_name: str
    blob_name: str
    etag: str = msgspec.field(name="ETag", default="")


def poisoned_event(app: App, body: bytes) -> None:
    """The host gave up on the event of a drop."""
    try:
        message = msgspec.json.decode(body, type=BlobTriggerMessage)
    except msgspec.DecodeError as error:
        log.warning("poison_unreadable", error=error)
        return
    if message.container_name != app.settings.input_container:
        log.warning("poison_of_others", function=message.function_id, container=message.container_name)
        return
    drop = app.blobs.drop(message.blob_name)
    if drop is None or drop.etag != message.etag.strip('"'):
        log.warning("poison_of_old_version", name=message.blob_name)  # gone, or a newer one with an event of its own
        return
    _poisoned_drop(app, message.blob_name, job_id_of(drop))


def poisoned_message(app: App, body: bytes) -> None:
    """The host gave up on one of our own messages."""
    try:
        message = parse_message(body)
    except msgspec.DecodeError as error:
        log.warning("poison_unreadable", error=error)  # not ours: nothing of a job is in it
        return
    log.warning("errand_poisoned", job_id=message.job_id, part=message.part, name=message.name)
    if message.name:
        _poisoned_drop(app, message.name, message.job_id)
    elif message.part:
        _poisoned_part(app, message)

    # A collect has nothing to be given up: the results are at the service, and the tick sends for them again.


def _poisoned_drop(app: App, name: str, job_id: str) -> None:
    active = app.tables.active_job(job_id)
    if active is not None and active.job.row.state is JobState.RETRYING:
        _poisoned_retry(app, active.job)
        return
    drop = app.blobs.drop(name)
    if drop is None or job_id_of(drop) != job_id:
        return  # the tick reports a job whose drop is gone
    stored = register(app, drop)
    if stored is None or stored.row.accepted_at is not None:
        return
    poisoned = stored.row.poisoned + 1
    log.warning("drop_poisoned", job_id=job_id, times=poisoned)
    stored = app.tables.update(
        stored,
        msgspec.structs.replace(stored.row, poisoned=poisoned, due=clock.after(app.settings.resend_seconds)),
    )
    if poisoned >= MAX_POISONED:
        message = (
            "The file could not be read and checked, for a reason that is not in the file; nothing of it was sent. "
            f"Look for job {job_id} in the app's log, then drop the file again."
        )
        reject(app, stored, Finding(1, NOT_PROCESSED, message))


def _poisoned_retry(app: App, stored: Stored[Job]) -> None:
    poisoned = stored.row.poisoned + 1
    log.warning("retry_poisoned", job_id=stored.row.job_id, times=poisoned)
    stored = app.tables.update(
        stored,
        msgspec.structs.replace(stored.row, poisoned=poisoned, due=clock.after(app.settings.resend_seconds)),
    )
    if poisoned >= MAX_POISONED:
        give_up_retry(app, stored)


def _poisoned_part(app: App, message: Message) -> None:
    active = app.tables.active_job(message.job_id)
    stored = active.part(message.part) if active else None
    if stored is None or stored.row.state not in {PartState.WAITING, PartState.CLAIMED}:
        return
    part = stored.row
    poisoned = part.poisoned + 1
    if poisoned < MAX_POISONED or part.create_intent_at is not None or part.state is PartState.CLAIMED:
        app.tables.update(stored, msgspec.structs.replace(part, poisoned=poisoned))  # the tick sends it again
        return
    claimed = part_moves.claim(app, stored, poisoned=poisoned)
    sentence = f"It could not be sent, for a reason on this side; look for job {part.job_id} in the app's log."
    part_moves.end_unsent(app, claimed, ServiceError(NOT_PROCESSED, sentence))
