"""The report: what a finished job says of itself. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from batch_fn.core.cures import explain
from batch_fn.core.jobs import CANCELLED, Estimate, Job, Part, Usage
from batch_fn.core.prices import DIGITS, cost
from batch_fn.validation.findings import Finding


def report(
    job: Job,
    *,
    status: str,
    succeeded: int,
    failed: int,
    findings: list[Finding],
    finding_count: int,
    outputs: dict[str, str | None],
    parts: Sequence[Part] = (),
    previous_report: dict[str, Any] | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Return the report of a finished job, as design.md, section 1, pictures it; times are ISO 8601, UTC.

    `previous_report` is its report before it was retried: this one has the batches, waits, tokens and estimate of both.
    """
    prices = prices or {}
    sent = [part for part in parts if part.batch_id]
    before: dict[str, Any] = previous_report or {"batches": [], "waits": [], "estimate": None, "usage": {}, "times": {}}
    return {
        "job_id": job.job_id,
        "status": status,
        "input": {
            "container": job.container,
            "name": job.name,
            "etag": job.etag,
            "bytes": job.bytes,
            "requests": job.requests,
        },
        "counts": {"requests": job.requests, "succeeded": succeeded, "failed": failed},
        "finding_count": finding_count,
        "findings": findings,
        "outputs": outputs,
        "batches": [*before["batches"], *(_batch(part, prices) for part in sent)],
        "waits": [*before["waits"], *(_wait(part) for part in parts if part.wait is not None)],
        "estimate": _estimate(job.estimate, before["estimate"]),
        "usage": sum((part.usage for part in sent), msgspec.convert(before["usage"], Usage)),
        "cost": _cost(sent, previous_report, prices),
        "times": {
            "dropped": to_iso(job.dropped_at),
            "accepted": before["times"].get("accepted") or to_iso(job.accepted_at),
            "submitted": before["times"].get("submitted")
            or to_iso(min((part.created_at for part in sent if part.created_at), default=None)),
            "finished": to_iso(job.finished_at),
            "cancelled": to_iso(job.cancel_asked_at) if job.cancelled else None,
            "retried": to_iso(job.retried_at),
        },
    }


def _cost(
    sent: Sequence[Part], previous_report: dict[str, Any] | None, prices: Mapping[str, tuple[float, float]]
) -> float | None:
    """Return what all batches cost; of those before a retry the former report says it, at the prices of then."""
    now = cost([(part.deployment, part.usage) for part in sent], prices)
    if previous_report is None or now is None or not previous_report["usage"]["total_tokens"]:
        return now
    return None if previous_report["cost"] is None else round(previous_report["cost"] + now, DIGITS)


def _estimate(now: Estimate | None, before: dict[str, Any] | None) -> Estimate | None:
    """Return what all that was accepted was expected to come to: the drop, and what went again by a retry."""
    if before is None:
        return now
    previous_report = msgspec.convert(before, Estimate)
    if now is None:
        return previous_report
    known = now.cost is not None and previous_report.cost is not None
    together = round((now.cost or 0.0) + (previous_report.cost or 0.0), DIGITS) if known else None
    return Estimate(now.prompt_tokens + previous_report.prompt_tokens, together)


def _batch(part: Part, prices: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    return {
        "id": part.batch_id,
        "part": part.number,
        "deployment": part.deployment,
        "endpoint": part.url,
        "attempt": part.attempt,
        "status": part.batch_status,
        "requests": part.requests,
        "succeeded": part.succeeded,
        "failed": part.failed,
        "estimated_tokens": part.estimated_tokens,
        "usage": part.usage,
        "cost": cost([(part.deployment, part.usage)], prices),
        "created_at": to_iso(part.created_at),
        "finished_at": to_iso(part.ended_at),
    }


def _wait(part: Part) -> dict[str, Any]:
    """Return why an attempt of a part had to wait last, before it was sent."""
    assert part.wait is not None  # noqa: S101 - only asked of parts that waited
    wait = part.wait
    return {
        "part": part.number,
        "attempt": part.attempt,
        "reason": wait.reason,
        "message": explain(wait.reason, wait.message),
        "needed": wait.needed,
        "limit": wait.limit,
        "enqueued": wait.enqueued,
        "until": to_iso(wait.until),
    }


def to_iso(time: datetime | None) -> str | None:
    """Return the time as ISO 8601 in UTC, to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time else None


def report_is_current(job: Job, document: dict[str, Any] | None) -> bool:
    """Return whether a report is of the job as it is now, and not of what it was before it was retried."""
    return document is not None and document["times"]["retried"] == to_iso(job.retried_at)


def service_findings(parts: list[Part]) -> list[Finding]:
    """Return the service's errors of batches that failed, as findings of the job."""
    return [
        Finding(line=error.line or 1, code=error.code, message=explain(error.code, error.message))
        for part in parts
        if part.batch_status in {"failed", ""}
        for error in part.errors
        if error.code != CANCELLED
    ]
