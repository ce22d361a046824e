"""A message failed five times: it becomes a log, another try by the tick, and in the end a report; never silence."""

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import ServiceError
from batch_fn.core.jobs import Job, JobState, Part, PartState
from batch_fn.runtime import clock, log
from batch_fn.steps.intake import begin, identity, reject
from batch_fn.steps.retrying import give_up_retry
from batch_fn.steps.submission import give_up
from batch_fn.storage.queues import Errand, read_errand
from batch_fn.storage.rows import Held
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
        log.warn("poison_unreadable", error=error)
        return
    if message.container_name != app.settings.input_container:
        log.warn("poison_of_others", function=message.function_id, container=message.container_name)
        return
    drop = app.containers.drop(app.containers.drop_client(message.blob_name))
    if drop is None or drop.etag != message.etag.strip('"'):
        log.warn("poison_of_old_version", name=message.blob_name)  # gone, or a newer one with an event of its own
        return
    _poisoned_drop(app, message.blob_name, identity(drop))


def poisoned_errand(app: App, body: bytes) -> None:
    """The host gave up on one of our own messages."""
    try:
        errand = read_errand(body)
    except msgspec.DecodeError as error:
        log.warn("poison_unreadable", error=error)  # not ours: nothing of a job is in it
        return
    log.warn("errand_poisoned", job_id=errand.job_id, part=errand.part, name=errand.name)
    if errand.name:
        _poisoned_drop(app, errand.name, errand.job_id)
    elif errand.part:
        _poisoned_part(app, errand)

    # A collect has nothing to be given up: the results are at the service, and the tick sends for them again.


def _poisoned_drop(app: App, name: str, job_id: str) -> None:
    work = app.ledger.work(job_id)
    if work is not None and work.job.row.state is JobState.RETRYING:
        _poisoned_retry(app, work.job)
        return
    drop = app.containers.drop(app.containers.drop_client(name))
    if drop is None or identity(drop) != job_id:
        return  # the tick reports a job whose drop is gone
    held = begin(app, drop)
    if held is None or held.row.accepted_at is not None:
        return
    poisoned = held.row.poisoned + 1
    log.warn("drop_poisoned", job_id=job_id, times=poisoned)
    held = app.ledger.update(
        held, msgspec.structs.replace(held.row, poisoned=poisoned, due=clock.after(app.settings.resend_seconds))
    )
    if poisoned >= MAX_POISONED:
        message = (
            "The file could not be read and checked, for a reason that is not in the file; nothing of it was sent. "
            f"Look for job {job_id} in the app's log, then drop the file again."
        )
        reject(app, held, Finding(1, NOT_PROCESSED, message))


def _poisoned_retry(app: App, held: Held[Job]) -> None:
    poisoned = held.row.poisoned + 1
    log.warn("retry_poisoned", job_id=held.row.job_id, times=poisoned)
    held = app.ledger.update(
        held, msgspec.structs.replace(held.row, poisoned=poisoned, due=clock.after(app.settings.resend_seconds))
    )
    if poisoned >= MAX_POISONED:
        give_up_retry(app, held)


def _poisoned_part(app: App, errand: Errand) -> None:
    work = app.ledger.work(errand.job_id)
    held = work.part(errand.part) if work else None
    if held is None or held.row.state not in {PartState.WAITING, PartState.CLAIMED}:
        return
    part = held.row
    poisoned = part.poisoned + 1
    if poisoned < MAX_POISONED or part.creating_at is not None or part.state is PartState.CLAIMED:
        app.ledger.update(held, msgspec.structs.replace(part, poisoned=poisoned))  # the tick sends it again
        return
    claimed: Held[Part] = app.ledger.update(
        held, part.moved(PartState.CLAIMED, clock.after(app.settings.claim_seconds), poisoned=poisoned)
    )
    message = f"It could not be sent, for a reason on this side; look for job {part.job_id} in the app's log."
    give_up(app, claimed, ServiceError(NOT_PROCESSED, message))
