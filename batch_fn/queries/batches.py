"""The service's batches, with the job that each one is of."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from batch_fn.app import App
from batch_fn.core.batches import ServiceBatch
from batch_fn.core.jobs import Part
from batch_fn.core.names import is_job_id
from batch_fn.core.report import to_iso

LISTED_PAGES = 20
"""Pages of a hundred that one answer asks the service for, at most."""

MOST_DIGITS = 9


class BatchesPage(msgspec.Struct, frozen=True):
    """Some batches, newest first. It may hold fewer than asked for; where `after` is null there are no more."""

    batches: list[dict[str, Any]]
    after: str | None


def list_batches(
    app: App,
    *,
    status: Iterable[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 50,
    after: str = "",
) -> BatchesPage:
    """Return a page of the service's batches, ours and others', as the service lists them.

    `since` and `until` are about when it was created, both included. `after` is what the page before gave.

    Raises:
        ServiceTroubleError: if the service does not answer.
    """
    wanted = frozenset(status)
    parts = {part.batch_id: part for part in app.tables.active_parts() if part.batch_id}
    found: list[dict[str, Any]] = []
    last: str | None = None
    for calls, page in enumerate(app.openai.pages(after)):
        if calls == LISTED_PAGES:
            return BatchesPage(found, last)
        for batch in page:
            if since is not None and batch.created_at is not None and batch.created_at < since:
                return BatchesPage(found, None)
            if len(found) == limit:
                return BatchesPage(found, last)
            last = batch.id
            if (not wanted or batch.status in wanted) and (
                until is None or batch.created_at is None or batch.created_at <= until
            ):
                found.append(_batch(batch, parts.get(batch.id)))
    return BatchesPage(found, None)


def _batch(batch: ServiceBatch, part: Part | None) -> dict[str, Any]:
    """Return a batch as a page shows it; `part` is the one in hand that it was made for, if it is known."""
    of: dict[str, str] = part.metadata if part is not None else batch.metadata
    ours = is_job_id(of.get("job", ""))
    return {
        "id": batch.id,
        "status": batch.status,
        "job_id": of["job"] if ours else None,
        "part": _number(of.get("part")) if ours else None,
        "attempt": _number(of.get("attempt")) if ours else None,
        "ours": ours,
        "deployment": part.deployment if part is not None else None,
        "endpoint": batch.endpoint or None,
        "created_at": to_iso(batch.created_at),
        "finished_at": to_iso(batch.finished_at),
        "requests": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "errors": [{"code": error.code, "message": error.message} for error in batch.errors],
    }


def _number(text: str | None) -> int | None:
    """Return the number that metadata holds; who else writes there may write anything."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None
