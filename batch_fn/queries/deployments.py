"""Each deployment's quota, and what waits for it."""

from datetime import datetime
from typing import Any

from batch_fn.app import App
from batch_fn.core.admission import Deployment, limit_of
from batch_fn.core.jobs import Part, PartState
from batch_fn.core.report import to_iso
from batch_fn.runtime import clock


def list_deployments(app: App) -> list[dict[str, Any]]:
    """Return each deployment's quota as far as it is known, and what waits for it or is with it; by name."""
    now = clock.now()
    known = {each.name: each for each in app.tables.deployments()}
    for name in app.settings.token_limits:
        known.setdefault(name, Deployment(name=name))
    waiting, sent = dict[str, list[Part]](), dict[str, list[Part]]()
    for part in app.tables.active_parts():
        known.setdefault(part.deployment, Deployment(name=part.deployment))
        (waiting if part.state is PartState.WAITING else sent).setdefault(part.deployment, []).append(part)
    return [
        _deployment(app, known[name], waiting.get(name, []), sent.get(name, []), now=now)
        for name in sorted(known)
        if name
    ]


def _deployment(app: App, known: Deployment, waiting: list[Part], sent: list[Part], *, now: datetime) -> dict[str, Any]:
    enqueued = known.enqueued if known.fresh(now) else sum(known.needs(part) for part in sent)
    return {
        "name": known.name,
        "limit": limit_of(known, app.settings.token_limits),
        "enqueued": enqueued,
        "waiting_parts": len(waiting),
        "waiting_tokens": sum(known.needs(part) for part in waiting),
        "open_batches": sum(part.state is PartState.OPEN for part in sent),
        "refusals": known.refusals,
        "not_before": to_iso(known.not_before),
        "oldest_waiting": to_iso(min((part.waiting_since for part in waiting), default=None)),
    }
