"""A job is accepted, from a drop or by a retry: its parts and its new state are written in one transaction."""

import msgspec

from batch_fn.app import App
from batch_fn.core.jobs import Estimate, Job, JobState, Part, Usage
from batch_fn.core.prices import cost
from batch_fn.runtime import clock, log
from batch_fn.steps.bundling import may_bundle
from batch_fn.steps.ownership import reload_if_unchanged
from batch_fn.storage.rows import Change, ConflictError, Stored


def accept(app: App, stored: Stored[Job], parts: list[Part], kept: Part | None = None) -> bool:
    """Insert the parts together with the accepted job, cancelled or not, and send their messages.

    `stored` is the job's row as it was read; `kept` is a settled part with the results from before a retry. Return
    False if another instance has accepted it.
    """
    estimate = _estimate(app, parts)
    if len(parts) == 1 and may_bundle(app, parts[0].bytes):
        later = clock.after(app.settings.bundle_seconds + app.settings.resend_seconds)
        parts = [msgspec.structs.replace(parts[0], bundles=True, due=later)]
    rows = [*parts, kept] if kept else parts
    while True:
        now = clock.now()
        job = msgspec.structs.replace(
            stored.row,
            state=JobState.ACCEPTED,
            due=now if stored.row.cancelled else None,
            requests=sum(part.requests for part in rows),
            parts_left=len(parts),
            accepted_at=now,
            estimate=estimate,
            wait=None,
            waiting_since=None,
        )
        try:
            app.tables.change([*map(Change, rows), Change(job, stored.etag)])
            break
        except ConflictError:
            again = reload_if_unchanged(app, stored)
            if again is None:
                return False
            stored = again
    facts = {"input_tokens_estimated": estimate.prompt_tokens, "input_cost_estimated": estimate.cost}
    log.info("job_accepted", job_id=job.job_id, requests=job.requests, parts=len(parts), **facts)
    for part in parts:
        app.queues.submit(job.job_id, part.key, app.settings.bundle_seconds if part.bundles else 0)
    return True


def _estimate(app: App, parts: list[Part]) -> Estimate:
    spent = [(part.deployment, Usage(part.estimated_tokens, 0, part.estimated_tokens)) for part in parts]
    return Estimate(sum(part.estimated_tokens for part in parts), cost(spent, app.settings.prices))
