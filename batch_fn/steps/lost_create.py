"""A create was sent, and no answer to it is known: it is looked for, and nothing else is done until that is settled.

There is no id to ask for. Only two complete lists, SETTLE_SECONDS apart, that both lack a batch of this attempt prove
that there is none; the first counts only SETTLE_SECONDS after the lost create was found. Whatever else a look comes to,
the mark of the create stays in the part's row.
"""

from datetime import timedelta

from batch_fn.app import App
from batch_fn.core.batches import CLOCK_SKEW, ServiceCallError
from batch_fn.core.jobs import Part
from batch_fn.core.waits import Wait
from batch_fn.runtime import clock, log
from batch_fn.steps import part_moves, trouble
from batch_fn.storage.rows import Stored

REASON = "lost_create"


def is_ruled_out(app: App, stored: Stored[Part]) -> bool:
    """Return whether a claimed part certainly has no batch; if not, it is moved on: adopted, waiting or ended.

    Raises:
        ConflictError: if the part has changed since it was read.
    """
    part, now = stored.row, clock.now()
    if part.create_intent_at is None:
        return True
    settle = timedelta(seconds=app.settings.settle_seconds)
    found_at = part.create_intent_found_at or now
    if not part.was_sent_to(app.settings.openai_endpoint):
        _wait_out(app, stored, trouble.elsewhere(app, part))
        return False
    try:
        batch = app.openai.find_batch(part, since=part.create_intent_at - CLOCK_SKEW)
    except ServiceCallError as error:
        _wait_out(app, stored, error)
        return False
    if batch is not None:
        log.warning("batch_adopted", job_id=part.job_id, part=part.key, batch=batch.id)
        part_moves.open_batch(app, stored, batch)
        return False
    if now < found_at + settle:
        looked = {"create_intent_found_at": found_at}
        again_at = found_at + settle
    else:
        absent_at = part.create_absent_at or now
        looked = {"create_absent_at": absent_at}
        again_at = absent_at + settle
        if part.create_absent_at is not None and now >= again_at:
            return not trouble.end_if_over(app, stored)
    known = part.wait.message if part.wait is not None and part.wait.reason == REASON else ""
    part_moves.wait(app, stored, again_at, _why(known or "No answer to its create is known."), **looked)
    return False


def begin(app: App, stored: Stored[Part], error: Exception) -> None:
    """Note that the create just sent got no answer that tells. Raises: ConflictError."""
    now, until = clock.now(), clock.after(app.settings.settle_seconds)
    part_moves.wait(app, stored, until, _why(str(error)), create_intent_found_at=now, **trouble.met(stored.row))


def _wait_out(app: App, stored: Stored[Part], error: Exception) -> None:
    found_at = stored.row.create_intent_found_at or clock.now()
    trouble.wait_out(app, stored, _why(str(error)), error, create_intent_found_at=found_at)


def _why(message: str) -> Wait:
    return Wait(reason=REASON, message=message)
