"""Each deployment's quota, and what waits for it."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from batch_fn.app import App
from batch_fn.core.admission import holds_tokens, load_of
from batch_fn.core.deployments import Deployment, limit_of
from batch_fn.core.jobs import Part, PartState
from batch_fn.core.report import to_iso
from batch_fn.runtime import clock


def list_deployments(app: App) -> list[dict[str, Any]]:
    """Return each deployment's quota as far as it is known, and its active parts in numbers; sorted by name."""
    now = clock.now()
    known = {each.name: each for each in app.tables.deployments()}
    for name in app.settings.token_limits:
        known.setdefault(name, Deployment(name=name))
    parts = dict[str, list[Part]]()
    for part in app.tables.active_parts():
        known.setdefault(part.deployment, Deployment(name=part.deployment))
        parts.setdefault(part.deployment, []).append(part)
    return [_deployment(app, known[name], parts.get(name, []), now=now) for name in sorted(known) if name]


def _deployment(app: App, known: Deployment, parts: list[Part], *, now: datetime) -> dict[str, Any]:
    load = load_of(parts, now=now, patience=timedelta(seconds=app.settings.patience_seconds))
    waiting = [part for part in parts if part.state is PartState.WAITING and not holds_tokens(part)]
    oldest = min(waiting, key=lambda part: part.waiting_since, default=None)
    return {
        "name": known.name,
        "limit": limit_of(known, app.settings.token_limits),
        "largest_part": known.largest_part(now),
        "enqueued": known.enqueued(load, now),
        "waiting_parts": len(waiting),
        "waiting_tokens": sum(known.needs(part) for part in waiting),
        "waits": dict(Counter(part.wait.reason for part in waiting if part.wait is not None)),
        "open_batches": sum(part.state is PartState.OPEN for part in parts),
        "refusals": known.refusals,
        "not_before": to_iso(known.not_before) if known.not_before and now < known.not_before else None,
        "oldest_waiting": to_iso(oldest.waiting_since) if oldest else None,
        "oldest_job": oldest.job_id if oldest else None,
    }
