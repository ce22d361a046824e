"""The report has the shape that users were promised, and adds why parts waited."""

from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from batch_fn.core.jobs import Estimate, JobState, Outcome, Part, PartState, Usage, Wait
from batch_fn.core.report import report, to_iso
from batch_fn.validation.findings import Finding
from tests.conftest import JOB_ID, NOON, a_job, a_part

JOB = a_job(
    state=JobState.FINISHING,
    requests=10,
    accepted_at=NOON + timedelta(seconds=3),
    estimate=Estimate(100, 0.5),
    finished_at=NOON + timedelta(hours=2, microseconds=999_999),
)
PLACES: dict[str, str | None] = {
    "output": f"batch-output/sales/monday/{JOB_ID}.jsonl",
    "errors": f"batch-errors/sales/monday/{JOB_ID}.jsonl",
    "archive": f"batch-archive/sales/monday/{JOB_ID}.jsonl",
}
FIRST = a_part(
    state=PartState.SETTLED,
    wait=Wait(reason="no_room", needed=1_000, limit=5_000, enqueued=4_500, until=NOON + timedelta(seconds=30)),
    batch_id="batch_1",
    batch_status="expired",
    created_at=NOON + timedelta(minutes=1),
    ended_at=NOON + timedelta(hours=1),
    succeeded=7,
    failed=1,
    usage=Usage(70, 7, 77),
)
SECOND = a_part(
    state=PartState.SETTLED,
    attempt=2,
    requests=2,
    estimated_tokens=200,
    batch_id="batch_2",
    batch_status="completed",
    created_at=NOON + timedelta(hours=1),
    ended_at=NOON + timedelta(hours=2),
    succeeded=2,
    usage=Usage(20, 2, 22),
)


def written(parts: list[Part], **changes: Any) -> Any:
    """The report as it is read back from its blob."""
    facts: dict[str, Any] = {
        "status": Outcome.PARTIALLY_SUCCEEDED,
        "succeeded": 9,
        "failed": 1,
        "findings": [],
        "finding_count": 0,
        "outputs": PLACES,
    }
    return msgspec.json.decode(msgspec.json.encode(report(JOB, parts=parts, **facts | changes)))


def test_a_job_with_a_retry_is_reported_in_full() -> None:
    assert written([FIRST, SECOND]) == {
        "job_id": JOB_ID,
        "status": "partially_succeeded",
        "input": {
            "container": "batch-input",
            "name": "sales/monday.jsonl",
            "etag": "0x8DC",
            "bytes": 815,
            "requests": 10,
        },
        "counts": {"requests": 10, "succeeded": 9, "failed": 1},
        "finding_count": 0,
        "findings": [],
        "outputs": PLACES,
        "batches": [
            {
                "id": "batch_1",
                "part": 1,
                "deployment": "batch-small",
                "endpoint": "/chat/completions",
                "attempt": 1,
                "status": "expired",
                "requests": 10,
                "succeeded": 7,
                "failed": 1,
                "estimated_tokens": 1_000,
                "usage": {"prompt_tokens": 70, "completion_tokens": 7, "total_tokens": 77},
                "cost": None,
                "created_at": "2026-11-22T12:01:00Z",
                "finished_at": "2026-11-22T13:00:00Z",
            },
            {
                "id": "batch_2",
                "part": 1,
                "deployment": "batch-small",
                "endpoint": "/chat/completions",
                "attempt": 2,
                "status": "completed",
                "requests": 2,
                "succeeded": 2,
                "failed": 0,
                "estimated_tokens": 200,
                "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
                "cost": None,
                "created_at": "2026-11-22T13:00:00Z",
                "finished_at": "2026-11-22T14:00:00Z",
            },
        ],
        "waits": [
            {
                "part": 1,
                "attempt": 1,
                "reason": "no_room",
                "message": "",
                "needed": 1_000,
                "limit": 5_000,
                "enqueued": 4_500,
                "until": "2026-11-22T12:00:30Z",
            }
        ],
        "estimate": {"prompt_tokens": 100, "cost": 0.5},
        "usage": {"prompt_tokens": 90, "completion_tokens": 9, "total_tokens": 99},
        "cost": None,
        "times": {
            "dropped": "2026-11-22T12:00:00Z",
            "accepted": "2026-11-22T12:00:03Z",
            "submitted": "2026-11-22T12:01:00Z",
            "finished": "2026-11-22T14:00:00Z",
            "cancelled": None,
            "retried": None,
        },
    }


