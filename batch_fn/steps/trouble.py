"""The service cannot be used: nothing that a file could be blamed for, so its part waits, and uses no attempt.

It waits longer each time, with the reason shown, and goes on when the service can be used again. A part that has waited
for ENVIRONMENT_WAIT_SECONDS, and was tried MIN_TRIES times, ends with an explanation of each line. A line that may have
been sent is never sent again.
"""

import random
from datetime import datetime, timedelta
from typing import Any

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import (
    OUTCOME_UNKNOWN,
    SERVICE_UNREACHABLE,
    UNREACHABLE,
    ServiceBatch,
    ServiceError,
    TransientServiceError,
)
from batch_fn.core.jobs import Part
from batch_fn.core.troubles import MIN_TRIES
from batch_fn.core.waits import Wait
from batch_fn.runtime import clock, log
from batch_fn.steps import part_moves
from batch_fn.storage.rows import Stored

MAX_BACKOFF_SECONDS = 900.0


def backoff(app: App, since: datetime) -> float:
    """Return for how many seconds to wait: as long as the trouble has lasted, within bounds."""
    lasted = (clock.now() - since).total_seconds()
    jitter = random.uniform(0.75, 1.25)  # noqa: S311 - no secret
    return min(max(app.settings.trouble_seconds, lasted), MAX_BACKOFF_SECONDS) * jitter


def wait_out(app: App, stored: Stored[Part], why: Wait, error: Exception | None = None, **changes: object) -> None:
    """Let a part wait that is not at the service; end it, explained, after ENVIRONMENT_WAIT_SECONDS of it.

    Raises:
        ConflictError: if the part has changed since it was read.
    """
    part = stored.row
    trouble = met(part)
    since = trouble["trouble_since"]
    if not _is_over(app, **trouble):
        seconds = max(backoff(app, since), retry_after(error))
        part_moves.wait(app, stored, clock.after(seconds), why, **trouble, **changes)
        return
    may_have_been_sent = changes.get("create_intent_at", part.create_intent_at) is not None
    code = OUTCOME_UNKNOWN if may_have_been_sent else SERVICE_UNREACHABLE
    part_moves.end_unsent(app, stored, ServiceError(code, _explained(app, why)))


def end_if_over(app: App, stored: Stored[Part]) -> bool:
    """End a part that certainly has no batch, if its trouble has lasted for too long. Return whether it has ended.

    Raises:
        ConflictError: if the part has changed since it was read.
    """
    part = stored.row
    if part.trouble_since is None or not _is_over(app, part.trouble_since, part.trouble_tries):
        return False
    why = part.wait or Wait(reason="service")
    part_moves.end_unsent(app, stored, ServiceError(SERVICE_UNREACHABLE, _explained(app, why)))
    return True


def met(part: Part) -> dict[str, Any]:
    """Return the fields of a part that has met trouble now, for the first time or again."""
    if part.trouble_since is None:
        return {"trouble_since": clock.now(), "trouble_tries": 1}
    return {"trouble_since": part.trouble_since, "trouble_tries": part.trouble_tries + 1}


def retry_after(error: Exception | None) -> float:
    """Return the seconds that the service asked us to wait, 0 if it did not."""
    return (error.retry_after or 0.0) if isinstance(error, TransientServiceError) else 0.0


def meet_open(app: App, stored: Stored[Part], error: Exception, now: datetime) -> None:
    """Note that an open batch cannot be asked for; end its part, explained, after ENVIRONMENT_WAIT_SECONDS of it.

    Raises:
        ConflictError: if the part has changed since it was read.
    """
    part = stored.row
    trouble = met(part)
    why = Wait(reason="service", message=str(error), until=trouble["trouble_since"] + _patience(app))
    log.warning("poll_failed", job_id=part.job_id, part=part.key, batch=part.batch_id, trouble=error)
    if not _is_over(app, **trouble):
        seconds = retry_after(error)
        part_moves.record_trouble(app, stored, why, clock.after(seconds) if seconds else part.due or now, **trouble)
        return
    end = ServiceBatch(
        id=part.batch_id,
        status=UNREACHABLE,
        errors=(ServiceError(OUTCOME_UNKNOWN, _explained(app, why), final=True),),
        created_at=part.created_at,
    )
    part_moves.end_with_batch(app, stored, end, now)


def refused_access(app: App, stored: Stored[Part], batch: ServiceBatch, now: datetime) -> None:
    """Let a part wait whose batch may not read its input; end it after ENVIRONMENT_WAIT_SECONDS.

    Raises:
        ConflictError: if the part has changed since it was read.
    """
    since = stored.row.refused_since or now
    if now - since < _patience(app):
        seconds = max(backoff(app, since), app.settings.quota_backoff_seconds)
        part_moves.wait_after_refusal(app, stored, batch, clock.after(seconds), refused_since=since)
        return
    errors = tuple(msgspec.structs.replace(error, final=True) for error in batch.errors)
    end = msgspec.structs.replace(batch, errors=errors)
    part_moves.end_with_batch(app, stored, end, now)


def elsewhere(app: App, part: Part) -> Exception:
    """Return what to say of a part that was sent to another resource than the settings name now."""
    return TransientServiceError(
        f"It was sent to {part.endpoint}, and AZURE_OPENAI_ENDPOINT is {app.settings.openai_endpoint} now: "
        "only the first can tell the outcome."
    )


def _is_over(app: App, trouble_since: datetime, trouble_tries: int) -> bool:
    return trouble_tries >= MIN_TRIES and clock.now() - trouble_since >= _patience(app)


def _patience(app: App) -> timedelta:
    return timedelta(seconds=app.settings.environment_wait_seconds)


def _explained(app: App, why: Wait) -> str:
    days = _patience(app).total_seconds() / 86_400
    return f"Azure OpenAI could not be used for {days:.2g} days. The last reason: {why.message or why.reason}"
