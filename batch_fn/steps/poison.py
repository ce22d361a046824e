"""The host gave up on a message after five runs: the work is logged, tried again by the tick, and at last reported."""

from datetime import datetime, timedelta

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import ServiceError
from batch_fn.core.jobs import ENVIRONMENT, JobState, Part, PartState
from batch_fn.runtime import clock, log
from batch_fn.steps import part_moves
from batch_fn.steps.intake import give_up_drop, is_complete, job_id_of, register
from batch_fn.steps.job_waits import MAX_POISONED, count_poisoning, is_recent
from batch_fn.steps.retrying import give_up_retry
from batch_fn.storage.queues import Message, parse_message
from batch_fn.validation.findings import NOT_PROCESSED

STALE = timedelta(minutes=10)
"""How long a message may stay in a poison queue: the function of that queue runs within seconds."""


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
        log.warning("poison_unreadable", error=error)  # not ours: no job is in it
        return
    log.warning("errand_poisoned", job_id=message.job_id, part=message.part, name=message.name)
    if message.name:
        _poisoned_drop(app, message.name, message.job_id)
    elif message.part:
        _poisoned_part(app, message)

    # A collect is never given up: the results are at the service, and the tick sends for them again.


def warn_of_poison(app: App, now: datetime) -> None:
    """Log each poison queue that has kept a message for STALE: no function can read it, or it fails each time.

    A message is hidden while the host has it, so that its age cannot always be read. A queue that was never empty at
    the looks of that time counts, too.
    """
    memory = app.tick_memory
    if memory.poison_looked_at is not None and now - memory.poison_looked_at < STALE / 2:
        return
    memory.poison_looked_at = now
    for name, (count, oldest) in app.queues.poison().items():
        if not count:
            memory.poison_since.pop(name, None)
            continue
        since = min(filter(None, (oldest, memory.poison_since.setdefault(name, now))))
        if now - since > STALE:
            log.warning("poison_stays", queue=name, messages=count, since=since)


def _poisoned_drop(app: App, name: str, job_id: str) -> None:
    active = app.tables.active_job(job_id)
    if active is not None and active.job.row.state is JobState.RETRYING:
        count_poisoning(app, active.job, give_up_retry)
        return
    drop = app.blobs.drop(name)
    if drop is None or job_id_of(drop) != job_id or not is_complete(app, drop):
        return  # the tick reports a job whose drop is gone
    stored = register(app, drop)
    if active is None:  # no run came as far as to enter the job: that is not this file's fault
        log.warning("drop_poisoned", job_id=job_id, times=0)
    elif stored is not None and stored.row.accepted_at is None:
        count_poisoning(app, stored, give_up_drop)


def _poisoned_part(app: App, message: Message) -> None:
    active = app.tables.active_job(message.job_id)
    stored = active.part(message.part) if active else None
    if stored is None or stored.row.state not in {PartState.WAITING, PartState.CLAIMED}:
        return
    part = stored.row
    if _waits_for_environment(part) or is_recent(app, part.poisoned_at):
        return  # the tick sends it again
    poisoned, now = part.poisoned + 1, clock.now()
    if poisoned < MAX_POISONED or part.create_intent_at is not None or part.state is PartState.CLAIMED:
        app.tables.update(stored, msgspec.structs.replace(part, poisoned=poisoned, poisoned_at=now))
        return
    claimed = part_moves.claim(app, stored, poisoned=poisoned, poisoned_at=now)
    sentence = f"It could not be sent, for a reason on this side; look for job {part.job_id} in the app's log."
    part_moves.end_unsent(app, claimed, ServiceError(NOT_PROCESSED, sentence))


def _waits_for_environment(part: Part) -> bool:
    """Return whether the part was put off for its environment, and not claimed since."""
    return part.not_before is not None and part.wait is not None and part.wait.reason in {ENVIRONMENT, "service"}