def test_a_retried_job_tells_what_was_before_as_well() -> None:
    former = written([FIRST])
    job = msgspec.structs.replace(JOB, retried_at=NOON + timedelta(days=1), finished_at=NOON + timedelta(days=2))
    facts: dict[str, Any] = {"status": Outcome.SUCCEEDED, "succeeded": 10, "failed": 0, "findings": []}
    document = report(job, **facts, finding_count=0, outputs=PLACES, parts=[SECOND], previous_report=former)
    told = msgspec.json.decode(msgspec.json.encode(document))
    assert [batch["id"] for batch in told["batches"]] == ["batch_1", "batch_2"]
    assert told["waits"] == former["waits"]
    assert told["usage"]["total_tokens"] == 99
    assert told["times"] == former["times"] | {
        "retried": "2026-11-23T12:00:00Z",
        "finished": "2026-11-24T12:00:00Z",
    }


PRICES = {"batch-small": (1_000_000.0, 2_000_000.0)}


def test_what_a_job_cost_is_told_for_each_batch_and_for_all() -> None:
    other = msgspec.structs.replace(SECOND, number=2, attempt=1, deployment="other")
    told = written([FIRST, SECOND], prices=PRICES)
    assert [batch["cost"] for batch in told["batches"]] == [70 + 2 * 7, 20 + 2 * 2]
    assert told["cost"] == 84 + 24
    told = written([FIRST, other], prices=PRICES)
    assert [batch["cost"] for batch in told["batches"]] == [84, None], "one has a price, the other has none"
    assert told["cost"] is None


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (None, None, None),
        (None, Estimate(10, 0.25), (10, 0.25)),
        (Estimate(100, 0.5), None, (100, 0.5)),  # retried, but the lines are still being picked
        (Estimate(100, 0.5), Estimate(10, 0.25), (110, 0.75)),
        (Estimate(100, None), Estimate(10, 0.25), (110, None)),
        (Estimate(100, 0.5), Estimate(10, None), (110, None)),
    ],
)
def test_what_goes_again_by_a_retry_adds_to_the_estimate(
    before: Estimate | None, now: Estimate | None, told: tuple[int, float | None] | None
) -> None:
    job = msgspec.structs.replace(JOB, estimate=now)
    former = written([FIRST]) | {"estimate": before and msgspec.to_builtins(before)}
    facts: dict[str, Any] = {"status": Outcome.FAILED, "succeeded": 0, "failed": 10, "findings": []}
    document = report(job, **facts, finding_count=0, outputs=PLACES, previous_report=former)
    assert document["estimate"] == (told and Estimate(*told))


def test_a_cancelled_job_tells_when_it_was_cancelled() -> None:
    job = msgspec.structs.replace(JOB, cancelled=True, cancel_asked_at=NOON + timedelta(hours=1))
    facts: dict[str, Any] = {"status": Outcome.CANCELLED, "succeeded": 0, "failed": 10, "findings": []}
    told = report(job, **facts, finding_count=0, outputs=PLACES)
    assert told["times"]["cancelled"] == "2026-11-22T13:00:00Z"


def test_the_members_come_in_the_promised_order() -> None:
    assert list(written([FIRST])) == [
        "job_id",
        "status",
        "input",
        "counts",
        "finding_count",
        "findings",
        "outputs",
        "batches",
        "waits",
        "estimate",
        "usage",
        "cost",
        "times",
    ]


def test_a_rejected_drop_is_reported_with_its_findings_and_without_batches() -> None:
    finding = Finding(3, "invalid_json_line", "This line is no JSON.")
    told = written([], status=Outcome.REJECTED, succeeded=0, failed=0, findings=[finding], finding_count=250)
    assert told["status"] == "rejected"
    assert told["findings"] == [
        {"line": 3, "code": "invalid_json_line", "message": "This line is no JSON.", "custom_id": None}
    ]
    assert told["finding_count"] == 250
    assert told["batches"] == []
    assert told["waits"] == []
    assert told["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert told["times"]["submitted"] is None


def test_a_part_that_never_became_a_batch_is_no_batch_but_its_wait_is_told() -> None:
    split = a_part(state=PartState.SETTLED, wait=Wait(reason="too_large", needed=9_000, limit=5_000, enqueued=0))
    told = written([split, SECOND])
    assert [batch["id"] for batch in told["batches"]] == ["batch_2"]
    assert [(wait["reason"], wait["until"]) for wait in told["waits"]] == [("too_large", None)]


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (None, None),
        (NOON, "2026-11-22T12:00:00Z"),
        (NOON.astimezone(timezone(timedelta(hours=9))), "2026-11-22T12:00:00Z"),
        (NOON.replace(microsecond=999_999), "2026-11-22T12:00:00Z"),
    ],
)
def test_times_are_told_in_utc_to_the_second(time: datetime | None, text: str | None) -> None:
    assert to_iso(time) == text
