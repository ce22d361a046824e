"""What the ledger knows of each deployment's token quota, kept up to date, and asked who may go."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from batch_fn.app import App
from batch_fn.core import admission
from batch_fn.core.admission import Decision, Deployment, Reason, limit_of
from batch_fn.core.batches import Enqueued
from batch_fn.core.jobs import Part
from batch_fn.runtime import clock, log


def admit(app: App, part: Part) -> Decision:
    """Return whether one part may go now, and count it in if it may."""
    return _decide(app, part.deployment, [part], stand_in_line=True)[0]


def admit_waiting(app: App, deployment: str, waiting: Sequence[Part]) -> list[Decision]:
    """Return a decision for all the parts that wait for a deployment, and count in those that may go."""
    decisions = _decide(app, deployment, waiting, stand_in_line=False)
    app.tables.update_deployment(deployment, lambda known: admission.record_queue_head(known, decisions))
    return decisions


def record_refusal(app: App, part: Part) -> datetime:
    """Note that a part's deployment refused its batch. Return until when everybody waits."""
    now = clock.now()
    first_wait = timedelta(seconds=app.settings.quota_backoff_seconds)
    noted = app.tables.update_deployment(
        part.deployment, lambda known: admission.record_refusal(known, part, first_wait=first_wait, now=now)
    )
    log.warning("deployment_refuses", deployment=part.deployment, refusals=noted.refusals, until=noted.not_before)
    return noted.not_before or now


def record_headers(app: App, part: Part, enqueued: Enqueued) -> None:
    """Note what a create told of the quota of a part's deployment."""
    if enqueued == Enqueued(None, None):
        return
    now = clock.now()
    app.tables.update_deployment(
        part.deployment,
        lambda known: admission.record_headers(
            known, estimate=part.estimated_tokens, enqueued=enqueued.tokens, limit=enqueued.limit, now=now
        ),
    )


def release_tokens(app: App, part: Part) -> None:
    """Note that a part's batch has ended, so its tokens are enqueued no more."""
    app.tables.update_deployment(part.deployment, lambda known: admission.release_tokens(known, part))


def clear_backoff(app: App, part: Part) -> None:
    """Note that the service works on a part's batch, so its deployment does not refuse any more."""
    created_at = part.created_at
    if created_at is not None:
        app.tables.update_deployment(part.deployment, lambda known: admission.clear_backoff(known, created_at))


def _unlimited(app: App, known: Deployment) -> bool:
    return limit_of(known, app.settings.token_limits) is None and not known.refusals


def _decide(app: App, deployment: str, parts: Sequence[Part], *, stand_in_line: bool) -> list[Decision]:
    """Decide on what is known, and count in those that may go; if that has changed meanwhile, decide again.

    `stand_in_line` says that others may have waited longer than these parts.
    """
    now = clock.now()
    decisions: list[Decision] = []
    counted: list[int] = []

    def reserve(known: Deployment) -> Deployment:
        oldest = known.oldest_waiting if stand_in_line else None
        if oldest is not None and any(oldest < part.waiting_since for part in parts):
            decisions[:] = [_decision(app, part, known, Reason.BEHIND) for part in parts]
            return known
        if _unlimited(app, known):
            decisions[:] = [_decision(app, part, known, Reason.NO_LIMIT_KNOWN) for part in parts]
            return known
        if not known.fresh(now) and not counted:
            counted.append(sum(known.needs(part) for part in app.tables.parts_of(known.name)))
        enqueued = known.enqueued if known.fresh(now) else counted[0]
        decisions[:] = admission.decide(
            parts,
            known,
            limit=limit_of(known, app.settings.token_limits),
            enqueued=enqueued,
            now=now,
            patience=timedelta(seconds=app.settings.patience_seconds),
        )
        if not any(decision.may_go for decision in decisions):
            return known
        return admission.reserve(known, decisions, enqueued=enqueued, now=now)

    app.tables.update_deployment(deployment, reserve)
    return decisions


def _decision(app: App, part: Part, known: Deployment, reason: Reason) -> Decision:
    needed = known.needs(part)
    return Decision(
        part=part,
        reason=reason,
        needed=needed,
        limit=limit_of(known, app.settings.token_limits),
        enqueued=known.enqueued,
    )
