"""The report of a job. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from batch_fn.core.cures import explain
from batch_fn.core.jobs import CANCELLED, Estimate, Job, Outcome, Part, Usage
from batch_fn.core.prices import DIGITS, cost
from batch_fn.validation.findings import INPUT_GONE, Finding

INPUT_GONE_SAYS = {
    "service": "Its results follow the input file at the service.",
    "answers": "Its results are in the service's order; a line without a result is reported without its custom_id.",
    "numbers": "Its results have the line number in the file for a custom_id, since the batch had no other.",
}
"""How a part is settled whose lines were deleted (`Part.input_gone`), in words."""


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
    """Return the report of a job; times are ISO 8601 in UTC.

    `previous_report` is its report from before a retry: this one has the batches, waits, tokens and estimate of both.
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
    """Return the cost of all batches; for those before a retry the previous report has it, at its prices."""
    now = cost([(part.deployment, part.usage) for part in sent], prices)
    if previous_report is None or now is None or not previous_report["usage"]["total_tokens"]:
        return now
    return None if previous_report["cost"] is None else round(previous_report["cost"] + now, DIGITS)


def _estimate(now: Estimate | None, before: dict[str, Any] | None) -> Estimate | None:
    """Return the estimate of everything that was accepted: the drop, and the lines that a retry sends again."""
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
    """Return why an attempt of a part waited last before it was sent."""
    assert part.wait is not None  # noqa: S101 - only called for parts that waited
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
    """Return whether a report belongs to the current run of a job, and not to a run before a retry."""
    return document is not None and document["times"]["retried"] == to_iso(job.retried_at)


def service_findings(parts: list[Part]) -> list[Finding]:
    """Return the service's errors of failed batches, and what happened to deleted lines, as findings of the job."""
    failures = [
        Finding(line=error.line or 1, code=error.code, message=explain(error.code, error.message))
        for part in parts
        if part.batch_status in {"failed", ""}
        for error in part.errors
        if error.code != CANCELLED
    ]
    gone = [
        Finding(part.source.first_line, INPUT_GONE, f"The copy of part {part.number}'s lines was deleted. {said}")
        for part in parts
        if (said := INPUT_GONE_SAYS.get(part.input_gone))
    ]
    return failures + gone


def outcome(*, succeeded: int, failed: int, cancelled: bool) -> Outcome:
    """Return how an accepted job ended."""
    if cancelled:
        return Outcome.CANCELLED
    if not failed:
        return Outcome.SUCCEEDED
    return Outcome.PARTIALLY_SUCCEEDED if succeeded else Outcome.FAILED
