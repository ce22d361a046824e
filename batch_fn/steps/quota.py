"""Which parts a deployment's token quota lets go, and what its answers say of the quota.

The rows of the parts say what is enqueued. The order of an admission makes it safe against others at the same time:
read the deployment's row, count the parts' rows, claim the part, then write the deployment's row on condition that it
has not changed. Of two admissions that did not see each other's claim, the second write fails, and it counts again.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from batch_fn.app import App
from batch_fn.core import admission, deployments
from batch_fn.core.admission import Decision, Reason
from batch_fn.core.batches import Enqueued
from batch_fn.core.deployments import Deployment, Load, limit_of
from batch_fn.core.jobs import Part
from batch_fn.core.waits import Refusals
from batch_fn.runtime import clock, log
from batch_fn.steps import part_moves
from batch_fn.storage.rows import Stored


class Refused(NamedTuple):
    """What follows from a refusal for the refused part."""

    until: datetime
    refusals: Refusals


def admit(app: App, stored: Stored[Part]) -> tuple[Decision, Stored[Part]]:
    """Return whether a part may go now, and the part: claimed, if it may go.

    A part may be claimed and not go all the same, where another was admitted at the same moment.

    Raises:
        ConflictError: if the part has changed since it was read.
    """
    part, claimed = stored.row, stored
    decision: Decision | None = None

    def commit(known: Deployment) -> Deployment:
        nonlocal decision, claimed
        decision = _decide_one(app, known, part)
        if not decision.may_go:
            return known
        if claimed is stored:
            claimed = part_moves.claim(app, stored)
        return known if decision.reason is Reason.NO_LIMIT_KNOWN else deployments.admitted(known)

    app.tables.update_deployment(part.deployment, commit)
    assert decision is not None  # noqa: S101 - `commit` is called at least once
    return decision, claimed


def decide_waiting(app: App, deployment: str, waiting: Sequence[Part]) -> list[Decision]:
    """Return a decision for all the parts that wait for a deployment.

    It reserves nothing: the caller records it in the rows of those that may go, and each is admitted when it goes.
    """
    decisions: list[Decision] = []

    def record(known: Deployment) -> Deployment:
        decisions[:] = _decide(app, known, waiting)
        return admission.record_queue_head(known, decisions)

    app.tables.update_deployment(deployment, record)
    return decisions


def record_refusal(app: App, part: Part) -> Refused:
    """Record that a part's deployment refused its batch. Return until when it waits, and its refusals."""
    now = clock.now()
    first_wait = timedelta(seconds=app.settings.quota_backoff_seconds)
    alone = not _load(app, part.deployment, [part], now).parts
    refusals = deployments.refused(part, alone=alone, now=now)
    refused_part = msgspec.structs.replace(part, refusals=refusals)
    known = app.tables.update_deployment(
        part.deployment, lambda known: deployments.record_refusal(known, refused_part, first_wait=first_wait, now=now)
    )
    log.warning(
        "deployment_refuses",
        deployment=part.deployment,
        refusals=known.refusals,
        until=known.not_before,
        alone=refusals.alone,
    )
    return Refused(deployments.wait_of(known, refusals, alone=alone, first_wait=first_wait), refusals)


def record_headers(app: App, part: Part, enqueued: Enqueued) -> None:
    """Record what the headers of a part's create say of its deployment's quota."""
    if enqueued == Enqueued(None, None):
        return
    now = clock.now()

    def record(known: Deployment) -> Deployment:
        # No more than this part needs is no more than our own count, whatever else is enqueued.
        counts = enqueued.tokens is not None and enqueued.tokens > known.needs(part)
        load = _load(app, part.deployment, [part], now) if counts else Load(parts=1)
        return deployments.record_headers(known, part, told=enqueued.tokens, limit=enqueued.limit, load=load, now=now)

    app.tables.update_deployment(part.deployment, record)


def clear_backoff(app: App, part: Part) -> None:
    """Record that the service works on a part's batch, so its deployment accepts batches again."""
    app.tables.update_deployment(part.deployment, lambda known: deployments.clear_backoff(known, part))


def _decide_one(app: App, known: Deployment, part: Part) -> Decision:
    """Return whether one part may go; unless the tick has chosen it, it queues behind the parts that wait already."""
    head = known.oldest_waiting
    if part.admitted_at is None and head is not None and head < part.waiting_since:
        limit, needed = limit_of(known, app.settings.token_limits), known.needs(part)
        return Decision(part=part, reason=Reason.BEHIND, needed=needed, limit=limit)
    (decision,) = _decide(app, known, [part])
    return decision


def _decide(app: App, known: Deployment, parts: Sequence[Part]) -> list[Decision]:
    now, limit = clock.now(), limit_of(known, app.settings.token_limits)
    # Where nothing limits a deployment, no row has to be read.
    unlimited = limit is None and not known.refusals and not any(part.refusals for part in parts)
    return admission.decide(
        parts,
        known,
        limit=limit,
        load=Load() if unlimited else _load(app, known.name, parts, now),
        now=now,
        patience=timedelta(seconds=app.settings.patience_seconds),
    )


def _load(app: App, deployment: str, without: Sequence[Part], now: datetime) -> Load:
    """Return what is enqueued of a deployment, or may be, by the rows of its parts; these parts are left out."""
    keys = {(part.job_id, part.key) for part in without}
    others = (part for part in app.tables.parts_of(deployment) if (part.job_id, part.key) not in keys)
    return admission.load_of(others, now=now, patience=timedelta(seconds=app.settings.patience_seconds))
