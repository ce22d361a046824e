"""The service has no room, or a bad day: the job waits and is done, and no line is paid for twice."""

from typing import Any

import pytest

from devkit.azure_openai.process import AzureOpenAI
from tests.end_to_end.bench import Bench, Dropped, wait_for
from tests.end_to_end.stories import answered, jsonl, lines, statuses

BUSY: dict[str, Any] = {"kind": "status", "headers": {"Retry-After": "1"}}

TROUBLES: dict[str, dict[str, Any]] = {
    "no more uploads for a while": BUSY | {"method": "POST", "path": "/files$", "status": 429},
    "no more batches for a while": BUSY | {"method": "POST", "path": "/batches$", "status": 429},
    "a create that fails": {"kind": "status", "method": "POST", "path": "/batches$", "status": 500},
    "a create that never arrives": {"kind": "drop_before", "method": "POST", "path": "/batches$"},
    "a create whose answer is lost": {"kind": "drop_after", "method": "POST", "path": "/batches$"},
    "a poll that is refused": BUSY | {"method": "GET", "path": "/batches/", "status": 503},
    "a download that breaks": {"kind": "drop_before", "method": "GET", "path": "/content$"},
    "a file that cannot be deleted yet": BUSY | {"method": "DELETE", "path": "/files/", "status": 503},
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_trouble_with_the_service_costs_time_and_nothing_else(
    stack: Bench, service: AzureOpenAI, trouble: dict[str, Any]
) -> None:
    service.fault(**trouble, times=1)
    dropped = stack.drop("trouble/once.jsonl", jsonl(*lines(5)))
    report = answered(dropped)
    assert report["status"] == "succeeded"
    assert statuses(report) == [(1, "completed")]
    assert len(stack.batches(dropped.job_id)) == 1


@pytest.mark.parametrize("refuse", ["create", "later"])
def test_a_job_that_finds_no_room_waits_for_it_without_losing_an_attempt(
    stack: Bench, outspoken: AzureOpenAI, refuse: str
) -> None:
    service, deployment = outspoken, f"narrow-{refuse}"
    service.options(token_limits={deployment: 150}, refuse=refuse, quota_headers=False, in_progress_seconds=1e9)
    first = stack.drop(f"trouble/{deployment}-1.jsonl", jsonl(*lines(4, body_model=deployment)))
    wait_for(lambda: [batch["status"] for batch in stack.batches(first.job_id)] == ["in_progress"], "the first to run")
    second = stack.drop(f"trouble/{deployment}-2.jsonl", jsonl(*lines(4, body_model=deployment)))
    wait_for(lambda: any(row.get("wait") for row in stack.work(second.job_id)), "the second to wait")
    service.options(in_progress_seconds=60)
    service.end_batch(first.batches()[0]["id"], "completed")
    for job in (first, second):
        report = answered(job)
        assert report["status"] == "succeeded"
        assert statuses(report) == [(1, "completed")]
    assert [(wait["part"], wait["attempt"], wait["reason"]) for wait in report["waits"]] == [(1, 1, "token_limit")]


@pytest.mark.parametrize("header", ["deployment", "file"])
def test_a_job_waits_for_room_and_is_not_refused_whatever_the_header_counts(
    stack: Bench, outspoken: AzureOpenAI, header: str
) -> None:
    service, deployment = outspoken, f"counted-{header}"
    limits = {deployment: 150}
    service.options(token_limits=limits, enqueued_header=header, quota_headers=True, in_progress_seconds=1e9)
    # The header of the second, a small one, may tell of no more than itself.
    sent = [_runs(stack, deployment, count) for count in (4, 1)]
    late = stack.drop(f"trouble/{deployment}-late.jsonl", jsonl(*lines(4, body_model=deployment)))
    assert stack.wait_for_wait(late.job_id) == "no_room"
    service.options(in_progress_seconds=60)
    for job in sent:
        service.end_batch(job.batches()[0]["id"], "completed")
    reports = [answered(job) for job in (*sent, late)]
    assert [statuses(report) for report in reports] == [[(1, "completed")]] * 3
    assert "token_limit" not in {wait["reason"] for report in reports for wait in report["waits"]}


def _runs(stack: Bench, deployment: str, count: int) -> Dropped:
    """Drop a file of so many lines, and return when the service runs it."""
    dropped = stack.drop(f"trouble/{deployment}-{count}.jsonl", jsonl(*lines(count, body_model=deployment)))
    wait_for(lambda: [each["status"] for each in stack.batches(dropped.job_id)] == ["in_progress"], "it to run")
    return dropped
