"""A job is cancelled: what was not sent stays unsent, what runs is stopped, what was answered is kept."""

from collections.abc import Iterator
from typing import Any

import pytest

from batch_fn.app import App
from batch_fn.core.errors import JobFinishedError, NoSuchJobError
from batch_fn.core.jobs import Job
from batch_fn.steps.cancelling import cancel
from batch_fn.storage.rows import FinishedJob
from devkit.azure_openai.process import AzureOpenAI
from tests.end_to_end.bench import NO_WINDOW, Bench, Dropped, wait_for
from tests.end_to_end.stories import (
    NEVER,
    answered,
    check_report,
    error_codes,
    jsonl,
    line,
    lines,
    statuses,
    went_well,
)

pytestmark = pytest.mark.xdist_group("cancel")


@pytest.fixture(scope="module")
def stack() -> Iterator[Bench]:
    with Bench(NO_WINDOW | {"BUNDLE_BYTES": "700", "TROUBLE_SECONDS": "1"}) as bench:
        yield bench


@pytest.fixture
def service(stack: Bench) -> Iterator[AzureOpenAI]:
    before = stack.service.options()
    yield stack.service
    stack.service.options(**before)
    stack.service.release()


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
    dropped = stack.drop("cancel/runs.jsonl", jsonl(*lines(2), *(line(f"never-{n}", NEVER) for n in range(8))))
    [batch] = dropped.batches()
    wait_for(lambda: stack.batches(dropped.job_id)[0]["request_counts"]["completed"] == 2, "two answers")
    service.hold()  # the job is not over before it is cancelled a second time
    first, second = cancel(app, dropped.job_id), cancel(app, dropped.job_id)
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    assert first.cancel_asked_at == second.cancel_asked_at
    service.release()
    report = stopped(dropped)
    assert report["counts"] == {"requests": 10, "succeeded": 2, "failed": 8}
    assert [each["id"] for each in report["batches"]] == [batch["id"]]
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
    service.options(in_progress_seconds=1e9)
    drops = _together(stack, "bundled", jsonl(line("one"), line("two")), count=3)
    batch_id = _batch(stack, drops)
    cancel(app, drops[0].job_id)
    service.end_batch(batch_id, "completed")
    reports = [went_well(dropped) for dropped in drops]
    assert [report["status"] for report in reports] == ["cancelled", "succeeded", "succeeded"]
    assert [report["counts"]["succeeded"] for report in reports] == [2, 2, 2], "its lines ran on, and are kept"


def test_a_bundle_of_which_every_member_is_cancelled_is_stopped(stack: Bench, app: App, service: AzureOpenAI) -> None:
    service.options(in_progress_seconds=1e9)
    drops = _together(stack, "all", jsonl(line("one"), line("two")), count=2)
    _batch(stack, drops)
    for dropped in drops:
        cancel(app, dropped.job_id)
    for dropped in drops:
        assert statuses(stopped(dropped)) == [(1, "cancelled")]


def test_one_in_a_bundle_that_is_not_sent_yet_is_cancelled_and_the_others_go(
    stack: Bench, app: App, service: AzureOpenAI
) -> None:
    service.options(token_limits={"narrow": 1}, quota_headers=False)
    drops = _together(stack, "unsent", jsonl(line("one", body_model="narrow")), count=3)
    wait_for(lambda: any(row.get("wait") for row in _bundle_part(stack, drops[0])), "the bundle to wait")
    cancel(app, drops[0].job_id)
    assert stopped(drops[0])["batches"] == []
    service.options(token_limits={})
    assert [went_well(dropped)["status"] for dropped in drops[1:]] == ["succeeded"] * 2


def _together(stack: Bench, name: str, content: bytes, *, count: int) -> list[Dropped]:
    """Drop so many files that share a bundle."""
    drops = [stack.drop(f"cancel/{name}-{number}.jsonl", content) for number in range(count)]
    stack.send_together(drops)
    return drops


def _bundle_part(stack: Bench, member: Dropped) -> list[dict[str, Any]]:
    bundle = stack.bundle(member)
    return [row for row in stack.work(bundle) if row["RowKey"] != "job"] if bundle else []


def _batch(stack: Bench, drops: list[Dropped]) -> str:
    """Return the id of the batch that carries the drops, as soon as there is one."""
    return str(
        wait_for(
            lambda: next((row["batch_id"] for row in _bundle_part(stack, drops[0]) if row.get("batch_id")), ""),
            "the bundle to run",
        )
    )
