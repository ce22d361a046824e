"""A job is cancelled: what was not sent stays unsent, what runs is stopped, what was answered is kept."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from batch_fn.app import App
from batch_fn.core.errors import JobFinishedError, NoSuchJobError
from batch_fn.core.jobs import Job
from batch_fn.steps.cancelling import cancel
from batch_fn.storage.rows import FinishedJob
from devkit.azure_openai.process import AzureOpenAI
from tests.end_to_end.bench import Bench, Dropped, wait_for
from tests.end_to_end.stories import answered, check_report, error_codes, jsonl, line, lines, statuses, went_well

pytestmark = pytest.mark.xdist_group("cancel")


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench({"BUNDLE_SECONDS": "3", "BUNDLE_BYTES": "700", "TROUBLE_SECONDS": "1"}) as bench:
        yield bench


@pytest.fixture
def service(stack: Bench) -> Iterator[AzureOpenAI]:
    before = stack.service.options()
    yield stack.service
    stack.service.options(**before)


@pytest.fixture(scope="module")
def app(stack: Bench) -> App:
    return App(stack.settings)


def stopped(dropped: Dropped) -> dict[str, Any]:
    """Return the report of a job that was cancelled, if it adds up and nothing is left."""
    report = went_well(dropped)
    check_report(dropped, report)
    assert report["status"] == "cancelled"
    assert report["times"]["cancelled"]
    return report


def test_a_job_that_waits_for_quota_is_cancelled_and_never_sent(stack: Bench, app: App, service: AzureOpenAI) -> None:
    service.options(token_limits={"full": 10}, quota_headers=False)
    dropped = stack.drop("cancel/waits.jsonl", jsonl(*lines(8, body_model="full")))
    assert stack.wait_for_wait(dropped.job_id) == "token_limit"
    assert isinstance(cancel(app, dropped.job_id), Job)
    report = stopped(dropped)
    assert report["counts"] == {"requests": 8, "succeeded": 0, "failed": 8}
    assert report["batches"] == stack.batches(dropped.job_id) == []
    assert set(error_codes(stack, report).values()) == {"no_response"}
    [error, *_] = stack.user.lines(report["outputs"]["errors"])
    assert "cancelled before this request was sent" in error["error"]["message"]
    assert report["findings"] == []


def test_a_job_that_runs_keeps_what_was_answered_and_is_cancelled_once(
    stack: Bench, app: App, service: AzureOpenAI
) -> None:
    service.options(in_progress_seconds=20_000, cancelling_seconds=6_000)
    dropped = stack.drop("cancel/runs.jsonl", jsonl(*lines(10)))
    wait_for(
        lambda: (found := stack.batches(dropped.job_id)) and found[0]["request_counts"]["completed"] >= 2, "two answers"
    )
    first, second = cancel(app, dropped.job_id), cancel(app, dropped.job_id)
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    assert first.cancel_asked_at == second.cancel_asked_at
    report = stopped(dropped)
    assert report["counts"]["succeeded"] >= 2
    assert report["counts"]["failed"] >= 1
    assert statuses(report) == [(1, "cancelled")]
    assert answered(dropped) == report
    again = cancel(app, dropped.job_id)
    assert isinstance(again, FinishedJob)


def test_a_finished_or_unknown_job_is_not_cancelled(stack: Bench, app: App) -> None:
    dropped = stack.drop("cancel/finished.jsonl", jsonl(*lines(8)))
    assert answered(dropped)["status"] == "succeeded"
    with pytest.raises(JobFinishedError, match="has a result for each"):
        cancel(app, dropped.job_id)
    with pytest.raises(NoSuchJobError):
        cancel(app, "20261122T010203Z-0123456789")


def test_one_that_is_cancelled_in_a_bundle_harms_nobody_else(stack: Bench, app: App, service: AzureOpenAI) -> None:
    service.options(in_progress_seconds=20_000)
    drops = _together(stack, "bundled", jsonl(line("one"), line("two")))
    wait_for(lambda: all(_runs(stack, dropped) for dropped in drops), "the bundle to run")
    cancel(app, drops[0].job_id)
    service.options(in_progress_seconds=60)
    reports = [went_well(dropped) for dropped in drops]
    assert [report["status"] for report in reports] == ["cancelled", "succeeded", "succeeded"]
    assert [report["counts"]["succeeded"] for report in reports] == [2, 2, 2], "its lines ran on, and are kept"


def test_a_bundle_of_which_every_member_is_cancelled_is_stopped(stack: Bench, app: App, service: AzureOpenAI) -> None:
    service.options(in_progress_seconds=1e9)
    drops = [stack.drop(f"cancel/all-{number}.jsonl", jsonl(line("one"), line("two"))) for number in range(2)]
    wait_for(lambda: all(_runs(stack, dropped) for dropped in drops), "the bundle to run")
    for dropped in drops:
        cancel(app, dropped.job_id)
    for dropped in drops:
        assert statuses(stopped(dropped)) == [(1, "cancelled")]


def test_one_in_a_bundle_that_is_not_sent_yet_is_cancelled_and_the_others_go(
    stack: Bench, app: App, service: AzureOpenAI
) -> None:
    service.options(token_limits={"narrow": 1}, quota_headers=False)
    drops = _together(stack, "unsent", jsonl(line("one", body_model="narrow")))
    wait_for(lambda: any(row.get("wait") for row in _bundle_part(stack, drops[0])), "the bundle to wait")
    cancel(app, drops[0].job_id)
    assert stopped(drops[0])["batches"] == []
    service.options(token_limits={})
    assert [went_well(dropped)["status"] for dropped in drops[1:]] == ["succeeded"] * 2


def _together(stack: Bench, name: str, content: bytes) -> list[Dropped]:
    """Drop three files one after the other: the first gathers all. At the same time, each may gather one."""
    drops = []
    for number in range(3):
        drops.append(stack.drop(f"cancel/{name}-{number}.jsonl", content))
        time.sleep(0.7)
    wait_for(lambda: all(_bundle(stack, dropped) for dropped in drops), "the bundle")
    assert len({_bundle(stack, dropped) for dropped in drops}) == 1
    return drops


def _bundle(stack: Bench, member: Dropped) -> str:
    return next((row["bundle"] for row in stack.work(member.job_id) if row.get("bundle")), "")


def _bundle_part(stack: Bench, member: Dropped) -> list[dict[str, Any]]:
    bundle = _bundle(stack, member)
    return [row for row in stack.work(bundle) if row["RowKey"] != "job"] if bundle else []


def _runs(stack: Bench, member: Dropped) -> bool:
    return any(row.get("batch_id") for row in _bundle_part(stack, member))
